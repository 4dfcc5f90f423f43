from __future__ import annotations

import sys
import types
from unittest import mock

import numpy as np
import pytest
import writers
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events, recordings
from oracles import same_rows, slow_es, slow_evt3

from rsnn.data import Events, read_events, write_events
from rsnn.data.readers import open_source
from rsnn.errors import MissingDependencyError, RecordingError

SENSOR = (1280, 720)


def assert_same_as_evlib(events, path):
    """Compare with evlib, imported without the torchvision that it wants for a detector."""
    vision, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    vision.ops, ops.nms, ops.batched_nms = ops, None, None
    with mock.patch.dict(sys.modules, {"torchvision": vision, "torchvision.ops": ops}):
        evlib = pytest.importorskip("evlib")
    theirs = evlib.load_events(str(path)).collect()
    assert np.array_equal(events.t, theirs["t"].cast(int).to_numpy())
    assert np.array_equal(events.x, theirs["x"].to_numpy())
    assert np.array_equal(events.y, theirs["y"].to_numpy())
    assert np.array_equal(events.p, theirs["polarity"].to_numpy() == 1)


# ---------------------------------------------------------------------------------------------------- Prophesee


@settings(max_examples=40)
@given(recordings(sensor_size=SENSOR, max_time=2**34))
def test_dat_round_trip(tmp_path, events):
    """Times wrap after 2^32 microseconds; steps of more than half of that cannot be told from a step back."""
    t = np.cumsum(np.diff(events.t, prepend=0) % 2**31)
    events = Events(t=t, x=events.x, y=events.y, p=events.p, sensor_size=SENSOR)
    path = tmp_path / "clip.dat"
    writers.write_dat(path, events)
    assert read_events(path) == events


def test_dat_real_against_expelliarmus(samples):
    wizard = pytest.importorskip("expelliarmus").Wizard
    path = samples / "formats" / "sample_ncars.dat"
    events = read_events(path)
    theirs = wizard(encoding="dat").read(str(path))
    assert events == Events.from_structured(theirs, events.sensor_size)
    assert len(events) == 2009


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"% Data file\n% Version 2\n", "ends at byte 24, within its header"),
        (b"% Data file\n% Version 2\n\x05\x08" + bytes(8), "byte 24 says events of type 5"),
        (b"% Data file\n% Version 1\n\x00\x08" + bytes(8), "version 1; expected version 2"),
        (b"% Data file\n% Version 2\n\x00\x08", "holds no events"),
    ],
)
def test_dat_damaged(tmp_path, data, message):
    path = tmp_path / "clip.dat"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=message):
        read_events(path)


@pytest.mark.parametrize(
    "lines",
    [
        "% Version 2\n% Width 640\n% Height 480\n",
        "% Version 2\n% Height 480\n% Width 640\n",
        "% Data file\n% Width 640\n% Date 2020\n% Height 480\n",
        "% height 480\r\n% Version 2\r\n% width 640\r\n% end\r\n",
    ],
)
def test_dat_sensor_in_any_order(tmp_path, lines):
    path = tmp_path / "clip.dat"
    path.write_bytes(lines.encode() + bytes([12, 8]) + bytes(8))
    assert read_events(path).sensor_size == (640, 480)


@pytest.mark.parametrize("encoding", ["dat", "raw"])
def test_prophesee_headers_of_any_length(tmp_path, encoding):
    path = tmp_path / "clip"
    more = "".join(f"% remark {n:05}\n" for n in range(10_000)).encode()
    if encoding == "dat":
        path.write_bytes(b"% Version 2\n" + more + b"% Width 640\n% Height 480\n" + bytes([12, 8]) + bytes(8))
    else:
        words = np.array([8 << 28, 3 << 11 | 4], dtype="<u4").tobytes()
        path.write_bytes(b"% evt 2.0\n" + more + b"% geometry 640x480\n% end\n" + words)
    assert read_events(path).sensor_size == (640, 480)
    assert len(read_events(path)) == 1


def gentle(events, largest_step, start):
    """The same events from `start` on, with no step in time beyond what the format's counter can show."""
    t = start + np.cumsum(np.diff(events.t, prepend=events.t[:1]) % largest_step)
    return Events(t=t, x=events.x, y=events.y, p=events.p, sensor_size=events.sensor_size)


