"""Print what counting costs: the time of `energy_report` over that of a plain forward, for models of the zoo.

    python scripts/energy_cost.py [MODEL...] [--untrained]

Models have their published weights where there are some, and are shown the recording that the tests replay, as often as
the batch is large. Untrained ones get random frames with events in one cell of twenty; they fire hardly at all, which
makes the forward look its fastest.

In processor seconds of one thread, which other work on the machine touches little; forward and report run in turn, and
the fastest of each counts. The forward is measured by plain PyTorch as well, after them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import rsnn
from rsnn.models import EventClassifier

REPLAYS = Path(__file__).parent.parent / "tests" / "zoo" / "replays"


def recorded(replay: Path, batch: int) -> Tensor:
    """Return the frames (T, N, 2, H, W) of a replay, the same for all samples."""
    with np.load(replay) as archive:
        return torch.from_numpy(archive["frames"]).float().expand(-1, batch, -1, -1, -1).contiguous()


def random(model: EventClassifier, batch: int) -> Tensor:
    size = model.preprocessing.frame_size
    return (torch.rand(model.preprocessing.num_frames, batch, 2, *size) < 0.05).float()


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["rsnn-nmnist-cl", "rsnn-gesture-cl", "rsnn-gesture-cla", "scnn-gesture", "convlstm-gesture-cl-sum"]
    parser.add_argument("models", nargs="*", default=default)
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | forward | forward, plain PyTorch | counted | ratio to the forward | to plain PyTorch |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        replay = next(REPLAYS.glob(f"{name}.*.npz"), None)
        trained = replay is not None and not options.untrained
        model = rsnn.create_model(name, pretrained=trained).eval()
        frames = recorded(replay, options.batch) if trained else random(model, options.batch)
        fused, counted = [], []
        with torch.no_grad():
            model(frames)
            for _ in range(options.repeats):  # plain PyTorch between them would empty the caches for the second
                fused.append(seconds(lambda model=model, frames=frames: model(frames)))
                counted.append(seconds(lambda model=model, frames=frames: rsnn.energy_report(model, frames)))
            with rsnn.kernels.use("torch"):
                plain = [seconds(lambda model=model, frames=frames: model(frames)) for _ in range(options.repeats)]
        forward, torch_forward, report = (min(times) for times in (fused, plain, counted))
        cells = [f"{time_:.3f} s" for time_ in (forward, torch_forward, report)]
        cells += [f"{report / forward:.2f}", f"{report / torch_forward:.2f}"]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    print(f"\nBatches of {options.batch}, one thread, processor seconds, the fastest of {options.repeats}.")


if __name__ == "__main__":
    main()
