"""The gradients of a ConvLSTM layer of few channels after its backward steps (`convlstm_gradients.cu`), through CuPy.

By the weights, from all steps at once, and by the frames or the first hidden state, which is a convolution of the
gradients by the gates. Products are of TF32 on tensor cores, sums in float32 and in the same order each time.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu

STRIP = 32  # pixels of a row that a warp has at a time
# Blocks that should fit into a multiprocessor at once, what the registers leave room for, and the rows of a strip that
# are on their way; in `weight_gradients` one where more do not fit into the shared memory.
WEIGHT_BLOCKS, WEIGHT_DEPTH = (4, 3), 2  # blocks with up to 4 hidden channels and with more
BACK_BLOCKS, BACK_DEPTH = 4, 2
# Rows that a warp may go down before it turns to another strip: longer ways repeat fewer rows around, shorter ones
# share out the work more evenly.
ROWS = (8, 16, 32, 64, 128)


def works(device: torch.device) -> bool:
    """Tell whether the kernels pass their self-test on a device; the first time that they do not, with a warning."""
    return gpu.works(device, _self_test, "the ConvLSTM's gradients")


def weight_gradients(
    gate_grads: Tensor, frames: Tensor, first_hidden: Tensor | None, hiddens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by the weights of frames (4 D, C, 3, 3) and hidden state (4 D, D, 3, 3) and the bias (4 D).

    All in float32. T steps of N samples, C channels of a frame up to 4, D of the hidden state up to 6, W even.

    Args:
        gate_grads: gradients by the gates before their activations (T, N, 4 D, H, W), in the order of the weights'
            rows; float32, float16 or bfloat16.
        frames: (T, N, C, H, W), in the same type.
        first_hidden: hidden state before the first step (N, D, H, W), in the same type; None for zeros.
        hiddens: hidden states after the steps (T, N, D, H, W), in the same type; the last one is not used.

    """
    T, N, C, H, W = frames.shape
    D = hiddens.shape[2]
    gate_grads, frames, hiddens = _aligned(gate_grads), _aligned(frames), _aligned(hiddens)
    first_hidden = None if first_hidden is None else _aligned(first_hidden)
    fit = WEIGHT_BLOCKS[D > 4]
    rows, units, blocks = _shares(T * N, H, W, fit, gate_grads.device)
    columns = -(-4 * D // 8)
    parts = torch.empty(blocks, _tiles(C, D) * columns * 4 * 32, device=gate_grads.device)
    depth = 1 if D > 4 and gate_grads.dtype == torch.float32 else WEIGHT_DEPTH
    macros = _macros(gate_grads, fit, depth, C, D) | {"BACK": 0, "WIDE": 0}
    arguments = (gate_grads, frames, first_hidden, hiddens, N, units, rows, blocks, parts)
    cuda.launch("convlstm_gradients.cu", "weight_gradient", macros, blocks, arguments)
    lengths = (4 * D * C * 9, 4 * D * D * 9, 4 * D)
    by_input, by_hidden, by_bias = parts.sum(0)[_places(C, D, parts.device)].split_with_sizes(lengths)
    return by_input.view(4 * D, C, 3, 3), by_hidden.view(4 * D, D, 3, 3), by_bias


def convolve_back(gate_grads: Tensor, w: Tensor, out_dtype: torch.dtype) -> Tensor:
    """Return the gradient (T, N, channels, H, W) by what was convolved with `w` for the gates, in `out_dtype`.

    Args:
        gate_grads: gradients by the gates (T, N, 4 D, H, W), D up to 6 and W even; float32, float16 or bfloat16.
        w: weights (4 D, channels, 3, 3) of up to 6 channels, in float32; stride 1, zeros around.
        out_dtype: any floating type.

    """
    T, N, gates, H, W = gate_grads.shape
    gate_grads = _aligned(gate_grads)
    wide = out_dtype != gate_grads.dtype
    dtype = torch.float32 if wide else out_dtype
    result = torch.empty(T, N, w.shape[1], H, W, dtype=dtype, device=gate_grads.device)
    rows, units, blocks = _shares(T * N, H, W, BACK_BLOCKS, gate_grads.device)
    macros = _macros(gate_grads, BACK_BLOCKS, BACK_DEPTH, w.shape[1], gates // 4) | {"BACK": 1, "WIDE": wide}
    arguments = (gate_grads, w.float().contiguous(), units, rows, blocks, result)
    cuda.launch("convlstm_gradients.cu", "convolve_back", macros, blocks, arguments)
    return result.to(out_dtype)


def _macros(gate_grads: Tensor, blocks: int, depth: int, channels: int, hidden: int) -> dict[str, int]:
    """Return the macros of a kernel of which `blocks` should fit into a multiprocessor."""
    macros = cuda.neuron_macros(gate_grads.dtype, None, 0, False, True)  # of no neuron: what the text before needs
    sizes = {"CHANNELS": channels, "HIDDEN": hidden, "HEIGHT": gate_grads.shape[3], "WIDTH": gate_grads.shape[4]}
    return macros | {"VECTOR": 1, "DEPTH": depth, "BLOCKS": blocks} | sizes


def _aligned(x: Tensor) -> Tensor:
    """Return `x`, contiguous and where 16 bytes can be loaded at once."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _shares(images: int, H: int, W: int, fit: int, device: torch.device) -> tuple[int, int, int]:
    """Return the rows of a unit of a warp's work, the number of units, and the blocks that take them in turn."""
    warps = cuda.THREADS // 32
    most = fit * _processors(device)

    def units(rows: int) -> int:
        return images * -(-H // rows) * -(-W // STRIP)

    def steps(rows: int) -> int:  # of the warp that has the most, with the two rows around each unit
        return -(-units(rows) // (most * warps)) * (min(rows, H) + 2)

    rows = min(ROWS, key=steps)
    return rows, units(rows), min(-(-units(rows) // warps), most)


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _tiles(C: int, D: int) -> int:
    return 6 if C + D > 8 else 5


@functools.cache
def _places(C: int, D: int, device: torch.device) -> Tensor:
    """Return where the gradients by weights of frames, of hidden states and by the bias are in a block's sums.

    These are (tile, eight gates, 4, 32 lanes). A tile has two eights of rows: the first eight channels for an upper and
    for the middle tap below it, in three tiles; then those for a lower tap and what `weight_gradient` puts beside it.
    """
    gate, channel, y, x = torch.meshgrid(*map(torch.arange, (4 * D, C + D, 3, 3)), indexing="ij")
    other = channel >= 8
    lowest = other | (y == 2)
    if _tiles(C, D) > 5:
        tile, half = torch.where(lowest, 3 + x, x), torch.where(other, 1, y % 2)
    else:
        tile, half = torch.where(lowest, 3 + x % 2, x), torch.where(lowest, x // 2, y)
    row = torch.where(other, channel - 8 + 2 * y, channel)
    columns = -(-4 * D // 8)

    def place(tile: Tensor, half: Tensor, row: Tensor, gate: Tensor) -> Tensor:
        return ((tile * columns + gate // 8) * 4 + 2 * half + gate % 2) * 32 + 4 * row + gate % 8 // 2

    weights = place(tile, half, row, gate)
    gates = torch.arange(4 * D)
    bias = place(torch.tensor(9 - _tiles(C, D)), torch.tensor(1), torch.tensor(6), gates)
    return torch.cat((weights[:, :C].flatten(), weights[:, C:].flatten(), bias)).to(device)


def _self_test(device: torch.device) -> None:
    """Compare small cases, whose sums are exact in any order and precision, with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    T, N, H, W = 2, 1, 4, 36
    for C, D in ((2, 4), (4, 6)):
        gate_grads = ((torch.arange(T * N * 4 * D * H * W) * 11 % 19 - 9) / 4).reshape(T, N, 4 * D, H, W)
        frames = ((torch.arange(T * N * C * H * W) * 7 % 17 - 8) / 4).reshape(T, N, C, H, W)
        hiddens = ((torch.arange(T * N * D * H * W) * 5 % 13 - 6) / 4).reshape(T, N, D, H, W)
        first = hiddens[1].flip(-1).contiguous()
        inputs = torch.cat((frames, torch.cat((first[None], hiddens[:-1]))), 2).flatten(0, 1)
        shape = (4 * D, C + D, 3, 3)
        weights = torch.nn.grad.conv2d_weight(inputs, shape, gate_grads.flatten(0, 1), padding=1)
        expected = [weights[:, :C], weights[:, C:], gate_grads.sum((0, 1, 3, 4))]
        given = [x.to(device) for x in (gate_grads, frames, first, hiddens)]
        found = [*weight_gradients(given[0], given[1], given[2], given[3])]
        if D > 4:
            w = ((torch.arange(4 * D * C * 9) * 5 % 13 - 6) / 4).reshape(4 * D, C, 3, 3)
            by_frames = F.conv_transpose2d(gate_grads.flatten(0, 1), w, padding=1)
            expected.append(by_frames.unflatten(0, (T, N)))
            found.append(convolve_back(given[0], w.to(device), torch.float32))
        if not all(torch.equal(one, other.cpu()) for one, other in zip(expected, found, strict=True)):
            raise RuntimeError("its results are not those of the single operations")
