"""Compare simulated gestures with real DVS128 Gesture clips: a table, and contact sheets to look at.

    python scripts/compare_gestures.py --real dvsgesture_clips.npz --clips 220 --sheets folder

Every figure is of the first 1.45 s (the length of the real clips), cut into 20 frames; of
simulated clips the 5th and 95th percentile are printed, and the median in brackets:

    event rate      events a second
    ON share        of all events
    spread          standard deviation of x and y over the events, pixels
    count 50/90/99  percentiles of the counts that are not zero, per pixel, polarity and frame
    active          share of the pixels with at least one event
    background      events per pixel and second in the quietest quarter of the 8 x 8 pixel blocks,
    uneven          and the standard deviation of log10 of the block rates
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from real_clips import named_clips

from rsnn.data import Events, to_frames
from rsnn.data.simulate import SimulatedGestures

SPAN_US = 1_450_000
T = 20
COLUMNS = (
    "event rate",
    "ON share",
    "spread x",
    "spread y",
    "count 50",
    "count 90",
    "count 99",
    "active",
    "background",
    "uneven",
)


def frames_of(events: Events) -> np.ndarray:
    start = int(events.t[0]) if len(events) else 0
    return to_frames(events.between(start, start + SPAN_US), T, span_us=(start, start + SPAN_US))


def figures(events: Events) -> list[float]:
    """Return one number a column."""
    frames = frames_of(events)
    per_pixel = frames.sum((0, 1), dtype=np.int64)
    total = max(per_pixel.sum(), 1)
    share_x, share_y = per_pixel.sum(0) / total, per_pixel.sum(1) / total
    place = np.arange(128)
    spread = [float(np.sqrt((share * (place - (share * place).sum()) ** 2).sum())) for share in (share_x, share_y)]
    counts = frames[frames > 0] if frames.any() else np.zeros(1)
    seconds = SPAN_US * 1e-6
    blocks = per_pixel.reshape(16, 8, 16, 8).mean((1, 3)).ravel() / seconds
    quiet = np.sort(blocks)[: blocks.size // 4]
    return [
        total / seconds,
        float(frames[:, 1].sum() / total),
        *spread,
        *np.percentile(counts, [50, 90, 99]).tolist(),
        float((per_pixel > 0).mean()),
        float(quiet.mean()),
        float(np.std(np.log10(blocks + 0.02))),
    ]


def picture(events: Events, every: int = 3) -> np.ndarray:
    """Return every third frame side by side: red darker, green brighter, white both."""
    tiles = []
    for frame in frames_of(events)[::every].astype(float):
        off, on = np.clip(np.log1p(frame) / np.log(12), 0, 1)
        tile = 20 + 235 * np.stack([off, on, np.minimum(off, on)], axis=-1)
        tiles.append(np.pad(tile, ((0, 2), (0, 2), (0, 0)), constant_values=90))
    return np.hstack(tiles).astype(np.uint8)


def save_sheet(rows: Sequence[np.ndarray], path: Path) -> None:
    sheet = Image.fromarray(np.vstack(rows))
    sheet.resize((sheet.width * 3 // 2, sheet.height * 3 // 2), Image.Resampling.NEAREST).save(path)


def simulated(job: tuple[int, int, int]) -> tuple[int, list[float], np.ndarray]:
    clips, seed, index = job
    events, label = SimulatedGestures(clips, seed, split="validation", duration_s=(1.45, 1.45))[index]
    return label, figures(events), picture(events)


def line(name: str, values: Sequence[str]) -> str:
    return f"| {' | '.join([name, *values])} |"


def show(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="archive of real clips, 128 x 128 pixels")
    parser.add_argument("--clips", type=int, default=220, help="simulated ones, of the classes in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets (PNG)")
    arguments = parser.parse_args()
    names = SimulatedGestures.class_names
    if arguments.clips < len(names):
        parser.error(f"--clips is {arguments.clips}; expected at least one of each class, {len(names)}")
    real: dict[int, list[tuple[list[float], np.ndarray]]] = {}
    if arguments.real:
        for name, events in named_clips(arguments.real):
            real.setdefault(names.index(name), []).append((figures(events), picture(events)))
    with Pool(arguments.jobs) as pool:
        jobs = [(arguments.clips, arguments.seed, index) for index in range(arguments.clips)]
        made = pool.map(simulated, jobs, chunksize=4)

    print(line("", COLUMNS))
    print("|---|" + "---:|" * len(COLUMNS))
    for label, clips in sorted(real.items()):
        for values, _ in clips:
            print(line(f"real {names[label]}", [show(value) for value in values]))

    def spread_of(kept: list[list[float]]) -> list[str]:
        low, middle, high = np.percentile(kept, [5, 50, 95], axis=0)
        return [f"{show(a)} \N{EN DASH} {show(b)} ({show(m)})" for a, m, b in zip(low, middle, high, strict=True)]

    for label, name in enumerate(names):
        kept = [values for this, values, _ in made if this == label]
        print(line(f"simulated {name}", spread_of(kept)))
    print(line("simulated, all", spread_of([values for _, values, _ in made])))
    outside = []
    for label, clips in sorted(real.items()):
        low, high = np.percentile([values for this, values, _ in made if this == label], [5, 95], axis=0)
        for values, _ in clips:
            outside += [
                f"{names[label]}: {COLUMNS[k]} {show(values[k])} (simulated {show(low[k])} to {show(high[k])})"
                for k in range(len(COLUMNS))
                if not low[k] <= values[k] <= high[k]
            ]
    print("\nReal figures outside their class's 5th to 95th percentile:", *(outside or ["none"]), sep="\n- ")
    if arguments.sheets:
        arguments.sheets.mkdir(parents=True, exist_ok=True)
        for label, name in enumerate(names):
            rows = [image for _, image in real.get(label, [])] + [image for this, _, image in made if this == label][:6]
            save_sheet(rows, arguments.sheets / f"{name}.png")


if __name__ == "__main__":
    main()
