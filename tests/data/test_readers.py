from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import writers
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events, recordings
from oracles import same_rows, slow_aedat20, slow_aedat31, spikingjelly_utils

from rsnn.data import Events, read_events
from rsnn.errors import RecordingError

# ---------------------------------------------------------------------------------------------------- AEDAT
# 3.1


@settings(max_examples=40)
@given(recordings(sensor_size=(128, 128)), st.integers(1, 20))
def test_aedat31_round_trip(tmp_path, events, packet_events):
    path = tmp_path / "clip.aedat"
    writers.write_aedat31(path, events, packet_events=packet_events)
    assert read_events(path) == events
    assert same_rows(events, slow_aedat31(path))


def test_aedat31_against_spikingjelly_and_tonic(tmp_path, rng):
    tonic_io = pytest.importorskip("tonic.io")
    path = tmp_path / "clip.aedat"
    writers.write_aedat31(path, random_events(rng, 5000), packet_events=37)
    ours = read_events(path)
    theirs = spikingjelly_utils().load_aedat_v3(path)
    for name in "txyp":
        assert np.array_equal(getattr(ours, name), theirs[name])
    records = tonic_io.get_aer_events_from_file(str(path), 3.1, len(writers.AEDAT31_HEADER))
    assert np.array_equal(records["address"] >> 17, ours.x)
    assert np.array_equal(records["timeStamp"], ours.t)


def test_aedat31_other_packets_and_invalid_events_are_skipped(tmp_path):
    event = writers.aedat31_event
    body = event(1, 2, 3, 1) + event(2, 4, 5, 0, valid=False) + event(3, 6, 7, 0)
    odd = writers.aedat31_packet(bytes(2 * 13), kind=2, event_bytes=13)  # ends between two words
    look_alike = struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, 1, 1, 1) + event(9, 9, 9, 1)
    frame = writers.aedat31_packet(look_alike, kind=2, event_bytes=len(look_alike))
    path = tmp_path / "clip.aedat"
    packets = odd + writers.aedat31_packet(body) + frame + writers.aedat31_packet(event(5, 8, 9, 1))
    path.write_bytes(writers.AEDAT31_HEADER + packets)
    assert read_events(path) == Events(t=[1, 3, 5], x=[2, 6, 8], y=[3, 7, 9], p=[1, 0, 1], sensor_size=(128, 128))


def test_aedat31_room_that_is_not_filled(tmp_path):
    body = writers.aedat31_event(1, 2, 3, 1) + bytes(16)
    path = tmp_path / "clip.aedat"
    path.write_bytes(writers.AEDAT31_HEADER + writers.aedat31_packet(body, number=1))
    assert len(read_events(path)) == 1


def test_aedat31_blocks_join(tmp_path, rng, monkeypatch):
    events = random_events(rng, 3000)
    path = tmp_path / "clip.aedat"
    writers.write_aedat31(path, events, packet_events=100)
    for size in (40, 828, 1000, 5001):  # smaller than a packet, one packet, between packets, between words
        monkeypatch.setattr("rsnn.data.readers.aedat31.BLOCK_BYTES", size)
        assert read_events(path) == events


def test_aedat31_camera_in_the_header(tmp_path):
    path = tmp_path / "clip.aedat"
    events = Events(t=[1], x=[2], y=[3], p=[1], sensor_size=(346, 260))
    writers.write_aedat31(path, events, header=writers.AEDAT31_HEADER.replace(b"DVS128", b"DAVIS346"))
    assert read_events(path).sensor_size == (346, 260)
    writers.write_aedat31(path, events, header=b"#!AER-DAT3.1\r\n#!END-HEADER\r\n")
    assert read_events(path).sensor_size == (34, 34)
    assert read_events(path, sensor_size=(50, 40)).sensor_size == (50, 40)
    again = "#!AER-DAT3.1\r\n#-Source 0: DVS128\r\n#Source 1: {}\r\n#!END-HEADER\r\n"
    for camera, size in (("Processing", (128, 128)), ("DAVIS240C", (240, 180))):
        writers.write_aedat31(path, events[:0], header=again.format(camera).encode() + one_event_packet())
        assert read_events(path).sensor_size == size


def one_event_packet():
    return writers.aedat31_packet(writers.aedat31_event(1, 2, 3, 1))


