"""Compare what feeds training with frames: ours, SpikingJelly's npz files, tonic's disk cache, and no cache at all.

    python scripts/bench_caches.py [--recordings 128] [--rounds 5]

Synthetic recordings of DVS128 Gesture's size (128 x 128 pixels, 300,000 events, 20 frames) are written once; each way
then makes its cache, and is read in turn, in batches of 16 by one `DataLoader` in this process. Prints the seconds to
make each cache, its size, the samples a second of the clock and of the processor's time (the medians of the rounds; the
second does not depend on what else the machine does), and how many times as fast ours is.
SpikingJelly's files are written and read as its version 2.0 does by default: compressed float64, made float32 when
loaded (its own functions would bring torchvision along). tonic's part is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from rsnn.data import EventFolder, Events, FrameCache, to_frames, write_events

SENSOR = (128, 128)
EVENTS = 300_000
FRAMES = 20
BATCH = 16


def write_recordings(folder: Path, number: int) -> None:
    """Write recordings of blobs that move: most pixels of a frame are empty, as in real ones."""
    rng = np.random.default_rng(0)
    for index in range(number):
        t = np.sort(rng.integers(0, 6_000_000, EVENTS))
        angle = 2 * np.pi * t / 1_500_000 + rng.uniform(0, 6)
        x = np.clip(64 + 30 * np.cos(angle) + rng.normal(0, 6, EVENTS), 0, 127).astype(int)
        y = np.clip(64 + 30 * np.sin(angle) + rng.normal(0, 6, EVENTS), 0, 127).astype(int)
        events = Events(t=t, x=x, y=y, p=rng.integers(0, 2, EVENTS), sensor_size=SENSOR)
        write_events(folder / str(index % 4) / f"{index}.npz", events)


class WithoutCache:
    """Frames made of the events whenever they are needed."""

    def __init__(self, dataset: EventFolder) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        events, label = self.dataset[index]
        return torch.from_numpy(to_frames(events, FRAMES, "number").astype(np.uint8)), label


class SpikingJellyFiles:
    """A `.npz` a recording, as SpikingJelly keeps frames."""

    def __init__(self, dataset: EventFolder, folder: Path) -> None:
        folder.mkdir()
        self.labels = dataset.labels
        self.files = [folder / f"{index}.npz" for index in range(len(dataset))]
        for index, file in enumerate(self.files):
            events = dataset.events(index)
            np.savez_compressed(file, frames=to_frames(events, FRAMES, "number").astype(np.float64))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with np.load(self.files[index]) as arrays:
            return torch.from_numpy(arrays["frames"].astype(np.float32)), int(self.labels[index])


def tonic_cache(dataset: EventFolder, folder: Path) -> Any:
    """Return tonic's `DiskCachedDataset` over its own frames of the same events."""
    import tonic

    to_tonic = tonic.transforms.ToFrame(sensor_size=(*SENSOR, 2), n_event_bins=FRAMES)

    class Frames:
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            events, label = dataset[index]
            return to_tonic(events.to_structured()), label

    cached = tonic.DiskCachedDataset(Frames(), cache_path=str(folder))
    for index in range(len(dataset)):
        cached[index]
    return cached


def rates_of(dataset: Any) -> tuple[float, float]:
    """Return samples a second of the clock and of the processor's time, of one pass in random order."""
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True)
    began, worked = time.perf_counter(), time.process_time()
    seen = sum(len(labels) for _, labels in loader)
    return seen / (time.perf_counter() - began), seen / (time.process_time() - worked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as in the worker processes of a DataLoader
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_recordings(root / "data", options.recordings)
        dataset = EventFolder(root / "data")
        ways: dict[str, Callable[[], Any]] = {
            "rsnn.data.FrameCache": lambda: FrameCache(dataset, FRAMES, "number", root=root / "ours", workers=0),
            "SpikingJelly's npz files": lambda: SpikingJellyFiles(dataset, root / "spikingjelly"),
            "tonic.DiskCachedDataset": lambda: tonic_cache(dataset, root / "tonic"),
            "events, no cache": lambda: WithoutCache(dataset),
        }
        made, seconds = {}, {}
        for name, make in ways.items():
            worked = time.process_time()
            try:
                made[name] = make()
            except ImportError as error:
                print(f"{name}: left out ({error})")
                continue
            seconds[name] = time.process_time() - worked
        sizes = dict(
            zip(ways, (*map(bytes_below, (root / "ours", root / "spikingjelly", root / "tonic")), 0), strict=True)
        )
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
        for _ in range(options.rounds):  # in turn, so that what else the machine does falls on all alike
            for name, frames in made.items():
                rates[name].append(rates_of(frames))
        print(f"{options.recordings} recordings of {EVENTS:,} events, {FRAMES} frames of {SENSOR[0]} x {SENSOR[1]}")
        print(f"{'':26}{'made, CPU':>10}{'size':>8}{'samples/s':>20}{'samples/CPU s':>20}")
        medians = {name: [statistics.median(kind) for kind in zip(*rates[name], strict=True)] for name in made}
        ours = medians[next(iter(ways))]
        for name in made:
            figures = "".join(f"{one:9.0f} (x{base / one:6.1f})" for one, base in zip(medians[name], ours, strict=True))
            print(f"{name:26}{seconds[name]:8.1f} s{sizes[name] / 1e6:5.0f} MB {figures}")
        print("x: how many times as fast ours is")


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
