"""Classes of recordings and of models go by their names, in whatever order either has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import SMALL

import rsnn
from rsnn.data import FrameCache
from rsnn.errors import InputError
from rsnn.training import load_recipe
from rsnn.training.batches import FramesOf
from rsnn.training.phases import build
from rsnn.training.run import _parts
from rsnn.training.sources import open_part

DIGITS = tuple("0123456789")


def renamed(archive, path, class_names, labels=None):
    """Write the archive with other class names, and other labels where they are given."""
    arrays = dict(np.load(archive))
    np.savez(path, **{**arrays, "class_names": class_names, "label": arrays["label"] if labels is None else labels})
    return path


def parts_of(recipe, data, test=None):
    return _parts(recipe, data, test, ":", ":")


def said(part):
    """The name of each recording's class, by its id."""
    return {name: part.class_names[label] for name, label in zip(part.ids, part.labels, strict=True)}


def test_classes_of_ones_own_are_not_the_zoos_because_there_are_as_many(recipe, archive, tmp_path):
    mine = tuple(f"mine{i}" for i in range(10))
    parts = parts_of(recipe(), renamed(archive, tmp_path / "mine.npz", mine))
    model = build(recipe(), "encoder", recipe().phases.encoder, parts.training)
    assert model.class_names == mine
    assert model.num_classes == 10


def test_the_zoos_classes_in_another_order_are_put_into_its_own(recipe, archive, tmp_path):
    path = renamed(archive, tmp_path / "reversed.npz", DIGITS[::-1])
    parts = parts_of(recipe(), path)
    for part in (parts.training, parts.validation):
        assert part.class_names == DIGITS
        assert set(part.labels) <= {9, 8, 7}
        assert said(part).items() <= said(open_part(path)).items()
    model = build(recipe(), "encoder", recipe().phases.encoder, parts.training)
    assert model.class_names == DIGITS


@pytest.mark.parametrize("names", [("left", "right", "top"), None])
def test_what_tests_is_matched_to_what_was_trained_on(recipe, archive, tmp_path, names):
    """Also where the model alone names the classes, for the recordings to train on name none."""
    data = archive
    if names is None:
        arrays = {name: array for name, array in np.load(archive).items() if name != "class_names"}
        np.savez(data := tmp_path / "unnamed.npz", **arrays)
    known = names or ("0", "1", "2")
    two = renamed(archive, tmp_path / "two.npz", known[2:0:-1], np.arange(24) % 2)  # without the first class
    test = parts_of(recipe(), data, two).test
    assert test.class_names[:3] == known
    assert test.labels.tolist() == [2, 1] * 12
    other = renamed(archive, tmp_path / "other.npz", ("left?", *known[1:]))
    with pytest.raises(InputError, match=r"other\.npz has the classes 'left\?'.*so not 'left\?'"):
        parts_of(recipe(), data, other)


def test_fine_tuning_keeps_the_last_layer_where_the_same_classes_come_in_another_order(archive, tmp_path):
    torch.manual_seed(0)
    names = ("Top", "left", "right")
    start = rsnn.create_model("scnn-nmnist", frame_size=(16, 16), num_frames=4, num_classes=3, class_names=names)
    start.save_pretrained(tmp_path / "start")
    recipe = load_recipe("fine-tune", [f"start={tmp_path / 'start'}", *SMALL])
    parts = parts_of(recipe, archive, archive)
    assert {label: name.casefold() for label, name in enumerate(names)} == {
        int(parts.test.labels[i]): open_part(archive).class_names[i] for i in range(3)
    }
    tuned = build(recipe, "joint", recipe.phases.joint, parts.training)
    assert tuned.class_names == names
    torch.testing.assert_close(tuned.state_dict(), start.state_dict(), rtol=0, atol=0)
    parts = parts_of(recipe, renamed(archive, tmp_path / "others.npz", ("top", "left", "bottom")))
    assert build(recipe, "joint", recipe.phases.joint, parts.training).class_names == ("top", "left", "bottom")


def test_cached_frames_have_the_labels_of_the_part(archive):
    part = open_part(archive).in_order_of(("top", "left", "right"))
    cache = FrameCache(part.source, 4, "time", size=(16, 16))
    preprocessing = rsnn.Preprocessing((16, 16), num_frames=4)
    for kept in (cache, None):
        frames = FramesOf(part, preprocessing, cache=kept)
        assert [frames[0, i][1] for i in range(6)] == [1, 2, 0, 1, 2, 0]
