"""One layer of convolutional LSTM (Shi et al. 2015, no peepholes) with its state in the caller's hands.

Shapes: T steps, N batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from rsnn.errors import InputError
from rsnn.kernels.convlstm import convlstm, convlstm_steps, padded
from rsnn.kernels.watched import is_watched
from rsnn.nn.checks import check_features, check_positive, check_state, weight_of
from rsnn.nn.pooling import max_pool


class ConvLSTMState(NamedTuple):
    """What a ConvLSTM layer carries from one step to the next."""

    hidden: Float[Tensor, "N C H W"]
    cell: Float[Tensor, "N C H W"]


class ConvLSTM(nn.Module):
    """Convolutional LSTM layer over a sequence of frames.

    i_t = sigmoid(W_xi * X_t + W_hi * H_{t-1} + b_i)
    f_t = sigmoid(W_xf * X_t + W_hf * H_{t-1} + b_f)
    o_t = sigmoid(W_xo * X_t + W_ho * H_{t-1} + b_o)
    c_t = f_t o c_{t-1} + i_t o tanh(W_xc * X_t + W_hc * H_{t-1} + b_c)
    H_t = o_t o tanh(c_t)

    (the paper's encoder equations; `*` convolves with zero padding that keeps the size, `o` multiplies elementwise.)
    The weights of the gates lie one after another in the order i, f, o, c in `input_gates` and `hidden_gates`. Whatever
    is put in the place of these two convolutions, or watches them, gets frames and hidden states padded already.

    Args:
        in_channels: channels of a frame.
        hidden_channels: channels of hidden state and cell, so of the output.
        kernel_size: side of every convolution's kernel; an even one pads one more row and column at the end.
        bias: whether the gates have biases.
        tie_hidden_gates: one W_hi for all three gates, the equations exactly as the paper prints them.

    Raises:
        InputError: a size is not a positive whole number.

    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        *,
        bias: bool = True,
        tie_hidden_gates: bool = False,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, hidden_channels=hidden_channels, kernel_size=kernel_size)
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.bias = bias
        self.tie_hidden_gates = tie_hidden_gates
        self.input_gates = nn.Conv2d(in_channels, 4 * hidden_channels, kernel_size, bias=bias)
        hidden_kernels = 2 if tie_hidden_gates else 4
        self.hidden_gates = nn.Conv2d(hidden_channels, hidden_kernels * hidden_channels, kernel_size, bias=False)
        self.reset_parameters()

    @property
    def out_channels(self) -> int:
        """Channels of the output, the hidden state."""
        return self.hidden_channels

    def reset_parameters(self) -> None:
        """Draw new weights: PyTorch's convolution default, the forget gate's bias 1 (Jozefowicz et al. 2015)."""
        self.input_gates.reset_parameters()
        self.hidden_gates.reset_parameters()
        if self.input_gates.bias is not None:
            with torch.no_grad():
                self.input_gates.bias[self.hidden_channels : 2 * self.hidden_channels] = 1.0

    def forward(
        self,
        frames: Float[Tensor, "T N C H W"],
        state: ConvLSTMState | None = None,
        *,
        pool: int = 1,
        places: Tensor | None = None,
    ) -> tuple[Float[Tensor, "T N D H W"], ConvLSTMState]:
        """Run the frames through the layer.

        Args:
            frames: (T, N, in_channels, H, W).
            state: what an earlier call returned, to go on from there; None starts from zeros.
            pool: side of the windows whose maxima are returned, in less time than a max pooling of the hidden states.
            places: (hidden_channels, H, W) of int64; where given, how often each hidden state is not zero, over all
                steps and samples, is added to it.

        Returns:
            the hidden state of every step (T, N, hidden_channels, H, W), or its maxima (H // pool, W // pool), and the
            state after the last one.

        Raises:
            InputError: `frames` or `state` has another shape, type or device, or pooling leaves nothing.

        """
        check_features(frames, self.in_channels, type(self).__name__, weight_of(self.input_gates))
        shape = (frames.shape[1], self.hidden_channels, *frames.shape[3:])
        check_state(state, (shape, shape), type(self).__name__, frames)
        check_positive(pool=pool)
        if pool > min(shape[2:]):
            raise InputError(f"{type(self).__name__} got frames of {shape[2:]}: pool={pool} leaves no pixel of them")
        hidden, cell = (None, None) if state is None else state
        if not self._is_plain():
            features, hidden, cell = self._by_modules(frames, hidden, cell)
            if places is not None:
                places += features.count_nonzero(dim=(0, 1))
            return max_pool(features, pool), ConvLSTMState(hidden, cell)
        w_hidden = self.hidden_gates.weight
        if self.tie_hidden_gates:
            gate, candidate = w_hidden.chunk(2)
            w_hidden = torch.cat((gate, gate, gate, candidate))
        features, hidden, cell = convlstm(
            frames, self.input_gates.weight, w_hidden, self.input_gates.bias, hidden, cell, pool=pool, places=places
        )
        return features, ConvLSTMState(hidden, cell)

    def _is_plain(self) -> bool:
        """Tell whether the gates are the convolutions that this class makes, and no hook watches them.

        Then their weights are all that counts, reparametrized ones (`torch.nn.utils.parametrize`) too.
        """
        return (
            _is_convolution(self.input_gates) and _is_convolution(self.hidden_gates) and self.hidden_gates.bias is None
        )

    def _by_modules(self, frames: Tensor, hidden: Tensor | None, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what `convlstm` does by calls of the gates' modules: of adapters, of pruned ones, ..."""
        weight = weight_of(self.hidden_gates)
        return convlstm_steps(
            self._gates("input_gates", frames.flatten(0, 1)).unflatten(0, frames.shape[:2]),
            lambda h: self._gates("hidden_gates", h),
            hidden,
            cell,
            dtype=frames.dtype if weight is None else weight.dtype,
        )

    def _gates(self, name: str, x: Tensor) -> Tensor:
        """Return what `input_gates` or `hidden_gates` makes of `x` (N, C, H, W): (N, 4 D, H, W)."""
        module, around = getattr(self, name), padded(x, self.kernel_size)
        gates: Tensor = module(around)
        tied = self.tie_hidden_gates and name == "hidden_gates"
        expected = (x.shape[0], (2 if tied else 4) * self.hidden_channels, *x.shape[2:])
        if tuple(gates.shape) != expected:
            raise InputError(
                f"{name} ({type(module).__name__}) made {tuple(gates.shape)} of {tuple(around.shape)}, which is padded "
                f"already; expected {expected}"
            )
        if not tied:
            return gates
        gate, candidate = gates.chunk(2, dim=1)
        return torch.cat((gate, gate, gate, candidate), dim=1)

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer."""
        return f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"


def run_pooled(
    layer: nn.Module, kinds: tuple[type, ...], frames: Tensor, state: ConvLSTMState | None, pool: int
) -> tuple[Tensor, ConvLSTMState]:
    """Run a recurrent layer and pool its hidden states: on the way where it is of `kinds`, which can, and unwatched."""
    if type(layer) in kinds and not is_watched(layer, way="pooling"):
        features, state = layer(frames, state, pool=pool)
    else:  # a hook expects the hidden states, a layer of the user's knows no pooling
        features, state = layer(frames, state)
        features = max_pool(features, pool)
    return features, state


def _is_convolution(conv: nn.Module) -> bool:
    if not isinstance(conv, nn.Conv2d) or is_watched(conv):
        return False
    # The second question takes longer.
    made = type(conv) is nn.Conv2d or type_before_parametrizations(conv) is nn.Conv2d
    height, width = conv.kernel_size
    numbers = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return made and height == width and numbers == ((1, 1), (0, 0), (1, 1), 1)
