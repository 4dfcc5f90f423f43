"""The spiking CNN that classifies a sequence of feature maps.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from rsnn.checks import as_float, is_number
from rsnn.errors import InputError
from rsnn.kernels import ATan, Surrogate
from rsnn.nn.checks import check_positive, check_sizes, weight_of
from rsnn.nn.lif import LIF
from rsnn.nn.pooling import average_pool
from rsnn.nn.stages import SpikingConv, SpikingLinear, amplified
from rsnn.nn.voting import RateClassifier, Voting, resized_output


class SCNN(RateClassifier):
    """Spiking CNN over per-step feature maps: rates averaged over time, then voting.

    [128SC3-BN-MP] x stages - (128 m m)SL - (32 m m)SL - V - AP10, with m x m the last feature map and V = K votes.

    The paper's 3-layer network (DVS128 Gesture) is `pools=(2, 2, 2)`, its 4-layer network (CIFAR10-DVS)
    `pools=(2, 1, 2, 1)`, and the 5-layer network of Fang et al. 2021 `pools=(2, 2, 2, 2, 2)`.

    Args:
        in_channels: channels of a feature map.
        num_classes: K.
        in_size: (height, width) of a feature map.
        pools: side of the max pooling after each convolution stage, 1 for none; their number is the number of stages.
        channels: channels of every convolution; the second fully connected layer has `channels / 4` a pixel.
        votes: outputs of each class.
        dropout: share of the inputs of the two fully connected layers left out in training.
        in_pool: side of an average pooling of the feature maps before the first stage; 1 leaves it out.
        tau, v_threshold, v_reset, surrogate, detach_reset, learn_tau: of the neurons, as in [`LIF`][rsnn.nn.LIF].

    Raises:
        InputError: a size is out of range, or pooling leaves nothing of `in_size`.

    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        in_size: tuple[int, int] = (32, 32),
        pools: tuple[int, ...] = (2, 2, 2),
        channels: int = 128,
        votes: int = 10,
        dropout: float = 0.0,
        *,
        in_pool: int = 1,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = ATan(),  # noqa: B008  (frozen)
        detach_reset: bool = True,
        learn_tau: bool = False,
    ) -> None:
        super().__init__()
        check_positive(
            in_channels=in_channels, num_classes=num_classes, channels=channels, votes=votes, in_pool=in_pool
        )
        check_sizes("in_size", in_size, "(height, width)", length=2)
        check_sizes("pools", pools, "the pooling of each stage, as in (2, 2, 2)")
        if not pools:
            raise InputError("pools=(): expected the pooling of at least one stage, as in (2, 2, 2)")
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout!r}: expected a share from 0 to below 1")
        height, width = (side // in_pool // prod(pools) for side in in_size)
        if not height or not width:
            raise InputError(
                f"in_pool={in_pool} and pools={pools} leave no pixel of in_size={tuple(in_size)}; "
                f"expected at least {in_pool * prod(pools)} on a side"
            )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.in_size = tuple(in_size)
        self.pools = tuple(pools)
        self.channels = channels
        self.votes = votes
        self.dropout = as_float(dropout)
        self.in_pool = in_pool
        self.tau = tau
        self.v_threshold = v_threshold
        self.v_reset = v_reset
        self.surrogate = surrogate
        self.detach_reset = detach_reset
        self.learn_tau = learn_tau

        def lif() -> LIF:
            return LIF(tau, v_threshold, v_reset, surrogate, detach_reset=detach_reset, learn_tau=learn_tau)

        stages = zip((in_channels, *[channels] * (len(pools) - 1)), pools, strict=True)
        self.convs = nn.ModuleList(SpikingConv(c, channels, pool, lif()) for c, pool in stages)
        pixels = height * width
        self.hidden = SpikingLinear(channels * pixels, max(channels // 4, 1) * pixels, dropout, lif())
        self.output = SpikingLinear(max(channels // 4, 1) * pixels, num_classes * votes, dropout, lif())
        self.voting = Voting(votes)

    def step_votes(
        self, features: Float[Tensor, "T N C H W"], layers: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "T N K"], tuple[Tensor, ...]]:
        """Return each step's share of firing outputs per class, and every layer's potential after the last."""
        stages = [*self.convs, self.hidden, self.output]
        self._check(features, weight_of(self.output.linear), layers, len(stages))
        x = average_pool(features, self.in_pool)
        after = []
        potentials = layers or (None,) * len(stages)
        following = zip((*stages[1:], None), (*potentials[1:], None), strict=True)
        for stage, potential, (later, its_potential) in zip(stages, potentials, following, strict=True):
            if stage is self.hidden:
                x = x.flatten(2)
            halves = isinstance(stage, SpikingConv) and stage.hands_on_halves(x, later, its_potential)
            x, potential_after = stage(x, potential, halves=True) if halves else stage(x, potential)
            after.append(potential_after)
        return self.voting(x), tuple(after)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one for `num_classes` classes, with fresh weights."""
        self.output.linear = amplified(resized_output(self.output.linear, num_classes, self.votes))
        self.num_classes = num_classes
