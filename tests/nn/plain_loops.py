"""The equations once more, in NumPy and one pixel at a time: slow, and written without a look at the library."""

from __future__ import annotations

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def correlate(image, weight, bias=None):
    """`*` of the paper: (C, H, W) with (D, C, k, k) to (D, H, W), zeros around so that the size stays.

    An even kernel sees one pixel more after the middle than before it.
    """
    D, C, k, _ = weight.shape
    _, H, W = image.shape
    before = (k - 1) // 2
    result = np.zeros((D, H, W))
    for d in range(D):
        for y in range(H):
            for x in range(W):
                total = 0.0 if bias is None else bias[d]
                for c in range(C):
                    for dy in range(k):
                        for dx in range(k):
                            yy, xx = y + dy - before, x + dx - before
                            if 0 <= yy < H and 0 <= xx < W:
                                total += weight[d, c, dy, dx] * image[c, yy, xx]
                result[d, y, x] = total
    return result


def convlstm(frames, W_x, W_h, b, hidden=None, cell=None):
    """Equations 1-5 over frames (T, C, H, W); W_x, W_h and b are dicts by gate: i, f, o, c."""
    D = W_x["i"].shape[0]
    H = np.zeros((D, *frames.shape[2:])) if hidden is None else hidden
    c = np.zeros_like(H) if cell is None else cell
    outputs = []
    for X in frames:
        i = sigmoid(correlate(X, W_x["i"], b["i"]) + correlate(H, W_h["i"]))
        f = sigmoid(correlate(X, W_x["f"], b["f"]) + correlate(H, W_h["f"]))
        o = sigmoid(correlate(X, W_x["o"], b["o"]) + correlate(H, W_h["o"]))
        c = f * c + i * np.tanh(correlate(X, W_x["c"], b["c"]) + correlate(H, W_h["c"]))
        H = o * np.tanh(c)
        outputs.append(H)
    return np.stack(outputs), H, c


def attention(frame, W_q, W_k, W_v, heads=1):
    """Equation 6 over one frame (C, H, W), pixel by pixel; weights (d, C). Returns (d_v, H, W)."""
    _, H, W = frame.shape
    pixels = [frame[:, y, x] for y in range(H) for x in range(W)]
    Q, K, V = ([weight @ pixel for pixel in pixels] for weight in (W_q, W_k, W_v))
    d_k, d_v = len(W_q) // heads, len(W_v) // heads
    result = np.zeros((len(W_v), H * W))
    for h in range(heads):
        own_k, own_v = slice(h * d_k, (h + 1) * d_k), slice(h * d_v, (h + 1) * d_v)
        for n, q in enumerate(Q):
            scores = np.array([q[own_k] @ k[own_k] / np.sqrt(d_k) for k in K])
            weights = np.exp(scores) / np.exp(scores).sum()
            result[own_v, n] = sum(w * v[own_v] for w, v in zip(weights, V, strict=True))
    return result.reshape(-1, H, W)
