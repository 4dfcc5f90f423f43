from __future__ import annotations

import numpy as np
import pytest

import rsnn
from rsnn.plots import polarity_colours, save_frames


def test_brighter_is_red_darker_is_blue_and_nothing_is_white():
    frames = np.zeros((1, 2, 1, 3))
    frames[0, 1, 0, 0] = 2
    frames[0, 0, 0, 1] = 2
    assert polarity_colours(frames)[0, 0].tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 1]]


def test_a_picture_is_written_with_its_folder(tmp_path):
    path = save_frames(np.ones((13, 2, 6, 8), np.uint16), tmp_path / "new" / "frames.png", title="thirteen")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_frames_without_events_can_be_drawn(tmp_path):
    assert save_frames(np.zeros((2, 2, 4, 4)), tmp_path / "empty.png").is_file()


def test_wrong_shape_and_unwritable_places_are_clear_errors(tmp_path):
    with pytest.raises(rsnn.RSNNError, match=r"shape \(3, 4, 4\); expected \(T, 2, H, W\)"):
        save_frames(np.zeros((3, 4, 4)), tmp_path / "x.png")
    with pytest.raises(rsnn.RSNNError, match="cannot be written"):
        save_frames(np.zeros((1, 2, 4, 4)), tmp_path)
