"""Gestures filmed by the CUDA kernel, against those filmed on the CPU: pictures, events, noise, seeds."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rsnn
from rsnn.data.simulate import DVSParameters, SimulatedGestures
from rsnn.data.simulate.gestures import film_cupy
from rsnn.data.simulate.gestures.scene import SIDE
from rsnn.data.simulate.pixels import DVSPixels, join
from rsnn.errors import InputError, MissingDependencyError

COMPILER = shutil.which("g++") or shutil.which("clang++")
HEADERS = Path(__file__).parent.parent.parent / "kernels"
IDEAL = DVSParameters(pos_thres=0.3, neg_thres=0.25)
QUIET = DVSParameters(
    pos_thres=0.24, neg_thres=0.2, sigma_thres=0.04, log_eps=0.01, refractory_period_s=0.0005, cutoff_hz=120
)
LEAKY = DVSParameters(pos_thres=0.3, neg_thres=0.3, sigma_thres=0.03, leak_rate_hz=0.5, noise_rate_cov_decades=0.2)


@functools.cache
def on_host():
    """The kernel compiled for the CPU."""
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "film.cpp")
        text.write_text(f'#include "cuda_on_host.h"\n{film_cupy.source()}\nLAUNCHER(film)\n', encoding="utf-8")
        library = text.with_suffix(".so")
        command = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command += ["-Wno-unused-function", "-shared", "-fPIC", "-I", str(HEADERS), str(text), "-o", str(library)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        launcher = ctypes.CDLL(str(library)).launcher
    launcher.restype = ctypes.c_void_p
    kinds = [ctypes.c_uint, ctypes.c_uint, ctypes.c_int, *[ctypes.c_void_p] * 5, ctypes.c_longlong, ctypes.c_void_p]
    return ctypes.CFUNCTYPE(None, *kinds)(launcher())


def launch(packed, room, shown=None, backwards=0):
    """Stand in for what `_launcher` returns."""
    words, number = np.zeros(max(room, 1), dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    arrays = [array.ctypes.data for array in (*packed, words, number)]
    arrays += [room, None if shown is None else shown.ctypes.data]
    on_host()(film_cupy.blocks(packed), film_cupy.THREADS, backwards, *arrays)
    found = int(number[0])
    return found, np.sort(words[: min(found, room)])


def no_gpu():
    """Return why the kernel cannot run on a GPU, or an empty text."""
    try:
        film_cupy._launcher("cuda")
    except rsnn.RSNNError as error:
        return str(error)
    return ""


GPU = [pytest.mark.gpu, pytest.mark.skipif(no_gpu() != "", reason=f"the CuPy kernel cannot run: {no_gpu()}")]


@pytest.fixture(params=["host", pytest.param("gpu", marks=GPU)])
def filming(request, monkeypatch):
    if request.param == "host":
        request.getfixturevalue("host")


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(film_cupy, "_launcher", lambda device: launch)
    monkeypatch.setattr(film_cupy, "check", lambda device: None)
    monkeypatch.setattr("rsnn.data.simulate.gestures.dataset.check", lambda device: None)


@functools.cache
def takes():
    """Clips of every class, with all there is in a scene."""
    clips = SimulatedGestures(66, seed=2, duration_s=(0.3, 0.3))
    chosen = [clips._take(i)[0] for i in range(33)]
    films = [take.film for take in chosen]
    assert sum(film.scene.flicker[0] > 0 for film in films) > 3
    assert sum(film.scene.shadow[2] > 0 for film in films) > 3
    assert sum(film.scene.shake > 0 for film in films) > 3
    assert {len(film.slow) for film in films} >= {0, 1}
    return chosen


def packed_for(parameters, chosen):
    chosen = [take._replace(parameters=parameters) for take in chosen]
    return film_cupy.pack(chosen, [np.random.default_rng(take.seed) for take in chosen]), chosen


def of_pixels(parameters, take):
    """Events of the pixels on the CPU."""
    pixels = DVSPixels((SIDE, SIDE), parameters, np.random.default_rng(take.seed))
    return join([part for frame, time_us in take.film.frames() for part in pixels.advance(frame, time_us)])


def of_kernel(parameters, chosen, **options):
    """Events of the pixels by the kernel, of each clip."""
    packed, chosen = packed_for(parameters, chosen)
    number, words = launch(packed, 1 << 22, **options)
    assert number == words.size
    clip = words >> np.uint64(47)
    return [film_cupy._unpack(words[clip == i]) for i in range(len(chosen))]


def test_pictures_are_those_of_the_film():
    chosen = takes()
    packed, _ = packed_for(IDEAL, chosen)
    shown = np.full((len(packed.frames), SIDE, SIDE), np.nan, dtype=np.float32)
    launch(packed, 0, shown)
    off = 0
    for take, clip in zip(chosen, packed.clips, strict=True):
        assert clip["frames"] == len(take.film.ticks)
        for number, (image, time_us) in enumerate(take.film.frames()):
            assert packed.frames["time_us"][clip["first"] + number] == time_us
            difference = np.abs(shown[clip["first"] + number] - image)
            assert np.median(difference) < 1e-6
            off += np.count_nonzero(difference > 1e-4)
    # Only where rounding takes another texel.
    assert off < 1e-6 * shown.size


@pytest.mark.parametrize("parameters", [IDEAL, QUIET, LEAKY], ids=["ideal", "quiet", "leaky"])
def test_events_without_noise_are_those_of_the_cpu(parameters):
    chosen = takes()[:22]
    for take, found in zip(chosen, of_kernel(parameters, chosen), strict=True):
        expected = of_pixels(parameters, take)
        assert abs(found.t.size - expected.t.size) <= 0.005 * expected.t.size
        on, ons = (np.bincount(events.pixel, events.p, SIDE * SIDE) for events in (found, expected))
        all_, alls = (np.bincount(events.pixel, minlength=SIDE * SIDE) for events in (found, expected))
        assert np.mean((on == ons) & (all_ == alls)) > 0.99
        if found.t.size == expected.t.size:
            order = [np.lexsort((events.t, events.pixel)) for events in (found, expected)]
            assert np.quantile(np.abs(found.t[order[0]] - expected.t[order[1]]), 0.99) < 1


def test_no_thread_depends_on_another():
    chosen = takes()[:3]
    forwards, backwards = (of_kernel(QUIET, chosen, backwards=b) for b in (0, 1))
    for one, other in zip(forwards, backwards, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def noise_of(parameters, seconds=4.0):
    """Events of a clip in which nothing moves, by kernel and CPU; its picture, its seconds."""
    take, _ = SimulatedGestures(1, seed=5, duration_s=(seconds, seconds))._take(0)
    film = take.film
    film.ticks = np.arange(0, int(seconds * 500), 5)
    for track in film.tracks:
        for name in ("joints", "radii", "near", "hand", "direction"):
            setattr(track, name, np.repeat(getattr(track, name)[:1], len(film.ticks), axis=0))
    for name in ("shake", "torso_shift", "head_shift"):
        setattr(film, name, np.repeat(getattr(film, name)[:1], len(film.ticks), axis=0))
    film.scene = replace(film.scene, flicker=(0.0, 100.0, 0.0))
    (found,) = of_kernel(parameters, [take])
    image, _ = next(iter(film.frames()))
    return found, of_pixels(parameters, take), image.reshape(-1), seconds


def gaps(events):
    """Times from one event of a pixel to its next."""
    order = np.lexsort((events.t, events.pixel))
    return np.diff(events.t[order])[np.diff(events.pixel[order]) == 0]


@pytest.mark.parametrize("refractory", [0.0, 0.02])
def test_noise_has_the_rates_of_the_cpu(refractory):
    parameters = DVSParameters(
        pos_thres=0.3, neg_thres=0.3, shot_noise_rate_hz=2.0, noise_rate_cov_decades=0.3, hot_pixel_fraction=0.003,
        hot_pixel_rate_hz=40.0, refractory_period_s=refractory,
    )  # fmt: skip
    found, expected, image, seconds = noise_of(parameters)
    assert found.t.size == pytest.approx(expected.t.size, rel=0.02)
    assert found.p.mean() == pytest.approx(expected.p.mean(), abs=0.02)
    assert not np.array_equal(np.sort(found.t), np.sort(expected.t))
    counts, others = (np.bincount(events.pixel, minlength=SIDE * SIDE) for events in (found, expected))
    dark = image < np.quantile(image, 0.3)
    bright = image > np.quantile(image, 0.7)
    for part in (dark, bright):
        assert counts[part].sum() == pytest.approx(others[part].sum(), rel=0.05)
    hot = others > 20 * seconds
    assert hot.sum() > 20
    assert counts[hot].sum() == pytest.approx(others[hot].sum(), rel=0.05)
    assert np.corrcoef(counts, others)[0, 1] > 0.8
    for events in (found, expected):  # times are spread evenly
        assert np.histogram(events.t, 8, (0, seconds * 1e6))[0] / events.t.size == pytest.approx(0.125, abs=0.01)
    assert np.median(gaps(found)) == pytest.approx(np.median(gaps(expected)), rel=0.05)
    if refractory:  # a pixel that is held sends none; it is free for all of the interval in which its time is over
        for events in (found, expected):
            assert gaps(events).min() >= refractory * 1e6 - 10_000 - 0.1


def test_clips_look_like_those_of_the_cpu(filming):
    arguments = {"num_samples": 22, "seed": 1, "duration_s": (0.4, 0.4)}
    filmed = SimulatedGestures(**arguments, device="cuda").__getitems__(range(22))
    for (events, label), (others, other_label) in zip(filmed, SimulatedGestures(**arguments), strict=True):
        assert label == other_label
        assert events.sensor_size == (128, 128)
        assert len(events) == pytest.approx(len(others), rel=0.03)
        assert events.p.mean() == pytest.approx(others.p.mean(), abs=0.02)
        counts, other_counts = (np.histogram2d(e.y, e.x, 32, ((0, 128), (0, 128)))[0].ravel() for e in (events, others))
        assert np.corrcoef(counts, other_counts)[0, 1] > 0.93
        assert 0 <= events.t[0] < 100_000
        assert events.t[-1] <= 400_000


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in "txyp")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_several_clips_are_those_that_one_gets_one_by_one(filming, device, monkeypatch):
    monkeypatch.setattr("rsnn.data.simulate.gestures.dataset.CLIPS", 2)  # more than one launch
    clips = SimulatedGestures(8, seed=4, duration_s=(0.1, 0.5), device=device)
    several = clips.__getitems__([5, 0, -1, 5])
    assert [label for _, label in several] == [5, 0, 7, 5]
    for index, (events, label) in zip((5, 0, 7, 5), several, strict=True):
        alone, other = clips[index]
        assert label == other
        assert same(events, alone)
    assert clips.__getitems__([]) == []
    with pytest.raises(IndexError, match="clip 8 of 8"):
        clips.__getitems__([0, 8])


def test_a_clip_depends_on_its_seed_and_number_alone(host):
    events, _ = SimulatedGestures(9, seed=4, duration_s=(0.2, 0.2), device="cuda")[3]
    again, _ = SimulatedGestures(50, seed=4, duration_s=(0.2, 0.2), device="cuda:1")[3]
    other, _ = SimulatedGestures(9, seed=5, duration_s=(0.2, 0.2), device="cuda")[3]
    assert same(events, again)
    assert not same(events, other)


def test_a_buffer_that_is_too_small_is_made_larger(host, monkeypatch):
    clips = SimulatedGestures(2, seed=4, duration_s=(0.2, 0.2), device="cuda")
    expected = clips[0][0]
    rooms = []

    def watched(packed, room):
        rooms.append(room)
        return launch(packed, room)

    monkeypatch.setattr(film_cupy, "EVENTS", 10)
    monkeypatch.setattr(film_cupy, "_launcher", lambda device: watched)
    assert same(clips[0][0], expected)
    assert rooms[0] == 10
    assert len(rooms) == 2


def test_a_data_loader_films_a_batch_together(host, monkeypatch):
    torch_data = pytest.importorskip("torch.utils.data")
    batches = []

    def watched(packed, room):
        batches.append(len(packed.clips))
        return launch(packed, room)

    monkeypatch.setattr(film_cupy, "_launcher", lambda device: watched)
    clips = SimulatedGestures(5, seed=4, duration_s=(0.1, 0.1), device="cuda")
    loader = torch_data.DataLoader(clips, batch_size=3, collate_fn=list)
    assert [[label for _, label in batch] for batch in loader] == [[0, 1, 2], [3, 4]]
    assert batches == [3, 2]


def test_what_the_filming_of_a_gpu_needs_is_said(monkeypatch):
    with pytest.raises(InputError, match=r"device is 'gpu'.*'cuda'"):
        SimulatedGestures(1, device="gpu")
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rsnn\[cuda\]', or leave `device` out"):
        SimulatedGestures(1, device="cuda")


@pytest.mark.parametrize("parameters", [IDEAL, QUIET, LEAKY], ids=["ideal", "quiet", "leaky"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_a_gpu_sends_the_events_of_the_kernel_on_the_host(parameters, device):
    packed, _ = packed_for(parameters, takes()[:11])
    expected = launch(packed, 1 << 22)[1]
    number, found = film_cupy._launcher(device)(packed, 1 << 22)
    assert number == found.size == pytest.approx(expected.size, rel=0.002)
    assert np.array_equal(found, np.sort(found))
    counts, others = (
        np.bincount((words >> np.uint64(47) << np.uint64(14) | words >> np.uint64(1) & np.uint64(0x3FFF)).astype(int))
        for words in (found, expected)
    )
    least = min(counts.size, others.size)
    assert np.mean(counts[:least] == others[:least]) > 0.99


class HostArray:
    """An array of CuPy, on the CPU."""

    def __init__(self, array):
        self.array, self.data, self.ptr = array, self, array.ctypes.data

    def set(self, array):
        assert (array.shape, array.dtype) == (self.array.shape, self.array.dtype)
        self.array[:] = array

    def get(self):
        return self.array.copy()

    def sort(self):
        self.array.sort()

    def __getitem__(self, piece):
        return HostArray(self.array[piece])


class HostCuPy:
    """CuPy with `count` GPUs, which are the CPU; None where there is no driver."""

    def __init__(self, count):
        class CUDARuntimeError(Exception):
            pass

        def get_count():
            if count is None:
                raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
            return count

        self.cuda = self.runtime = self
        self.CUDARuntimeError, self.getDeviceCount, self.getDevice = CUDARuntimeError, get_count, lambda: 0
        self.used = []

    def Device(self, index):
        self.used.append(index)
        return nullcontext()

    def empty(self, shape, dtype):
        return HostArray(np.empty(shape, dtype))

    def RawKernel(self, text, name, options):
        assert (text, name) == (film_cupy.source(), "film")
        return lambda blocks, threads, arguments: on_host()(*blocks, *threads, 0, *arguments)


@pytest.fixture
def cupy(request, monkeypatch):
    module = HostCuPy(request.param)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(film_cupy, "check", lambda device: None)
    monkeypatch.setattr("rsnn.data.simulate.gestures.dataset.check", lambda device: None)
    film_cupy._launcher.cache_clear()
    yield module
    film_cupy._launcher.cache_clear()


@pytest.mark.parametrize("cupy", [2], indirect=True)
def test_what_is_launched_through_cupy(cupy, monkeypatch):
    events, _ = SimulatedGestures(3, duration_s=(0.1, 0.1), device="cuda:1")[2]
    monkeypatch.setattr(film_cupy, "EVENTS", 5)
    again, _ = SimulatedGestures(3, duration_s=(0.1, 0.1), device="cuda")[2]
    assert len(events) > 100
    assert same(events, again)
    assert cupy.used == [1, 0, 0]
    packed, _ = packed_for(QUIET, takes()[:2])
    (number, words), expected = film_cupy._launcher("cuda")(packed, 1 << 20), launch(packed, 1 << 20)
    assert number == expected[0]
    assert np.array_equal(words, expected[1])


@pytest.mark.parametrize(
    ("cupy", "message"), [(None, "no CUDA-capable"), (0, "there are 0"), (1, "there are 1")], indirect=["cupy"]
)
def test_a_gpu_that_is_not_there_is_said(cupy, message):
    with pytest.raises(InputError, match=message):
        SimulatedGestures(1, duration_s=(0.1, 0.1), device="cuda:1")[0]


def test_films_with_other_noise_are_other_data(host):
    one, other = (SimulatedGestures(3, device=device) for device in ("cpu", "cuda:1"))
    assert other.fingerprint == one.fingerprint + " cuda"
