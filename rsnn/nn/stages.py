"""The stages of the spiking CNN: convolutions and fully connected layers of LIF neurons, by the kernel of the device.

Shapes: T steps, N batch, C channels, D output channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import (
    lif_native,
    narrow_conv_cupy,
    norm_lif_cupy,
    spike_products_cupy,
    spiking_conv_cupy,
    spiking_conv_native,
)
from rsnn.kernels.autocast import rounds_to_bfloat16
from rsnn.kernels.layout import channels_last
from rsnn.kernels.watched import is_watched, nothing_looks, sees_no_steps
from rsnn.nn.lif import LIF
from rsnn.nn.pooling import max_pool


class SpikingConv(nn.Module):
    """Convolution 3 x 3 - BatchNorm - LIF - [max pooling]: one stage of the spiking CNN (`128SC3-BN-MP2`)."""

    def __init__(self, in_channels: int, out_channels: int, pool: int, lif: LIF) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.lif = lif
        self.pool = pool

    def forward(
        self,
        x: Float[Tensor, "T N C H W"],
        potential: Tensor | None,
        *,
        number: Tensor | None = None,
        halves: bool = False,
    ) -> tuple[Float[Tensor, "T N D h w"], Tensor]:
        """Return the (pooled) spikes of every step, and the potential after the last one.

        Args:
            x: (T, N, in_channels, H, W).
            potential: what an earlier call returned, to go on from there; None starts from rest.
            number: where given, the number of spikes before the pooling is added to it, int64.
            halves: what comes next `takes_halves`: spikes in half precision, where that is no detour.

        """
        kernel = kernels.selected(x.device, "lif")
        fused = kernel in ("native", "cupy") and self._is_fused(x, potential, kernel)
        if kernel == "native" and self._is_plain() and spiking_conv_native.supports(x, self.conv.weight):
            if fused and self._is_inference(x, potential):
                spikes, potential, fired = self._spike(x, potential)
                if number is not None:
                    number += fired
                return spikes, potential
            current = spiking_conv_native.convolution(x.flatten(0, 1), self.conv.weight).unflatten(0, x.shape[:2])
        elif kernel == "cupy" and self._is_plain() and sees_no_steps(x):
            if fused and number is None and nothing_looks() and self._is_inference(x, potential):
                tau = self.lif.tau if self.lif.w is None else self.lif.w
                if spiking_conv_cupy.supports(x, self.conv.weight, tau, self.pool):
                    return spiking_conv_cupy.spiking_convolution(
                        x,
                        self.conv.weight,
                        potential,
                        self._moments(),
                        eps=self.norm.eps,
                        halves=halves,
                        **self._neuron(),
                    )
                if x.dtype == torch.float16 != self.conv.weight.dtype:  # as `takes_halves` promised
                    spikes, potential = self._spike_of_halves(x, potential)
                    return spikes if halves else spikes.to(self.conv.weight.dtype), potential
            current = _convolution(x.flatten(0, 1), self.conv).unflatten(0, x.shape[:2])
        else:
            current = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        # A batch normalization of one pixel, or of other channels, is an error of its own.
        fits = fused and current.dtype in _FUSED[kernel] and current.shape[2] == self.norm.num_features
        if fits and current[:, :, 0].numel() > 1:
            if number is None:
                return self._norm_lif(current, potential, self.pool, kernel)
            spikes, potential = self._norm_lif(current, potential, 1, kernel)
        else:
            spikes, potential = self.lif(self.norm(current.flatten(0, 1)).unflatten(0, x.shape[:2]), potential)
        if number is not None:
            number += spikes.count_nonzero()
        return max_pool(spikes, self.pool), potential

    def hands_on_halves(self, x: Tensor, following: nn.Module | None, potential: Tensor | None) -> bool:
        """Tell whether spikes of `x` go to the `following` stage, at `potential`, in half precision."""
        if type(self) is not SpikingConv or not isinstance(following, SpikingConv | SpikingLinear):
            return False
        if kernels.selected(x.device, "lif") != "cupy" or not nothing_looks() or is_watched(self):
            return False
        T, N, _, H, W = x.shape
        spikes = x.new_empty(1).expand(T, N, self.conv.out_channels, H // self.pool, W // self.pool)
        return following.takes_halves(spikes, potential)

    def takes_halves(self, spikes: Tensor, potential: Tensor | None) -> bool:
        """Tell whether `spikes` (T, N, C, H, W) of another stage may as well be in half precision, and had better be.

        Of `spikes` nothing but shape and device are looked at.
        """
        weight = self.conv.weight
        return (
            not is_watched(self)
            and self._is_plain()
            and self._is_fused(spikes, potential, "cupy")
            and self._is_inference(spikes, potential)
            and spike_products_cupy.supports(weight, spikes.numel() // max(1, spikes.shape[2]))
        )

    def _is_plain(self) -> bool:
        """Tell whether the convolution is the one this class makes, and no hook watches it."""
        conv = self.conv
        if type(conv) is not nn.Conv2d or is_watched(conv):
            return False
        plain = conv.bias is None and conv.groups == 1 and conv.padding_mode == "zeros"
        as_made = (conv.stride, conv.padding, conv.dilation) == ((1, 1), (conv.kernel_size[0] // 2,) * 2, (1, 1))
        return plain and as_made

    def _is_fused(self, x: Tensor, potential: Tensor | None, kernel: str) -> bool:
        """Tell whether normalization, neurons and pooling are those this class makes, for a kernel that does all."""
        norm, lif = self.norm, self.lif
        if (type(norm), type(lif)) != (nn.BatchNorm2d, LIF) or is_watched(norm, lif):
            return False
        shape = (x.shape[1], norm.num_features, *x.shape[3:])
        tau = 1.0 if lif.w is None else lif.w
        if kernel == "cupy" and not norm_lif_cupy.supports_norm(shape, tau, self.pool):
            return False
        return lif_native.supports(x, tau, lif.surrogate) and (
            potential is None or (isinstance(potential, Tensor) and (*potential.shape,) == shape)
        )

    def _is_inference(self, x: Tensor, potential: Tensor | None) -> bool:
        """Tell whether there are neither gradients nor a batch's statistics to compute, and channels fit."""
        norm = self.norm
        if norm.training or norm.running_mean is None or norm.num_features != self.conv.weight.shape[0]:
            return False
        if not torch.is_grad_enabled():
            return True
        tensors = (x, *self.parameters()) if potential is None else (x, potential, *self.parameters())
        return not any(tensor.requires_grad for tensor in tensors)

    def _spike(self, x: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        reduced = rounds_to_bfloat16(self.conv.weight)
        return spiking_conv_native.spiking_convolution(
            x.to(torch.bfloat16 if reduced else self.conv.weight.dtype),
            self.conv.weight,
            potential,
            self._moments(),
            eps=self.norm.eps,
            pool=self.pool,
            **self._neuron(),
        )

    def _spike_of_halves(self, x: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor]:
        current, norm = spike_products_cupy.convolution(x.flatten(0, 1), self.conv.weight, self._moments())
        current = channels_last(current.unflatten(0, x.shape[:2]))
        options = self._neuron() | {"eps": self.norm.eps, "pool": self.pool}
        spikes, potential, *_ = norm_lif_cupy.norm_lif(current, potential, norm, **options)
        return spikes, potential

    def _moments(self) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """Return weight, bias, mean and variance of the normalization in evaluation."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return norm.weight, norm.bias, norm.running_mean, norm.running_var

    def _neuron(self) -> dict[str, Any]:
        lif = self.lif
        return {
            "tau": lif.tau if lif.w is None else 1 / lif.w.sigmoid(),
            "v_threshold": lif.v_threshold,
            "v_reset": lif.v_reset,
            "surrogate": lif.surrogate,
            "detach_reset": lif.detach_reset,
        }

    def _norm_lif(self, current: Tensor, potential: Tensor | None, pool: int, kernel: str) -> tuple[Tensor, Tensor]:
        norm = self.norm
        batch = norm.training or norm.running_mean is None
        norm_lif = norm_lif_cupy.norm_lif if kernel == "cupy" else lif_native.norm_lif
        spikes, potential, mean, variance = norm_lif(
            channels_last(current),
            potential,
            (norm.weight, norm.bias, None if batch else norm.running_mean, None if batch else norm.running_var),
            batch_statistics=batch,
            eps=norm.eps,
            pool=pool,
            **self._neuron(),
        )
        if norm.training and not (norm.running_mean is None or norm.running_var is None):
            rows = current.numel() // current.shape[2]
            share = norm.momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
                share = 1 / float(norm.num_batches_tracked) if share is None else share
            with torch.no_grad():
                norm.running_mean.lerp_(mean.to(norm.running_mean), share or 0.0)
                norm.running_var.lerp_((variance * (rows / (rows - 1))).to(norm.running_var), share or 0.0)
        return spikes, potential


# The fast kernels of GPUs, forward and backward, take this many bytes of channels at once (4 of float32, 8 of half and
# bfloat16): channels of zeros make up for what is missing.
CHANNEL_BYTES = 16

# Types of a convolution's result that the kernels behind it take.
_FUSED = {
    "native": (torch.float32, torch.float64, torch.bfloat16),
    "cupy": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
}


def _convolution(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolve `x` (N, C, H, W), both it and the result channels_last."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else conv.weight.dtype
    trains = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    if trains and not torch.compiler.is_compiling() and narrow_conv_cupy.supports(x, conv.weight, dtype):
        return narrow_conv_cupy.convolution(x, conv.weight, dtype)
    N, C, H, W = x.shape
    missing = 0 if dtype == torch.float64 else -C % (CHANNEL_BYTES // dtype.itemsize)
    if not missing:
        result: Tensor = conv(x.contiguous(memory_format=torch.channels_last))
        return result
    padded = x.new_zeros(N, H, W, C + missing, dtype=dtype).permute(0, 3, 1, 2)
    padded[:, :C] = x
    return F.conv2d(padded, F.pad(conv.weight, (0, 0, 0, 0, 0, missing)), padding=conv.padding)


# Fresh weights of the fully connected layers are this many times PyTorch's, which without a normalization before the
# neurons would leave all of them silent: a tenth of 2,048 inputs firing adds up to a fifth of the threshold.
LINEAR_GAIN = 5.0


class SpikingLinear(nn.Module):
    """Fully connected layer of LIF neurons (`mSL`), with dropout of the same inputs at every step."""

    def __init__(self, in_features: int, out_features: int, dropout: float, lif: LIF) -> None:
        super().__init__()
        self.linear = amplified(nn.Linear(in_features, out_features, bias=False))
        self.lif = lif
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "T N C"], potential: Tensor | None) -> tuple[Float[Tensor, "T N D"], Tensor]:
        """Return the spikes of every step, and the potential after the last one."""
        if self.training and self.dropout:
            x = x * F.dropout(torch.ones_like(x[0]), self.dropout)
        if x.dtype == torch.float16 != self.linear.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            current = spike_products_cupy.linear(x, self.linear.weight)  # as `takes_halves` promised
        else:
            current = self.linear(x)
        spikes, potential = self.lif(current, potential)
        return spikes, potential

    def takes_halves(self, spikes: Tensor, potential: Tensor | None) -> bool:  # noqa: ARG002
        """Tell whether `spikes` (T, N, ...) may as well be in half precision, and had better be.

        Of `spikes` nothing but shape and device are looked at.
        """
        linear = self.linear
        return (
            not is_watched(self, linear)
            and type(linear) is nn.Linear
            and linear._parameters["bias"] is None
            and not (self.training and self.dropout)
            and spike_products_cupy.supports(linear.weight, spikes.shape[0] * spikes.shape[1])
        )


def amplified(linear: nn.Linear) -> nn.Linear:
    """Return a fresh layer with LINEAR_GAIN times its weights."""
    with torch.no_grad():
        linear.weight.mul_(LINEAR_GAIN)
    return linear
