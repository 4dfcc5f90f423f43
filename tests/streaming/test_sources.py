"""Sources: packets worked by hand, text as it arrives, files in real time, and what is not there."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time

import numpy as np
import pytest
from stream_models import random_events

import rsnn
from rsnn.errors import InputError, MissingDependencyError, RecordingError
from rsnn.streaming.sources import (
    FIRST_PACKETS,
    Packets,
    datagrams,
    decode_aestream,
    decode_jaer,
    listen,
    open_source,
    paced,
    text_lines,
)


def rows(array):
    return [tuple(int(v) for v in row) for row in array]


def test_aestream_with_timestamps():
    """x 5, y 3, brighter: 0x00058003; x 300, y 259, darker: 0x012C0103; then each one's time."""
    packet = struct.pack("<4I", 0x00058003, 1_000_000, 0x012C0103, 4_294_967_295)
    assert rows(decode_aestream(packet, 7)) == [(1_000_000, 5, 3, 1), (4_294_967_295, 300, 259, 0)]


def test_aestream_without_timestamps():
    """Bit 31 set: three events, at the time they came."""
    packet = struct.pack("<3I", 0x80058003, 0x812C0103, 0x80000000)
    assert rows(decode_aestream(packet, 77)) == [(77, 5, 3, 1), (77, 300, 259, 0), (77, 0, 0, 0)]


def test_jaer():
    """Sequence number 9; x 17, y 33, brighter (bit 0 clear): 33 << 8 | 17 << 1; the clock's signal is left out."""
    words = (9, 33 << 8 | 17 << 1, 500, 33 << 8 | 17 << 1 | 1, 0xFFFFFFFF, 1 << 15, 600)
    assert rows(decode_jaer(struct.pack(">7I", *words), 0)) == [(500, 17, 33, 1), (4_294_967_295, 17, 33, 0)]
    with pytest.raises(InputError, match="DVS128"):
        decode_jaer(struct.pack(">3I", 1, 1 << 20, 0), 0)


@pytest.mark.parametrize("decode", [decode_aestream, decode_jaer])
@pytest.mark.parametrize("length", range(12))
def test_packets_cut_short(decode, length):
    """What is left of a broken packet is whole events, or none."""
    assert len(decode(bytes(length), 0)) <= length // 4


def test_datagrams_arrive_on_loopback():
    server = listen(0)
    port = server.getsockname()[1]
    chunks = datagrams(server, decode_aestream)
    assert next(chunks) is None  # nothing yet
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for k in range(3):
            client.sendto(struct.pack("<2I", k << 16 | 0x8001, 100 + k), ("127.0.0.1", port))
    got = []
    while len(got) < 3:
        got += rows(next(chunk for chunk in chunks if chunk is not None))
    assert got == [(100, 0, 1, 1), (101, 1, 1, 1), (102, 2, 1, 1)]
    with pytest.raises(InputError, match=f"UDP port {port}"):
        listen(port)
    chunks.close()


STRAY = b"hello world, I am a port scanner"


def aestream(k, x=0):
    return struct.pack("<2I", x << 16 | 0x8001, 100 + k)


def jaer(k, x=0):
    return struct.pack(">3I", k, 1 << 8 | x << 1, 100 + k)


def received(chunks, sent, port, until):
    """Send packets, and return the times of the events that come of them, until that many have come."""
    got = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for packet in sent:
            client.sendto(packet, ("127.0.0.1", port))
    while len(got) < until:
        got += [row[0] for row in rows(next(chunk for chunk in chunks if chunk is not None))]
    return got