def test_aedat31_headers_of_any_length(tmp_path):
    path = tmp_path / "clip.aedat"
    more = b"".join(b"# remark %05d\r\n" % n for n in range(10_000))
    start, end = writers.AEDAT31_HEADER.split(b"#!END")
    path.write_bytes(start + more + b"#!END" + end + one_event_packet())
    assert read_events(path) == Events(t=[1], x=[2], y=[3], p=[1], sensor_size=(128, 128))


@pytest.mark.parametrize("end", [b"", b"#!END-HEADER\r\n"])
def test_aedat30_is_named_and_not_read(tmp_path, end):
    """Its rows count from the lower left corner."""
    path = tmp_path / "clip.aedat"
    path.write_bytes(b"#!AER-DAT3.0\r\n#Format: RAW\r\n" + end + one_event_packet())
    with pytest.raises(RecordingError, match=r"AEDAT 3\.0, whose rows .* lower left corner; expected AEDAT 3\.1"):
        read_events(path)


def test_aedat31_without_an_end_of_its_header(tmp_path):
    path = tmp_path / "clip.aedat"
    path.write_bytes(b"#!AER-DAT3.1\r\n#Format: RAW\r\n" + one_event_packet())
    with pytest.raises(RecordingError, match="no line #!END-HEADER in the header, which ends at byte 28"):
        read_events(path)


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, 1, 2, 2) + bytes(8), "claims 2 of 1 events"),
        (struct.pack("<HHIIIIII", 1, 1, 12, 4, 0, 1, 1, 1) + bytes(12), "events of type 1 and 12 bytes"),
        (struct.pack("<HHIIIIII", 3, 1, 0, 4, 0, 1, 1, 1) + bytes(12), "0 bytes with the time at byte 4"),
        (struct.pack("<HHIIIIII", 3, 1, 2**32 - 1, 4, 0, 2**32 - 1, 1, 1), "truncated"),
    ],
)
def test_aedat31_damaged_packets(tmp_path, packet, message):
    path = tmp_path / "clip.aedat"
    first = writers.aedat31_packet(writers.aedat31_event(1, 2, 3, 1))
    path.write_bytes(writers.AEDAT31_HEADER + first + packet)
    with pytest.raises(RecordingError, match=message) as caught:
        read_events(path)
    assert f"byte {len(writers.AEDAT31_HEADER) + len(first)}" in str(caught.value)


# ---------------------------------------------------------------------------------------------------- AEDAT
# 2.0


@settings(max_examples=40)
@given(recordings(sensor_size=(128, 128), max_time=2**31))
def test_aedat20_round_trip(tmp_path, events):
    path = tmp_path / "clip.aedat"
    writers.write_aedat20(path, events)
    assert read_events(path) == events


def test_aedat20_real(samples):
    path = samples / "formats" / "mnist_dvs_0.aedat"
    events = read_events(path)
    assert events.sensor_size == (128, 128)
    assert len(events) == 15744
    assert same_rows(events, slow_aedat20(path))
    assert (events.t[0], events.x[0], events.y[0], events.p[0]) == (0, 0x4390 >> 1 & 127, 0x43, 1)


