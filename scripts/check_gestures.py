"""Measure a gesture model where its training did not look: real clips, and simulated ones that something was done to.

    python scripts/check_gestures.py MODEL --real dvsgesture_clips.npz --samples 440 [--json checks.json]

Real clips (an archive of 128 x 128 pixels whose class names are those of the gestures) are classified as they are, in
the mirror (with the class that this makes of them), and in random windows of one second. Simulated clips are those of
`SimulatedGestures(samples, seed=0, split="test")`, as they are and

    polarity_swapped   with ON and OFF exchanged
    half_rate          with every other event left out at random
    double_rate        with every event twice
    shifted            moved by 16 pixels left, right, up or down, what leaves the sensor is lost
    later_start        without their first third

`--keep FILE` keeps the simulated clips in an archive and takes them from there the next time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from real_clips import named_clips
from rich.progress import track

import rsnn
from rsnn.data import EventArchive, Events
from rsnn.data.simulate import SimulatedGestures

NAMES = SimulatedGestures.class_names
MIRRORED = {name: name.replace("left", "*").replace("right", "left").replace("*", "right") for name in NAMES}
for turn in ("cw", "ccw"):
    for side in ("left", "right"):
        other_side, other_turn = {"left": "right", "right": "left"}[side], {"cw": "ccw", "ccw": "cw"}[turn]
        MIRRORED[f"{side}_arm_{turn}"] = f"{other_side}_arm_{other_turn}"
WINDOWS, WINDOW_US = 25, 1_000_000


def chosen(events: Events, kept: np.ndarray, *, dx: int = 0, dy: int = 0) -> Events:
    """Return these events, by mask or by place, moved by (dx, dy) pixels and cut at the sensor's edges."""
    t, x, y, p = (getattr(events, name)[kept] for name in "txyp")
    x, y = x.astype(np.int64) + dx, y.astype(np.int64) + dy
    inside = (x >= 0) & (x < events.sensor_size[0]) & (y >= 0) & (y < events.sensor_size[1])
    x, y = x[inside].astype(np.uint16), y[inside].astype(np.uint16)
    return Events(t=t[inside], x=x, y=y, p=p[inside], sensor_size=events.sensor_size)


def mirrored(events: Events) -> Events:
    x = (events.sensor_size[0] - 1 - events.x).astype(events.x.dtype)
    return Events(t=events.t, x=x, y=events.y, p=events.p, sensor_size=events.sensor_size)


def shifted(events: Events, rng: np.random.Generator) -> Events:
    dx, dy = ((16, 0), (-16, 0), (0, 16), (0, -16))[rng.integers(4)]
    return chosen(events, np.arange(len(events)), dx=dx, dy=dy)


CHANGES: dict[str, Callable[[Events, np.random.Generator], Events]] = {
    "as_they_are": lambda events, _: events,
    "polarity_swapped": lambda events, _: Events(
        t=events.t, x=events.x, y=events.y, p=1 - events.p, sensor_size=events.sensor_size
    ),
    "half_rate": lambda events, rng: chosen(events, rng.random(len(events)) < 0.5),
    "double_rate": lambda events, _: chosen(events, np.repeat(np.arange(len(events)), 2)),
    "shifted": shifted,
    "later_start": lambda events, _: chosen(events, events.t >= events.t[0] + events.duration_us // 3),
}


def real_clips(path: Path) -> Iterator[tuple[str, Events, str]]:
    """Yield (kind, events, class name): whole clips and random windows, each also in the mirror."""
    rng = np.random.default_rng(0)
    for name, events in named_clips(path):
        cuts = [("clips", events)]
        for _ in range(WINDOWS):
            start = int(events.t[0]) + int(rng.integers(max(events.duration_us - WINDOW_US, 1)))
            cuts.append(("windows", events.between(start, start + WINDOW_US)))
        for kind, cut in cuts:
            yield kind, cut, name
            yield kind, mirrored(cut), MIRRORED[name]


def simulated_clips(number: int, file: Path | None) -> EventArchive | SimulatedGestures:
    """Return the simulated test clips, from `file` where that is given; it is written first where it is not there."""
    clips = SimulatedGestures(number, seed=0, split="test")
    if file is None or not number:
        return clips
    if not file.exists():
        with Pool() as pool:
            made = pool.imap(clips.__getitem__, range(number), chunksize=4)
            recordings = [events for events, _ in track(made, "simulating", number)]
        columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
        offsets = np.cumsum([0, *map(len, recordings)])
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as target:
            np.savez(target, **columns, offsets=offsets, label=clips.labels, class_names=NAMES)
        temporary.replace(file)
    return EventArchive(file, sensor_size=(128, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="zoo name, ./folder, or org/name on the Hub")
    parser.add_argument("--real", type=Path)
    parser.add_argument("--samples", type=int, default=440, help="simulated test clips; 0 for none")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    model = rsnn.load(arguments.model)
    if model.class_names != tuple(NAMES):
        parser.error(
            f"{arguments.model} knows {', '.join(model.class_names or ['no names'])}; expected {', '.join(NAMES)}"
        )
    clips = simulated_clips(arguments.samples, arguments.keep)
    if len(clips) < arguments.samples:
        parser.error(f"{arguments.keep} holds {len(clips)} clips, fewer than --samples {arguments.samples}; delete it")
    figures: dict[str, float] = {}
    if arguments.real:
        right: dict[str, list[bool]] = {}
        for kind, events, name in track(list(real_clips(arguments.real)), "real clips"):
            result = model.predict(events)
            right.setdefault(kind, []).append(result.label == name)
            if kind == "clips":
                print(f"real {name:16} -> {result.label:16} {result.probabilities[result.index]:.3f}")
        for kind, hits in right.items():
            figures[f"real_{kind}"] = len(hits)
            figures[f"real_{kind}_accuracy"] = float(np.mean(hits))
    labels = clips.labels
    hits = dict.fromkeys(CHANGES, 0)
    for index in track(range(arguments.samples), "simulated clips"):
        events, label = clips.events(index), int(labels[index])
        for change, function in CHANGES.items():
            changed = function(events, np.random.default_rng((index, 1)))
            hits[change] += model.predict(changed).index == label
    if arguments.samples:
        figures |= {f"{change}_accuracy": right_ones / arguments.samples for change, right_ones in hits.items()}
    for name, value in figures.items():
        print(f"{name:28} {value:.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
