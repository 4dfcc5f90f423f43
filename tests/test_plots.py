from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import rsnn
from rsnn.errors import InputError
from rsnn.plots import polarity_colours, save_animation, save_frames, save_picture, save_video
from rsnn.training.report import confusion, curves


def test_brighter_is_red_darker_is_blue_and_nothing_is_white():
    frames = np.zeros((1, 2, 1, 3))
    frames[0, 1, 0, 0] = 2
    frames[0, 0, 0, 1] = 2
    assert polarity_colours(frames)[0, 0].tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 1]]


def test_a_picture_is_written_with_its_folder(tmp_path):
    path = save_frames(np.ones((13, 2, 6, 8), np.uint16), tmp_path / "new" / "frames.png", title="thirteen")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_dollars_in_names_are_dollars(tmp_path):
    save_frames(np.ones((1, 2, 4, 4)), tmp_path / "sheet.png", title="a$x_y_z$.bin")
    found = {"confusion": [[1, 0], [0, 2]], "class_names": ["$a_b_c$", "$"], "accuracy": 1.0}
    confusion(found, tmp_path / "confusion.png", "./runs$x_y_z$ on clips")
    epoch = {"epoch": 1, "train_accuracy": 0.5, "accuracy": 0.5, "loss": 1.0, "cross_entropy": 1.0}
    phase = {"model": "/a$b_{c$", "history": [epoch], "selected_epoch": 1, "selected_accuracy": 0.5}
    curves({"encoder": phase}, tmp_path / "curves.png")
    assert {file.name for file in tmp_path.iterdir()} == {"sheet.png", "confusion.png", "curves.png"}


def test_a_thousand_classes_are_one_picture(tmp_path):
    counts = np.eye(1000, dtype=int) + np.ones((1000, 1000), dtype=int)
    found = {"confusion": counts.tolist(), "class_names": [str(n) for n in range(1000)], "accuracy": 0.5}
    confusion(found, tmp_path / "confusion.png", "many")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 4000


def test_rates_and_shares_that_are_none(tmp_path):
    frames = np.ones((2, 2, 4, 4))
    for rate in (0, -5, float("nan"), float("inf")):
        for call in (
            lambda rate: save_picture(frames, tmp_path / "a.gif", fps=rate),
            lambda rate: save_video(frames, tmp_path / "a.mp4", fps=rate),
            lambda rate: save_animation(frames, tmp_path / "a.gif", frame_ms=rate),
        ):
            with pytest.raises(InputError, match="expected a number above 0"):
                call(rate)
    for share in (float("nan"), -0.1, 1.5):
        with pytest.raises(InputError, match="expected them from 0 to 1"):
            save_animation(frames, tmp_path / "a.gif", labels=["a"], probabilities=np.full((2, 1), share))
    assert not list(tmp_path.iterdir())


def test_frames_without_events_can_be_drawn(tmp_path):
    assert save_frames(np.zeros((2, 2, 4, 4)), tmp_path / "empty.png").is_file()


def test_wrong_shape_and_unwritable_places_are_clear_errors(tmp_path):
    with pytest.raises(rsnn.RSNNError, match=r"shape \(3, 4, 4\); expected \(T, 2, H, W\)"):
        save_frames(np.zeros((3, 4, 4)), tmp_path / "x.png")
    for save in (save_frames, save_animation, save_video):
        with pytest.raises(rsnn.RSNNError, match=r"shape \(0, 2, 4, 4\); expected .* at least one frame"):
            save(np.zeros((0, 2, 4, 4)), tmp_path / "x.gif")
    with pytest.raises(rsnn.RSNNError, match="cannot be written"):
        save_frames(np.zeros((1, 2, 4, 4)), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(rsnn.RSNNError, match=r"file/x\.gif cannot be written"):
        save_animation(np.zeros((1, 2, 4, 4)), tmp_path / "file" / "x.gif")


def test_the_home_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert save_frames(np.zeros((1, 2, 4, 4)), "~/x.png") == tmp_path / "x.png"
    assert save_animation(np.zeros((1, 2, 4, 4)), "~/x.gif") == tmp_path / "x.gif"


def test_an_animation_has_a_picture_a_step_and_leaves_no_other_file(tmp_path):
    frames = np.zeros((3, 2, 32, 48))
    frames[1, 1, 4:9, 5:20] = 2
    shares = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    path = save_animation(frames, tmp_path / "new" / "a.gif", probabilities=shares, labels=("one", "two"), title="t")
    with Image.open(path) as picture:
        assert picture.n_frames == 3
        picture.seek(1)
        red, green, blue = picture.convert("RGB").getpixel((8 * 10, 24 + 8 * 6))
        assert red > 200
        assert max(green, blue) < 60
    assert [file.name for file in path.parent.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(("fps", "durations"), [(30, [30, 40, 30]), (40, [20, 30, 30]), (50, [20, 20, 20])])
def test_an_animation_lasts_as_long_as_its_frames_say(tmp_path, fps, durations):
    frames = np.zeros((4, 2, 4, 4))
    frames[range(4), 1, range(4), range(4)] = 1
    with Image.open(save_picture(frames, tmp_path / "a.gif", fps=fps)) as picture:
        found = []
        for step in range(3):
            picture.seek(step)
            found.append(picture.info["duration"])
    assert found == durations
    with pytest.raises(rsnn.RSNNError, match="51 frames a second; expected at most 50"):
        save_picture(frames, tmp_path / "a.gif", fps=51)


def test_an_animation_of_shapes_that_do_not_go_together(tmp_path):
    with pytest.raises(rsnn.RSNNError, match=r"shape \(2, 2\) for 3 frames and 2 labels"):
        save_animation(np.zeros((3, 2, 4, 4)), tmp_path / "a.gif", probabilities=np.ones((2, 2)), labels=("a", "b"))
    with pytest.raises(rsnn.RSNNError, match=r"has the suffix '\.png'; expected \.gif"):
        save_animation(np.zeros((1, 2, 4, 4)), tmp_path / "a.png")
    (tmp_path / "b.gif").mkdir()
    with pytest.raises(rsnn.RSNNError, match="cannot be written"):
        save_animation(np.zeros((1, 2, 4, 4)), tmp_path / "b.gif")
    assert [file.name for file in tmp_path.iterdir()] == ["b.gif"]