@settings(max_examples=40)
@given(recordings(sensor_size=SENSOR, max_time=2**30), st.integers(0, 2**34 - 1))
def test_evt2_round_trip(tmp_path, events, start):
    events = gentle(events, 2**33, start)
    path = tmp_path / "clip.raw"
    writers.write_evt2(path, events)
    assert read_events(path) == events


def test_evt2_real_against_expelliarmus(samples):
    wizard = pytest.importorskip("expelliarmus").Wizard
    path = samples / "formats" / "evt2.raw"
    events = read_events(path)
    theirs = wizard(encoding="evt2").read(str(path))
    assert events == Events.from_structured(theirs, (640, 480))
    assert len(events) == 521252


@settings(max_examples=40)
@given(recordings(sensor_size=SENSOR, max_time=2**30), st.booleans(), st.booleans())
def test_evt21_round_trip(tmp_path, events, upper_first, named):
    path = tmp_path / "clip.raw"
    header = f"% endianness {'legacy' if upper_first else 'little'}\n" if named else ""
    writers.write_evt21(path, events, upper_first=upper_first, header=header)
    assert read_events(path) == events


def test_evt21_vectors(tmp_path):
    path = tmp_path / "clip.raw"
    words = np.array([8 << 28, 0, 1 << 28 | 5 << 22 | 64 << 11 | 9, 0x8000_0005], dtype="<u4")
    writers.write_raw(path, Events.empty(SENSOR), "2.1", words.tobytes(), "% endianness legacy\n")
    assert read_events(path) == Events(t=[5] * 3, x=[64, 66, 95], y=[9] * 3, p=[1] * 3, sensor_size=SENSOR)


@settings(max_examples=40)
@given(recordings(sensor_size=SENSOR, max_time=2**30), st.integers(0, 2**24 - 1))
def test_evt3_round_trip(tmp_path, events, start):
    events = gentle(events, 2**23 - 2**12, start)
    path = tmp_path / "clip.raw"
    writers.write_evt3(path, events)
    assert read_events(path) == events
    assert same_rows(events, slow_evt3(path))


def test_evt3_blocks_join(tmp_path, rng, monkeypatch):
    x = np.sort(rng.integers(0, 640, (300, 10)), axis=1)
    x[:, 1:] = np.maximum(x[:, 1:], x[:, :-1] + 1)
    events = Events(
        t=np.repeat(np.cumsum(rng.integers(0, 60_000, 300)), 10),
        x=x.ravel(),
        y=np.repeat(rng.integers(0, 480, 300), 10),
        p=np.repeat(rng.integers(0, 2, 300), 10),
        sensor_size=(700, 480),
    )
    path = tmp_path / "clip.raw"
    writers.write_evt3(path, events)
    for size in (2, 6, 202, 5000):
        monkeypatch.setattr("rsnn.data.readers.common.BLOCK_BYTES", size)
        assert read_events(path) == events


def test_evt2_against_expelliarmus(tmp_path, rng):
    wizard = pytest.importorskip("expelliarmus").Wizard
    path = tmp_path / "clip.raw"
    events = random_events(rng, 3000, (640, 480))
    writers.write_evt2(path, events)
    assert read_events(path) == Events.from_structured(wizard(encoding="evt2").read(str(path)), (640, 480))


def test_evt3_against_evlib(tmp_path, rng):
    """Expelliarmus takes a step down of the low bits for a wrap even where new high bits came before."""
    path = tmp_path / "clip.raw"
    writers.write_evt3(path, random_events(rng, 3000, (640, 480)))
    assert_same_as_evlib(read_events(path), path)


HIGH, LOW, ROW, EVENT = 8 << 12, 6 << 12, 0, 2 << 12


def evt3_file(path, words):
    writers.write_raw(path, Events.empty((640, 480)), "3.0", np.array(words, dtype="<u2").tobytes())


