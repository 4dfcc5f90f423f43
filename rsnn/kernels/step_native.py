"""One step of a whole network in one call of C++ (`csrc/step.cpp`): ConvLSTM layers, then spiking stages, on the CPU.

These layers compute what their kernels compute (`convlstm_native`, `spiking_conv_native`), to the last bit; average
pooling and attention, which may come before them, what PyTorch and `attention_native` compute, but for rounding. What
those do at every call is done once: weights are laid out, memory is taken.

Shapes: C input and D output channels, H height, W width of a layer's input, K side of its kernel.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rsnn.kernels import native
from rsnn.kernels.spiking_conv_native import MOST

KINDS = ("convlstm", "spiking", "average pool", "attention")  # of layers, as `csrc/step.cpp` numbers them
JOINS = ("add", "concat", "replace")
SAMPLES = 4  # numbers of a tensor, evenly spread, that tell whether it was written to


class AveragePoolLayer(NamedTuple):
    """An average pooling; it has no state.

    Attributes:
        size: (height, width) of its input.
        channels: C.
        pool: side of the pooling.

    """

    size: tuple[int, int]
    channels: int
    pool: int

    @property
    def takes(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, *self.size

    def output(self, maps: tuple[int, ...] | None) -> tuple[int, int, int] | None:
        """Return (C, H // pool, W // pool), None where it does not take `maps` (C, H, W)."""
        pooled = _pooled(self.size, self.pool)
        return (self.channels, *pooled) if maps in (None, self.takes) and all(pooled) else None

    def _weights(self) -> tuple[Tensor | None, ...]:
        return ()

    def _numbers(self) -> dict[str, Any]:
        return {"kind": KINDS.index("average pool"), "C": self.channels, "D": self.channels, "pool": self.pool}


class AttentionLayer(NamedTuple):
    """Self-attention of the pixels; it has no state.

    Attributes:
        size: (height, width) of its input.
        heads: that share the channels of keys and values.
        query, key, value: the weights (d_k, C), (d_k, C) and (d_v, C), in float32.
        project: (C, d_v), where the sum needs one.
        join: as in [`PixelAttention`][rsnn.nn.attention.PixelAttention].

    """

    size: tuple[int, int]
    heads: int
    query: Tensor
    key: Tensor
    value: Tensor
    project: Tensor | None
    join: str

    @property
    def takes(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.query.shape[1], *self.size

    def output(self, maps: tuple[int, ...] | None) -> tuple[int, int, int] | None:
        """Return (D, H, W), None where it does not take `maps` (C, H, W), or its weights do not fit."""
        (d_k, C), (d_v, given) = self.query.shape, self.value.shape
        D = {"add": C, "concat": C + d_v, "replace": d_v}[self.join]
        whole = self.key.shape == (d_k, C) and given == C and not d_k % self.heads and not d_v % self.heads
        added = d_v == C if self.project is None else self.project.shape == (C, d_v)
        joins = added if self.join == "add" else self.project is None
        return (D, *self.size) if whole and joins and maps in (None, self.takes) else None

    def _weights(self) -> tuple[Tensor | None, ...]:
        return self.query, self.key, self.value, self.project

    def _numbers(self) -> dict[str, Any]:
        (d_k, C), d_v = self.query.shape, len(self.value)
        D = {"add": C, "concat": C + d_v, "replace": d_v}[self.join]
        attention = {"heads": self.heads, "Dk": d_k, "Dv": d_v, "join": JOINS.index(self.join)}
        return {"kind": KINDS.index("attention"), "C": C, "D": D, "pool": 1, **attention}


class ConvLSTMLayer(NamedTuple):
    """A ConvLSTM, and the maximum pooling of its hidden states; its states are hidden state and cell (D, H, W).

    Attributes:
        size: (height, width) of its input.
        pool: side of the pooling.
        w_input, w_hidden, bias: as in [`rsnn.kernels.convlstm`][], in float32.

    """

    size: tuple[int, int]
    pool: int
    w_input: Tensor
    w_hidden: Tensor
    bias: Tensor | None

    @property
    def takes(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.w_input.shape[1], *self.size

    def output(self, maps: tuple[int, ...] | None) -> tuple[int, int, int] | None:
        """Return (D, H // pool, W // pool), None where it does not take `maps` (C, H, W), or its weights do not fit."""
        gates, _, *sides = self.w_input.shape
        D, pooled = gates // 4, _pooled(self.size, self.pool)
        whole = self.w_hidden.shape == (4 * D, D, *sides) and (self.bias is None or self.bias.shape == (gates,))
        fits = gates == 4 * D and whole and maps in (None, self.takes) and all(pooled)
        return (D, *pooled) if fits else None

    def _weights(self) -> tuple[Tensor | None, ...]:
        return self.w_input, self.w_hidden, self.bias

    def _numbers(self) -> dict[str, Any]:
        gates, C, K, _ = self.w_input.shape
        return {"kind": KINDS.index("convlstm"), "C": C, "D": gates // 4, "K": K, "pool": self.pool}


class SpikingLayer(NamedTuple):
    """A convolution of maps, LIF neurons and the maximum pooling of their spikes; its state is the potential (H, W, D).

    A fully connected layer is one with K = 1 of an input (1, 1), whose channels are all numbers (C, H, W) before it.

    Attributes:
        size: (height, width) of its input.
        pool: side of the pooling.
        neuron: what [`neuron_numbers`][rsnn.kernels.lif_native.neuron_numbers] returns.
        weight: (D, C, K, K), in float32.
        scale, shift: (D): what each channel is multiplied with, and what is added then.

    """

    size: tuple[int, int]
    pool: int
    neuron: list[float]
    weight: Tensor
    scale: Tensor
    shift: Tensor

    @property
    def takes(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.weight.shape[1], *self.size

    def output(self, maps: tuple[int, ...] | None) -> tuple[int, int, int] | None:
        """Return (D, H // pool, W // pool), None where it does not take `maps` (C, H, W), or its weights do not fit."""
        D, _, K, _ = self.weight.shape
        pooled = _pooled(self.size, self.pool)
        given = maps if maps is None or self.size != (1, 1) else (math.prod(maps), 1, 1)
        whole = self.weight.shape[3] == K and K % 2 == 1 and self.scale.shape == self.shift.shape == (D,)
        return (D, *pooled) if whole and given in (None, self.takes) and all(pooled) else None

    def _weights(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.scale, self.shift

    def _numbers(self) -> dict[str, Any]:
        D, C, K, _ = self.weight.shape
        neuron = (ctypes.c_double * 8)(*self.neuron)
        return {"kind": KINDS.index("spiking"), "C": C, "D": D, "K": K, "pool": self.pool, "neuron": neuron}


Layer = AveragePoolLayer | AttentionLayer | ConvLSTMLayer | SpikingLayer


class _Description(ctypes.Structure):
    """A layer as `csrc/step.cpp` wants it; what its kind does not have is 0."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "C", "D", "H", "W", "K", "pool", "heads", "Dk", "Dv", "join")),
        ("neuron", ctypes.c_double * 8),
        ("weights", ctypes.c_void_p * 4),
    )


class Network:
    """Layers one after another, their weights laid out; it never changes, and any number of threads may use it.

    Args:
        layers: spiking ones after the others, each taking what the one before gives.
        votes: outputs of each class of the last layer, whose mean over the steps times `scale` is the logit of a class;
            0 where the features of the last layer are the output.
        scale: see `votes`.

    Raises:
        NativeError: the library cannot be had here.
        MemoryError: there is no memory for the weights.

    """

    def __init__(self, layers: Sequence[Layer], votes: int = 0, scale: float = 1.0) -> None:
        library = _library()
        tensors = [[None if x is None else x.detach().contiguous() for x in layer._weights()] for layer in layers]
        descriptions = (_Description * len(layers))(*map(_described, layers, tensors))
        self.handle = library.network_new(
            descriptions, len(layers), ctypes.c_double(MOST), ctypes.c_int64(votes), ctypes.c_double(scale)
        )
        if not self.handle:
            raise MemoryError("no memory for the weights of a step")
        weakref.finalize(self, library.network_delete, ctypes.c_void_p(self.handle)).atexit = False


class States:
    """Where a network's states lie: of each layer in turn, and with votes those so far (K); they are kept.

    Args:
        tensors: each of one sample, without gaps, float32.

    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self.addresses = (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


class Runner:
    """Memory for steps of a network, one at a time.

    Args:
        network: what to run.
        threads: that share a step's work.

    Raises:
        MemoryError: there is none.

    """

    def __init__(self, network: Network, threads: int) -> None:
        library = _library()
        self.network = network  # its weights are needed as long
        self.threads = threads
        handle = library.runner_new(ctypes.c_void_p(network.handle), threads)
        if not handle:
            raise MemoryError("no memory for a step")
        self._handle = ctypes.c_void_p(handle)
        self._step = library.runner_step
        weakref.finalize(self, library.runner_delete, self._handle).atexit = False

    def step(self, frame: int | None, seen: Tensor | None, states: States, steps: int, out: Tensor) -> bool:
        """Run one step.

        Args:
            frame: address of the input (C, H, W), float32 without gaps; None for zeros, where there is `seen`.
            seen: what the network sees of counts 0, 1, 2, ..., float32; None where the input is no counts.
            states: before the step; they become those after it.
            steps: how many there have been, this one included; what the states hold counts for nothing in the first.
            out: logits (K), or features (D, H // pool, W // pool), without gaps.

        Returns:
            whether it was run: not where the input has other numbers than counts that `seen` has.

        """
        table = (None, 0) if seen is None else (seen.data_ptr(), len(seen))
        result = self._step(self._handle, frame, *table, states.addresses, steps, out.data_ptr())
        if result == 1:
            raise MemoryError("a step found no thread")
        return bool(result == 0)


class Samples:
    """Some numbers of each tensor, to see whether one was written to as a whole.

    Args:
        tensors: float32, none empty; they are kept.

    Raises:
        NativeError: the library cannot be had here.

    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._run = native.library("step").samples
        number = len(tensors)
        lasts = [sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) for x in tensors]
        self._arguments = (
            (ctypes.c_void_p * number)(*(x.data_ptr() for x in tensors)),
            (ctypes.c_int64 * number)(*lasts),
            number,
            (ctypes.c_float * (SAMPLES * number))(),
            SAMPLES,
        )
        self._run(True, *self._arguments)

    def hold(self) -> bool:
        """Tell whether they are as they were."""
        return bool(self._run(False, *self._arguments))


def _pooled(size: tuple[int, int], pool: int) -> tuple[int, int]:
    return size[0] // pool, size[1] // pool


def _library() -> ctypes.CDLL:
    library = native.library("step")
    library.network_new.restype = library.runner_new.restype = ctypes.c_void_p
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    library.runner_step.argtypes = (pointer, pointer, pointer, whole, pointer, whole, pointer)
    return library


def _described(layer: Layer, tensors: list[Tensor | None]) -> _Description:
    pointers = (ctypes.c_void_p * 4)(*(None if x is None else x.data_ptr() for x in tensors))
    height, width = layer.size
    return _Description(H=height, W=width, weights=pointers, **layer._numbers())