@pytest.mark.parametrize(("decode", "packet"), [(decode_aestream, aestream), (decode_jaer, jaer)])
def test_a_packet_that_is_none_is_left_out(decode, packet):
    """Text, and an event outside the sensor, wherever they come between the others."""
    server, count = listen(0), Packets()
    port = server.getsockname()[1]
    chunks = datagrams(server, decode, (20, 10), count)
    sent = [packet(k) for k in range(30)]
    sent[3] = sent[25] = STRAY
    sent[7] = packet(7, x=20)
    got = received(chunks, sent, port, 27)
    assert got == [100 + k for k in range(30) if k not in (3, 7, 25)]
    assert (count.came, count.bad) == (30, 3)
    chunks.close()


@pytest.mark.parametrize(
    ("decode", "packet", "message"),
    [
        (decode_aestream, STRAY, r"of the first .* packets hold no events .* x = 27756 lies outside .* --sensor-size"),
        (decode_jaer, STRAY, "DVS128"),
        (decode_aestream, aestream(0, x=20), "x = 20 lies outside the sensor of 20 x 10 pixels"),
    ],
)
def test_first_packets_that_are_mostly_none(decode, packet, message, monkeypatch):
    """A wrong sensor size, or a sender of something else, is an error; a stray packet before the first ones is not."""
    server = listen(0)
    port = server.getsockname()[1]
    chunks = datagrams(server, decode, (20, 10))
    monkeypatch.setattr("rsnn.streaming.sources.FIRST_SECONDS", 0.0)
    good = aestream(1) if decode is decode_aestream else jaer(1)
    assert received(chunks, [packet, packet, good], port, 1) == [101]
    with pytest.raises(RecordingError, match=message):
        received(chunks, [packet] * FIRST_PACKETS, port, 1)


@pytest.mark.parametrize(
    "text",
    [
        "5,1,2,1\n8,3,4,0\n",
        "t,x,y,p\n5,1,2,1\n8,3,4,0",
        "# a comment\n\np;y;x;t_us\n1;2;1;5\n% another\n0;4;3;8\n",
        "0.000005 1 2 1\n0.000008 3 4 0\n",
        "\ufefft\tx\ty\tp\r\n5\t1\t2\t1\r\n8\t3\t4\t-1\r\n",
        "%geometry:10,12\n1,2,1,5\n3,4,0,8\n",
        "10 12\n0.000005 1 2 True\n0.000008 3 4 False\n",
        '"5","1","2","1"\n"8","3","4","0"\n',
        "# y x p t\n2 1 1 5\n4 3 0 8\n",
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 16])
def test_text_in_any_pieces(text, block_bytes):
    got = [row for chunk in text_lines(io.BytesIO(text.encode()), block_bytes) for row in rows(chunk)]
    assert got == [(5, 1, 2, 1), (8, 3, 4, 0)]


def test_text_that_is_none():
    for text, message in (
        ("5,1,2,1\nhello,1,2,3\n", "row 2 is 'hello,1,2,3'"),
        ("5,1,2\n", "neither names nor numbers"),
        ("5,1,2,1\n6,1,2,7\n", "row 2 has the polarity 7"),
        ("5,1.5,2,1\n", "row 1"),
        ("5,1,2,1\ntrue,1,2,x\n", "row 2"),
    ):
        with pytest.raises(RecordingError, match=message):
            list(text_lines(io.BytesIO(text.encode())))
    assert list(text_lines(io.BytesIO(b""))) == []


def test_text_comes_as_soon_as_a_line_is_whole():
    """A pipe that stays open: the first event must not wait for the second."""
    read, write = __import__("os").pipe()
    with open(read, "rb") as reader, open(write, "wb", buffering=0) as writer:  # noqa: PTH123 - descriptors
        chunks = text_lines(reader)
        got: list = []
        thread = threading.Thread(target=lambda: got.append(rows(next(chunks))), daemon=True)
        thread.start()
        writer.write(b"t_us,x,y,p\n5,1,2,1\n8,3")
        thread.join(5)
        assert got == [[(5, 1, 2, 1)]]