@pytest.mark.parametrize("block", [2, 4, 6, 1 << 20])
def test_evt3_high_bits_that_repeat_keep_the_low_bits(tmp_path, monkeypatch, block):
    """Cameras repeat the high bits now and then; only a change of them sets the low bits to 0."""
    monkeypatch.setattr("rsnn.data.readers.common.BLOCK_BYTES", block)
    path = tmp_path / "clip.raw"
    evt3_file(path, [HIGH | 1, LOW | 100, ROW | 10, EVENT | 5, HIGH | 1, EVENT | 6, LOW | 101, EVENT | 7])
    assert read_events(path).t.tolist() == [4196, 4196, 4197]
    evt3_file(path, [ROW | 9, EVENT | 4, HIGH | 1, EVENT | 5, HIGH | 1, EVENT | 1 << 11 | 6])
    assert read_events(path) == Events(t=[4096, 4096], x=[5, 6], y=[9, 9], p=[0, 1], sensor_size=(640, 480))
    evt3_file(path, [HIGH | 1, LOW | 100, HIGH | 1, ROW | 10, EVENT | 5, LOW | 200, EVENT | 6, HIGH | 2, EVENT | 7])
    assert read_events(path).t.tolist() == [4196, 4296, 8192]


@pytest.mark.parametrize("decoder", ["faery", "evlib", "expelliarmus"])
def test_evt3_high_bits_that_repeat_against_others(tmp_path, decoder):
    """Only faery, as Prophesee, sets the low bits to 0 where the high ones change: low ones follow at once here."""
    path = tmp_path / "clip.raw"
    words = [ROW | 10]
    for high, low in [(1, 100), (1, 200), (2, 300), (2, 400), (4, 4000)]:
        words += [HIGH | high, LOW | low, EVENT | 5, HIGH | high, EVENT | 1 << 11 | 6, LOW | low + 7, EVENT | 7]
    evt3_file(path, words)
    events = read_events(path)
    assert events.t[:4].tolist() == [4196, 4196, 4203, 4296]
    if decoder == "evlib":
        assert_same_as_evlib(events, path)
    elif decoder == "faery":
        faery = pytest.importorskip("faery")
        theirs = np.concatenate(list(faery.events_stream_from_file(str(path), dimensions_fallback=(640, 480))))
        assert [(t, x, y, p) for t, x, y, p in events.to_structured().tolist()] == [
            (int(t), int(x), int(y), int(p)) for t, x, y, p in theirs.tolist()
        ]
    else:
        wizard = pytest.importorskip("expelliarmus").Wizard
        assert events == Events.from_structured(wizard(encoding="evt3").read(str(path)), (640, 480))


EVT3_WORDS = st.one_of(
    st.builds(lambda kind, few: kind << 12 | few, st.sampled_from([6, 8]), st.integers(0, 3)),
    st.builds(
        lambda kind, value: kind << 12 | value, st.sampled_from([0, 2, 4, 5, 6, 7, 8, 10, 14]), st.integers(0, 4095)
    ),
    st.builds(lambda p, x: 3 << 12 | p << 11 | x, st.integers(0, 1), st.integers(0, 1000)),
)


@settings(max_examples=300)
@given(st.lists(EVT3_WORDS, max_size=60), st.sampled_from([2, 6, 14, 1 << 20]))
def test_evt3_any_words_against_a_slow_loop(tmp_path, words, block):
    """Whatever the words and wherever blocks end; most such streams run backwards, so that blocks are compared."""
    path = tmp_path / "clip.raw"
    evt3_file(path, words)
    source, reader = open_source(path, None, "error")
    with mock.patch("rsnn.data.readers.common.BLOCK_BYTES", block):
        rows = [
            row
            for block in reader.read(source).blocks
            for row in zip(*(getattr(block, name).tolist() for name in "txyp"), strict=True)
        ]
    assert rows == slow_evt3(path)


def test_raw_without_an_encoding(tmp_path):
    path = tmp_path / "clip.raw"
    path.write_bytes(b"% date 2024\n% end\n" + bytes(20))
    with pytest.raises(RecordingError, match="names no encoding"):
        read_events(path, format="prophesee-raw")


def test_raw_header_that_names_camera_or_size(tmp_path):
    path = tmp_path / "clip.raw"
    body = np.array([8 << 28, 3 << 11 | 4], dtype="<u4").tobytes()
    for line, size in [
        (b"% format EVT2;height=720;width=1280", SENSOR),
        (b"% evt 2.0\n% plugin_name hal_plugin_gen31_fx3", (640, 480)),
        (b"% evt 2.0\n% plugin_name hal_plugin_genx320", (320, 320)),
        (b"% evt 2.0", (34, 34)),
        (b"% evt 2.0\n% format EVT2;width=1280;camera_mode=1;height=720", SENSOR),
        (b"% format EVT2;height=720;endianness=little;width=1280", SENSOR),
        (b"% evt 2.0\n% Height 720\n% Date 2020\n% Width 1280", SENSOR),
    ]:
        path.write_bytes(line + b"\n" + body)
        assert read_events(path).sensor_size == size