def test_aedat20_external_signals_and_other_cameras(tmp_path):
    path = tmp_path / "clip.aedat"
    path.write_bytes(b"#!AER-DAT2.0\r\n" + struct.pack(">4I", 0x8000, 1, 0x0203, 2))
    assert read_events(path) == Events(t=[2], x=[1], y=[2], p=[0], sensor_size=(128, 128))
    path.write_bytes(b"#!AER-DAT2.0\r\n" + struct.pack(">4I", 0x0203, 1, 0x400000, 2))
    with pytest.raises(RecordingError, match="byte 22 has the address 0x400000"):
        read_events(path)
    path.write_bytes(b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.Davis240C\r\n" + bytes(8))
    with pytest.raises(RecordingError, match=r"Davis240C'; expected a DVS128"):
        read_events(path)


def test_aedat20_headers_of_any_length(tmp_path, monkeypatch):
    """JAER writes its preferences into it; a limit keeps a file that only looks like one from filling the memory."""
    path = tmp_path / "clip.aedat"
    more = b"".join(b'# <entry key="DVS128.k%05d" value="1"/>\r\n' % n for n in range(3000))
    path.write_bytes(writers.AEDAT20_HEADER + more + struct.pack(">II", 0x0203, 2))
    assert path.stat().st_size > 2**17 * 0.9
    assert read_events(path) == Events(t=[2], x=[1], y=[2], p=[0], sensor_size=(128, 128))
    monkeypatch.setattr("rsnn.data.readers.common.LONGEST_HEADER_BYTES", 50_000)
    with pytest.raises(
        RecordingError, match=r"header .* byte \d+ .*expected lines of text that begin with '#', at most"
    ):
        read_events(path)
    path.write_bytes(writers.AEDAT20_HEADER + b"# AEChip: DV")
    at = len(writers.AEDAT20_HEADER)
    with pytest.raises(RecordingError, match=f"byte {at} does not end.*cut or damaged"):
        read_events(path)


@pytest.mark.parametrize("block", [8, 16, 1 << 20])
def test_aedat20_times_wrap(tmp_path, monkeypatch, block):
    """From 2^32 to 0, which is where times that begin below zero are at first."""
    monkeypatch.setattr("rsnn.data.readers.common.BLOCK_BYTES", block)
    path = tmp_path / "clip.aedat"
    for times in ([2**32 - 3, 2, 7, 2**31 + 7, 2**32 - 1, 0], [-3, 2], [5]):
        body = b"".join(struct.pack(">II", 0x0203, t & 0xFFFF_FFFF) for t in times)
        path.write_bytes(writers.AEDAT20_HEADER + body)
        found = read_events(path).t
        assert found[0] == times[0] & 0xFFFF_FFFF
        assert np.diff(found).tolist() == [(b - a) % 2**32 for a, b in itertools.pairwise(times)]
    path.write_bytes(writers.AEDAT20_HEADER + struct.pack(">4I", 0x0203, 900, 0x0203, 100))
    with pytest.raises(RecordingError, match="from 900 to 100"):
        read_events(path)


# ---------------------------------------------------------------------------------------------------- N-MNIST


@settings(max_examples=40)
@given(recordings(max_time=2**24))
def test_nmnist_round_trip(tmp_path, events):
    path = tmp_path / "0001.bin"
    writers.write_nmnist(path, events)
    assert read_events(path) == events


def test_nmnist_overflows_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("rsnn.data.readers.common.BLOCK_BYTES", 15)
    events = Events(t=[2**23 + k * 9000 for k in range(9)], x=range(9), y=range(9), p=[0] * 9, sensor_size=(34, 34))
    path = tmp_path / "0001.bin"
    writers.write_nmnist(path, events)
    assert read_events(path) == events


def test_nmnist_real_against_tonic(samples):
    tonic_io = pytest.importorskip("tonic.io")
    path = samples / "formats" / "sample_nmnist.bin"
    ours = read_events(path)
    theirs = tonic_io.read_mnist_file(str(path), dtype=np.dtype([("x", int), ("y", int), ("t", int), ("p", int)]))
    assert ours == Events.from_structured(theirs, (34, 34))


def test_nmnist_under_another_name(samples, tmp_path):
    copy = tmp_path / "recording"
    copy.write_bytes((samples / "formats" / "sample_nmnist.bin").read_bytes())
    assert read_events(copy) == read_events(samples / "formats" / "sample_nmnist.bin")


# ---------------------------------------------------------------------------------------------------- NumPy


@pytest.mark.parametrize(
    "kind", ["arrays", "aliases", "structured npz", "structured npy", "columns", "fortran columns"]
)
@settings(max_examples=40)
@given(events=recordings())
def test_numpy_files(tmp_path, events, kind):
    path = tmp_path / "file"
    columns = {name: getattr(events, name) for name in "txyp"}
    with path.open("wb") as file:
        if kind == "arrays":
            np.savez(file, **columns)
        elif kind == "aliases":
            signed = columns["p"].astype(np.int8) * 2 - 1
            np.savez_compressed(file, timestamps=columns["t"], x=columns["x"], y=columns["y"], polarity=signed)
        elif kind == "structured npz":
            np.savez(file, events=events.to_structured())
        elif kind == "structured npy":
            np.save(file, events.to_structured())
        else:
            table = np.stack([columns[name].astype(np.float64) for name in "txyp"], axis=1)
            np.save(file, np.asfortranarray(table) if kind.startswith("fortran") else table)
    assert read_events(path) == events


def test_numpy_sensor_size(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(path, t=[0], x=[1], y=[1], p=[True], sensor_size=[20, 10])
    assert read_events(path).sensor_size == (20, 10)
    assert read_events(path, sensor_size=(5, 6)).sensor_size == (5, 6)


@pytest.mark.parametrize(
    ("largest", "size"),
    [((33, 33), (34, 34)), ((34, 2), (128, 128)), ((300, 200), (304, 240)), ((2000, 10), (2001, 11))],
)
def test_inferred_sensor_sizes(tmp_path, largest, size):
    path = tmp_path / "clip.npz"
    np.savez(path, t=[0, 1], x=[0, largest[0]], y=[largest[1], 0], p=[0, 1])
    assert read_events(path).sensor_size == size


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        ([0, 1_500_000], [0, 1_500_000]),
        ([0.0, 1_500_000.0], [0, 1_500_000]),
        ([0.0, 1.5], [0, 1_500_000]),
        (np.array([0, 7], dtype=np.uint64), [0, 7]),
    ],
)
def test_units_of_time(tmp_path, t, expected):
    path = tmp_path / "clip.npz"
    np.savez(path, t=t, x=[0, 0], y=[0, 0], p=[0, 1])
    assert read_events(path).t.tolist() == expected


