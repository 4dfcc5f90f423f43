"""Measure the memory in which `rsnn.iter_events` reads a recording of a gigabyte, for each format that has blocks.

    python scripts/stream_memory.py [--gigabytes 1] [--formats .raw .aedat ...]

Each file is written a piece at a time, then read in windows of 10 ms by a process of its own, which prints the most
memory it ever held, before it read and after; the difference is what reading took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data import Events, write_events

BYTES_AN_EVENT = {".raw": 4.1, ".dat": 8, ".aedat": 8, ".es": 5, ".bin": 5, ".csv": 20, ".h5": 7, ".npz": 13}
SENSORS = {".raw": (1280, 720), ".dat": (1280, 720), ".es": (1280, 720), ".bin": (34, 34)}
PIECE = 1 << 18
RATE = 50  # events a microsecond are written: 50 million a second, what the fastest cameras send

READ = """
import pathlib, re, sys
import rsnn
def most():
    return re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]
before = most()
events = sum(len(window) for window in rsnn.iter_events(sys.argv[1], duration_us=10_000, sensor_size=eval(sys.argv[2])))
print(events, before, most())
"""


def pieces(total: int, sensor: tuple[int, int]) -> Iterator[Events]:
    """Yield `total` events in pieces, one random piece again and again at later times."""
    rng = np.random.default_rng(0)
    x, y, p = (rng.integers(0, limit, PIECE) for limit in (*sensor, 2))
    t = np.sort(rng.integers(0, PIECE // RATE, PIECE))
    for start in range(0, total, PIECE):
        yield Events(t=t + start // RATE, x=x, y=y, p=p, sensor_size=sensor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--formats", nargs="*", default=list(BYTES_AN_EVENT))
    parser.add_argument("--folder", type=Path, help="for the files; by default that for temporary ones")
    options = parser.parse_args()
    print(f"{'':8}{'file':>9}{'events':>15}{'before':>9}{'most':>9}{'reading':>9}{'seconds':>9}")
    for suffix in options.formats:
        sensor = SENSORS.get(suffix, (128, 128))
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / f"long{suffix}"
            write_events(path, pieces(int(options.gigabytes * 1e9 / BYTES_AN_EVENT[suffix]), sensor))
            began = time.perf_counter()
            said = subprocess.run(
                [sys.executable, "-c", READ, path, repr(sensor)], check=True, capture_output=True, text=True
            ).stdout.split()
            events, before, after = map(int, said)
            print(
                f"{suffix:8}{path.stat().st_size / 1e6:7.0f}MB{events:15,}{before / 1e3:7.0f}MB{after / 1e3:7.0f}MB"
                f"{(after - before) / 1e3:7.0f}MB{time.perf_counter() - began:9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
