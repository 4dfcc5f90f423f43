"""Print how fast the event-camera simulator is on one core.

python scripts/bench_simulate.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from rsnn.data.simulate import PRESETS, to_events


def moving_texture(side: int, frames: int, step_us: int, dtype: str):
    """Yield a smooth random texture drifting by 0.25 pixels a frame over a third of the image."""
    rng = np.random.default_rng(0)
    coarse = rng.random((side // 8 + 2, (side + frames // 4) // 8 + 2))
    columns = np.arange(side + frames // 4 + 1) / 8
    left = columns.astype(int)
    wide = coarse[:, left] * (1 - columns % 1) + coarse[:, left + 1] * (columns % 1)
    wide = np.repeat(wide, 8, axis=0)[:side].astype(np.float32)
    scale, kind = (255, np.uint8) if dtype == "uint8" else (1, np.float32)
    made = []
    still = wide[:, :side].copy()
    for number in range(frames):
        whole, part = divmod(number / 4, 1)
        image = still.copy()
        piece = wide[: side // 3, int(whole) : int(whole) + side + 1]
        image[: side // 3] = piece[:, :-1] * (1 - part) + piece[:, 1:] * part
        made.append(((image * scale).astype(kind), number * step_us))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    for dtype in ("uint8", "float32"):
        frames = moving_texture(arguments.side, arguments.frames, 4000, dtype)
        for name, parameters in PRESETS.items():
            best = float("inf")
            for _ in range(arguments.repeat):
                start = time.process_time()
                events = to_events(frames, parameters)
                best = min(best, time.process_time() - start)
            pixels = arguments.side**2 * arguments.frames
            rate = len(events) / (frames[-1][1] * 1e-6)
            print(
                f"{dtype:8} {name:7} {pixels / best / 1e6:6.0f} M pixels/s, {len(events) / best / 1e6:5.1f} M events/s "
                f"({rate:,.0f} events in a second of recording)"
            )


if __name__ == "__main__":
    main()
