"""Where a stream's events come from: a file in real time, standard input, a UDP port, a camera.

A source is an iterator of chunks as `stream.push` takes them; live ones yield None now and then while nothing comes.
"""

from __future__ import annotations

import importlib
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.checks import is_number
from rsnn.data import EVENT_DTYPE, iter_events
from rsnn.data.events import find_fault
from rsnn.data.files import as_path
from rsnn.data.readers.common import Source as Recording
from rsnn.data.readers.text import Rows, is_comment, layout_of
from rsnn.errors import InputError, MissingDependencyError, RecordingError, RSNNError
from rsnn.streaming.slicer import Chunk, as_array

Decoder = Callable[[bytes, int], npt.NDArray[np.void]]  # of a packet, and our time in microseconds

CHUNK_US = 5_000
IDLE_SECONDS = 0.02
LONGEST_SLEEP_S = 3600.0  # the system refuses centuries, which a slow replay may come to
LOOPBACK = "127.0.0.1"
LARGEST_DATAGRAM = 1 << 16
MOST_DATAGRAMS = 512  # in one chunk
RECEIVE_BUFFER = 1 << 22
MOST_WAITING = 1000  # lines of a text table that may leave the unit of its times open
DVS128_SIZE = (128, 128)
# A sender is known by its first packets: by this many at least, and for this long.
FIRST_PACKETS = 10
FIRST_SECONDS = 1.0


@dataclass
class Packets:
    """How many packets came so far, and how many of them were left out because they hold no events of the sensor."""

    came: int = 0
    bad: int = 0


class EventSource(NamedTuple):
    """Chunks of events, the sensor's (width, height) if it is known, and whether the source waits for its reader.

    What waits loses nothing; from what does not, a reader that falls behind has to drop. A source of packets counts
    them.
    """

    chunks: Iterator[Chunk | None]
    sensor_size: tuple[int, int] | None
    waits: bool
    packets: Packets | None = None


def open_source(
    name: str | os.PathLike[str],
    *,
    sensor_size: tuple[int, int] | None = None,
    frame_size: tuple[int, int] | None = None,
    speed: float = 1.0,
) -> EventSource:
    """Open a source by its name.

    Args:
        name: `-` for standard input (a text table as `read_events` reads it, but for the sensor's size),
            `aestream:PORT` and `jaer:PORT` for UDP packets of these two on the loopback device, `camera`,
            `camera:prophesee` or `camera:inivation`, else the path of a recording.
        sensor_size: (width, height) of the sensor, where the source does not say it.
        frame_size: (height, width) of the model's frames: the sensor's, where nobody says it.
        speed: of a file's replay: 1 for real time, infinity for as fast as it can be read, and then nothing is
            dropped.

    Raises:
        InputError: there is no such source, standard input is closed, or `speed` is not positive.
        MissingDependencyError: the camera's library is not installed.
        RecordingError: the file cannot be read.

    """
    path = as_path(name)
    name = os.fspath(name)
    if not is_number(speed) or not speed > 0:
        raise InputError(f"speed={speed!r}: expected a number above 0, as 1 for real time")
    kind, _, rest = name.partition(":")
    if name == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; expected a text table of events in it: t, x, y, p")
        # Not through its buffer: that is locked while a read waits, and Python aborts if it ends then.
        unbuffered = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        return EventSource(text_lines(unbuffered), sensor_size, waits=True)
    if kind in ("aestream", "jaer"):
        decode = decode_aestream if kind == "aestream" else decode_jaer
        known = sensor_size or (DVS128_SIZE if kind == "jaer" else None)
        expected, packets = known or (frame_size and frame_size[::-1]), Packets()
        return EventSource(datagrams(listen(_port(name, rest)), decode, expected, packets), known, False, packets)
    if is_camera(name):
        return _camera(rest)
    if not path.exists():
        raise InputError(
            f"there is no source {name!r}; expected the path of a recording, '-' for standard input, 'aestream:PORT', "
            "'jaer:PORT' or 'camera'"
        )
    chunks = iter_events(path, duration_us=CHUNK_US, sensor_size=sensor_size)
    return EventSource(paced(chunks, speed), sensor_size, waits=math.isinf(speed))


def is_camera(name: str) -> bool:
    """Tell whether a source's name is that of a camera."""
    return name.partition(":")[0] == "camera"


def is_recording(name: str) -> bool:
    """Tell whether a source's name is the path of a recording."""
    return name != "-" and name.partition(":")[0] not in ("aestream", "jaer", "camera")


def paced(chunks: Iterator[Any], speed: float) -> Iterator[Chunk]:
    """Yield chunks of events when their last event is due, counted from the first."""
    began = first_us = None
    for chunk in chunks:
        if began is None or first_us is None:
            began, first_us = time.perf_counter(), int(chunk.t[0])
        due = began + (int(chunk.t[-1]) - first_us) / 1e6 / speed
        while (wait := due - time.perf_counter()) > 0:
            time.sleep(min(wait, LONGEST_SLEEP_S))
        yield chunk


