"""NeuNorm: spikes less the recent activity of all feature maps at the same place.

Shapes: T steps, N batch, C feature maps, H height, W width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn.checks import is_number
from rsnn.errors import InputError
from rsnn.nn.checks import check_features, check_positive, check_sizes, check_state


class NeuNorm(nn.Module):
    """Neuron normalisation of Wu et al. 2019 ("Direct training for spiking neural networks"), after a convolution.

    x(t) = decay x(t-1) + v / C sum_c o_c(t)        auxiliary neuron of a pixel, shared by the C feature maps
    z_c(t) = o_c(t) - U_c x(t)                      what the next layer's weights see in place of the spikes o
    decay + v C = 1

    U is learned and has a weight for every feature map and pixel. The source does not say where it starts: at 1, the
    auxiliary neuron's own strength.

    Args:
        channels: C, feature maps of the layer.
        size: (height, width) of a feature map.
        decay: of the auxiliary neurons (k_tau2 in the source), from 0 to below 1.

    Raises:
        InputError: a size or the decay is out of range.

    """

    def __init__(self, channels: int, size: tuple[int, int], decay: float = 0.9) -> None:
        super().__init__()
        check_positive(channels=channels)
        check_sizes("size", size, "(height, width)", length=2)
        if not is_number(decay) or not 0 <= decay < 1:
            raise InputError(f"decay={decay!r}: expected a number from 0 to below 1")
        self.channels = channels
        self.size = tuple(size)
        self.decay = float(decay)
        self.weight = nn.Parameter(torch.ones(channels, *size))

    def forward(
        self, spikes: Float[Tensor, "T N C H W"], state: Float[Tensor, "N H W"] | None = None
    ) -> tuple[Float[Tensor, "T N C H W"], Float[Tensor, "N H W"]]:
        """Return the normalised spikes (T, N, C, H, W), and the auxiliary neurons (N, H, W) after the last step.

        Args:
            spikes: of every step, (T, N, channels, *size).
            state: what an earlier call returned; None starts from 0.

        Raises:
            InputError: `spikes` or `state` has another shape, type or device.

        """
        check_features(spikes, self.channels, "NeuNorm", self.weight)
        if tuple(spikes.shape[3:]) != self.size:
            raise InputError(f"NeuNorm got feature maps of {tuple(spikes.shape[3:])} pixels; expected {self.size}")
        steps, batch = spikes.shape[:2]
        check_state(None if state is None else (state,), [(batch, *self.size)], "NeuNorm", spikes)
        # v / C, and v = (1 - decay) / C
        activity = spikes.to(self.weight.dtype).sum(2) * ((1 - self.decay) / self.channels**2)
        x = torch.zeros_like(activity[0]) if state is None else state
        auxiliary = []
        for step in range(steps):
            x = self.decay * x + activity[step]
            auxiliary.append(x)
        inhibition = self.weight * torch.stack(auxiliary).unsqueeze(2)
        return (spikes - inhibition).to(spikes.dtype), x

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer."""
        return f"{self.channels}, {self.size}, decay={self.decay}"
