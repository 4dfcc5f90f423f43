"""All steps of a ConvLSTM layer of few channels in one CUDA launch (`convlstm_sequence.cu`), through CuPy.

Clusters of blocks hold images in shared memory from the first step to the last, which takes compute capability 9.0.

Shapes: T steps, N batch, C channels of the frames, D of the hidden states, H height, W width.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu

CAPABILITY = (9, 0)
THREADS = 256  # of a block, when a multiprocessor has two of them
MEMORY = 227 << 10  # bytes of shared memory that a block has at most (Hopper); two of a multiprocessor share 1 KB more
LARGEST_CLUSTER = 8
MOST_ROWS, FEWER_ROWS = 32, 16  # of a block


def supports(frames: Tensor, w_hidden: Tensor) -> bool:
    """Tell whether the kernel takes these frames (T, N, C, H, W), of those that `convlstm_cupy` takes."""
    device = frames.device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        return False
    return _rows(frames, w_hidden.shape[1]) is not None and _works(device)


def run(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    pool: int,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
) -> None:
    """Run `frames` (T, N, C, H, W) through the layer; see `convlstm_cupy`.

    Args:
        outputs: where features, last hidden state and cell go, and, if wanted, hidden states and cells (T - 1, N, D, H,
            W) after all steps before the last.

    """
    T, N, C, H, W = frames.shape
    D = w_hidden.shape[1]
    rows = _rows(frames, D)
    assert rows is not None
    cluster = H // rows
    blocks = N * cluster
    shared = _memory(C, D, W, rows)
    # One block a multiprocessor has the threads of two.
    alone = 2 * shared + (2 << 10) > _most_memory(frames.device) or blocks <= cuda.processors(frames.device)
    macros = cuda.neuron_macros(frames.dtype, None, 0, False, True)  # of no neuron: what the text before needs
    macros |= {"VECTOR": 1, "DEPTH": 1, "THREADS": THREADS * (2 if alone else 1), "ROWS": rows, "CLUSTER": cluster}
    macros |= {"CHANNELS": C, "HIDDEN": D, "HEIGHT": H, "WIDTH": W, "POOL": pool}
    macros |= {"KEEP": outputs[-1] is not None, "ROUGH": frames.dtype != torch.float32}
    weights = (None if x is None else x.contiguous() for x in (w_input, w_hidden, bias))
    arguments = (frames, hidden, cell, *weights, T, N, *outputs)
    cuda.launch("convlstm_sequence.cu", "convlstm_sequence", macros, blocks, arguments, shared=shared)


@functools.cache
def _most_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a block may have on a device."""
    if device.type != "cuda":
        return MEMORY
    properties = torch.cuda.get_device_properties(device)
    most: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return min(MEMORY, most)


def _rows(frames: Tensor, D: int) -> int | None:
    """Return how many rows of an image a block has, or None where no number will do."""
    _, N, C, H, W = frames.shape
    if W % 16:
        return None
    memory = _most_memory(frames.device)
    fitting = [
        rows
        for rows in range(2, H + 1, 2)
        if H % rows == 0 and H // rows <= LARGEST_CLUSTER and _memory(C, D, W, rows) <= memory
    ]
    # As many rows as leave a block for every other multiprocessor, else the fewest. With up to 4 hidden channels two
    # blocks of fewer rows share one, where there are so many. (Measured on an H200, batches of 16 to 256.)
    several = D <= 4 and 2 * cuda.processors(frames.device) < N * (H // FEWER_ROWS)
    most = FEWER_ROWS if several else MOST_ROWS
    good = [rows for rows in fitting if rows <= most and N * (H // rows) >= cuda.processors(frames.device) // 2]
    return max(good) if good else min(fitting, default=None)


def _memory(C: int, D: int, W: int, rows: int) -> int:
    """Return the bytes of shared memory of a block: pixels twice, in halves, eight zeros, signals and cells."""
    pieces = (C + D + D % 2 + 7) // 8
    return 2 * 2 * pieces * (rows + 2) * (W + 2) * 8 + 16 + 32 + 4 * (6 if D > 4 else 4) * rows * W


def _works(device: torch.device) -> bool:
    return gpu.works(device, _self_test, "the ConvLSTM's sequences")


def _self_test(device: torch.device) -> None:
    """Compare small cases with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    tall = MOST_ROWS + 8
    sizes = [(2, 4, 2, tall, 16), (4, 6, 2, tall, 16)]  # C, D, N, H, W: several blocks an image
    if device.type == "cuda":  # the largest cluster, and the most shared memory
        sizes += [(2, 4, 1, 128, 128), (4, 6, 40, 64, 64)]
    for C, D, N, H, W in sizes:
        given = small_case(3, N, C, D, H, W)
        expected = by_single_operations(*given)
        frames, w_input, w_hidden, bias = (x.to(device) for x in given)
        features, hidden, cell = found = [torch.empty_like(x, device=device) for x in expected]
        run(frames, w_input, w_hidden, bias, None, None, 2, (features, hidden, cell, None, None))
        for one, other in zip(expected, found, strict=True):
            if not torch.allclose(one, other.cpu(), rtol=1e-2, atol=1e-2):  # loose enough for half precision
                raise RuntimeError("its results are not those of the torch kernel")


def small_case(T: int, N: int, C: int, D: int, H: int, W: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return frames, weights and bias for self-tests."""
    return (
        torch.linspace(-2.0, 2.0, T * N * C * H * W).mul(9).sin().reshape(T, N, C, H, W),
        torch.linspace(0.0, 500.0, 4 * D * C * 9).sin().div(2).reshape(4 * D, C, 3, 3),
        torch.linspace(0.0, 3000.0, 4 * D * D * 9).sin().div(2).reshape(4 * D, D, 3, 3),
        torch.linspace(-1.0, 1.0, 4 * D),
    )


def by_single_operations(frames: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor) -> list[Tensor]:
    """Return features, in maxima of 2 x 2 pixels, and last hidden state and cell, by plain PyTorch, from no state."""
    from rsnn.kernels.convlstm import _convolve, _steps

    from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
    features, hidden, cell = _steps(from_input, w_hidden, None, None)
    return [F.max_pool2d(features.flatten(0, 1), 2).unflatten(0, frames.shape[:2]), hidden, cell]
