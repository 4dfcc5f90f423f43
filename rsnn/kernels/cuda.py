"""Launching CUDA sources through CuPy: their text, the macros that they are compiled with, PyTorch's stream."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels.surrogate import ATan, Exponential, Rectangle, Sigmoid

THREADS = 128  # of a block
SHARED = 48 << 10  # bytes of shared memory that a block may have without being asked for
# Neurons next to each other share a thread, up to 16 bytes of potential, as long as there are so many threads.
THREADS_TO_FILL = 1 << 16

VALUES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # INPUT in neuron.cuh
SURROGATES = {ATan: 0, Sigmoid: 1, Rectangle: 2, Exponential: 3}  # SURROGATE in neuron.cuh

# The sources that need tensor_core.cuh, and those that need cluster.cuh, too.
IN_CLUSTERS = ("convlstm_sequence.cu",)
ON_TENSOR_CORES = (
    "convlstm_step.cu",
    "convlstm_back.cu",
    "convlstm_gradients.cu",
    "narrow_conv.cu",
    "spiking_conv.cu",
    "spike_products.cu",
    *IN_CLUSTERS,
)


def state_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the potential for inputs of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def neuron_macros(dtype: torch.dtype, tau: float | None, kind: int, soft: bool, detach: bool) -> dict[str, int]:
    """Return the macros that describe a neuron; `tau` is None where only the device knows it."""
    inverse = tau is not None and math.frexp(tau)[0] == 0.5
    return {
        "INPUT": VALUES.index(dtype),
        "SURROGATE": kind,
        "SOFT": soft,
        "DETACH": detach,
        "INVERSE": inverse,
        "THREADS": THREADS,
    }


def vector_length(most: int, number: int, tensors: Sequence[Tensor], pieces: int = 1 << 31) -> int:
    """Return how many of `number` neighbours share a thread, in each of `pieces`."""
    vector = most
    while vector > 1 and (
        number % vector
        or pieces * number // vector < THREADS_TO_FILL
        or any(x.data_ptr() % (vector * x.itemsize) for x in tensors)
    ):
        vector //= 2
    return vector


def launch(
    file: str,
    name: str,
    macros: dict[str, int],
    blocks: int,
    *launches: tuple[Tensor | float | None, ...],
    shared: int = 0,
) -> None:
    """Launch `blocks` of a kernel of a CUDA source, compiled with `macros`, on the device of its arguments.

    More than one tuple of arguments are launches one after the other. `shared` are the bytes of shared memory that a
    block gets beside those that it declares.
    """
    options = tuple(f"-D{macro}={int(value)}" for macro, value in macros.items())
    device = next(x.device for x in launches[0] if isinstance(x, Tensor))
    pointers = (
        [x.data_ptr() if isinstance(x, Tensor) else 0 if x is None else x for x in arguments] for arguments in launches
    )
    _compiled(file, name, options, macros["THREADS"], shared)(blocks, next(pointers), device, *pointers)


@functools.cache
def processors(device: torch.device) -> int:
    """Return the multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def source(file: str) -> str:
    """Return a CUDA source (`lif.cu`, `norm_lif.cu` or one of ON_TENSOR_CORES), whole."""
    folder = Path(__file__).parent
    parts = [
        "neuron.cuh",
        *(["tensor_core.cuh"] if file in ON_TENSOR_CORES else []),
        *(["cluster.cuh"] if file in IN_CLUSTERS else []),
        file,
    ]
    return "\n".join((folder / part).read_text(encoding="utf-8") for part in parts)


@functools.cache
def _compiled(file: str, name: str, options: tuple[str, ...], threads: int, shared: int) -> Callable[..., None]:
    """Return the launcher of a kernel of a CUDA source."""
    return launcher(source(file), name, options, threads, shared)


def launcher(
    text: str, name: str, options: tuple[str, ...] = (), threads: int = THREADS, shared: int = 0
) -> Callable[..., None]:
    """Return the launcher of a kernel of `text`: (blocks, arguments, device, *later arguments).

    It launches on PyTorch's current stream of `device`, which has an index. Arguments are addresses, whole numbers of
    64 bits and doubles. A block has `threads` and, beside what it declares, `shared` bytes of shared memory.
    """
    import cupy

    kernel = cupy.RawKernel(text, name, options=("-std=c++17", *options))  # compiled at its first launch

    def launch(blocks: int, arguments: list[int | float], device: torch.device, *later: list[int | float]) -> None:
        with cupy.cuda.Device(device.index), _current_stream(cupy, device):
            if shared > SHARED:
                kernel.max_dynamic_shared_size_bytes = shared
            for given in (arguments, *later):
                kernel((blocks,), (threads,), tuple(given), shared_mem=shared)

    return launch


def _current_stream(cupy: Any, device: torch.device) -> Any:
    stream = torch.cuda.current_stream(device)
    if not hasattr(cupy.cuda.Stream, "from_external"):  # before CuPy 14
        return cupy.cuda.ExternalStream(stream.cuda_stream, device.index)
    return cupy.cuda.Stream.from_external(_Stream(stream.cuda_stream))


class _Stream:
    """A stream for libraries that follow the CUDA stream protocol."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer
