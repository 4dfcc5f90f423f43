"""A whole training: the phases of a recipe one after another, the test part once at the end, and the report.

The folder of a run holds `recipe.json`, `state.safetensors` (where it is), for each finished phase `<phase>/selected`,
`<phase>/last` and `<phase>/metrics.json`, and at the end `metrics.json`, `model` and the pictures. What is there is not
done again, so the same command goes on from wherever the last one ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from rsnn import zoo
from rsnn.data.frames import crop_to_shape
from rsnn.data.processes import check_not_started_again
from rsnn.data.progress import progress
from rsnn.errors import ConfigError, InputError, TrainingError, shown
from rsnn.evaluation import Evaluation, evaluate
from rsnn.models import Preprocessing, cards
from rsnn.models.pretrained import save_model
from rsnn.training import launch, report
from rsnn.training.batches import PHASES
from rsnn.training.display import Display
from rsnn.training.interrupts import Interrupts
from rsnn.training.loop import STATE_FILE, PhaseLoop, PhaseResult
from rsnn.training.phases import build, check_phases, own_preprocessing, usual_classes
from rsnn.training.recipe import Phase, Recipe, check
from rsnn.training.recipe_files import recipe_from
from rsnn.training.sources import (
    Part,
    class_folders_in,
    has_test_part,
    has_validation_part,
    open_part,
    own_test_part,
)
from rsnn.training.splits import cut_validation
from rsnn.training.state import remove_leftovers, saving, write_json

RECIPE_FILE = "recipe.json"
METRICS_FILE = "metrics.json"

# What may differ between the commands that begin a run and that go on with it: none of it changes the result.
_FREE = ("workers", "save_minutes", "cache", "graphs")


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The recordings of a run: the two that training sees, and the one that it does not, where there is one."""

    training: Part
    validation: Part
    test: Part | None


def train(
    recipe: Recipe,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    samples: str = ":",
    test_samples: str = ":",
    display: Display | None = None,
) -> dict[str, Any]:
    """Train as a recipe says, or go on with it, and return the run's metrics.

    Args:
        recipe: what to do.
        data: recordings to train on, of which a part is cut off to validate: an archive, a folder, or `"gestures:N"`,
            which a recipe with `data.kind = "simulated"` wants.
        output: folder of the run. Where it holds an unfinished run of the same recipe and data, that goes on; data are
            the same with the same names, labels and content, wherever they lie.
        test: recordings to test on, once, at the end; by default the test part of `data` where it has one.
        samples, test_samples: FIRST:END, to take only these of `data` and of `test`, which may not share recordings.
        display: shows how it goes.

    Raises:
        RSNNError: recipe and data do not fit, or the training cannot go on; the message says what to do.
        Stopped: the user interrupted it; the same call goes on.

    """
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe={shown(recipe)}: expected a Recipe, as load_recipe('rsnn-gesture-cl') returns one")
    for name, path in (("data", data), ("output", output), ("test", test or "")):
        if not isinstance(path, str | os.PathLike):
            raise InputError(
                f"{name} is a {type(path).__name__}; expected a path, or 'gestures:N' to simulate recordings"
            )
    check(recipe)
    check_not_started_again()
    folder = Path(output).expanduser()
    _check_outside(folder, recipe.data.kind, data, test)
    accelerator = launch.accelerator(cpu=recipe.loop.cpu, accumulate=recipe.loop.accumulate)
    display = display if display is not None and accelerator.is_main_process else Display()
    if accelerator.device.type == "cpu" and torch.cuda.is_available() and not recipe.loop.cpu:
        display.say(
            "it trains on the CPU, though there is a GPU, as the launcher says or the first Accelerator of this process"
        )
    own = own_preprocessing(recipe)
    recipe = dataclasses.replace(recipe, data=recipe.data.filled(own))
    parts = _parts(recipe, data, test, samples, test_samples)
    with accelerator.main_process_first():  # the others find the digests of the files remembered
        _check_apart(parts)
        digests = {
            field.name: None if (part := getattr(parts, field.name)) is None else part.fingerprint()
            for field in dataclasses.fields(parts)
        }
    with _alone(folder, accelerator):
        _check_same(recipe, own, parts, digests, folder, accelerator)
        if (folder / METRICS_FILE).is_file():
            display.say(f"{folder} holds a finished run of this recipe; choose another --output for another one")
            finished: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text("utf-8"))
            return finished
        check_phases(recipe, parts.training)
        display.say(
            f"{len(parts.training)} recordings train, {len(parts.validation)} validate"
            + (f", {len(parts.test)} test at the end" if parts.test else "; no test part")
        )
        if has_validation_part(data, recipe.data.kind):
            display.say(f"the part 'validation' of {data} is not used: what validates is cut from its part 'train'")
        if parts.test is not None and recipe.data.kind != "simulated" and accelerator.is_main_process:
            _check_frames(parts.test, recipe.data.size)
        accelerator.wait_for_everyone()
        model = None
        for name, phase in recipe.phases:
            model = build(recipe, name, phase, parts.training, model)
            where = folder / name
            if not (where / METRICS_FILE).is_file():
                interrupts = Interrupts()
                loop = PhaseLoop(
                    model, name, recipe, parts.training, parts.validation, folder, accelerator, display, interrupts
                )
                with interrupts:  # not before: until there is something to save, Ctrl-C need not wait
                    result = loop.run()
                if accelerator.is_main_process:
                    _keep(recipe, name, phase, parts.training, result, where)
                accelerator.wait_for_everyone()
            model = zoo.load(where.resolve() / "selected")
        assert model is not None
        command = _command(data, samples, test, test_samples)
        return _finish(recipe, parts, command, folder, accelerator, display)


