from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import rsnn
from rsnn.errors import InputError
from rsnn.plots import polarity_colours, save_animation, save_frames, save_picture, save_video
from rsnn.training import report
from rsnn.training.report import compare_curves, confusion, curves, firing


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
    curves({"encoder": {**phase(epoch(1)), "model": "/a$b_{c$"}}, tmp_path / "curves.png")
    assert {file.name for file in tmp_path.iterdir()} == {"sheet.png", "confusion.png", "curves.png"}


def epoch(number, **changes):
    plain = {"epoch": number, "train_accuracy": 0.75, "accuracy": 0.5, "loss": 1.5, "cross_entropy": 2.0}
    return {**plain, **changes}


def phase(*history):
    return {"model": "m", "history": list(history), "selected_epoch": 1, "selected_accuracy": 0.5}


NAN = float("nan")


@pytest.mark.parametrize(
    "history",
    [
        [epoch(1)],
        [epoch(1, loss=NAN, cross_entropy=NAN)],
        [epoch(1, loss=NAN, cross_entropy=float("inf")), epoch(2, accuracy=NAN)],
        [epoch(1, loss=0.0, cross_entropy=0.0), epoch(2, loss=0.0, cross_entropy=0.0)],
        [epoch(1, loss=3e38), epoch(2)],
    ],
)
def test_curves_of_any_course_are_drawn_without_a_warning(tmp_path, history):
    curves({"encoder": phase(*history)}, tmp_path / "curves.png")
    compare_curves({"_a": history, "$b_{c$ $": history, "c" * 200: history}, tmp_path / "compared.png")
    assert {file.name for file in tmp_path.iterdir()} == {"curves.png", "compared.png"}


def test_the_figures_of_a_single_epoch_are_seen(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "save_figure", lambda figure, _: drawn.append(figure))
    curves({"encoder": phase(epoch(1))}, tmp_path / "curves.png")
    lines = [line for axes in drawn[0].axes for line in axes.lines]
    assert [(line.get_label(), *line.get_ydata()) for line in lines if not line.get_label().startswith("_")] == [
        ("training (augmented)", 0.75),
        ("validation", 0.5),
        ("training loss", 1.5),
        ("validation cross-entropy", 2.0),
    ]
    assert all(line.get_marker() in (".", "o") for line in lines)


@pytest.mark.parametrize(
    ("counts", "names", "accuracy"),
    [
        ([[3]], ["only"], 1.0),
        ([[0]], ["only"], NAN),
        ([[0, 0], [0, 3]], ["\N{WAVING HAND SIGN}", "\u5de6"], 1.0),
        ([[1, 0], [0, 3]], ["a" * 300, "b\nb"], 1.0),
    ],
)
def test_a_confusion_matrix_of_any_classes_is_drawn_without_a_warning(tmp_path, counts, names, accuracy):
    found = {"confusion": counts, "class_names": names, "accuracy": accuracy}
    confusion(found, tmp_path / "confusion.png", f"\u5de6 part of {'/folder' * 40}")
    assert (tmp_path / "confusion.png").is_file()


@pytest.mark.parametrize("rates", [{}, {"a": 0.0}, {"a": 1.0, "b": NAN}, {"a$_b{$": 0.5}, {"a" * 300: 0.5}])
def test_firing_rates_of_any_layers_are_drawn_without_a_warning(tmp_path, rates):
    firing({"encoder": {}, "classifier": rates}, tmp_path / "rates.png")
    assert (tmp_path / "rates.png").is_file()


def test_frames_of_no_counts(tmp_path):
    for number in (NAN, float("inf")):
        for save in (save_frames, save_animation, save_video):
            with pytest.raises(InputError, match="NaN or infinite numbers; expected counts"):
                save(np.full((1, 2, 4, 4), number), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_signs_that_no_font_has(tmp_path):
    save_frames(np.ones((1, 2, 4, 4)), tmp_path / "sheet.png", title="\u5de6")
    shares = np.ones((1, 1))
    save_animation(np.ones((1, 2, 4, 4)), tmp_path / "a.gif", title="\u5de6", labels=["\u5de6"], probabilities=shares)


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