def text_lines(file: BinaryIO, block_bytes: int = 1 << 16) -> Iterator[Chunk]:
    """Yield the events of a text table as its lines arrive.

    They are written as in a file that `read_events` reads (`rsnn.data.readers.text`). Whole times are microseconds, and
    seconds where one of the first has a fraction; events wait until two times differ, to tell which.

    Raises:
        RecordingError: a line is not of this form.

    """
    table = _Table()
    rest = b""
    # A pipe gives what it has, however little; a file-like object without a descriptor may only know `read1`.
    while data := file.read1(block_bytes) if hasattr(file, "read1") else file.read(block_bytes):
        *lines, rest = (rest + data).split(b"\n")
        if chunk := table.events(lines):
            yield chunk[0]
    if chunk := table.events([rest], last=True):
        yield chunk[0]


class _Table:
    """The lines of a text table as they arrive, of which the first ones tell how they are written."""

    def __init__(self) -> None:
        self.source = Recording(Path("standard input"), "text")
        self.first: list[str] = []  # lines, until there is a row
        self.rows: Rows | None = None
        self.waiting: list[str] = []  # rows, until they tell the unit of time

    def events(self, lines: list[bytes], *, last: bool = False) -> list[npt.NDArray[np.void]]:
        """Return a list of one array, or of none."""
        texts = [line.decode("utf-8", "replace").removesuffix("\r").removeprefix("\ufeff") for line in lines]
        if self.rows is None:
            self.first += texts
            texts = [] if all(map(is_comment, texts)) else self._learn()
        if self.rows is None:
            return []
        if self.rows.unit is None:
            self.waiting += texts
            if not (self.rows.tells_unit(texts) or last or len(self.waiting) >= MOST_WAITING):
                return []
            texts, self.waiting = self.waiting, []
        block = self.rows.block([text + "\n" for text in texts])
        return [as_array(block.t, block.x, block.y, block.p)] if block else []

    def _learn(self) -> list[str]:
        """Return what follows the lines that tell how rows are written, once these are there."""
        try:
            layout = layout_of(self.first)
        except ValueError as error:
            raise self.source.fault(str(error)) from None
        if layout is None:
            return []
        self.rows = Rows(self.source, layout)
        return self.first[layout.first_line :]


def listen(port: int) -> socket.socket:
    """Return a UDP socket on the loopback device; port 0 takes a free one.

    Raises:
        InputError: the port is taken, or not ours to take.

    """
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    server.settimeout(IDLE_SECONDS)
    try:
        server.bind((LOOPBACK, port))
    except OSError as error:
        server.close()
        raise InputError(f"cannot listen on UDP port {port}: {error.strerror}; expected a free port") from error
    return server


def datagrams(
    server: socket.socket,
    decode: Decoder,
    sensor_size: tuple[int, int] | None = None,
    count: Packets | None = None,
) -> Iterator[Chunk | None]:
    """Yield the events of the datagrams that came since the last chunk, None where none came in a while.

    Anybody can send something to a port. A datagram that cannot be decoded, or with an event outside the sensor, is
    left out and counted, unless most of the first ones are of that kind.

    Args:
        server: where they arrive; closed at the end.
        decode: makes events of a datagram.
        sensor_size: (width, height) of the sensor; None for any.
        count: to count them.

    Raises:
        RecordingError: more than half of the datagrams of the first second, and ten of them at least, had to be left
            out; the message says what was wrong with the first of these.

    """
    count = count or Packets()
    began, first_fault, trial = None, "", True
    with server:
        while True:
            try:
                packets = [server.recv(LARGEST_DATAGRAM)]
            except TimeoutError:
                yield None
                continue
            server.setblocking(False)
            try:
                while len(packets) < MOST_DATAGRAMS:
                    packets.append(server.recv(LARGEST_DATAGRAM))
            except BlockingIOError:
                pass
            finally:
                server.settimeout(IDLE_SECONDS)
            events, faults = _decoded(packets, decode, sensor_size)
            count.came += len(packets)
            count.bad += len(faults)
            if trial:
                first_fault = first_fault or "".join(faults[:1])
                began = began or time.perf_counter()
                trial = count.came < FIRST_PACKETS or time.perf_counter() - began < FIRST_SECONDS
                if not trial and 2 * count.bad > count.came:
                    raise RecordingError(
                        f"{count.bad} of the first {count.came} packets hold no events of this sensor; in the first of "
                        f"them {first_fault}"
                    )
            yield events


