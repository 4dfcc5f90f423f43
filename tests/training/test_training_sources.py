"""What `--data` can name, and which of it is a part to test on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_runs import write_archive

import rsnn
from rsnn import zoo
from rsnn.data.datasets import cifar10dvs, gesture, nmnist
from rsnn.errors import InputError, RecordingError, TrainingError
from rsnn.training.sources import Part, has_test_part, open_part, own_test_part, part_of


@pytest.mark.parametrize("kind", ["auto", "nmnist", "gesture", "cifar10dvs", "sign", "archive"])
def test_an_archive_has_no_test_part_whatever_its_data_set(archive, kind):
    assert not has_test_part(archive, kind), "what trains would be tested on"


def test_folders_with_a_test_part(archive, tmp_path):
    assert has_test_part("gestures:100", "auto")
    assert has_test_part(tmp_path, "gesture")
    assert not has_test_part(tmp_path, "auto")
    shutil.copy(archive, tmp_path / "dvs_sign_train.npz")
    assert not has_test_part(tmp_path, "sign")
    shutil.copy(archive, tmp_path / "dvs_sign_test.npz")
    assert has_test_part(tmp_path, "sign")
    assert open_part(tmp_path, kind="sign", split="test").text == "dvs_sign_test.npz"
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    assert has_test_part(tmp_path, "auto")


def test_samples_cut_a_part_down(archive):
    part = open_part(archive, samples="4:9")
    assert len(part) == 5
    np.testing.assert_array_equal(part.labels, open_part(archive).labels[4:9])
    assert part.text == "train.npz [4:9]"
    for text, said in (("4", "FIRST:END"), ("40:50", "chooses none")):
        with pytest.raises(InputError, match=said):
            open_part(archive, samples=text)


@pytest.mark.parametrize("split", ["tset", ""])
def test_a_part_that_is_not_there_is_refused(archive, tmp_path, split):
    (tmp_path / "plain" / "left").mkdir(parents=True)
    for data in (archive, tmp_path / "plain"):
        with pytest.raises(InputError, match=rf"no part '{split}'; expected one of train, validation, test, all"):
            open_part(data, split=split)


def test_a_folder_with_other_parts_is_not_taken_whole(archive, tmp_path):
    events = rsnn.data.EventArchive(archive)[0]
    for part in ("train", "validation"):
        (tmp_path / part / "left").mkdir(parents=True)
        rsnn.data.write_events(tmp_path / part / "left" / "0.npz", events)
    with pytest.raises(InputError, match=r"no part 'test'; expected one of train, validation, all"):
        open_part(tmp_path, split="test")
    assert [len(open_part(tmp_path, split=split)) for split in ("train", "validation", "all")] == [1, 1, 2]
    for name in ("train", "test"):
        shutil.copy(archive, tmp_path / f"dvs_sign_{name}.npz")
    with pytest.raises(InputError, match=r"no part 'validation'; expected one of train, test"):
        open_part(tmp_path, split="validation", kind="sign")


def test_an_unknown_kind_is_answered_with_the_nearest(archive):
    with pytest.raises(InputError, match=r"kind is 'gestur'; .* Did you mean 'gesture'"):
        open_part(archive, kind="gestur")


def test_no_simulated_gestures_are_none(archive):
    for data, kind in (("gestures:0", "auto"), ("gestures:many", "auto"), (archive, "simulated")):
        with pytest.raises(InputError, match=r"expected gestures:N .*--set data\.kind=auto"):
            open_part(data, kind=kind)


def test_a_cache_of_simulated_gestures_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(TrainingError, match=r"cannot be written .*RSNN_CACHE names another folder"):
        open_part("gestures:1")


def test_data_that_are_not_there_or_have_no_labels(archive, tmp_path):
    with pytest.raises(RecordingError, match="expected an archive"):
        open_part(tmp_path / "none.npz")
    arrays = {name: array for name, array in np.load(archive).items() if name != "label"}
    np.savez(tmp_path / "unlabelled.npz", **arrays)
    with pytest.raises(InputError, match="no labels"):
        open_part(tmp_path / "unlabelled.npz")
    rsnn.data.write_events(tmp_path / "one.npz", rsnn.data.EventArchive(archive)[0])
    with pytest.raises(InputError, match=r"is one recording .* expected an archive of labelled ones"):
        open_part(tmp_path / "one.npz")
    (tmp_path / "damaged.npz").write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(RecordingError, match=r"damaged\.npz"):
        open_part(tmp_path / "damaged.npz")


def test_a_number_of_simulated_gestures_is_that_many(tmp_path, monkeypatch):
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path))

    assert len(open_part("gestures:12", split="test")) == 12


def test_simulated_gestures_lie_where_other_caches_do(tmp_path, monkeypatch):
    monkeypatch.delenv("RSNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    open_part("gestures:1", split="test")

    assert list((tmp_path / "rsnn" / "simulated").glob("gestures-test-1-*.npz"))


def test_training_on_simulated_gestures_is_tested_on_a_tenth_as_many():
    assert own_test_part("gestures:5500") == "gestures:550"
    assert own_test_part("gestures:22") == "gestures:11"
    assert own_test_part("recordings/") == "recordings/"


def part(labels, class_names):
    ids = tuple(map(str, range(len(labels))))
    return Part(None, np.arange(len(labels)), np.array(labels), ids, class_names, "mine")


@pytest.mark.parametrize(
    ("names", "model", "expected"),
    [
        (("a", "b", "c"), ("a", "b", "c"), [0, 1, 2, 1]),
        (("a", "b", "c"), ("c", "a", "b"), [1, 2, 0, 2]),
        (("a", "b", "c"), ("z", "c", "y", "b", "a"), [4, 3, 1, 3]),
        (("arm roll", " Air_Drums", "B"), ("air_drums", "arm_roll", "b"), [1, 0, 2, 0]),
        (("a", "A", "b"), ("b", "A", "a"), [2, 1, 0, 1]),  # as they are spelt, where case alone tells two apart
        (("a", "b", "c", "not here"), ("c", "b", "a"), [2, 1, 0, 1]),
        (None, ("a", "b", "c"), [0, 1, 2, 1]),
        (("a", "b", "c"), None, [0, 1, 2, 1]),
    ],
)
def test_labels_are_matched_to_a_model_by_name(names, model, expected):
    labelled = part([0, 1, 2, 1], names).labelled_for(model, 5 if model is None else len(model))
    assert labelled.labels.tolist() == expected
    if names and model:
        assert labelled.class_names == model


@pytest.mark.parametrize(
    ("names", "model", "said"),
    [
        (
            ("a", "b", "hand_clapping"),
            ("a", "b", "hand_clap"),
            r"so not 'hand_clapping'\..* Did you mean 'hand_clap'\?",
        ),
        (("left", "top", "right"), tuple("0123456789"), r"mine has the classes 'left', 'top', 'right'; .* '0', '1'"),
        (("a", "A", "c"), ("a", "b", "c"), "so not 'A'"),  # one class would swallow the other
        (("sign_1_1", "b", "c"), ("sign_11", "b", "c"), "so not 'sign_1_1'"),
        (None, ("a", "b"), "mine has the label 2, and the model has 2 classes; expected labels from 0 to 1"),
    ],
)
def test_classes_that_a_model_does_not_have_are_refused(names, model, said):
    with pytest.raises(InputError, match=said):
        part([0, 1, 2, 1], names).labelled_for(model, len(model))


def test_the_same_classes_are_put_into_another_order_and_others_stay():
    mine = part([0, 1, 2, 1], ("a", "b", "c c"))
    ordered = mine.in_order_of(("C_c", "a", "b"))
    assert (ordered.labels.tolist(), ordered.class_names) == ([1, 2, 0, 2], ("C_c", "a", "b"))
    for others in (("a", "b"), ("a", "b", "c", "d"), ("a", "b", "d"), None):
        assert mine.in_order_of(others) is mine


def test_labels_beyond_the_named_classes_are_refused(archive, tmp_path):
    arrays = dict(np.load(archive))
    np.savez(tmp_path / "odd.npz", **{**arrays, "label": arrays["label"] + 1})
    with pytest.raises(InputError, match=r"odd\.npz has the label 3 and names 3 classes"):
        part_of(rsnn.data.EventArchive(tmp_path / "odd.npz"), "odd.npz")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(24) % 3 - 1, "has the label -1; expected whole numbers from 0"),
        (np.arange(24) % 3 + 0.9, "has the label 0.9; expected whole numbers"),
        (np.full(24, np.inf), "has the label inf; expected whole numbers"),
        (
            np.array(["left", "right", "top"] * 8),
            "has the label 'left'; .* the names of the classes as its array 'class_n",
        ),
    ],
)
def test_labels_that_are_no_class_indices_are_refused(archive, tmp_path, labels, said):
    arrays = {name: array for name, array in np.load(archive).items() if name != "class_names"}
    np.savez(tmp_path / "odd.npz", **{**arrays, "label": labels})
    with pytest.raises(InputError, match=rf"odd\.npz {said}"):
        open_part(tmp_path / "odd.npz")


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_whole_numbers_of_any_type_are_labels(archive, tmp_path, kind):
    arrays = dict(np.load(archive))
    np.savez(tmp_path / "whole.npz", **{**arrays, "label": arrays["label"].astype(kind)})
    assert open_part(tmp_path / "whole.npz").labels.tolist() == arrays["label"].tolist()


def test_contents_of_a_folder_are_of_its_chosen_files(archive, tmp_path):
    events = rsnn.data.EventArchive(archive)
    for i in range(4):
        (tmp_path / "left").mkdir(exist_ok=True)
        rsnn.data.write_events(tmp_path / "left" / f"{i}.npz", events[i % 3])
    contents = open_part(tmp_path).contents
    assert contents[0] == contents[3]
    assert len({*contents}) == 3
    chosen = open_part(tmp_path, samples="1:3")
    (tmp_path / "left" / "0.npz").unlink()
    assert chosen.contents == contents[1:3]


@pytest.mark.parametrize("layout", ["left", "train/left", "manifest.csv"])
@pytest.mark.parametrize("kind", ["gesture", "cifar10dvs", "nmnist"])
def test_recordings_of_ones_own_under_an_official_name_say_how_they_are_taken(archive, tmp_path, layout, kind):
    with pytest.raises(RecordingError) as caught:
        open_part(tmp_path, kind=kind)
    assert "data.kind=auto" not in str(caught.value)
    (tmp_path / layout).parent.mkdir(exist_ok=True)
    if layout == "manifest.csv":
        (tmp_path / layout).write_text("path,label\n")
    else:
        (tmp_path / layout).mkdir(parents=True)
        shutil.copy(archive, tmp_path / layout / "0.npz")
    with pytest.raises(
        RecordingError, match=r"--set data\.kind=auto --set validation\.by=id, rsnn evaluate with --kind auto"
    ):
        open_part(tmp_path, kind=kind)


@pytest.mark.parametrize(("kind", "dataset"), [("gesture", gesture), ("cifar10dvs", cifar10dvs), ("nmnist", nmnist)])
def test_the_official_data_sets_name_their_classes_as_the_zoo_does(kind, dataset):
    assert zoo.create_model(f"scnn-{kind}").class_names == dataset.CLASS_NAMES


TRAINED = """import multiprocessing
multiprocessing.set_start_method("spawn", force=True)
from rsnn.training import load_recipe, train
changes = ["start=rsnn-nmnist-cl", "phases.joint.epochs=1", "loop.workers=1"]
train(load_recipe("fine-tune", changes), {archive!r}, "run")
"""


@pytest.mark.parametrize(
    ("script", "line"),
    [("from rsnn.training.sources import open_part\nopen_part('gestures:22')\n", -1), (TRAINED, None)],
)
def test_a_script_without_a_guard_is_told_of_it(tmp_path, script, line):
    write_archive(tmp_path / "train.npz", side=34)
    path = tmp_path / "script.py"
    path.write_text(script.format(archive=str(tmp_path / "train.npz")))
    environment = {**os.environ, "RSNN_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=tmp_path
    )
    assert ran.returncode == 1
    said = ran.stderr.splitlines()
    assert any('below `if __name__ == "__main__":`' in text for text in (said if line is None else said[line:]))
    assert "another training is running" not in ran.stderr
