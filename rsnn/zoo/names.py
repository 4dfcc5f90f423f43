"""The zoo's names, and how each is built: only the numbers that differ from one to the next.

rsnn-<data>-<encoder>            encoder (cl, cla, cl-nopool) under the spiking CNN
convlstm-<data>-<encoder>-<head> encoder (cl, cla) under a decision head
scnn-<data>                      the spiking CNN alone
slayer-<data>, stbp-<data>, cnnsnn-<data>    the published networks it is compared with; of CIFAR10-DVS stbp alone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import prod
from typing import Any

from torch import nn as torch_nn

from rsnn import nn
from rsnn.errors import InputError
from rsnn.models import RSNN, SCNN, SLAYER, STBP, ConvLSTMClassifier, EventClassifier, Preprocessing
from rsnn.models.composition import check_class_names
from rsnn.nn.spiking_network import iterative_lif

# Rates of spiking outputs lie between 0 and 1: added over the ten voters instead of averaged they make usable logits.
RATE_SCALE = 10.0


@dataclass(frozen=True)
class Data:
    """What a network has to know of a data set.

    Attributes:
        class_names: its classes, in the order of the labels.
        frame_size: (height, width) of its sensor.
        pools: pooling of the spiking CNN's stages.
        head_channels, head_pools: of the decision heads' CNN.
        window_ms: usual duration of a recording, which a stream takes for its window.

    """

    class_names: tuple[str, ...]
    frame_size: tuple[int, int]
    pools: tuple[int, ...]
    head_channels: tuple[int, ...]
    head_pools: tuple[int, ...]
    window_ms: int


# The two networks of Table 1: three stages for gestures, four (two of them pooled) for CIFAR10-DVS. The two data sets
# that the paper does not have take the one that suits their size: N-MNIST's features are 8 x 8.
_THREE: dict[str, Any] = {"pools": (2, 2, 2), "head_channels": (64, 64, 32), "head_pools": (2, 2, 2)}
_FOUR: dict[str, Any] = {"pools": (2, 1, 2, 1), "head_channels": (64, 64, 32, 32), "head_pools": (2, 1, 2, 1)}

DATA = {
    "gesture": Data(
        class_names=(
            "hand_clap",
            "right_hand_wave",
            "left_hand_wave",
            "right_arm_cw",
            "right_arm_ccw",
            "left_arm_cw",
            "left_arm_ccw",
            "arm_roll",
            "air_drums",
            "air_guitar",
            "other_gestures",
        ),
        frame_size=(128, 128),
        window_ms=1500,  # a gesture repeats: a second or two of it are enough
        **_THREE,
    ),
    "cifar10dvs": Data(
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        frame_size=(128, 128),
        window_ms=1300,
        **_FOUR,
    ),
    "nmnist": Data(class_names=tuple("0123456789"), frame_size=(34, 34), window_ms=310, **_FOUR),
    "sign": Data(class_names=tuple(f"sign_{i}" for i in range(15)), frame_size=(128, 128), window_ms=4000, **_THREE),
}

ENCODERS: dict[str, dict[str, Any]] = {
    "cl": {"hidden_channels": (4, 6), "pool": 2},
    "cl-nopool": {"hidden_channels": (4, 6), "pool": 1},
    "cla": {"hidden_channels": (10,), "attention": True, "input_pool": 4, "pool": 1},
}

REDUCTIONS: dict[str, Callable[[int], torch_nn.Module]] = {
    "last": lambda _num_frames: nn.LastFrame(),
    "sum": lambda _num_frames: nn.SumFrames(),
    "mean": lambda _num_frames: nn.MeanFrames(),
    "concat": nn.ConcatFrames,
}


@dataclass(frozen=True)
class Settings:
    """What a user may change of a named model; None keeps the name's own value."""

    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    frame_size: tuple[int, int] | None = None
    num_frames: int | None = None
    in_channels: int = 2
    split_by: str = "time"
    normalize: str = "counts"
    clip_at: int | None = None
    max_step_ms: int | None = None

    def preprocessing(self, data: Data) -> Preprocessing:
        """Return the preprocessing for a model of `data`."""
        return Preprocessing(
            frame_size=data.frame_size if self.frame_size is None else self.frame_size,
            num_frames=20 if self.num_frames is None else self.num_frames,
            split_by=self.split_by,  # type: ignore[arg-type]
            normalize=self.normalize,  # type: ignore[arg-type]
            window_ms=data.window_ms,
            clip_at=self.clip_at,
            max_step_ms=self.max_step_ms,
        )

    def labels(self, data: Data) -> tuple[int, tuple[str, ...] | None]:
        """Return the number of classes and their names, None where another number was asked for without names."""
        given = check_class_names(self.class_names, None)
        names = data.class_names if given is None else given
        num_classes = len(names) if self.num_classes is None else self.num_classes
        return num_classes, names if given is not None or num_classes == len(names) else None


def features_size(
    bottom: nn.ConvLSTMEncoder | nn.FramePool, frame_size: tuple[int, int], pooled: int
) -> tuple[int, int]:
    """Return the (height, width) of an encoder's features, under layers that pool them by `pooled`.

    Raises:
        InputError: that leaves no pixel of such small frames.

    """
    size = bottom.output_size(frame_size)
    if min(size) < pooled:
        least = next(side for side in count(1) if min(bottom.output_size((side, side))) >= pooled)
        raise InputError(
            f"frame_size={frame_size}: pooling leaves no pixel of such frames; expected at least {least} on a side"
        )
    return size


