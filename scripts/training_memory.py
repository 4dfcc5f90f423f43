"""Peak memory and time of one training step on long recordings, with and without recomputed activations.

    python scripts/training_memory.py convlstm-gesture-cl-sum --steps 20 60 100 --chunk 5

Each measurement is a process of its own. The memory is what the step takes at its peak on top of what the process held
before it, the time that of the processor. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def measured(name: str, steps: int, chunk: int, batch: int, size: int) -> dict[str, float]:
    """Return seconds and megabytes of one forward and backward pass."""
    import torch

    import rsnn
    from rsnn.training import losses
    from rsnn.training.objective import Objective

    torch.manual_seed(0)
    model = rsnn.create_model(name, frame_size=(size, size), num_frames=steps).train()
    frames = torch.poisson(torch.full((steps, batch, 2, size, size), 0.05))
    objective = Objective(model, checkpoint_steps=chunk)
    # What the first step of a process loads is no part of the measurement.
    small = Objective(rsnn.create_model(name, frame_size=(64, 64), num_frames=steps).train(), checkpoint_steps=chunk)
    warm = torch.ones(steps, 1, 2, 64, 64)
    small(warm, losses.targets(torch.zeros(1, dtype=torch.long), model.num_classes))[0].backward()
    wanted = losses.targets(torch.zeros(batch, dtype=torch.long), model.num_classes)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = kilobytes("VmRSS"), time.process_time()
    loss, _ = objective(frames, wanted)
    loss.backward()
    seconds = time.process_time() - began
    return {"megabytes": (kilobytes("VmHWM") - before) / 1024, "seconds": seconds, "loss": loss.item()}


def kilobytes(name: str) -> int:
    """Return a figure of this process's memory, as /proc/self/status names it."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, nargs="+", default=(20, 60, 100))
    parser.add_argument("--chunk", type=int, default=5, help="loop.checkpoint_steps")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--one", type=int, nargs=2, metavar=("STEPS", "CHUNK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        steps, chunk = arguments.one
        print(json.dumps(measured(arguments.model, steps, chunk, arguments.batch, arguments.size)))
        return
    print(f"{arguments.model}, batch of {arguments.batch}, {arguments.size} x {arguments.size} pixels")
    print(f"| T | plain | recomputed, chunks of {arguments.chunk} | memory | time |\n|---|---|---|---|---|")
    for steps in arguments.steps:
        plain, chunked = (
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--one", str(steps), str(chunk)],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for chunk in (0, arguments.chunk)
        )  # fmt: skip
        print(
            f"| {steps} | {plain['megabytes']:.0f} MB | {chunked['megabytes']:.0f} MB "
            f"| x {chunked['megabytes'] / plain['megabytes']:.2f} | x {chunked['seconds'] / plain['seconds']:.2f} |"
        )


if __name__ == "__main__":
    main()
