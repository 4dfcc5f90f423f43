"""`rsnn convert` and `rsnn info` as a user runs them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from made import random_events
from PIL import Image
from typer.testing import CliRunner

from rsnn.cli import app
from rsnn.data import Events, read_events, to_frames, write_events
from rsnn.data.summary import find_hot_pixels, summarize
from rsnn.errors import RecordingError


@pytest.fixture
def clip(tmp_path, rng):
    """Two seconds of a sensor whose size the file says."""
    return write_events(tmp_path / "clip.npz", random_events(rng, 4000, (40, 30), last_us=2_000_000))


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("suffix", [".csv", ".aedat", ".bin", ".dat", ".raw", ".es", ".h5", ".npz"])
def test_between_formats(clip, tmp_path, suffix):
    said = run("convert", clip, tmp_path / f"out{suffix}")
    assert f"out{suffix}: " in said
    assert f"{(tmp_path / f'out{suffix}').stat().st_size:,} bytes" in said
    assert read_events(tmp_path / f"out{suffix}", sensor_size=(40, 30)) == read_events(clip)
    run("convert", tmp_path / f"out{suffix}", tmp_path / "back.npz", "--sensor-size", "40x30")
    assert read_events(tmp_path / "back.npz") == read_events(clip)


def test_named_formats_and_truncated_files(clip, tmp_path):
    run("convert", clip, tmp_path / "old.aedat", "--to", "aedat-2.0")
    assert (tmp_path / "old.aedat").read_bytes().startswith(b"#!AER-DAT2.0")
    (tmp_path / "cut").write_bytes((tmp_path / "old.aedat").read_bytes()[:-3])
    said = run("convert", tmp_path / "cut", tmp_path / "out.npz", code=1)
    assert "truncated" in said
    assert not (tmp_path / "out.npz").exists()
    run("convert", tmp_path / "cut", tmp_path / "out.npz", "--keep-truncated", "--from", "aedat-2.0")
    assert len(read_events(tmp_path / "out.npz")) == 3999


def test_recordings_to_sort(tmp_path):
    (tmp_path / "clip.csv").write_text("t,x,y,p\n1500000,1,1,1\n1500009,2,2,0\n1500004,3,3,0\n")
    assert "rsnn convert --sort" in run("convert", tmp_path / "clip.csv", tmp_path / "out.npz", code=1)
    run("convert", tmp_path / "clip.csv", tmp_path / "out.npz", "--sort")
    assert read_events(tmp_path / "out.npz").t.tolist() == [1_500_000, 1_500_004, 1_500_009]
    run("convert", tmp_path / "clip.csv", tmp_path / "out.npz", "--sort", "--from-zero")
    assert read_events(tmp_path / "out.npz").t.tolist() == [0, 4, 9]
    run("convert", tmp_path / "clip.csv", tmp_path / "out.npy", "--sort", "--frames", "3")
    assert np.load(tmp_path / "out.npy").sum() == 3
    run("convert", tmp_path / "clip.csv", tmp_path / "out.png", "--sort", "--frames", "3")


@pytest.mark.parametrize("suffix", [".raw", ".dat", ".es", ".bin"])
def test_times_of_day_counted_from_zero(tmp_path, rng, suffix):
    """Microseconds since 1970, as cameras that know the time write them, are too large for most formats."""
    events = random_events(rng, 500, (40, 30), last_us=400_000)
    late = Events(t=events.t + 1_605_537_493_718_345, x=events.x, y=events.y, p=events.p, sensor_size=(40, 30))
    clip = write_events(tmp_path / "clip.npz", late)
    assert "rsnn convert --from-zero" in run("convert", clip, tmp_path / f"out{suffix}", code=1)
    run("convert", clip, tmp_path / f"out{suffix}", "--from-zero")
    found = read_events(tmp_path / f"out{suffix}", sensor_size=(40, 30))
    assert found.t.tolist() == (events.t - events.t[0]).tolist()
    assert found.x.tolist() == events.x.tolist()


def test_info_of_what_is_left(clip, tmp_path):
    run("convert", clip, tmp_path / "old.aedat", "--to", "aedat-2.0")
    (tmp_path / "cut.aedat").write_bytes((tmp_path / "old.aedat").read_bytes()[:-3])
    assert "--keep-truncated" in run("info", tmp_path / "cut.aedat", code=1)
    assert "3,999" in run("info", tmp_path / "cut.aedat", "--keep-truncated")


def test_a_suffix_that_says_nothing(clip, tmp_path):
    said = run("convert", clip, tmp_path / "out.xyz", code=1)
    assert "has the suffix '.xyz'; expected one of .aedat, " in said
    assert all(f" {suffix}," in said for suffix in (".npz", ".npy", ".gif", ".png", ".mp4"))
    assert "--to FORMAT" in said


def test_frames(clip, tmp_path):
    run("convert", clip, tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), to_frames(read_events(clip), 20))
    run("convert", clip, tmp_path / "out.npy", "--frames", "7", "--split-by", "number", "--size", "20x10")
    assert np.array_equal(np.load(tmp_path / "out.npy"), to_frames(read_events(clip), 7, "number", size=(10, 20)))


def colours_of(tmp_path, name, *options):
    """Convert one brighter event at (2, 1) and one darker at (12, 11), half a second apart; return the picture."""
    events = Events(t=[0, 500_000], x=[2, 12], y=[1, 11], p=[1, 0], sensor_size=(16, 16))
    write_events(tmp_path / "two.npz", events)
    run("convert", tmp_path / "two.npz", tmp_path / name, *options)
    return Image.open(tmp_path / name)


def test_animations_in_red_and_blue(tmp_path, request):
    """Frame 1 has a red pixel at (2, 1), frame 2 a blue one at (12, 11), each 24 x 24 below a line of 24 pixels."""
    picture = colours_of(tmp_path, "out.gif", "--frames", "2", "--fps", "4")
    request.addfinalizer(picture.close)
    assert (picture.n_frames, picture.size) == (2, (384, 408))
    assert picture.info["duration"] == 250
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[24 + 36, 2 * 24 + 12].tolist() == [255, 0, 0]
    assert pixels[24 + 11 * 24 + 12, 12 * 24 + 12].tolist() == [255, 255, 255]
    picture.seek(1)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[24 + 36, 2 * 24 + 12].tolist() == [255, 255, 255]
    assert pixels[24 + 11 * 24 + 12, 12 * 24 + 12].tolist() == [0, 0, 255]


def test_animations_last_as_long_as_the_recording(clip, tmp_path):
    run("convert", clip, tmp_path / "out.gif", "--fps", "10")
    with Image.open(tmp_path / "out.gif") as picture:
        assert picture.n_frames == 20  # 2 s
    write_events(tmp_path / "long.npz", Events(t=[0, 10**9], x=[1, 1], y=[1, 1], p=[0, 1], sensor_size=(16, 16)))
    assert "lasts 1000.0 s, which makes 25000 frames; expected at most 1500" in run(
        "convert", tmp_path / "long.npz", tmp_path / "long.gif", code=1
    )


def test_sheets_in_red_and_blue(tmp_path):
    with colours_of(tmp_path, "out.png", "--frames", "2") as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    red = (picture == [255, 0, 0]).all(-1)
    blue = (picture == [0, 0, 255]).all(-1)
    assert red.any()
    assert blue.any()
    middle = picture.shape[1] // 2
    assert not red[:, middle:].any()
    assert not blue[:, :middle].any()


def test_videos_in_red_and_blue(tmp_path, clip):
    av = pytest.importorskip("av")
    colours_of(tmp_path, "out.gif").close()
    run("convert", tmp_path / "two.npz", tmp_path / "out.mp4", "--frames", "2", "--fps", "4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == 4
        first, second = (frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0))
    red, blue = first[36, 2 * 24 + 12], second[11 * 24 + 12, 12 * 24 + 12]
    assert red[0] > 180
    assert red[2] < 80
    assert blue[2] > 180
    assert blue[0] < 80
    assert first[11 * 24 + 12, 12 * 24 + 12].min() > 230


def test_videos_without_their_package(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    said = run("convert", clip, tmp_path / "out.mp4", code=1)
    assert "needs PyAV, which is not installed: pip install 'rsnn[video]'; an animated .gif needs nothing more" in said
    assert not (tmp_path / "out.mp4").exists()


def test_what_cannot_be_converted(clip, tmp_path):
    assert "has the suffix '.mp3'; expected one of" in run("convert", clip, tmp_path / "out.mp3", code=1)
    assert "does not exist" in run("convert", tmp_path / "none", tmp_path / "out.npz", code=1)
    assert "format is 'npz'; expected one of" in run("convert", clip, tmp_path / "out.npz", "--to", "npz", code=1)
    said = run("convert", clip, tmp_path / "out.npy", "--to", "numpy", "--size", "8x8", "--frames", "3", code=1)
    assert "--frames and --size are for frames and pictures (.npy, .gif" in said
    (tmp_path / "wide.csv").write_text("t,x,y,p\n0,300,1,1\n")
    said = run("convert", tmp_path / "wide.csv", tmp_path / "out.bin", code=1)
    assert "out.bin was not written: event 0 has x = 300, for which N-MNIST bin has no room" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.npz", "wide.csv"]


# ---------------------------------------------------------------------------------------------------- info


def test_summaries_of_a_sensor_that_no_camera_has(tmp_path):
    events = Events(t=[0], x=[0], y=[0], p=[0], sensor_size=(65_535, 65_535))
    with pytest.raises(RecordingError, match=r"clip\.es .* a sensor of 65535 x 65535 pixels; expected a camera's"):
        summarize(write_events(tmp_path / "clip.es", events))


def test_summaries_by_hand(tmp_path):
    events = Events(
        t=[1_000_000, 1_200_000, 2_000_000, 3_000_000], x=[0, 0, 5, 7], y=[1, 1, 2, 3], p=[1, 1, 1, 0],
        sensor_size=(10, 8),
    )  # fmt: skip
    found = summarize(write_events(tmp_path / "clip.es", events))
    assert found.to_dict() == {
        "path": str(tmp_path / "clip.es"),
        "format": "Event Stream",
        "size_bytes": (tmp_path / "clip.es").stat().st_size,
        "sensor_size": (10, 8),
        "sensor_is_known": True,
        "events": 4,
        "first_us": 1_000_000,
        "last_us": 3_000_000,
        "duration_us": 2_000_000,
        "rate_hz": 2.0,
        "brighter": 0.75,
        "active_pixels": 3,
        "hot_pixels": (),
    }
    guessed = summarize(write_events(tmp_path / "clip.bin", events))
    assert (guessed.sensor_size, guessed.sensor_is_known) == ((34, 34), False)
    assert summarize(tmp_path / "clip.bin", sensor_size=(11, 9)).sensor_size == (11, 9)
    with pytest.raises(RecordingError, match="does not exist"):
        summarize(tmp_path / "none")


def test_hot_pixels_by_hand():
    counts = np.full((20, 30), 10)
    assert find_hot_pixels(counts) == ()
    counts[5, 7], counts[0, 0], counts[19, 29] = 111, 500, 110  # 10 * (1 + 10) = 110 is not more than 110
    assert find_hot_pixels(counts) == ((0, 0, 500), (7, 5, 111))
    counts[5, 8], counts[6, 8] = 4000, 300  # neighbours that are hot as well hide no other
    assert find_hot_pixels(counts)[:1] == ((8, 5, 4000),)
    assert find_hot_pixels(np.zeros((3, 3), dtype=int)) == ()
    assert find_hot_pixels(np.array([[1000]])) == ()


def test_info_prints_it(clip):
    said = run("info", clip)
    events = read_events(clip)
    for part in (
        f"NumPy, {clip.stat().st_size:,} bytes",
        "40 x 30 pixels",
        f"{events.duration_us / 1e6:.6f} s, from {events.t[0]} to {events.t[-1]} µs",
        "4,000, 2,0",
        f"{events.p.mean():.1%} brighter",
        "hot pixels",
    ):
        assert part in said
    assert json.loads(CliRunner().invoke(app, ["info", str(clip), "--json"]).stdout)["events"] == 4000


def test_info_of_real_recordings(samples):
    said = run("info", samples / "formats" / "evt2.raw")
    assert "Prophesee RAW" in said
    assert "640 x 480 pixels" in said
    assert "521,252" in said
    assert "34 x 34 pixels, a guess: the file says none" in run("info", samples / "formats" / "sample_nmnist.bin")


def test_info_of_files_that_are_no_recording(tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n\nNothing.\n")
    assert "none of the known formats" in run("info", tmp_path / "notes.md", code=1)
