"""Self-attention over the pixels of each frame, and the ConvLSTM layer that attends before it looks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.kernels.attention import attention
from rsnn.nn.checks import check_features, check_positive, weight_of
from rsnn.nn.convlstm import ConvLSTM, ConvLSTMState, run_pooled

Join = Literal["add", "concat", "replace"]


class PixelAttention(nn.Module):
    """Scaled dot-product self-attention between the H W pixels of a frame.

    Q = X W_q,  K = X W_k,  V = X W_v,  A = softmax(Q K^T / sqrt(d_k)) V,  X of shape (H W, channels)

    (the paper's attention). The paper gives neither the number of heads, nor d_k and d_v, nor how A joins X;
    the defaults are this library's reading: one head, d_k = d_v = channels, A added to X.

    Args:
        channels: channels of a frame.
        num_heads: heads, each attending with `key_channels / num_heads` channels.
        key_channels: d_k over all heads; `channels` where it is None.
        value_channels: d_v over all heads; `channels` where it is None.
        join: `"add"` returns X + A, `"concat"` X and A one after another in the channels, `"replace"` A alone. A sum
            with `value_channels` other than `channels` needs one more projection and gets it.

    Raises:
        InputError: a size is not positive, or not divisible among the heads, or `join` is unknown.

    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        key_channels: int | None = None,
        value_channels: int | None = None,
        join: Join = "add",
    ) -> None:
        super().__init__()
        d_k = channels if key_channels is None else key_channels
        d_v = channels if value_channels is None else value_channels
        check_positive(channels=channels, num_heads=num_heads, key_channels=d_k, value_channels=d_v)
        if d_k % num_heads or d_v % num_heads:
            raise InputError(
                f"key_channels={d_k} and value_channels={d_v} cannot be shared among num_heads={num_heads}; "
                "expected multiples of it"
            )
        if join not in get_args(Join):
            raise InputError(f"join={join!r}: expected one of {get_args(Join)}")
        self.channels = channels
        self.num_heads = num_heads
        self.join = join
        self.query = nn.Linear(channels, d_k, bias=False)
        self.key = nn.Linear(channels, d_k, bias=False)
        self.value = nn.Linear(channels, d_v, bias=False)
        self.project = nn.Linear(d_v, channels, bias=False) if join == "add" and d_v != channels else nn.Identity()
        self.out_channels = {"add": channels, "concat": channels + d_v, "replace": d_v}[join]

    def forward(self, frames: Float[Tensor, "T N C H W"]) -> Float[Tensor, "T N D H W"]:
        """Attend within each frame: (T, N, channels, H, W) to (T, N, out_channels, H, W), time and batch untouched.

        Raises:
            InputError: `frames` has another shape, type or device.

        """
        check_features(frames, self.channels, type(self).__name__, weight_of(self.query))
        T, N, _, H, W = frames.shape
        pixels = frames.flatten(0, 1).flatten(2).transpose(1, 2)  # (T N, H W, C)
        query, key, value = (
            projection(pixels).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (T N, heads, H W, d)
            for projection in (self.query, self.key, self.value)
        )
        attended = attention(query, key, value).transpose(1, 2).flatten(2)
        attended = self.project(attended)
        if self.join == "add":
            attended = pixels + attended
        elif self.join == "concat":
            attended = torch.cat((pixels, attended.to(pixels.dtype)), dim=2)
        return attended.transpose(1, 2).unflatten(2, (H, W)).unflatten(0, (T, N))


class ConvLSTMAttention(nn.Module):
    """ConvLSTM layer whose frames first pass through self-attention over their pixels (the paper's CLA).

    Args:
        in_channels: channels of a frame.
        hidden_channels: channels of hidden state and cell, so of the output.
        kernel_size, bias, tie_hidden_gates: as in [`ConvLSTM`][rsnn.nn.ConvLSTM].
        num_heads, key_channels, value_channels, join: as in [`PixelAttention`][rsnn.nn.attention.PixelAttention].

    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        *,
        bias: bool = True,
        tie_hidden_gates: bool = False,
        num_heads: int = 1,
        key_channels: int | None = None,
        value_channels: int | None = None,
        join: Join = "add",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.bias = bias
        self.tie_hidden_gates = tie_hidden_gates
        self.num_heads = num_heads
        self.key_channels = key_channels
        self.value_channels = value_channels
        self.join = join
        self.attention = PixelAttention(in_channels, num_heads, key_channels, value_channels, join)
        self.convlstm = ConvLSTM(
            self.attention.out_channels,
            hidden_channels,
            kernel_size,
            bias=bias,
            tie_hidden_gates=tie_hidden_gates,
        )

    @property
    def out_channels(self) -> int:
        """Channels of the output, the hidden state."""
        return self.hidden_channels

    def forward(
        self, frames: Float[Tensor, "T N C H W"], state: ConvLSTMState | None = None, *, pool: int = 1
    ) -> tuple[Float[Tensor, "T N D H W"], ConvLSTMState]:
        """Return the hidden state of every step (T, N, hidden_channels, H, W), and the state after the last one.

        Args:
            frames: (T, N, in_channels, H, W).
            state: what an earlier call returned, to go on from there; None starts from zeros.
            pool: side of the windows whose maxima are returned, as in [`ConvLSTM`][rsnn.nn.ConvLSTM].

        Raises:
            InputError: `frames` or `state` has another shape, type or device.

        """
        check_features(frames, self.in_channels, type(self).__name__, weight_of(self.attention.query))
        return run_pooled(self.convlstm, (ConvLSTM,), self.attention(frames), state, pool)