def rsnn(data: Data, encoder: str, settings: Settings) -> RSNN:
    """Build encoder and spiking CNN."""
    preprocessing = settings.preprocessing(data)
    num_classes, class_names = settings.labels(data)
    bottom = nn.ConvLSTMEncoder(settings.in_channels, **ENCODERS[encoder])
    # Without pooling the features have the frames' size; like the stand-alone spiking CNN, it pools them by 4 first.
    in_pool = 4 if encoder == "cl-nopool" else 1
    top = nn.SCNN(
        bottom.out_channels,
        num_classes,
        features_size(bottom, preprocessing.frame_size, in_pool * prod(data.pools)),
        data.pools,
        in_pool=in_pool,
    )
    return RSNN(bottom, top, class_names=class_names, preprocessing=preprocessing, logit_scale=RATE_SCALE)


def convlstm(data: Data, encoder: str, head: str, settings: Settings) -> ConvLSTMClassifier:
    """Build encoder and decision head."""
    preprocessing = settings.preprocessing(data)
    num_classes, class_names = settings.labels(data)
    bottom = nn.ConvLSTMEncoder(settings.in_channels, **ENCODERS[encoder])
    size = features_size(bottom, preprocessing.frame_size, 1 if head == "lstm" else prod(data.head_pools))
    top: torch_nn.Module
    if head == "lstm":
        top = nn.LSTMHead(bottom.out_channels, num_classes, size)
    else:
        reduction = REDUCTIONS[head](preprocessing.num_frames)
        reduced = reduction.out_channels(bottom.out_channels)  # type: ignore[operator]
        classifier = nn.ConvClassifier(reduced, num_classes, size, data.head_channels, data.head_pools)
        top = nn.DecisionHead(reduction, classifier, bottom.out_channels)
    return ConvLSTMClassifier(bottom, top, class_names=class_names, preprocessing=preprocessing)


def scnn(data: Data, settings: Settings) -> SCNN:
    """Build the spiking CNN alone; frames as large as the paper's are pooled by 4 first."""
    preprocessing = settings.preprocessing(data)
    num_classes, class_names = settings.labels(data)
    bottom = nn.FramePool(settings.in_channels, pool=4 if data.frame_size == (128, 128) else 2)
    size = features_size(bottom, preprocessing.frame_size, prod(data.pools))
    top = nn.SCNN(settings.in_channels, num_classes, size, data.pools)
    return SCNN(bottom, top, class_names=class_names, preprocessing=preprocessing, logit_scale=RATE_SCALE)


@dataclass(frozen=True)
class Baseline:
    """What differs from one published network to the next; its class says where each number is from.

    Attributes:
        kind: class of the model.
        data: name of its data set.
        network: arguments of its [`SpikingNetwork`][rsnn.nn.SpikingNetwork].

    """

    kind: type[EventClassifier]
    data: str
    network: dict[str, Any]


STBP_NEURON = iterative_lif(decay=0.3, v_threshold=0.3, width=0.5)


def _slayer(data: str, *layers: str) -> Baseline:
    gains = {"conv_gain": 10.0, "linear_gain": 10.0}
    return Baseline(SLAYER, data, network={"layers": layers, "neuron": nn.SRM(), "bias": False, **gains})


def _stbp(data: str, *layers: str, **network: Any) -> Baseline:
    return Baseline(STBP, data, network={"layers": layers, "neuron": STBP_NEURON, **network})


_HE_CONVOLUTIONS = ("64C3", "128C3", "AP2", "128C3", "AP2", "256FC")

BASELINES = {
    **{
        name: published
        for data in ("gesture", "sign")
        for name, published in {
            f"slayer-{data}": _slayer(data, "SP4", "16C5", "SP2", "32C3", "SP2", "512FC"),
            f"stbp-{data}": _stbp(data, "MP4", "512FC"),
            f"cnnsnn-{data}": _stbp(data, "MP4", *_HE_CONVOLUTIONS, dropout=0.5),
        }.items()
    },
    "slayer-nmnist": _slayer("nmnist", "16C5", "SP2", "32C3", "SP2", "64C3"),
    "stbp-nmnist": _stbp("nmnist", "512FC"),
    "cnnsnn-nmnist": _stbp("nmnist", "MP2", *_HE_CONVOLUTIONS, dropout=0.5),
    "stbp-cifar10dvs": _stbp(
        "cifar10dvs",
        *("MP3", "128C3", "128C3", "AP2", "128C3", "AP2", "256C3", "AP2", "1024FC"),
        votes=10,
        neunorm=0.9,
        conv_gain=2.0,
        linear_gain=2.0,
    ),
}


def baseline(published: Baseline, settings: Settings) -> EventClassifier:
    """Build a published network."""
    data = DATA[published.data]
    preprocessing = settings.preprocessing(data)
    num_classes, class_names = settings.labels(data)
    bottom = nn.FramePool(settings.in_channels)
    in_size = bottom.output_size(preprocessing.frame_size)
    top = nn.SpikingNetwork(settings.in_channels, num_classes, in_size, **published.network)
    return published.kind(bottom, top, class_names=class_names, preprocessing=preprocessing, logit_scale=RATE_SCALE)


def _builders() -> dict[str, Callable[[Settings], EventClassifier]]:
    builders: dict[str, Callable[[Settings], EventClassifier]] = {}
    for data_name, data in DATA.items():
        for encoder in ENCODERS:
            builders[f"rsnn-{data_name}-{encoder}"] = partial(rsnn, data, encoder)
        for encoder in ("cl", "cla"):
            for head in (*REDUCTIONS, "lstm"):
                builders[f"convlstm-{data_name}-{encoder}-{head}"] = partial(convlstm, data, encoder, head)
        builders[f"scnn-{data_name}"] = partial(scnn, data)
    for name, published in BASELINES.items():
        builders[name] = partial(baseline, published)
    return dict(sorted(builders.items()))


BUILDERS = _builders()