# ---------------------------------------------------------------------------------------------------- Event Stream


@settings(max_examples=40)
@given(recordings(sensor_size=SENSOR, max_time=5000), st.sampled_from([1, 2]))
def test_es_round_trip(tmp_path, events, kind):
    path = tmp_path / "clip.es"
    writers.write_es(path, events, kind=kind)
    assert read_events(path) == events


def test_es_real_against_a_slow_loop(samples):
    path = samples / "formats" / "dvs.es"
    events = read_events(path)
    assert events.sensor_size == (320, 240)
    assert same_rows(events, slow_es(path))


def test_es_blocks_join(tmp_path, rng, monkeypatch):
    path = tmp_path / "clip.es"
    events = random_events(rng, 60, SENSOR, last_us=20_000)
    writers.write_es(path, events)
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr("rsnn.data.readers.event_stream.BLOCK_BYTES", size)
        assert read_events(path) == events


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Event Stream\x02\x00\x00\x01", "ends at byte 16, within its header"),
        (b"Event Stream\x02\x00\x00\x04\x05\x00\x05\x00", "version 2 and type 4; expected"),
        (b"Event Stream\x01\x00\x00\x01\x05\x00\x05\x00", "version 1 and type 1; expected"),
        (b"Event Stream\x02\x00\x00\x01\x00\x00\x05\x00", "a sensor of 0 x 5 pixels"),
        (b"Event Stream\x02\x00\x00\x01\x05\x00\x05\x00\xff\xff", "holds no events"),
        (b"Event Stream\x02\x00\x00\x01\x05\x00\x05\x00\xff\x01\x06\x00\x01\x00", "byte 21, x = 6 lies outside"),
    ],
)
def test_es_damaged(tmp_path, data, message):
    path = tmp_path / "clip.es"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=message):
        read_events(path)


# ---------------------------------------------------------------------------------------------------- AEDAT 4


def test_aedat4_real_against_evlib(samples):
    pytest.importorskip("aedat")
    path = samples / "formats" / "sample.aedat4"
    events = read_events(path)
    assert events.sensor_size == (320, 240)
    assert_same_as_evlib(events, path)


def test_aedat4_truncated(samples, tmp_path):
    pytest.importorskip("aedat")
    data = (samples / "formats" / "sample.aedat4").read_bytes()
    whole = read_events(samples / "formats" / "sample.aedat4").to_structured()
    path = tmp_path / "clip.aedat4"
    path.write_bytes(data[:500_000])
    with pytest.raises(
        RecordingError, match=r"truncated: it ends at byte 500000, within the packet of \d+ bytes at byte"
    ):
        read_events(path)
    kept = read_events(path, truncated="keep").to_structured()
    assert 0 < len(kept) < len(whole)
    assert np.array_equal(kept, whole[: len(kept)])
    for size in (10, 15, 18, 2000):
        path.write_bytes(data[:size])
        with pytest.raises(RecordingError, match=r"within its header|none of the known formats"):
            read_events(path, truncated="keep")


@pytest.mark.parametrize(
    ("package", "head"),
    [("aedat", b"#!AER-DAT4.0\r\n"), ("h5py", b"\x89HDF\r\n\x1a\n")],
)
def test_missing_packages_are_named(tmp_path, monkeypatch, package, head):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "clip"
    path.write_bytes(head + bytes(100))
    with pytest.raises(MissingDependencyError, match=r"pip install 'rsnn\[formats\]'"):
        read_events(path)


# ---------------------------------------------------------------------------------------------------- HDF5


def write_hdf5(path, events, layout):
    h5py = pytest.importorskip("h5py")
    width, height = events.sensor_size
    with h5py.File(path, "w") as file:
        if layout == "prophesee":
            kind = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
            table = np.zeros(len(events), dtype=kind)
            for name in "txyp":
                table[name] = getattr(events, name)
            file.create_dataset("CD/events", data=table)
            file.attrs["geometry"] = f"{width}x{height}"
        elif layout == "dsec":
            for name in "xyp":
                file[f"events/{name}"] = getattr(events, name)
            file["events/t"] = events.t - events.t[0]
            file["t_offset"] = events.t[0]
        elif layout == "rpg":
            for name in "xyp":
                file[f"events/{name}s"] = getattr(events, name)
            file["events/ts"] = events.t / 1e6
            file.attrs["sensor_resolution"] = (height, width)
        elif layout == "mvsec":
            signed = events.p * 2.0 - 1
            file["davis/left/events"] = np.stack([events.x, events.y, events.t / 1e6, signed], axis=1)
        elif layout == "v2e":
            file["events"] = np.stack([getattr(events, name) for name in "txyp"], axis=1).astype(np.uint32)
        else:
            for name in "txyp":
                file[name] = getattr(events, name)


