"""Print how long a stream's prediction takes, and how many events a second it can take in.

    python scripts/stream_latency.py MODEL [--overlap 2] [--events-per-second 100000]

Latency is from the arrival of the last events of a step (a chunk of 1 ms) to the prediction, on made-up events spread
evenly over the sensor; the network's work does not depend on them. The time until a step is over is not in it: at the
end of each step the clock is told, as a live source does. Steps follow each other without a pause; with `--pause` the
process sleeps between them, as it does on a live source, and finds less of the weights in the processor's caches.
With `--modules` each step runs the model module by module, as it does where something watches it, instead of in one
native call.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

import rsnn
from rsnn.data import Events
from rsnn.models import EventClassifier
from rsnn.streaming import Slicer
from rsnn.streaming.sources import EventSource
from rsnn.streaming.watching import Watch


def chunk_of(events: int, size: tuple[int, int], start_us: int, seed: int) -> Events:
    """Return events of the millisecond from `start_us`."""
    generator = np.random.default_rng(seed)
    width, height = size
    return Events(
        t=start_us + np.sort(generator.integers(0, 1_000, events)),
        x=generator.integers(0, width, events),
        y=generator.integers(0, height, events),
        p=generator.integers(0, 2, events),
        sensor_size=size,
    )


def moved(events: Events, start_us: int) -> Events:
    """Return the same events in another millisecond."""
    t = events.t % 1_000 + start_us
    return Events(t=t, x=events.x, y=events.y, p=events.p, sensor_size=events.sensor_size)


def watched(model: EventClassifier, base: Events, seconds: int) -> list[float]:
    """Return the latencies of `rsnn watch` in milliseconds, on chunks of 1 ms in real time and steps of 20 ms."""

    def chunks() -> Iterator[Events]:
        began = time.perf_counter()
        for k in range(1_000 * seconds):
            time.sleep(max(0.0, began + k / 1_000 - time.perf_counter()))
            yield moved(base, 1_000 * k)

    stream = model.stream(window_us=20_000 * model.preprocessing.num_frames)
    sys.setswitchinterval(0.0005)  # as `rsnn watch` does
    return [seen.latency_ms for seen in Watch(stream, EventSource(chunks(), base.sensor_size, waits=False))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="zoo name (untrained where there are no weights: the time is the same)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--overlap", type=int, default=1)
    parser.add_argument("--events-per-second", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds between two steps")
    parser.add_argument("--modules", action="store_true", help="run the model module by module")
    parser.add_argument("--table", action="store_true", help="print the latency as a table, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trained = options.model in rsnn.list_models(pretrained=True) or options.model not in rsnn.list_models()
    model = rsnn.load(options.model) if trained else rsnn.create_model(options.model).eval()
    if options.modules:
        model.encoder.register_forward_hook(lambda *_: None)
    height, width = model.preprocessing.frame_size
    base = chunk_of(options.events_per_second // 1_000, (width, height), 0, seed=0)

    step_us = 5_000
    window_us = step_us * model.preprocessing.num_frames
    stream = model.stream(window_us=window_us, overlap=options.overlap)
    gc.collect()
    gc.freeze()  # as `rsnn watch` does
    took, used = [], []
    for step in range(options.steps):
        for part in range(step_us // 1_000 - 1):
            stream.push(moved(base, step * step_us + 1_000 * part))
        last = moved(base, (step + 1) * step_us - 1_000)
        time.sleep(options.pause / 1e3)
        began, processor = time.perf_counter(), time.process_time()
        predictions = stream.push(last) + stream.advance_to(stream.slicer.end_us(step))
        took.append(time.perf_counter() - began)
        used.append(time.process_time() - processor)
        assert len(predictions) == 1
    # The first ones find nothing in any cache.
    took_ms, used_ms = 1e3 * np.array(took[20:]), 1e3 * np.array(used[20:])
    if options.table:
        times = (*np.percentile(took_ms, (50, 99)), *np.percentile(used_ms, (50, 99)))
        cells = [f"`{options.model}`", f"{options.threads}", f"{options.overlap}", f"{options.pause:g} ms"]
        cells += [f"{time_:.1f} ms" for time_ in times] + [f"{os.getloadavg()[0]:.1f}"]
        print("| model | threads | overlap | pause | median | 99th percentile | processor time: median | 99th | load |")
        print("|---|---|---|---|---|---|---|---|---|")
        print(f"| {' | '.join(cells)} |")
        return
    print(f"{options.model}, overlap {options.overlap}, {options.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    print(
        f"latency: median {np.median(took_ms):.2f} ms, 99th percentile {np.percentile(took_ms, 99):.2f} ms, "
        f"largest {took_ms.max():.2f} ms ({len(took_ms)} steps); processor time: median {np.median(used_ms):.2f} ms"
    )
    live = watched(model, base, seconds=8)[20:]
    median, tail = np.percentile(live, (50, 99))
    print(f"as rsnn watch, in real time: median {median:.2f} ms, 99th percentile {tail:.2f} ms")

    dense = chunk_of(10_000, (width, height), 0, seed=1)
    slicer = Slicer(model.preprocessing, stream.timing)
    chunks = [moved(dense, 1_000 * k) for k in range(500)]
    began = time.perf_counter()
    for chunk in chunks:
        for _ in slicer.add(chunk):
            pass
    rate = len(chunks) * len(dense) / (time.perf_counter() - began)
    print(f"cutting events into steps: {rate / 1e6:.0f} million events/s in chunks of {len(dense)}")


if __name__ == "__main__":
    main()
