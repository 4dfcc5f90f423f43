"""Other people's decoders and frame makers, and slow loops of our own, to compare with."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import struct
import sys
import types
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from rsnn.data import Events


@functools.cache
def spikingjelly_utils() -> Any:
    """Import `spikingjelly.datasets.utils` alone: its package drags in torchaudio, itself torchvision."""
    spec = importlib.util.find_spec("spikingjelly")
    assert spec is not None
    assert spec.submodule_search_locations
    package = types.ModuleType("spikingjelly.datasets")
    package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "datasets")]
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = types.ModuleType("torchvision.transforms")
    stubs = {"spikingjelly.datasets": package, "torchvision": torchvision}
    with mock.patch.dict(sys.modules, stubs):
        return importlib.import_module("spikingjelly.datasets.utils")


@functools.cache
def spikingjelly_cifar10dvs() -> Any:
    """Import SpikingJelly's loader of AEDAT 2.0, with all that its package wants."""
    return importlib.import_module("spikingjelly.datasets.cifar10_dvs")


def slow_aedat31(path: Path) -> list[tuple[int, int, int, int]]:
    data = path.read_bytes()
    place = data.index(b"#!END-HEADER\r\n") + len(b"#!END-HEADER\r\n")
    events = []
    while place < len(data):
        kind, _, size, time_at, overflow, capacity, number, _ = struct.unpack_from("<HHIIIIII", data, place)
        for index in range(number if kind == 1 else 0):
            word, t = struct.unpack_from("<II", data, place + 28 + index * size)
            assert time_at == 4
            if word & 1:
                events.append((t + (overflow << 31), word >> 17, word >> 2 & 0x7FFF, word >> 1 & 1))
        place += 28 + size * capacity
    return events


def slow_aedat20(path: Path) -> list[tuple[int, int, int, int]]:
    lines = path.read_bytes().split(b"\n")
    header = 0
    while lines[header].startswith(b"#"):
        header += 1
    body = b"\n".join(lines[header:])
    pairs = struct.iter_unpack(">II", body)
    return [(t, address >> 1 & 127, address >> 8 & 127, 1 - (address & 1)) for address, t in pairs]


def slow_frames(
    events: Events, T: int, split_by: str, size: tuple[int, int], span_us: tuple[int, int] | None = None
) -> np.ndarray:
    """One event at a time, in exact arithmetic."""
    width, height = events.sensor_size
    H, W = size
    frames = np.zeros((T, 2, H, W), dtype=np.int64)
    n = len(events)
    for index in range(n):
        first, last = span_us or (int(events.t[0]), int(events.t[-1]))
        if split_by == "number":
            k = min(index // (n // T), T - 1) if n >= T else T - 1
        else:
            k = min((int(events.t[index]) - first) * T // (last - first), T - 1) if last > first else 0
        y, x = int(events.y[index]), int(events.x[index])
        frames[k, int(events.p[index]), y * H // height, x * W // width] += 1
    return frames


def slow_crop(events: Events, size: tuple[int, int]) -> Events:
    """One event at a time: those in the largest centred rectangle of the shape `size`, a half rounded to even."""
    width, height = events.sensor_size
    scale = min(Fraction(height, size[0]), Fraction(width, size[1]))
    crop_height, crop_width = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    rows = [
        (t, x - left, y - top, p)
        for t, x, y, p in events.to_structured().tolist()
        if left <= x < left + crop_width and top <= y < top + crop_height
    ]
    t, x, y, p = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Events(t=t, x=x, y=y, p=p, sensor_size=(crop_width, crop_height))


def same_rows(events: Events, rows: list[tuple[int, int, int, int]]) -> bool:
    return np.array_equal(np.array(events.to_structured().tolist()), np.array(rows))


def slow_es(path: Path) -> list[tuple[int, int, int, int]]:
    data = path.read_bytes()
    events, t, place = [], 0, 20
    (height,) = struct.unpack_from("<H", data, 18)
    while place < len(data):
        first = data[place]
        if first >= 0xFE:
            t += 127 if first == 0xFF else 0
            place += 1
            continue
        t += first >> 1
        x, y = struct.unpack_from("<HH", data, place + 1)
        events.append((t, x, height - 1 - y, first & 1))
        place += 5
    return events


def slow_evt3(path: Path) -> list[tuple[int, int, int, int]]:
    """The state machine of the format's description, a word at a time; events without a time are left out."""
    data = path.read_bytes()
    body = data[data.index(b"% end\n") + 6 :]
    events = []
    high: int | None = None
    low = y = x = p = wraps = 0
    for (word,) in struct.iter_unpack("<H", body):
        kind, payload = word >> 12, word & 0xFFF
        t = None if high is None else (wraps << 12 | high) << 12 | low
        if kind == 0:
            y = payload & 0x7FF
        elif kind == 2:
            events.append((t, payload & 0x7FF, y, payload >> 11))
        elif kind == 3:
            x, p = payload & 0x7FF, payload >> 11
        elif kind in (4, 5):
            for bit in range(12 if kind == 4 else 8):
                if payload >> bit & 1:
                    events.append((t, x, y, p))
                x += 1
        elif kind == 6:
            low = payload
        elif kind == 8:
            wraps += high is not None and payload < high - 2048
            if payload != high:
                high, low = payload, 0
    return [event for event in events if event[0] is not None]