def _decoded(
    packets: list[bytes], decode: Decoder, sensor_size: tuple[int, int] | None
) -> tuple[npt.NDArray[np.void], list[str]]:
    """Return the events of the packets, those left out that have a fault, and what is wrong with each of these."""
    now_us = time.monotonic_ns() // 1000

    def checked(some: list[bytes]) -> npt.NDArray[np.void]:
        events = np.concatenate([decode(packet, now_us) for packet in some])
        columns = {name: events[name] for name in "xyp"}
        if sensor_size and (fault := find_fault(**columns, t=events["t"][:0], sensor_size=sensor_size)):
            named = "sensor_size=(width, height)"
            remedy = fault.remedy.replace(named, f"--sensor-size WIDTHxHEIGHT, or {named},")
            raise RecordingError(f"{fault.found}; {remedy}")
        return events

    try:  # all in one, as nearly always
        return checked(packets), []
    except RSNNError:
        pass
    good, faults = [np.empty(0, EVENT_DTYPE)], []
    for packet in packets:
        try:
            good.append(checked([packet]))
        except RSNNError as error:
            faults.append(str(error))
    return np.concatenate(good), faults


def decode_aestream(packet: bytes, now_us: int) -> npt.NDArray[np.void]:
    """Decode a packet of AEStream's UDP output (SPIF's encoding).

    Little-endian 32-bit words: bits 0-14 y, bit 15 polarity, bits 16-30 x, bit 31 set where there are no timestamps;
    where it is clear, a word with the time in microseconds follows each event. Events without a time have the time at
    which they came.

    Source: aestream/aestream, `src/output/dvs_to_udp.cpp`.
    """
    words = np.frombuffer(packet[: len(packet) // 4 * 4], dtype="<u4").astype(np.int64)
    if words.size and words[0] >> 31:
        events, t = words, np.full(words.size, now_us)
    else:
        words = words[: words.size // 2 * 2]
        events, t = words[0::2], words[1::2]
    return as_array(t, events >> 16 & 0x7FFF, events & 0x7FFF, events >> 15 & 1)


def decode_jaer(packet: bytes, now_us: int) -> npt.NDArray[np.void]:  # noqa: ARG001  (what every decoder takes)
    """Decode a packet of jAER's `AEUnicastOutput` with its default settings, of a DVS128.

    Big-endian 32-bit words: a sequence number, then address and time in microseconds of each event. The address is that
    of AEDAT 2.0: bit 0 polarity (0 = brighter), bits 1-7 x, bits 8-14 y; bit 15 is set for what is no pixel's event.

    Source: SensorsINI/jaer, `net/sf/jaer/eventio/AEUnicastOutput.java` and `AEUnicastSettings.java`.

    Raises:
        InputError: an address has more than 16 bits.

    """
    words = np.frombuffer(packet[: len(packet) // 4 * 4], dtype=">u4").astype(np.int64)[1:]
    words = words[: words.size // 2 * 2]
    address, t = words[0::2], words[1::2]
    if (address >> 16).any():
        raise InputError(
            f"a packet from jAER has the address {int(address.max()):#x}; expected those of a DVS128 (16 bits): send "
            "other cameras through AEStream"
        )
    pixel = address >> 15 == 0
    address, t = address[pixel], t[pixel]
    return as_array(t, address >> 1 & 0x7F, address >> 8 & 0x7F, 1 - (address & 1))


def _port(name: str, text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) < 1 << 16:
        raise InputError(f"source {name!r}: expected a port number, as in {name.partition(':')[0]}:3333")
    return int(text)


def _camera(vendor: str) -> EventSource:
    openers = {"prophesee": _prophesee, "inivation": _inivation}
    if vendor not in ("", *openers):
        raise InputError(f"source 'camera:{vendor}': expected 'camera', 'camera:prophesee' or 'camera:inivation'")
    missing = None
    for opener in [openers[vendor]] if vendor else openers.values():
        try:
            return opener()
        except ImportError as error:
            missing = error
    raise MissingDependencyError(
        "no camera library is installed; expected Prophesee's Metavision SDK (metavision_core, from "
        "docs.prophesee.ai) or iniVation's dv-processing (pip install dv-processing)"
    ) from missing


def _prophesee() -> EventSource:
    """Open the first camera that Metavision finds (its documentation: `EventsIterator` with an empty path)."""
    iterator = importlib.import_module("metavision_core.event_io").EventsIterator(
        input_path="", mode="delta_t", delta_t=CHUNK_US
    )
    height, width = iterator.get_size()
    return EventSource(iter(iterator), (width, height), waits=False)


def _inivation() -> EventSource:
    """Open the first camera that dv-processing finds (its documentation: `CameraCapture.getNextEventBatch`)."""
    camera = importlib.import_module("dv_processing").io.CameraCapture()

    def chunks() -> Iterator[Chunk | None]:
        while camera.isRunning():
            batch = camera.getNextEventBatch()
            if batch is None:
                time.sleep(IDLE_SECONDS / 10)
                yield None
            else:
                events = batch.numpy()
                yield as_array(events["timestamp"], events["x"], events["y"], events["polarity"])

    width, height = camera.getEventResolution()
    return EventSource(chunks(), (width, height), waits=False)
