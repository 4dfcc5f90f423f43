"""Decision heads (Table 1 of the paper): they turn an encoder's feature maps into a decision.

Four of the five heads are a *reduction* over time followed by an ordinary classifier of one feature map, and the two
are separable: `DecisionHead(reduction, classifier)` takes any pair. The fifth, `LSTMHead`, reads the whole sequence.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.nn.checks import (
    check_features,
    check_kind,
    check_like,
    check_positive,
    check_sizes,
    check_state,
    full_name,
    weight_of,
)
from rsnn.nn.steps import add_up
from rsnn.nn.voting import Voting, resized_output


class Reduction(Protocol):
    """What a reduction over time has to offer; any module with these two methods is one."""

    def out_channels(self, in_channels: int) -> int:
        """Return the channels of the reduced map for features of `in_channels`."""
        ...

    def __call__(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Reduce (T, N, C, H, W) to (N, C', H, W), all steps since the state was None included."""
        ...


class LastFrame(nn.Module):
    """The last step's features: H_T."""

    def out_channels(self, in_channels: int) -> int:
        """Return the channels of the reduced map."""
        return in_channels

    def forward(
        self,
        features: Float[Tensor, "T N C H W"],
        state: tuple[()] | None = None,  # noqa: ARG002  (what every reduction takes)
    ) -> tuple[Float[Tensor, "N C H W"], tuple[()]]:
        """Return the last step's features (N, C, H, W), and an empty state.

        Raises:
            InputError: `features` has another shape.

        """
        check_features(features, None, "LastFrame")
        return features[-1], ()


class SumFrames(nn.Module):
    """The sum over the steps: sum_t H_t."""

    def out_channels(self, in_channels: int) -> int:
        """Return the channels of the reduced map."""
        return in_channels

    def forward(
        self, features: Float[Tensor, "T N C H W"], state: Float[Tensor, "N C H W"] | None = None
    ) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N C H W"]]:
        """Return the sum (N, C, H, W) over all steps since the state was None, and the state: the same, another tensor.

        In half precision the state is float32.

        Raises:
            InputError: `features` or `state` has another shape.

        """
        check_features(features, None, "SumFrames")
        check_state(None if state is None else (state,), (features.shape[1:],), "SumFrames", features)
        total = add_up(features, state)
        return total.to(features.dtype, copy=True), total  # a classifier may compute in place


class MeanState(NamedTuple):
    """The sum so far, float32 in half precision, and over how many steps."""

    total: Float[Tensor, "N C H W"]
    steps: int


class MeanFrames(nn.Module):
    """The mean over the steps: mean_t H_t."""

    def out_channels(self, in_channels: int) -> int:
        """Return the channels of the reduced map."""
        return in_channels

    def forward(
        self, features: Float[Tensor, "T N C H W"], state: MeanState | None = None
    ) -> tuple[Float[Tensor, "N C H W"], MeanState]:
        """Return the mean (N, C, H, W) over all steps since the state was None, and the new state.

        Raises:
            InputError: `features` or `state` has another shape.

        """
        check_features(features, None, "MeanFrames")
        check_kind(state, MeanState, "MeanFrames")
        check_state(None if state is None else (state.total,), (features.shape[1:],), "MeanFrames", features)
        total = add_up(features, None if state is None else state.total)
        steps = features.shape[0] + (0 if state is None else state.steps)
        return (total / steps).to(features.dtype), MeanState(total, steps)


