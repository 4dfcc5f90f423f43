"""Print what counting costs: the time of `energy_report` over that of a plain forward, for models of the zoo.

    python scripts/energy_cost.py [MODEL...] [--untrained]

Models have their published weights where there are some; untrained ones fire hardly at all, which makes the forward
look its fastest. Frames are random, an event in one cell of twenty.

In processor seconds of one thread, which other work on the machine touches little; they run in turn, and the fastest of
each counts. The forward is measured twice: by the kernels that a CPU takes by default, and by plain PyTorch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import rsnn


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
        trained = name in rsnn.list_models(pretrained=True) and not options.untrained
        model = rsnn.create_model(name, pretrained=trained).eval()
        steps, size = model.preprocessing.num_frames, model.preprocessing.frame_size
        frames = (torch.rand(steps, options.batch, 2, *size) < 0.05).float()
        fused, plain, counted = [], [], []
        with torch.no_grad():
            model(frames)
            for _ in range(options.repeats):
                fused.append(seconds(lambda model=model, frames=frames: model(frames)))
                with rsnn.kernels.use("torch"):
                    plain.append(seconds(lambda model=model, frames=frames: model(frames)))
                counted.append(seconds(lambda model=model, frames=frames: rsnn.energy_report(model, frames)))
        forward, torch_forward, report = (min(times) for times in (fused, plain, counted))
        cells = [f"{time_:.3f} s" for time_ in (forward, torch_forward, report)]
        cells += [f"{report / forward:.2f}", f"{report / torch_forward:.2f}"]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    print(f"\nBatches of {options.batch}, one thread, processor seconds, the fastest of {options.repeats}.")


if __name__ == "__main__":
    main()
