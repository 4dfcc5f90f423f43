"""Print what single pixels do in recordings of a DVS128, real and simulated: the facts behind the "dvs128" preset.

    python scripts/single_pixels.py dvsgesture_clips.npz

For each clip, and for simulated gestures with the preset as it is:

    ON share                   of all events
    ON repeated                share of the ON events that their pixel sends again within 3 us,
    again                      probability that such a repeat is itself repeated,
    gap                        and the mean time between them
    OFF repeated               the same of OFF events
    OFF within 3 ms after ON   share of the ON events (repeats left out) that an OFF event of their pixel follows,
    median, sd of log          its delay, and the standard deviation of the delay's natural logarithm
    ON within 3 ms after OFF   the same with the polarities the other way round
    least gap                  the first percentile of the times between events of a pixel beyond 3 us
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from real_clips import named_clips

from rsnn.data import Events
from rsnn.data.simulate import PRESETS, SimulatedGestures

COLUMNS = (
    "ON share",
    "ON repeated",
    "again",
    "gap, µs",
    "OFF repeated",
    "OFF within 3 ms after ON",
    "median, µs",
    "sd of log",
    "ON within 3 ms after OFF",
    "least gap, µs",
)
AT_ONCE_US, SOON_US = 3, 3000


def figures(events: Events) -> list[float]:
    """Return one number a column."""
    pixel = events.y.astype(np.int64) * events.sensor_size[0] + events.x
    order = np.argsort(pixel, kind="stable")
    on, t = events.p[order] == 1, events.t[order]
    same, gap = np.diff(pixel[order]) == 0, np.diff(t)
    repeats = same & on[:-1] & on[1:] & (gap <= AT_ONCE_US)
    off_repeats = same & ~on[:-1] & ~on[1:] & (gap <= AT_ONCE_US)
    rebounds = same & on[:-1] & ~on[1:] & (gap < SOON_US)
    returns = same & ~on[:-1] & on[1:] & (gap < SOON_US)
    begun = int(np.count_nonzero(repeats & ~np.concatenate(([False], repeats[:-1]))))
    singles = max(int(np.count_nonzero(on)) - int(np.count_nonzero(repeats)), 1)
    offs = max(int(np.count_nonzero(~on)), 1)
    return [
        float(on.mean()),
        begun / singles,
        1 - begun / max(int(np.count_nonzero(repeats)), 1),
        float(gap[repeats].mean()) if repeats.any() else 0.0,
        float(np.count_nonzero(off_repeats)) / offs,
        float(np.count_nonzero(rebounds)) / singles,
        float(np.median(gap[rebounds])) if rebounds.any() else 0.0,
        float(np.log(gap[rebounds] + 0.5).std()) if rebounds.any() else 0.0,
        float(np.count_nonzero(returns)) / offs,
        float(np.percentile(gap[same & (gap > AT_ONCE_US)], 1)),
    ]


def show(value: float) -> str:
    return f"{value:.5f}" if 0 < value < 1e-4 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="real clips, 128 x 128 pixels")
    arguments = parser.parse_args()
    real = named_clips(arguments.archive)
    print("| clip | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    rows = [(f"real {name}", events) for name, events in real]
    clips = SimulatedGestures(11, split="validation", duration_s=(1.45, 1.45), parameters=PRESETS["dvs128"])
    names = [name for name, _ in real]
    rows += [(f"simulated {clips.class_names[i]}", clips[i][0]) for i in range(11) if clips.class_names[i] in names]
    for name, events in rows:
        print(f"| {name} | " + " | ".join(map(show, figures(events))) + " |")


if __name__ == "__main__":
    main()