class ConcatFrames(nn.Module):
    """All steps one after another in the channels: C x T of them.

    Args:
        num_frames: T; the steps that have not come yet are zeros.

    """

    def __init__(self, num_frames: int = 20) -> None:
        super().__init__()
        check_positive(num_frames=num_frames)
        self.num_frames = num_frames

    def out_channels(self, in_channels: int) -> int:
        """Return the channels of the reduced map."""
        return in_channels * self.num_frames

    def forward(
        self, features: Float[Tensor, "T N C H W"], state: Float[Tensor, "t N C H W"] | None = None
    ) -> tuple[Float[Tensor, "N TC H W"], Float[Tensor, "t N C H W"]]:
        """Return the steps since the state was None in the channels (N, T C, H, W), and these steps as the state.

        Raises:
            InputError: they are more than `num_frames`, or `features` or `state` has another shape.

        """
        check_features(features, None, "ConcatFrames")
        if state is not None:
            check_kind(state, Tensor, "ConcatFrames")
            check_state((state,), (state.shape[:1] + features.shape[1:],), "ConcatFrames", features)
        steps = features.clone() if state is None else torch.cat((state, features))
        missing = self.num_frames - len(steps)
        if missing < 0:
            raise InputError(f"ConcatFrames got {len(steps)} steps; expected at most num_frames={self.num_frames}")
        filled = torch.cat((steps, steps.new_zeros(missing, *steps.shape[1:]))) if missing else steps.clone()
        return filled.transpose(0, 1).flatten(1, 2), steps

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer."""
        return f"num_frames={self.num_frames}"


class ConvClassifier(nn.Module):
    """Ordinary CNN over one feature map: convolutions 3 x 3, two fully connected layers, voting; ReLU between.

    Gesture: conv c->64, MP2, conv 64->64, MP2, conv 64->32, MP2, FC 32 m m -> 8 m m, FC -> V, AP10, which is
    `channels=(64, 64, 32), pools=(2, 2, 2)`. CIFAR10-DVS: `channels=(64, 64, 32, 32), pools=(2, 1, 2, 1)`.

    Args:
        in_channels: channels of the map.
        num_classes: K.
        in_size: (height, width) of the map.
        channels: output channels of each convolution.
        pools: side of the max pooling after each convolution, 1 for none.
        votes: outputs of each class.

    Raises:
        InputError: a size is out of range, or pooling leaves nothing of `in_size`.

    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        in_size: tuple[int, int] = (32, 32),
        channels: tuple[int, ...] = (64, 64, 32),
        pools: tuple[int, ...] = (2, 2, 2),
        votes: int = 10,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, num_classes=num_classes, votes=votes)
        check_sizes("in_size", in_size, "(height, width)", length=2)
        check_sizes("channels", channels, "the output channels of each convolution, as in (64, 64, 32)")
        check_sizes("pools", pools, "the pooling after each convolution, as in (2, 2, 2)")
        if not channels or len(channels) != len(pools):
            raise InputError(f"channels={channels} and pools={pools}: expected one of each for every convolution")
        height, width = (side // prod(pools) for side in in_size)
        if not height or not width:
            raise InputError(
                f"pools={pools} leave no pixel of in_size={tuple(in_size)}; expected at least {prod(pools)} on a side"
            )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.in_size = tuple(in_size)
        self.channels = tuple(channels)
        self.pools = tuple(pools)
        self.votes = votes
        self.convs = nn.Sequential()
        for c_in, c_out, pool in zip((in_channels, *channels), channels, pools, strict=False):
            self.convs.append(nn.Conv2d(c_in, c_out, 3, padding=1))
            self.convs.append(nn.ReLU())
            if pool > 1:
                self.convs.append(nn.MaxPool2d(pool))
        flat = channels[-1] * height * width
        self.hidden = nn.Linear(flat, max(flat // 4, 1))
        self.output = nn.Linear(max(flat // 4, 1), num_classes * votes)
        self.voting = Voting(votes)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return the scores (N, K) of the maps (N, in_channels, *in_size).

        Raises:
            InputError: `x` has another shape, type or device.

        """
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != (self.in_channels, *self.in_size):
            came = f"a map of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise InputError(f"ConvClassifier got {came}; expected (N, {self.in_channels}, *{self.in_size})")
        check_like(x, weight_of(self.output), "ConvClassifier")
        x = self.hidden(self.convs(x).flatten(1)).relu()
        scores: Tensor = self.voting(self.output(x))
        return scores

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one for `num_classes` classes, with fresh weights."""
        self.output = resized_output(self.output, num_classes, self.votes)
        self.num_classes = num_classes


class DecisionHead(nn.Module):
    """Reduction over time, then a classifier of the reduced map.

    Args:
        reduction: a [`Reduction`][rsnn.nn.heads.Reduction]: `LastFrame()`, `SumFrames()`, `MeanFrames()`,
            `ConcatFrames(T)`, or a module of your own with the same two methods.
        classifier: any module from (N, C', H, W) to (N, K).
        in_channels: channels of the features.

    Raises:
        InputError: the classifier's `in_channels` are not what the reduction gives for `in_channels`.

    """

    def __init__(self, reduction: nn.Module, classifier: nn.Module, in_channels: int) -> None:
        super().__init__()
        check_positive(in_channels=in_channels)
        if not callable(getattr(reduction, "out_channels", None)):
            raise InputError(
                f"{type(reduction).__name__} is no reduction: it has no method out_channels(in_channels); "
                "give it one, or use LastFrame, SumFrames, MeanFrames or ConcatFrames"
            )
        reduced = reduction.out_channels(in_channels)  # type: ignore[operator]
        wanted = getattr(classifier, "in_channels", reduced)
        if wanted != reduced:
            raise InputError(
                f"{type(reduction).__name__} makes {reduced} channels of in_channels={in_channels}, but the classifier "
                f"{type(classifier).__name__} takes {wanted}"
            )
        self.reduction = reduction
        self.classifier = classifier
        self.in_channels = in_channels

    @property
    def in_size(self) -> tuple[int, int] | None:
        """(height, width) of the features that the classifier takes, None where it takes any."""
        return getattr(self.classifier, "in_size", None)

    @property
    def num_frames(self) -> int | None:
        """Most steps that the reduction has room for, None where it takes any number."""
        return getattr(self.reduction, "num_frames", None)

    @property
    def num_classes(self) -> int | None:
        """K, None where the classifier does not tell."""
        return getattr(self.classifier, "num_classes", None)

    def forward(self, features: Float[Tensor, "T N C H W"], state: Any = None) -> tuple[Float[Tensor, "N K"], Any]:
        """Return the scores (N, K) of all steps since the state was None, and the state after them.

        Raises:
            InputError: `features` has another shape.

        """
        check_features(features, self.in_channels, type(self).__name__, next(self.classifier.parameters(), None))
        reduced, state = self.reduction(features, state)
        return self.classifier(reduced), state

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier's last layer by a new one for `num_classes` classes.

        Raises:
            InputError: the classifier is a module of the user's without a `reset_classifier`.

        """
        reset = getattr(self.classifier, "reset_classifier", None)
        if reset is None:
            raise InputError(
                f"{type(self.classifier).__name__} has no reset_classifier(num_classes); "
                "replace head.classifier by a new module instead"
            )
        reset(num_classes)


class LSTMHeadState(NamedTuple):
    """Hidden state and cell of the LSTM layers, and the sum of the outputs so far."""

    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]
    total: Float[Tensor, "N V"]


class LSTMHead(nn.Module):
    """Three LSTM layers over the flattened features; the last one's outputs are added over the steps, then voted.

    Features of F = C H W numbers: LSTM F -> F / 4 -> F / 16 -> V, AP10. With CL on 32 x 32 maps that is
    6144 -> 1536 -> 384 -> V.

    Args:
        in_channels: channels of the features.
        num_classes: K.
        in_size: (height, width) of the features.
        votes: outputs of each class.

    """

    def __init__(
        self, in_channels: int, num_classes: int, in_size: tuple[int, int] = (32, 32), votes: int = 10
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, num_classes=num_classes, votes=votes)
        check_sizes("in_size", in_size, "(height, width)", length=2)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.in_size = tuple(in_size)
        self.votes = votes
        flat = in_channels * prod(in_size)
        sizes = (flat, max(flat // 4, 1), max(flat // 16, 1), num_classes * votes)
        self.layers = nn.ModuleList(nn.LSTM(a, b) for a, b in pairwise(sizes))
        self.voting = Voting(votes)

    def forward(
        self, features: Float[Tensor, "T N C H W"], state: LSTMHeadState | None = None
    ) -> tuple[Float[Tensor, "N K"], LSTMHeadState]:
        """Return the scores (N, K) of all steps since the state was None, and the state after them.

        Raises:
            InputError: `features` has another shape.

        """
        check_features(features, self.in_channels, type(self).__name__, next(self.parameters(), None))
        if tuple(features.shape[3:]) != self.in_size:
            raise InputError(f"LSTMHead got maps of {tuple(features.shape[3:])} pixels; expected {self.in_size}")
        self._check_state(state, features)
        x = features.flatten(2)
        hidden, cell = [], []
        for i, layer in enumerate(self.layers):
            x, (h, c) = layer(x, None if state is None else (state.hidden[i], state.cell[i]))
            hidden.append(h)
            cell.append(c)
        total = add_up(x, None if state is None else state.total)
        return self.voting(total), LSTMHeadState(tuple(hidden), tuple(cell), total)

    def _check_state(self, state: LSTMHeadState | None, features: Tensor) -> None:
        check_kind(state, LSTMHeadState, "LSTMHead")
        if state is None:
            return
        N = features.shape[1]
        sizes = [(1, N, layer.hidden_size) for layer in cast("list[nn.LSTM]", self.layers)]
        check_state(state.hidden, sizes, "LSTMHead", features)
        check_state(state.cell, sizes, "LSTMHead", features)
        check_state((state.total,), (sizes[-1][1:],), "LSTMHead", features)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last LSTM layer by a new one for `num_classes` classes, with fresh weights."""
        check_positive(num_classes=num_classes)
        old = self.layers[-1]
        if not isinstance(old, nn.LSTM):
            raise InputError(
                f"the last layer is a {full_name(old)}; expected a torch.nn.LSTM to make another like it: take "
                "wrappers off first, change classes before quantizing, or put a new module in its place yourself"
            )
        weight = old.weight_ih_l0
        self.layers[-1] = nn.LSTM(old.input_size, num_classes * self.votes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
