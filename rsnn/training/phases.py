"""The model that each phase of a recipe starts from: its name in the zoo, over the encoder of the phase before."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from rsnn import zoo
from rsnn.errors import ConfigError, InputError
from rsnn.models import RSNN, EventClassifier, Preprocessing
from rsnn.models.composition import check_fit
from rsnn.models.config import LARGEST_NUMBER
from rsnn.training.batches import PHASES
from rsnn.training.objective import Objective
from rsnn.training.recipe import Phase, Recipe
from rsnn.training.sources import Part


def build(
    recipe: Recipe, name: str, phase: Phase, training: Part, before: EventClassifier | None = None
) -> EventClassifier:
    """Return the model that a phase starts from: fresh weights of its seed, over the encoder of the phase before.

    Raises:
        RSNNError: the names, sizes or classes do not fit.

    """
    torch.manual_seed(recipe.seed * len(PHASES) + PHASES[name])
    if before is None and recipe.start:
        before = _started(recipe, training)
        if not phase.model:
            return before
    if not phase.model:
        assert before is not None
        return before
    model = zoo.create_model(phase.model, **recipe.data.given(), **classes_of(phase.model, training))
    if before is not None:
        if not isinstance(model, RSNN):
            raise ConfigError(
                f"phases.{name}.model = {phase.model!r} is a {type(model).__name__}; expected an RSNN, which goes over "
                "the encoder of the phase before"
            )
        model = RSNN.from_rnn(
            before, model.classifier, freeze_encoder=phase.freeze_encoder, logit_scale=model.logit_scale
        )
    assert model.preprocessing is not None
    model.preprocessing = dataclasses.replace(model.preprocessing, window_ms=_window_ms(model.preprocessing, training))
    return model


def check_phases(recipe: Recipe, training: Part) -> None:
    """Raise RSNNError where a phase does not go with those before it: when these are done it would be too late."""
    if len(list(recipe.phases)) < 2:
        return
    model = None
    for name, phase in recipe.phases:
        model = build(recipe, name, phase, training, model)
        Objective(model, phase.loss)


def classes_of(zoo_name: str, training: Part) -> dict[str, Any]:
    """Return how many classes a model of the zoo needs for these recordings, and their names.

    Raises:
        ConfigError: a label is none of the model's classes, and the recordings do not name theirs.

    """
    usual = zoo.create_model(zoo_name).class_names or ()
    names, largest = training.class_names, int(training.labels.max())
    if names is None:
        if largest >= len(usual):
            raise ConfigError(
                f"{training.text} has the label {largest} and no class_names, and {zoo_name} has {len(usual)} classes; "
                "expected an archive with an array 'class_names'"
            )
        return {}
    return {} if tuple(names) == usual else {"num_classes": len(names), "class_names": tuple(names)}


def _started(recipe: Recipe, training: Part) -> EventClassifier:
    """Return the model to go on from, its last layer new where the recordings' classes are not the model's.

    Its preprocessing is the recipe's, and cuts every recording into `num_frames`, so that batches, and all figures of
    the run, are of these.
    """
    model = zoo.load(recipe.start)
    names = training.class_names
    if names is not None and names != model.class_names:
        model.reset_classifier(len(names), names)
    elif int(training.labels.max()) >= (model.num_classes or 0):
        raise ConfigError(
            f"{training.text} has the label {int(training.labels.max())} and no class_names, and {recipe.start} has "
            f"{model.num_classes} classes; expected an archive with an array 'class_names'"
        )
    wanted = dataclasses.replace(_preprocessing_of(model, recipe), max_step_ms=None, **recipe.data.given())
    model.preprocessing = dataclasses.replace(wanted, window_ms=_window_ms(wanted, training))
    return model


def _preprocessing_of(model: EventClassifier, recipe: Recipe) -> Preprocessing:
    if model.preprocessing is None:
        raise ConfigError(f"{recipe.start} has no preprocessing, so it takes no recordings")
    return model.preprocessing


def own_preprocessing(recipe: Recipe) -> Preprocessing:
    """Return the preprocessing of what a training begins with, which fills in what its recipe leaves open.

    Raises:
        ConfigError: the model to go on from does not take the recipe's frames.

    """
    _, first = next(iter(recipe.phases))
    if not recipe.start:
        with torch.device("meta"):  # without memory for the weights
            return _preprocessing_of(zoo.create_model(first.model), recipe)
    model = zoo.load(recipe.start)
    own = _preprocessing_of(model, recipe)
    if not first.model:
        wanted = dataclasses.replace(own, max_step_ms=None, **recipe.data.given())
        try:
            check_fit(model.encoder, model.classifier, wanted)
        except InputError as error:
            raise ConfigError(
                f"data.size = {list(wanted.frame_size)} and data.num_frames = {wanted.num_frames} do not fit "
                f"{recipe.start}: {error}. Expected both as the model has them, which they are where the recipe "
                "leaves them open"
            ) from error
    return own


def _window_ms(preprocessing: Preprocessing, training: Part) -> int | None:
    """Return the median duration of (at most 100 of) the recordings, which a stream takes for its window.

    None, and so the usual window, where that is longer than a configuration can say.
    """
    if preprocessing.split_by != "time":
        return None
    chosen = np.unique(np.linspace(0, len(training) - 1, 100).astype(int))
    median = max(round(float(np.median([training.read(int(i)).duration_us for i in chosen])) / 1000), 1)
    return median if median <= LARGEST_NUMBER else None


def usual_classes(recipe: Recipe) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the names and the number of the classes that a run's model has unless the recordings name others."""
    named = [phase.model for _, phase in recipe.phases if phase.model]
    model = zoo.create_model(named[-1]) if named else zoo.load(recipe.start)
    return model.class_names, model.num_classes
