"""Small models with each kind of state, and events made from a seed."""

from __future__ import annotations

import numpy as np
import torch

import rsnn
from rsnn import nn

T = 6
SIZE = (12, 10)  # height, width


def small_model(top: str = "spiking", num_frames: int = T, **preprocessing) -> rsnn.RSNN:
    """Untrained, with weights large enough that spikes occur."""
    torch.manual_seed(7)
    bottom = nn.FramePool(2, pool=2)
    if top != "frames":
        bottom = nn.ConvLSTMEncoder(2, (3, 4), pool=2, attention=top == "attention")
    in_size = bottom.output_size(SIZE)
    channels = bottom.out_channels
    reductions = {"last": nn.LastFrame(), "mean": nn.MeanFrames(), "concat": nn.ConcatFrames(num_frames)}
    if top in reductions:
        reduced = reductions[top].out_channels(channels)
        classifier = nn.ConvClassifier(reduced, 5, in_size, channels=(8,), pools=(1,), votes=2)
        head = nn.DecisionHead(reductions[top], classifier, channels)
    elif top == "lstm":
        head = nn.LSTMHead(channels, 5, in_size, votes=2)
    else:
        head = nn.SCNN(channels, 5, in_size, pools=(1,), channels=8, votes=4)
    spiking = top in ("spiking", "frames", "attention")
    with torch.no_grad():
        for weight in bottom.parameters():
            weight.mul_(2.0)
        for weight in head.parameters():
            weight.mul_(12.0 if spiking else 3.0)
    kind = rsnn.RSNN if spiking else rsnn.ConvLSTMClassifier
    settings = {"frame_size": SIZE, "num_frames": num_frames, **preprocessing}
    return kind(bottom, head, preprocessing=rsnn.Preprocessing(**settings), logit_scale=5.0).eval()


TOPS = ("spiking", "frames", "attention", "last", "mean", "concat", "lstm")


def random_events(n: int, until_us: int, *, start_us: int = 1_000, seed: int = 0, sensor_size=(10, 12)) -> rsnn.Events:
    """`n` events, the first of them at `start_us`, all before `until_us`."""
    generator = np.random.default_rng(seed)
    width, height = sensor_size
    t = np.sort(generator.integers(start_us, until_us, n))
    t[0] = start_us
    columns = {"x": width, "y": height, "p": 2}
    return rsnn.Events(
        t=t, **{name: generator.integers(0, high, n) for name, high in columns.items()}, sensor_size=sensor_size
    )


def flat(outputs) -> list[tuple[int, list[float]]]:
    """Times and probabilities as plain numbers, to compare exactly."""
    return [(t_us, prediction.probabilities.tolist()) for t_us, prediction in outputs]