@pytest.mark.parametrize("first", ["0.000000", "0", "0.0", "0e0"])
@pytest.mark.parametrize("block_bytes", [1, 9, 1 << 16])
def test_the_unit_of_times_does_not_depend_on_what_comes_together(first, block_bytes):
    """Seconds whose first one is whole."""
    text = f"{first},1,2,1\n{first},1,2,1\n0.001,1,2,1\n1.0,1,2,1\n"
    got = [row[0] for chunk in text_lines(io.BytesIO(text.encode()), block_bytes) for row in rows(chunk)]
    assert got == [0, 0, 1000, 1_000_000]


def test_events_wait_only_until_times_differ():
    lines = iter([b"7,1,2,1\n", b"7,1,2,1\n", b"9,1,2,1\n", b"11,1,2,1\n"])
    given = []

    class Slowly:
        def read1(self, _):
            given.append(next(lines, b""))
            return given[-1]

    chunks = text_lines(Slowly())
    assert [row[0] for row in rows(next(chunks))] == [7, 7, 9]
    assert len(given) == 3
    assert [row[0] for row in rows(next(chunks))] == [11]
    # A true time is a 1, as in a file.
    assert [row[0] for chunk in text_lines(io.BytesIO(b"true 1 2 1\n5 1 2 1\n")) for row in rows(chunk)] == [1, 5]
    # Whole numbers with a point: seconds only where a fraction comes.
    text = "".join(f"{t}.0 1 2 1\n" for t in range(5))
    assert [row[0] for chunk in text_lines(io.BytesIO(text.encode())) for row in rows(chunk)] == [0, 1, 2, 3, 4]


def test_a_file_is_replayed_in_time(tmp_path):
    events = random_events(400, 200_000, start_us=0)
    np.save(tmp_path / "clip.npy", events.to_structured())
    for speed, least in ((1.0, 0.19), (4.0, 0.045)):
        began = time.perf_counter()
        source = open_source(str(tmp_path / "clip.npy"), sensor_size=(10, 12), speed=speed)
        total = sum(len(chunk) for chunk in source.chunks)
        took = time.perf_counter() - began
        assert total == 400
        assert least <= took < least + 2
        assert not source.waits
    assert open_source(str(tmp_path / "clip.npy"), speed=float("inf")).waits
    assert list(paced(iter([]), 1.0)) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.aedat", "there is no source 'nothing.aedat'"),
        ("aestream:", "expected a port number"),
        ("jaer:many", "as in jaer:3333"),
        ("aestream:70000", "expected a port number"),
        ("camera:kodak", "'camera:prophesee' or 'camera:inivation'"),
    ],
)
def test_sources_that_are_none(name, message):
    with pytest.raises(InputError, match=message):
        open_source(name)


@pytest.mark.parametrize("name", ["camera", "camera:prophesee", "camera:inivation"])
def test_a_camera_without_its_library(name):
    with pytest.raises(MissingDependencyError, match="dv-processing"):
        open_source(name)


def test_a_replay_may_take_centuries(monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("rsnn.streaming.sources.time.sleep", sleep)
    clip = rsnn.Events(t=[0, 1], x=[1, 1], y=[1, 1], p=[1, 1], sensor_size=(10, 12))
    with pytest.raises(KeyboardInterrupt):
        list(paced(iter([clip]), 1e-300))
    assert 0 < max(slept) < 1e6  # time.sleep takes no centuries


def test_bad_speed():
    with pytest.raises(rsnn.RSNNError, match="speed=0"):
        open_source("-", speed=0)
    with pytest.raises(rsnn.RSNNError, match="speed='fast': expected a number above 0"):
        open_source("-", speed="fast")


def test_a_path_is_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rsnn.data.write_events(tmp_path / "clip.npz", random_events(40, 2_000, start_us=0))
    for name in (tmp_path / "clip.npz", "~/clip.npz"):
        assert sum(len(chunk) for chunk in open_source(name, speed=float("inf")).chunks) == 40
    with pytest.raises(InputError, match="path is 3"):
        open_source(3)
