"""The real files of every format: field by field against other people's decoders, and cut off anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import spikingjelly_cifar10dvs

from rsnn.data import read_events
from rsnn.data.datasets.cifar10dvs import read_spikingjelly
from rsnn.errors import RecordingError

# Bytes before the first event, as the format has it; `None`: as many as its lines of text take.
HEADERS = {
    "mnist_dvs_0.aedat": None,
    "sample_ncars.dat": None,
    "evt2.raw": None,
    "dvs.es": 20,
    "sample_stmnist.mat": 128,
}
FAERY = {"dvs.es": 473_225, "evt2.raw": 521_252, "sample.aedat4": 111_954}


def header_bytes(name, data):
    if HEADERS[name] is not None:
        return HEADERS[name]
    mark, end = data[:1], 0
    while data.startswith(mark, end):
        end = data.index(b"\n", end) + 1
    return end + (2 if name.endswith(".dat") else 0)


@pytest.mark.parametrize("name", FAERY)
def test_against_faery(samples, name):
    faery = pytest.importorskip("faery")
    events = read_events(samples / "formats" / name)
    theirs = faery.events_stream_from_file(str(samples / "formats" / name)).to_array()
    assert len(theirs) == FAERY[name]
    assert np.array_equal(events.t, theirs["t"].astype(np.int64))
    assert np.array_equal(events.x, theirs["x"])
    assert np.array_equal(events.y, theirs["y"])
    assert np.array_equal(events.p, theirs["on"])


def test_aedat20_against_spikingjelly(samples, tmp_path):
    """Its loader of CIFAR10-DVS turns the addresses; turned back, they are ours."""
    path = samples / "formats" / "mnist_dvs_0.aedat"
    spikingjelly_cifar10dvs()._read_aedat_save_to_np(path, tmp_path / "clip.npz")
    assert read_spikingjelly(tmp_path / "clip.npz") == read_events(path)


@pytest.mark.parametrize("name", HEADERS)
def test_cut_within_the_header(samples, tmp_path, name):
    """At every byte of it: an error that names the file, never events, kept or not."""
    data = (samples / "formats" / name).read_bytes()
    header = header_bytes(name, data)
    assert 15 < header < 2000
    path = tmp_path / name
    for size in range(header + 1):
        path.write_bytes(data[:size])
        for truncated in ("error", "keep"):
            with pytest.raises(RecordingError, match=name):
                read_events(path, truncated=truncated)


def test_aedat4_cut_within_the_header(samples, tmp_path):
    pytest.importorskip("aedat")
    data = (samples / "formats" / "sample.aedat4").read_bytes()
    header = 18 + int.from_bytes(data[14:18], "little")
    path = tmp_path / "clip.aedat4"
    for size in range(header + 1):
        path.write_bytes(data[:size])
        with pytest.raises(RecordingError, match=r"clip\.aedat4"):
            read_events(path, truncated="keep")


def outcome(path, sensor_size):
    try:
        return read_events(path, sensor_size=sensor_size), ""
    except RecordingError as error:
        return None, str(error)


@pytest.mark.parametrize("name", [*HEADERS, "sample.aedat4", "sample_nmnist.bin"])
def test_cut_after_the_header(samples, tmp_path, name, rng):
    """At random places: the error says where, and what is kept is the beginning of the whole."""
    whole = read_events(samples / "formats" / name)
    data = (samples / "formats" / name).read_bytes()
    path = tmp_path / name
    header = header_bytes(name, data) if name in HEADERS else 3000
    for size in sorted(rng.integers(header + 200, len(data) - 4, 6).tolist()):
        path.write_bytes(data[:size])
        strict, message = outcome(path, whole.sensor_size)
        assert strict is not None or (name in message and (f"it ends at byte {size}" in message or ".mat" in name))
        if name.endswith(".mat"):  # compressed as a whole
            assert strict is None
            continue
        kept = read_events(path, sensor_size=whole.sensor_size, truncated="keep")
        assert kept == whole[: len(kept)]
        assert strict is None or strict == kept
        assert abs(len(kept) / len(whole) - size / len(data)) < 0.1
