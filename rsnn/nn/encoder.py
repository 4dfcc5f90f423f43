"""Encoders: what turns a sequence of event frames into a sequence of feature maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.nn.attention import ConvLSTMAttention, Join
from rsnn.nn.checks import check_features, check_positive, check_sizes
from rsnn.nn.convlstm import ConvLSTM, ConvLSTMState, run_pooled
from rsnn.nn.pooling import average_pool

EncoderState = tuple[ConvLSTMState, ...]


class ConvLSTMEncoder(nn.Module):
    """Stack of ConvLSTM layers with pooling: the paper's CL and, with attention, CLA.

    frames - [average pooling by `input_pool`] - layer - [max pooling by `pool`] - layer - [max pooling] - ...

    The defaults are CL: 2 -> 4 -> 6 channels, halved after each layer, 128 x 128 to 32 x 32. Without pooling it is
    `pool=1`; CLA is `hidden_channels=(10,), attention=True, input_pool=4, pool=1`. Sizes that are no multiple of a
    pooling lose the rest at the lower and right edge.

    Args:
        in_channels: channels of a frame.
        hidden_channels: hidden channels of each layer; their number is the number of layers.
        kernel_size, tie_hidden_gates: as in [`ConvLSTM`][rsnn.nn.ConvLSTM].
        input_pool: side of the average pooling before the first layer; 1 leaves it out.
        pool: side of the max pooling after each layer; 1 leaves it out.
        attention: let each layer attend over its frame's pixels first.
        num_heads, key_channels, value_channels, join: of the attention, as in
            [`ConvLSTMAttention`][rsnn.nn.ConvLSTMAttention].

    Raises:
        InputError: a size is not a positive whole number, or there is no layer.

    """

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: tuple[int, ...] = (4, 6),
        kernel_size: int = 3,
        *,
        tie_hidden_gates: bool = False,
        input_pool: int = 1,
        pool: int = 2,
        attention: bool = False,
        num_heads: int = 1,
        key_channels: int | None = None,
        value_channels: int | None = None,
        join: Join = "add",
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, input_pool=input_pool, pool=pool)
        check_sizes("hidden_channels", hidden_channels, "the hidden channels of each layer, as in (4, 6)")
        if not hidden_channels:
            raise InputError("hidden_channels=(): expected the hidden channels of at least one layer, as in (4, 6)")
        self.in_channels = in_channels
        self.hidden_channels = tuple(hidden_channels)
        self.kernel_size = kernel_size
        self.tie_hidden_gates = tie_hidden_gates
        self.input_pool = input_pool
        self.pool = pool
        self.attention = attention
        self.num_heads = num_heads
        self.key_channels = key_channels
        self.value_channels = value_channels
        self.join = join
        self.layers = nn.ModuleList()
        for channels_in, channels_out in zip((in_channels, *hidden_channels), hidden_channels, strict=False):
            self.layers.append(
                ConvLSTMAttention(
                    channels_in,
                    channels_out,
                    kernel_size,
                    tie_hidden_gates=tie_hidden_gates,
                    num_heads=num_heads,
                    key_channels=key_channels,
                    value_channels=value_channels,
                    join=join,
                )
                if attention
                else ConvLSTM(channels_in, channels_out, kernel_size, tie_hidden_gates=tie_hidden_gates)
            )

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return self.hidden_channels[-1]

    def output_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the features for frames of `frame_size` = (height, width)."""
        height, width = (side // self.input_pool for side in frame_size)
        for _ in self.layers:
            height, width = height // self.pool, width // self.pool
        return height, width

    def forward(
        self, frames: Float[Tensor, "T N C H W"], state: EncoderState | None = None
    ) -> tuple[Float[Tensor, "T N D h w"], EncoderState]:
        """Return the features of every step (T, N, out_channels, h, w), and the state after the last one.

        Args:
            frames: (T, N, in_channels, H, W).
            state: what an earlier call returned, to go on from there; None starts from zeros.

        Raises:
            InputError: `frames` or `state` has another shape, type or device, or the frames are too small to pool.

        """
        check_features(frames, self.in_channels, type(self).__name__, next(self.parameters(), None))
        frame_size = (frames.shape[3], frames.shape[4])
        if 0 in self.output_size(frame_size):
            raise InputError(f"{type(self).__name__} got frames of {frame_size}: pooling leaves no pixel of them")
        if state is not None and (not isinstance(state, tuple | list) or len(state) != len(self.layers)):
            raise InputError(
                f"{type(self).__name__} got a {type(state).__name__} as its state; expected a ConvLSTMState for each "
                f"of its {len(self.layers)} layers, as an earlier call returned them, or None"
            )
        features = average_pool(frames, self.input_pool)
        states = []
        for layer, layer_state in zip(self.layers, state or [None] * len(self.layers), strict=True):
            features, layer_state = run_pooled(layer, (ConvLSTM, ConvLSTMAttention), features, layer_state, self.pool)
            states.append(layer_state)
        return features, tuple(states)


class FramePool(nn.Module):
    """Encoder without time: average pooling of each frame, or with `pool=1` the frames as they are.

    It stands where the ConvLSTM stands, so that a spiking network can classify the frames themselves.

    Args:
        in_channels: channels of a frame.
        pool: side of the pooling windows.

    """

    def __init__(self, in_channels: int = 2, pool: int = 1) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, pool=pool)
        self.in_channels = in_channels
        self.pool = pool

    @property
    def out_channels(self) -> int:
        """Channels of the features, those of the frames."""
        return self.in_channels

    def output_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the features for frames of `frame_size` = (height, width)."""
        return frame_size[0] // self.pool, frame_size[1] // self.pool

    def forward(
        self,
        frames: Float[Tensor, "T N C H W"],
        state: tuple[()] | None = None,  # noqa: ARG002  (what every encoder takes)
    ) -> tuple[Float[Tensor, "T N C h w"], tuple[()]]:
        """Return the pooled frames (T, N, in_channels, h, w), and an empty state.

        Raises:
            InputError: `frames` has another shape, or pooling leaves nothing of such small frames.

        """
        check_features(frames, self.in_channels, type(self).__name__)
        if 0 in self.output_size((frames.shape[3], frames.shape[4])):
            raise InputError(f"FramePool got frames of {tuple(frames.shape[3:])}: pooling leaves no pixel of them")
        return average_pool(frames, self.pool), ()
