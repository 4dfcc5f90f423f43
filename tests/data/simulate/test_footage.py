"""Films from files: what is read, when each frame is, and what is wrong with the rest."""

from __future__ import annotations

import builtins
import os
import shutil
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from rsnn.data.simulate import read_frames, to_events
from rsnn.data.simulate.footage import list_images
from rsnn.errors import InputError, MissingDependencyError


def picture(value, size=(16, 12)):
    return Image.new("L", size, value)


def ball(number, size=(64, 48)):
    """A disc that moves right by 2 pixels a frame."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.where((x - 12 - 2 * number) ** 2 + (y - 24) ** 2 < 64, 220, 60).astype(np.uint8)


def write_video(path, frames, rate=50, pts=None):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuv420p")
            if pts is not None:
                shown.pts, shown.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())


def test_a_folder_is_read_in_the_order_that_people_count_in(tmp_path):
    for number in (10, 2, 1):
        picture(number).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    picture(200).save(tmp_path / ".hidden.png")
    footage = read_frames(tmp_path, fps=400)
    assert [(int(frame[0, 0]), t) for frame, t in footage] == [(1, 0), (2, 2500), (10, 5000)]
    assert footage.count() == 3
    assert next(iter(footage))[0].shape == (12, 16)


def test_an_animation_has_times_of_its_own(tmp_path):
    frames = [picture(value) for value in (10, 100, 250)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:], duration=[40, 20, 70], loop=0)
    footage = read_frames(tmp_path / "film.gif")
    assert [t for _, t in footage] == [0, 40_000, 60_000]
    assert [int(frame.mean()) for frame, _ in footage] == pytest.approx([10, 100, 250], abs=2)
    assert [t for _, t in read_frames(tmp_path / "film.gif", fps=1000)] == [0, 1000, 2000]


def test_a_video_has_times_of_its_own(tmp_path):
    write_video(tmp_path / "film.mp4", [ball(k) for k in range(12)])
    footage = read_frames(tmp_path / "film.mp4")
    frames = list(footage)
    assert [t for _, t in frames] == [20_000 * k for k in range(12)]
    assert footage.count() == 12
    assert frames[5][0].dtype == np.uint8
    assert np.abs(frames[5][0].astype(int) - ball(5)).mean() < 6
    assert [t for _, t in read_frames(tmp_path / "film.mp4", fps=240)][:4] == [0, 4167, 8333, 12_500]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
@pytest.mark.parametrize("name", ["12:30:05.mp4", "my film % ü?.mp4", "-v.mp4"])
def test_a_video_may_have_any_name(tmp_path, monkeypatch, name):
    write_video(tmp_path / "film.mp4", [ball(k) for k in range(3)])
    (tmp_path / "film.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert [t for _, t in read_frames(name)] == [0, 20_000, 40_000]


def test_a_video_of_uneven_times_keeps_them(tmp_path):
    write_video(tmp_path / "film.mkv", [ball(k) for k in range(4)], pts=[0, 10, 50, 57])
    assert [t for _, t in read_frames(tmp_path / "film.mkv")] == [0, 10_000, 50_000, 57_000]


def test_the_events_of_a_video_follow_what_moves(tmp_path):
    write_video(tmp_path / "film.mp4", [ball(k) for k in range(12)])
    events = to_events(tmp_path / "film.mp4", "clean")
    front, back = events.x[events.p == 1], events.x[events.p == 0]
    assert np.median(front) > np.median(back) + 8  # the disc is bright: its front is ON, its back OFF
    assert 14 <= events.y.min() <= events.y.max() <= 34


def test_sizes_are_cut_centrally_and_rescaled(tmp_path):
    wide = np.zeros((20, 60), dtype=np.uint8)
    wide[:, 20:40] = np.arange(20, dtype=np.uint8)[:, None] * 10  # what a square cuts out
    for number in range(2):
        Image.fromarray(wide).save(tmp_path / f"{number}.png")
    (frame, _), _ = read_frames(tmp_path, fps=10, size=(10, 10))
    assert frame.shape == (10, 10)
    assert frame[:, 5].tolist() == pytest.approx([5 + 20 * k for k in range(10)], abs=2)
    assert np.ptp(frame[:, 1:-1], axis=1).max() <= 2


def test_gamma_undoes_the_curve_of_the_values(tmp_path):
    for number in range(2):
        picture(128).save(tmp_path / f"{number}.png")
    (frame, _), _ = read_frames(tmp_path, fps=10, gamma=2.2)
    assert frame.dtype == np.float32
    assert frame[0, 0] == pytest.approx((128 / 255) ** 2.2, rel=1e-5)


def test_colours_transparency_and_16_bits_become_intensity(tmp_path):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "0.png")
    Image.new("RGBA", (4, 4), (0, 255, 0, 255)).save(tmp_path / "1.png")
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / "2.png")
    frames = [frame for frame, _ in read_frames(tmp_path, fps=10)]
    assert [int(frame[0, 0]) for frame in frames[:2]] == [76, 150]  # 255 x 0.299 and 0.587
    assert frames[2][0, 0] == pytest.approx(32768 / 65535, rel=1e-6)


def test_floats_stay_between_0_and_1_when_they_are_rescaled(tmp_path):
    chequers = np.kron(np.indices((10, 10)).sum(0) % 2, np.ones((32, 32))).astype(np.float32)
    Image.fromarray(chequers).save(tmp_path / "1.tif")
    ((frame, _),) = read_frames(tmp_path, fps=100, size=(128, 128))
    assert (frame.min(), frame.max()) == (0, 1)
    Image.fromarray(1.1 * chequers).save(tmp_path / "1.tif")
    with pytest.raises(InputError, match=r"1\.tif: an image holds values from 0\.0 to 1\.1"):
        list(read_frames(tmp_path, fps=100, size=(128, 128)))


def test_the_order_of_bytes_does_not_matter(tmp_path):
    """TIFF files of 16 bits come in both; Pillow rescales one of them to noise."""
    values = (np.arange(4096).reshape(64, 64) * 16).astype("<u2")
    Image.frombytes("I;16", (64, 64), values.tobytes()).save(tmp_path / "1.tif")
    Image.frombytes("I;16B", (64, 64), values.astype(">u2").tobytes()).save(tmp_path / "2.tif")
    assert (tmp_path / "2.tif").read_bytes()[:2] == b"MM"
    for size in (None, (8, 8)):
        (little, _), (big, _) = read_frames(tmp_path, fps=100, size=size)
        assert np.abs(little - big).max() < 1e-4
        assert little.std() > 0.2


def test_colours_by_lightness(tmp_path):
    """TIFF files for print say lightness and two differences of colours."""
    Image.new("RGB", (8, 8), (119, 119, 119)).convert("LAB").save(tmp_path / "1.tif")
    for size in (None, (4, 4)):
        ((frame, _),) = read_frames(tmp_path, fps=100, size=size)
        assert frame.astype(int) == pytest.approx(119, abs=2)


def test_black_and_white_is_rescaled_to_greys(tmp_path):
    Image.fromarray(np.indices((40, 40)).sum(0) % 2 == 0).save(tmp_path / "1.png")
    ((frame, _),) = read_frames(tmp_path, fps=100, size=(10, 10))
    assert frame[2:-2, 2:-2] == pytest.approx(127.5, abs=8)


def test_photos_are_filmed_upright(tmp_path):
    photo, exif = picture(0, (30, 20)), Image.Exif()
    photo.paste(255, (0, 0, 10, 20))  # the left of a camera held upright, which is the top of what it sees
    exif[0x0112] = 6
    photo.save(tmp_path / "1.jpg", exif=exif, quality=95)
    ((frame, _),) = read_frames(tmp_path, fps=100)
    assert frame.shape == (30, 20)
    assert frame[:8].min() > 200
    assert frame[12:].max() < 50


@pytest.mark.parametrize("kind", [np.int64, np.float32, Fraction])
def test_rates_and_exponents_may_be_any_numbers(tmp_path, kind):
    for number in range(2):
        picture(64).save(tmp_path / f"{number}.png")
    (_, _), (frame, time_us) = read_frames(tmp_path, fps=kind(100), gamma=kind(2))
    assert time_us == 10_000
    assert frame[0, 0] == pytest.approx((64 / 255) ** 2, rel=1e-5)


def test_films_can_be_gone_through_again(tmp_path):
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    footage = read_frames(tmp_path, fps=10)
    assert [t for _, t in footage] == [t for _, t in footage]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "does not say when its images were taken; expected fps"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": 10, "size": (0, 5)}, "sizes? is|sides between"),
        ({"fps": 10, "gamma": 0}, "gamma is 0"),
        ({"fps": 10, "gamma": float("nan")}, "gamma is nan"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, words):
    picture(1).save(tmp_path / "1.png")
    with pytest.raises(InputError, match=words):
        read_frames(tmp_path, **arguments)


def test_what_is_no_film_is_refused(tmp_path):
    with pytest.raises(InputError, match="path is None"):
        read_frames(None)
    with pytest.raises(InputError, match="does not exist"):
        read_frames(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match="holds no images"):
        read_frames(tmp_path, fps=10)
    picture(1).save(tmp_path / "one.png")
    with pytest.raises(InputError, match=r"is a single image.*--moving"):
        read_frames(tmp_path / "one.png")
    with zipfile.ZipFile(tmp_path / "stills.zip", "w") as archive:
        archive.write(tmp_path / "one.png", "one.png")
    with pytest.raises(InputError, match=r"stills\.zip is a zip; expected .*rsnn simulate --moving"):
        read_frames(tmp_path / "stills.zip")
    (tmp_path / "bad.gif").write_bytes(b"GIF89a and no more")
    with pytest.raises(InputError, match=r"bad\.gif"):
        read_frames(tmp_path / "bad.gif")


def test_damaged_films_are_refused(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "film.mp4").write_bytes(b"no video at all" * 50)
    with pytest.raises(InputError, match="is not a video that FFmpeg reads"):
        read_frames(tmp_path / "film.mp4")
    picture(9, (200, 200)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:80])
    with pytest.raises(InputError, match=r"1\.png cannot be decoded"):
        list(read_frames(tmp_path, fps=10))


def test_a_flipped_byte_and_a_huge_picture_are_named(tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)).save(tmp_path / "1.png")
    data = bytearray((tmp_path / "1.png").read_bytes())
    data[len(data) // 2] ^= 0x55
    (tmp_path / "1.png").write_bytes(data)
    with pytest.raises(InputError, match=r"1\.png cannot be decoded"):
        list(read_frames(tmp_path, fps=10))
    picture(9, (90, 90)).save(tmp_path / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"1\.png is not an image that can be read .*exceeds limit"):
        list(read_frames(tmp_path, fps=10))


def test_an_image_without_its_suffix_is_known_by_its_content(tmp_path):
    pytest.importorskip("av")
    frames = [picture(value) for value in (10, 250)]
    frames[0].save(tmp_path / "still.png")
    shutil.copy(tmp_path / "still.png", tmp_path / "still")
    with pytest.raises(InputError, match="is a single image"):
        read_frames(tmp_path / "still")
    frames[0].save(tmp_path / "film.webp", save_all=True, append_images=frames[1:], duration=40, lossless=True)
    shutil.copy(tmp_path / "film.webp", tmp_path / "film")
    assert [t for _, t in read_frames(tmp_path / "film")] == [0, 40_000]


def test_frames_of_different_sizes_are_refused(tmp_path):
    picture(9).save(tmp_path / "0.png")
    picture(9, (8, 8)).save(tmp_path / "1.png")
    expected = r"1\.png has 8 x 8 pixels and the first frame 16 x 12; expected one size: pass size="
    with pytest.raises(InputError, match=expected):
        to_events(tmp_path, fps=10)
    pages = [picture(9), picture(200, (16, 8))]
    pages[0].save(tmp_path / "film.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"film\.tif: frame 1 has 16 x 8 pixels and the first frame 16 x 12"):
        to_events(tmp_path / "film.tif")
    assert len(to_events(read_frames(tmp_path / "film.tif", size=(8, 8))))


def test_digits_that_are_no_numbers(tmp_path):
    """A superscript two and Arabic digits, which Python calls digits too, are texts like any other."""
    for name in ("\u00b2.png", "\u00b22.png", "\u0663 1.png", "\u066310.png", "a10.png", "a9.png"):
        picture(9).save(tmp_path / name)
    assert [path.name for path in list_images(tmp_path)][:2] == ["a9.png", "a10.png"]
    assert read_frames(tmp_path, fps=10).count() == 6


def test_a_video_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "film.mp4").write_bytes(b"x")
    real = builtins.__import__

    def fake(name, *rest, **more):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rsnn\[video\]'"):
        read_frames(tmp_path / "film.mp4")