@pytest.mark.parametrize("layout", ["prophesee", "dsec", "rpg", "mvsec", "v2e", "plain"])
def test_hdf5_layouts(tmp_path, rng, monkeypatch, layout):
    monkeypatch.setattr("rsnn.data.readers.hdf5.BLOCK_EVENTS", 700)
    events = random_events(rng, 2000, (346, 260))
    path = tmp_path / "clip.h5"
    write_hdf5(path, events, layout)
    assert read_events(path, sensor_size=(346, 260)) == events
    assert read_events(path).sensor_size == (346, 260)


def test_hdf5_damaged(tmp_path, rng):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "clip.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((3, 4))
    with pytest.raises(RecordingError, match=r"it holds images; expected events/t, x, y, p"):
        read_events(path)
    with h5py.File(path, "w") as file:
        for name, n in zip("txyp", (3, 3, 3, 2), strict=True):
            file[f"events/{name}"] = np.zeros(n)
    with pytest.raises(RecordingError, match="the columns have shapes"):
        read_events(path)
    write_hdf5(path, random_events(rng, 2000, (346, 260)), "dsec")
    data = path.read_bytes()
    for size in (20, 500, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:size])
        with pytest.raises(RecordingError, match="clip"):
            read_events(path)


def test_an_offset_that_makes_times_too_large(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "clip.h5"
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file[f"events/{name}"] = np.array([0, 1])
        file["t_offset"] = 2**63 - 2
    assert read_events(path).t.tolist() == [2**63 - 2, 2**63 - 1]
    with h5py.File(path, "r+") as file:
        file["t_offset"][()] = 2**63 - 1
    with pytest.raises(RecordingError, match=f"event 1 has the time 1 and t_offset is {2**63 - 1}; expected micro"):
        read_events(path)


@pytest.mark.parametrize("offset", [5, 5.0, [5], np.uint8(5)])
def test_a_whole_offset_of_any_type(tmp_path, offset):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "clip.h5", "w") as file:
        for name in "txyp":
            file[f"events/{name}"] = np.array([0, 1])
        file["t_offset"] = offset
    assert read_events(tmp_path / "clip.h5").t.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("offset", "said"),
    [(1605.25, "1605.25"), (np.nan, "nan"), (np.inf, "inf"), ([1, 2], r"\[1, 2\]"), ([], r"\[\]"), (b"5", "b'5'")],
)
def test_an_offset_that_is_no_whole_number(tmp_path, offset, said):
    """A fraction is seconds or a mistake: cut off, it would move all events without a word."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "clip.h5", "w") as file:
        for name in "txyp":
            file[f"events/{name}"] = np.array([0, 1])
        file["t_offset"] = offset
    with pytest.raises(RecordingError, match=rf"its t_offset is {said}; expected one whole number of microseconds"):
        read_events(tmp_path / "clip.h5")


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (b"% evt 2.0\n", b"%% geometry %sx%s\n"),
        (b"% evt 2.0\n", b"%% format EVT2;width=%s;height=%s\n"),
        (b"% Data file\n% Version 2\n", b"%% Width %s\n%% Height %s\n"),
    ],
)
def test_sides_of_more_digits_than_a_number_may_have(tmp_path, start, line):
    """Python converts no text of more than 4300 digits."""
    events = random_events(np.random.default_rng(1), 20, (34, 34))
    path = tmp_path / "clip"
    write_events(path, events, format="prophesee-raw" if b"evt" in start else "prophesee-dat")
    body = path.read_bytes().partition(b"% end\n" if b"evt" in start else b"Height 34\n")[2]
    end = b"% end\n" if b"evt" in start else b""
    path.write_bytes(start + line % (b"9" * 5000, b"34") + end + body)
    assert read_events(path).sensor_size == (34, 34)  # of the usual ones the first that holds all
