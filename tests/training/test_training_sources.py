"""What `--data` can name, and which of it is a part to test on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rsnn.errors import InputError, RecordingError
from rsnn.training.sources import has_test_part, open_part, own_test_part


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


def test_data_that_are_not_there_or_have_no_labels(archive, tmp_path):
    with pytest.raises(RecordingError, match="expected an archive"):
        open_part(tmp_path / "none.npz")
    arrays = {name: array for name, array in np.load(archive).items() if name != "label"}
    np.savez(tmp_path / "unlabelled.npz", **arrays)
    with pytest.raises(InputError, match="no labels"):
        open_part(tmp_path / "unlabelled.npz")


def test_a_number_of_simulated_gestures_is_that_many(tmp_path, monkeypatch):
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path))

    assert len(open_part("gestures:12", split="test")) == 12


def test_training_on_simulated_gestures_is_tested_on_a_tenth_as_many():
    assert own_test_part("gestures:5500") == "gestures:550"
    assert own_test_part("gestures:22") == "gestures:11"
    assert own_test_part("recordings/") == "recordings/"
