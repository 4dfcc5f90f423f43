"""Print how fast the event-camera simulator is on one core.

    python scripts/bench_simulate.py

The film is a smooth random texture, a part of which drifts by a quarter of a pixel a frame. Times are of the processor,
the least of several runs; beside them stands the time for the logarithm of as many float32 pixels, measured in turn,
since both suffer alike when other programs use the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from rsnn.data.simulate import PRESETS, to_events

Film = list[tuple[np.ndarray, int]]


def moving_texture(side: int, frames: int, step_us: int, dtype: str, share: float = 1 / 3) -> Film:
    """Return a film of side x side pixels, of which the upper rows, `share` of all, drift."""
    rng = np.random.default_rng(0)
    coarse = rng.random((side // 8 + 2, (side + frames // 4) // 8 + 2))
    columns = np.arange(side + frames // 4 + 1) / 8
    left = columns.astype(int)
    wide = coarse[:, left] * (1 - columns % 1) + coarse[:, left + 1] * (columns % 1)
    wide = np.repeat(wide, 8, axis=0)[:side].astype(np.float32)
    scale, kind = (255, np.uint8) if dtype == "uint8" else (1, np.float32)
    rows = round(side * share)
    made = []
    still = wide[:, :side].copy()
    for number in range(frames):
        whole, part = divmod(number / 4, 1)
        image = still.copy()
        piece = wide[:rows, int(whole) : int(whole) + side + 1]
        image[:rows] = piece[:, :-1] * (1 - part) + piece[:, 1:] * part
        made.append(((image * scale).astype(kind), number * step_us))
    return made


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--step-us", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    pixels = arguments.side**2 * arguments.frames
    print("moving  input    preset   M pixels/s  / np.log  M events/s  events a second of film")
    for share in (1 / 3, 1 / 16):
        for dtype in ("uint8", "float32"):
            film = moving_texture(arguments.side, arguments.frames, arguments.step_us, dtype, share)
            image = np.full(arguments.side**2, 0.5, dtype=np.float32)
            for name in PRESETS:
                best = logarithms = float("inf")
                for _ in range(arguments.repeat):
                    best = min(best, seconds(lambda film=film, name=name: to_events(film, name)))
                    logarithms = min(
                        logarithms, seconds(lambda image=image: [np.log(image) for _ in range(arguments.frames)])
                    )
                number = len(to_events(film, name))
                print(
                    f"{share:6.1%}  {dtype:8} {name:7} {pixels / best / 1e6:11.0f}  {best / logarithms:8.1f}  "
                    f"{number / best / 1e6:10.1f}  {number / (film[-1][1] * 1e-6):,.0f}"
                )


if __name__ == "__main__":
    main()