def _parts(recipe: Recipe, data: Any, test: Any, samples: str, test_samples: str) -> Parts:
    """Open the recordings, with the labels of the model that is to come of the run."""
    kind = recipe.data.kind
    class_names, num_classes = usual_classes(recipe)
    # Its own order and spelling of the classes stay, so that a checkpoint says what its family says.
    everything = open_part(data, kind=kind, samples=samples).in_order_of(class_names)
    if len(there := np.unique(everything.labels)) < 2:
        only = there[0] if everything.class_names is None else repr(everything.class_names[there[0]])
        raise InputError(
            f"the {len(everything)} recordings of {everything.text} are all of the class {only}, so there is nothing "
            "to tell apart; expected two classes or more, in a folder each"
        )
    if everything.class_names is not None:
        class_names, num_classes = everything.class_names, len(everything.class_names)
    cut = recipe.validation
    training, validation = cut_validation(everything.ids, everything.labels, cut.fraction, by=cut.by, seed=cut.seed)
    how = f"{cut.fraction:.0%} of {everything.text} by {cut.by}"
    tested = None
    if test is not None:
        tested = open_part(test, split="test", kind=kind if kind != "simulated" else "auto", samples=test_samples)
    elif test_samples != ":" and not has_test_part(data, kind):
        raise InputError(f"--test-samples {test_samples} without --test: {data} has no test part; expected both")
    elif has_test_part(data, kind):
        tested = open_part(own_test_part(data), split="test", kind=kind, samples=test_samples)
    return Parts(
        everything.subset(training, f"{everything.text} without its validation part"),
        everything.subset(validation, f"validation part: {how}"),
        None if tested is None else tested.labelled_for(class_names, num_classes),
    )


def _check_outside(folder: Path, kind: str, *sources: Any) -> None:
    """Raise TrainingError where the run's folder would be taken for a class of the recordings."""
    for source in sources:
        for classes in [] if source is None else class_folders_in(source, kind):
            if folder.resolve().is_relative_to(classes.resolve()):
                raise TrainingError(
                    f"{folder} lies in {classes}, whose folders are classes of recordings, so that it would be taken "
                    "for one; choose an --output beside it"
                )


