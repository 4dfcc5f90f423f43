"""Print what counting costs: the time of `energy_report` over that of a plain forward, for models of the zoo."""

import argparse
import time

import torch

import rsnn
from rsnn.energy import energy_report


def best(run, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["rsnn-gesture-cl", "rsnn-gesture-cla", "scnn-gesture"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.models:
        model = rsnn.create_model(name).eval()
        steps, size = model.preprocessing.num_frames, model.preprocessing.frame_size
        frames = (torch.rand(steps, options.batch, 2, *size) < 0.05).float()
        with torch.no_grad():
            model(frames)
            plain = best(lambda model=model, frames=frames: model(frames), options.repeats)
        counted = best(lambda model=model, frames=frames: energy_report(model, frames), options.repeats)
        print(f"{name}: forward {plain:.3f} s, counted {counted:.3f} s, ratio {counted / plain:.2f}")


if __name__ == "__main__":
    main()