@pytest.mark.parametrize(("name", "expected"), [("t_us", 3), ("t_ms", 3000), ("t_s", 3_000_000)])
def test_units_in_names(tmp_path, name, expected):
    path = tmp_path / "clip.npz"
    np.savez(path, **{name: [0, 3]}, x=[0, 0], y=[0, 0], p=[0, 1])
    assert read_events(path).t.tolist() == [0, expected]


NS = 1_700_000_000_123_457_408  # since 1970; a thousandth of the double is rounded up


@pytest.mark.parametrize(
    ("name", "t", "expected"),
    [
        ("t_ns", np.array([NS, NS + 92, NS + 1092]), [NS // 1000, NS // 1000 + 1, NS // 1000 + 1]),
        ("t_ns", np.array([2**64 - 1], dtype=np.uint64), [2**64 // 1000 + 1]),
        ("t_ns", np.array([5, 120], dtype=np.int8), [0, 0]),
        ("t_s", np.array([9_223_372_036_854]), [9_223_372_036_854_000_000]),
        ("t_s", np.array([-9_223_372_036_854]), [-9_223_372_036_854_000_000]),
        ("t", np.array([-(2**63), 2**53 + 1, 2**63 - 1]), [-(2**63), 2**53 + 1, 2**63 - 1]),
    ],
)
def test_whole_numbers_are_never_rounded_through_floats(tmp_path, name, t, expected):
    path, zeros = tmp_path / "clip.npz", np.zeros(len(t), dtype=int)
    np.savez(path, **{name: t}, x=zeros, y=zeros, p=zeros)
    assert read_events(path).t.tolist() == expected


@pytest.mark.parametrize("t", [9_223_372_036_855, -9_223_372_036_855])
def test_seconds_that_are_too_many_microseconds(tmp_path, t):
    np.savez(tmp_path / "clip.npz", t_s=[0, t], x=[0, 0], y=[0, 0], p=[0, 0])
    with pytest.raises(RecordingError, match=f"event 1 has the time {t}; expected microseconds that fit in 63 bits"):
        read_events(tmp_path / "clip.npz")


def test_names_that_differ_only_in_case(tmp_path):
    """The exact name is the column; where there is none, case does not matter."""
    path = tmp_path / "clip.npz"
    others = {"x": [1, 1], "y": [1, 1], "p": [0, 1]}
    np.savez(path, T=[500, 501], t=[10, 20], X=[7, 7], **others)
    assert (read_events(path).t.tolist(), read_events(path).x.tolist()) == ([10, 20], [1, 1])
    np.savez(path, T=[500, 501], timestamp=[10, 20], **others)
    assert read_events(path).t.tolist() == [10, 20]
    np.savez(path, T=[500, 501], **others)
    assert read_events(path).t.tolist() == [500, 501]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": [1]}, r"it holds \{'a': .*; expected arrays t, x, y and p"),
        ({"t": [0], "x": [0], "y": [0], "p": [3]}, "event 0 has the polarity 3"),
        ({"t": [0], "x": [0.5], "y": [0], "p": [1]}, "event 0 has x = 0.5; expected a whole number"),
        ({"t": [np.nan], "x": [0], "y": [0], "p": [1]}, "event 0 has t = nan; expected a finite number"),
        ({"t": [1e300], "x": [0], "y": [0], "p": [1]}, "expected microseconds that fit in 63 bits"),
        ({"t": [2**64 - 1], "x": [0], "y": [0], "p": [1]}, "expected microseconds that fit in 63 bits"),
        ({"t": [0, 1], "x": [0], "y": [0], "p": [1]}, "the columns have shapes"),
        ({"t": ["a"], "x": [0], "y": [0], "p": [1]}, "t holds values of type <U1; expected numbers"),
        ({"t": [0], "x": [-1], "y": [0], "p": [1]}, "event 0, x = -1 lies outside"),
        ({"t": [0], "x": [10**6], "y": [0], "p": [1]}, "event 0, x = 1000000 lies outside"),
        ({"t": [5, 4], "x": [0, 0], "y": [0, 0], "p": [1, 1]}, "event 1, time runs backwards, from 5 to 4"),
        ({"t": [], "x": [], "y": [], "p": []}, "holds no events"),
        ({"t": [0], "x": [0], "y": [0], "p": [1], "offsets": [0, 1]}, "EventArchive"),
        ({"t": [0], "x": [0], "y": [0], "p": [1], "sensor_size": [0, 5]}, "sensor_size is"),
    ],
)
def test_numpy_files_that_are_no_recording(tmp_path, arrays, message):
    path = tmp_path / "clip.npz"
    np.savez(path, **arrays)
    with pytest.raises(RecordingError, match=message) as caught:
        read_events(path)
    assert str(path) in str(caught.value)


def test_numpy_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "clip.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RecordingError, match="Python objects"):
        read_events(path)


def test_numpy_header_that_claims_too_much(tmp_path):
    path = tmp_path / "clip.npy"
    np.save(path, np.zeros((1, 4)))
    path.write_bytes(path.read_bytes().replace(b"(1, 4)", b"(9**99, 4)"[:6]))
    with pytest.raises(RecordingError, match="header is damaged"):
        read_events(path)
    np.save(path, np.zeros((1000000, 4), dtype=np.int8)[:1])
    data = path.read_bytes().replace(b"(1, 4), }      ", b"(9999999, 4), }")
    path.write_bytes(data)
    with pytest.raises(RecordingError, match="needs 39999996 bytes and"):
        read_events(path)


# ---------------------------------------------------------------------------------------------------- text

ROWS = [(10, 3, 4, 1), (20, 5, 6, 0), (20, 33, 0, 1)]
AS_EVENTS = Events(t=[10, 20, 20], x=[3, 5, 33], y=[4, 6, 0], p=[1, 0, 1], sensor_size=(34, 34))


@pytest.mark.parametrize("mark", [",", ";", "\t", " ", ", ", "   "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_separators(tmp_path, mark, end):
    path = tmp_path / "clip.csv"
    path.write_bytes(end.join(mark.join(map(str, row)) for row in ROWS).encode())
    assert read_events(path) == AS_EVENTS


@pytest.mark.parametrize(
    "text",
    [
        "t,x,y,p\n10,3,4,1\n20,5,6,0\n20,33,0,1\n",
        "T,t,x,y,p\n5,10,3,4,1\n6,20,5,6,0\n7,20,33,0,1\n",
        "# made by hand\n\np;X;Y;timestamp_us\n1;3;4;10\n0;5;6;20\n1;33;0;20\n",
        "\ufeffx,y,polarity,time,extra\n3,4,True,10,a\n5,6,False,20,b\n33,0,True,20,c\n",
        "t_ms,x,y,p\n0.010,3,4,1\n0.020,5,6,-1\n0.020,33,0,1\n",
        "34 34\n0.00001 3 4 1\n0.00002 5 6 0\n0.00002 33 0 1\n",
        "%geometry:34,34\n3,4,1,10\n5,6,0,20\n33,0,1,20\n",
        "% comment\n10 3 4 1\n# another\n20 5 6 0\n\n20 33 0 1",
        '"t","x","y","p"\n"10","3","4","1"\n"20","5","6","0"\n"20","33","0","1"\n',
    ],
)
def test_text_layouts(tmp_path, text):
    path = tmp_path / "clip.txt"
    path.write_text(text, encoding="utf-8")
    assert read_events(path) == AS_EVENTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,1\n2,2,3\n3,2,3,1\n", "row 2 is '2,2,3'; expected numbers"),
        ("1,2,3,1\n# a\n2,b,3,1\n3,2,3,1\n", "row 3 is '2,b,3,1'"),
        ("1,2,3,1\n2,2,3,5\n", "row 2 has the polarity 5"),
        ("t,x,y,p\n5,2,3,1\n4,2,3,1\n", "row 3, time runs backwards, from 5 to 4"),
        ("1,2,3,1\n2,-2,3,1\n", "row 2, x = -2 lies outside"),
        ("1,2,3,1\n2,2.5,3,1\n", "row 2 has x = 2.5"),
        ("t,x,y,p\n", "holds no events"),
        ("1,2,3,1\n2,2,", "truncated: it ends within row 2, '2,2,'"),
        ("1,2,3,1\n\u00e9,2,3,1\n", "row 2"),
    ],
)
def test_text_that_is_no_recording(tmp_path, text, message):
    path = tmp_path / "clip.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordingError, match=message) as caught:
        read_events(path, format="text")
    assert str(path) in str(caught.value)


def test_text_blocks_join(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("rsnn.data.readers.text.BLOCK_BYTES", 100)
    events = random_events(rng, 500)
    path = tmp_path / "clip.csv"
    np.savetxt(
        path,
        np.array(events.to_structured().tolist()),
        fmt="%d",
        delimiter=",",
        header="t,x,y,p",
        comments="",
    )
    assert read_events(path) == events


@pytest.mark.parametrize(("time", "came"), [("1e999", "inf"), ("nan", "nan")])
def test_times_that_are_no_numbers_are_one_error_without_a_warning(tmp_path, time, came):
    path = tmp_path / "events.txt"
    path.write_text(f"10 3 4 1\n{time} 3 5 0\n")
    with pytest.raises(RecordingError, match=f"row 2 has t = {came}; expected a finite number"):
        read_events(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9007199254740993,1,2,0\n9007199254740995,1,2,1\n", [2**53 + 1, 2**53 + 3]),
        ("x,y,t,p\n1,2,-9223372036854775808,0\n1,2,9223372036854775807,1\n", [-(2**63), 2**63 - 1]),
        (f"t_ns,x,y,p\n{NS},1,2,0\n{NS + 92},1,2,0\n{NS + 1092},1,2,1\n", [NS // 1000 + k for k in (0, 1, 1)]),
        ("t_ms,x,y,p\n1e-999999999,1,2,0\n1700000000123456.7896,1,2,0\n", [0, 1_700_000_000_123_456_790]),
        ('"1.5","1","2","True"\n"9007199254741.000001","1","2","False"\n', [1_500_000, 9_007_199_254_741_000_001]),
        ("9007199254740993 1 2 0\n9007199254740995 1", [2**53 + 1]),
    ],
)
def test_times_of_more_digits_than_a_double_has(tmp_path, text, expected):
    (tmp_path / "a.csv").write_text(text)
    assert read_events(tmp_path / "a.csv", truncated="keep").t.tolist() == expected


@pytest.mark.parametrize(
    ("name", "time"),
    [("t", "9223372036854775808"), ("t", "-9223372036854775809"), ("t_s", "1e300"), ("t_ms", "9223372036854776")],
)
def test_text_times_that_do_not_fit(tmp_path, name, time):
    (tmp_path / "a.csv").write_text(f"{name},x,y,p\n0,1,2,0\n{time},1,2,0\n")
    with pytest.raises(RecordingError, match=f"row 3 has the time {time}; expected microseconds that fit in 63 bits"):
        read_events(tmp_path / "a.csv")


@pytest.mark.parametrize("mark", ["\x0c", "\u2028", "\x85", "\x1c"])
def test_only_line_ends_end_lines(tmp_path, mark):
    path = tmp_path / "events.txt"
    path.write_text(f"# page 1{mark}# page 2{mark}\n1,1,2,1\n2,1,2,1\n", encoding="utf-8")
    assert read_events(path).t.tolist() == [1, 2]


def test_names_in_a_comment(tmp_path):
    """As `numpy.savetxt` writes its header."""
    table = np.array([[5, 3, 1, 0], [8, 4, 2, 1]])
    for delimiter, header in ((" ", "t y x p"), (",", "t,y,x,p"), (",", "t y x p")):
        np.savetxt(tmp_path / "a.txt", table, fmt="%d", header=header, delimiter=delimiter)
        events = read_events(tmp_path / "a.txt")
        assert events.y.tolist() == [3, 4]
        assert events.x.tolist() == [1, 2]
    np.savetxt(tmp_path / "a.txt", table, fmt="%d", header="time, x and y in pixels, p")  # no names: not four words
    assert read_events(tmp_path / "a.txt").x.tolist() == [3, 4]


def test_a_comment_in_an_old_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes("# d\xe9but\n5,1,2,1\n8,3,4,0\n".encode("latin-1"))
    assert read_events(tmp_path / "a.csv").t.tolist() == [5, 8]