@contextlib.contextmanager
def _alone(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep a second training out of the folder; the lock goes with the process, however it ends."""
    if not accelerator.is_main_process:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"another training is running in {folder}; wait for it, or choose another --output"
        ) from None
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({error.strerror or error}); choose another --output"
        ) from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _check_apart(parts: Parts) -> None:
    """Raise InputError where recordings to test on are among those that training sees."""
    if parts.test is None:
        return
    seen = {*parts.training.contents, *parts.validation.contents}
    both = [name for name, content in zip(parts.test.ids, parts.test.contents, strict=True) if content in seen]
    if both:
        raise InputError(
            f"{len(both)} of the {len(parts.test)} recordings to test on ({parts.test.text}; the first is {both[0]!r}) "
            "also train or validate; expected none: test on others, or, to cut one data set into two, with --samples "
            "and --test-samples that share none"
        )


def _check_frames(part: Part, size: tuple[int, ...]) -> None:
    """Raise InputError where a recording has nothing in the frames: at the end of a training it would be too late."""
    height, width = size
    with progress("checking the recordings to test on", len(part)) as advance:
        for index in range(len(part)):
            try:
                inside = crop_to_shape(part.read(index), height, width)
            except InputError as error:
                raise InputError(f"recording {part.ids[index]} of {part.text}: {error}") from error
            if not len(inside):
                raise InputError(
                    f"recording {part.ids[index]} of {part.text} has no events in the centred {width} x {height} "
                    "pixels of its sensor; expected at least one: leave it out, or test on others"
                )
            advance(index + 1)


def _check_same(
    recipe: Recipe,
    own: Preprocessing,
    parts: Parts,
    digests: dict[str, str | None],
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Write what the run is, or raise TrainingError where the folder holds another one, of which something is saved."""
    ours = {"recipe": recipe.to_dict(), "processes": accelerator.num_processes}
    path = folder / RECIPE_FILE
    finished = (folder / name / METRICS_FILE for name in ("", *PHASES))
    if any(file.is_file() for file in (folder / STATE_FILE, *finished)):
        theirs = _stored(path, own)
        data = theirs.pop("data", None)
        different = sorted(
            name
            for name in {*_flat(ours), *_flat(theirs)}
            if _flat(ours).get(name) != _flat(theirs).get(name) and name.rpartition(".")[2] not in _FREE
        )
        if different:
            name = different[0]
            raise TrainingError(
                f"{folder} holds another run: its {name.removeprefix('recipe.')} is {_flat(theirs).get(name)!r} and "
                f"now it is {_flat(ours).get(name)!r}; give the same command to go on with it, or choose another "
                "--output"
            )
        _check_same_data(data, digests, parts, folder)
    elif accelerator.is_main_process:
        _check_free(folder)
        write_json(path, {**ours, "data": digests})
    accelerator.wait_for_everyone()


def _check_free(folder: Path) -> None:
    """Raise TrainingError where a run would write over what no run wrote."""
    try:
        of_a_run = {"recipe", "processes"} <= json.loads((folder / RECIPE_FILE).read_text("utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        of_a_run = False
    taken = [name for name in (RECIPE_FILE, *report.WRITTEN, *PHASES) if (folder / name).exists()]
    if taken and not of_a_run:
        raise TrainingError(
            f"{folder} holds {taken[0]!r}, which no training wrote (or its {RECIPE_FILE} is damaged) and this one "
            "would write over; choose another --output"
        )


def _check_same_data(stored: Any, digests: dict[str, str | None], parts: Parts, folder: Path) -> None:
    if not isinstance(stored, dict) or stored.keys() != digests.keys():
        raise TrainingError(
            f"{folder} holds a run of an earlier version, which did not write down what its recordings hold, so that "
            "nothing tells whether these are the same; go on with it in that version, or choose another --output"
        )
    for name, digest in digests.items():
        if digest == stored[name]:
            continue
        if digest is None:
            what = "it tests on recordings, and now there are none to test on"
        elif stored[name] is None:
            what = "it tests on no recordings, and now there are some"
        else:
            what = f"its {name} recordings have other names, labels or content than now {getattr(parts, name).text}"
        tested = f"; to test a finished one on others, rsnn evaluate {folder / 'model'}" if name == "test" else ""
        raise TrainingError(
            f"{folder} holds another run: {what}; give the same command to go on with it, or choose another "
            f"--output{tested}"
        )


def _stored(path: Path, own: Preprocessing) -> dict[str, Any]:
    """Return what a run's file says it is; fields that recipes have got since have their defaults."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        recipe = recipe_from(stored["recipe"])
        recipe = dataclasses.replace(recipe, data=recipe.data.filled(own))
        return {**stored, "recipe": recipe.to_dict()}
    except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); choose another --output") from error


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _keep(recipe: Recipe, name: str, phase: Phase, training: Part, result: PhaseResult, where: Path) -> None:
    """Write a finished phase: its two checkpoints, and last its metrics, which say that it is finished."""
    before = None
    earlier = [other for other, _ in recipe.phases]
    if position := earlier.index(name):
        before = zoo.load(where.resolve().parent / earlier[position - 1] / "selected")
    model = build(recipe, name, phase, training, before).cpu()
    for kind in ("last", "selected"):
        model.load_state_dict(getattr(result, kind))
        with saving(where / kind, "the trained weights are intact"):
            save_model(model, where / kind, cards.plain_card, recipe=recipe.for_others().to_dict())
    history, selected = result.place.history, result.place.selected_epoch
    write_json(
        where / METRICS_FILE,
        {
            "model": phase.model or recipe.for_others().start,
            "selected_epoch": selected,
            "selected_accuracy": history[selected - 1]["accuracy"],
            "last_accuracy": history[-1]["accuracy"],
            "minutes": sum(epoch["seconds"] for epoch in history) / 60,
            "history": history,
        },
    )


def _command(data: Any, samples: str, test: Any, test_samples: str) -> str:
    """Return what trains the model again in the folder of its `config.json`, which has the recipe.

    Of paths the last name is given alone: a card is for others.
    """
    words = ["rsnn", "train", "config.json"]
    for option, path, chosen in (("", data, samples), ("test", test, test_samples)):
        if path is not None:
            words += [f"--{option or 'data'}", Path(path).name or Path(path).resolve().name]
            words += [] if chosen == ":" else [f"--{option}-samples" if option else "--samples", chosen]
    return shlex.join(words)


def _finish(
    recipe: Recipe, parts: Parts, command: str, folder: Path, accelerator: Accelerator, display: Display
) -> dict[str, Any]:
    """Test the selected and the last epoch's weights of the last phase, once, and write the report."""
    names = [name for name, _ in recipe.phases]
    where = folder.resolve() / names[-1]
    results: dict[str, Evaluation] = {}
    for kind in ("selected", "last"):
        model = zoo.load(where / kind)
        model.to(accelerator.device)
        for title, part in (("validation", parts.validation), ("test", parts.test)):
            if part is not None:
                share = range(accelerator.process_index, len(part), accelerator.num_processes)
                results[f"{title}_{kind}"] = evaluate(
                    model,
                    part.pairs(share),
                    batch_size=recipe.loop.batch_size,
                    ids=[part.ids[i] for i in share],
                    accelerator=accelerator,
                )
    metrics: dict[str, Any] = {
        "recipe": recipe.to_dict(),
        "command": command,
        "parts": {
            field.name: None
            if (part := getattr(parts, field.name)) is None
            else {"text": part.text, "recordings": len(part)}
            for field in dataclasses.fields(parts)
        },
        "phases": {name: json.loads((folder / name / METRICS_FILE).read_text("utf-8")) for name in names},
        **{name: result.to_dict() for name, result in results.items()},
    }
    final = "validation" if parts.test is None else "test"
    for kind in ("selected", "last"):
        metrics[f"{kind}_accuracy"] = results[f"{final}_{kind}"].accuracy
    if accelerator.is_main_process:
        trained = zoo.load(where / "selected")
        report.write(folder, trained, recipe.for_others(), metrics, parts.test or parts.validation)
        write_json(folder / METRICS_FILE, metrics)
        (folder / STATE_FILE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    for name, result in results.items():
        low, high = result.interval
        title, _, kind = name.partition("_")
        display.say(
            f"{title}, {'selected epoch' if kind == 'selected' else 'last epoch'}: {result.accuracy:.1%} of "
            f"{result.samples} recordings (95 % interval {low:.1%} to {high:.1%})"
        )
    display.say(f"the report and the model are in {folder}")
    return metrics
