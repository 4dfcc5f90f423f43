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


def spike_response(x, tau_s, tau_r, theta, refractory, delay=1):
    """SLAYER's neuron over weighted input (T, N): both kernels summed anew over the whole past at every step.

    `delay` steps after its own step an input has run that far into its kernel: 1 here, 0 where a kernel is sampled
    from its own start, as SLAYER does. Returns potentials and spikes.
    """

    def eps(t):
        return t / tau_s * np.exp(1 - t / tau_s)

    def nu(t):
        return -refractory * theta * t / tau_r * np.exp(1 - t / tau_r)

    potentials, spikes = np.zeros_like(x), np.zeros_like(x)
    for n in range(x.shape[1]):
        for t in range(len(x)):
            for past in range(t + 1):
                potentials[t, n] += eps(t - past + delay) * x[past, n]
            for past in range(t):
                potentials[t, n] += nu(t - past) * spikes[past, n]
            spikes[t, n] = potentials[t, n] >= theta
    return potentials, spikes


def spike_response_gradient(potentials, gradient, tau_s, theta):
    """SLAYER's backward pass: errors at the spikes (T, N) to errors at the weighted input, for unit tau_rho and scale.

    delta(t) = rho(u(t)) e(t), rho(u) = exp(-|u - theta| / theta) / theta; the input's error is eps correlated with it.
    """
    delta = np.exp(-np.abs(potentials - theta) / theta) / theta * gradient
    result = np.zeros_like(gradient)
    for t in range(len(gradient)):
        for later in range(t, len(gradient)):
            age = later - t + 1
            result[t] += age / tau_s * np.exp(1 - age / tau_s) * delta[later]
    return result


def neuron_norm(spikes, U, decay):
    """NeuNorm over spikes (T, C, H, W) with weights U (C, H, W); v from the source's condition k + v F = 1."""
    F = spikes.shape[1]
    v = (1 - decay) / F
    x = np.zeros(spikes.shape[2:])
    result = np.zeros_like(spikes)
    for t, o in enumerate(spikes):
        for i, j in np.ndindex(x.shape):
            x[i, j] = decay * x[i, j] + v / F * sum(o[f, i, j] for f in range(F))
            for f in range(F):
                result[t, f, i, j] = o[f, i, j] - U[f, i, j] * x[i, j]
    return result, x


def iterative_lif(x, decay, threshold):
    """STBP's neuron over input (T, ...): u(t) = decay u(t-1) (1 - s(t-1)) + x(t). Returns potentials and spikes."""
    u, s = np.zeros_like(x[0]), np.zeros_like(x[0])
    potentials, spikes = [], []
    for x_t in x:
        u = decay * u * (1 - s) + x_t
        s = (u >= threshold).astype(x.dtype)
        potentials.append(u)
        spikes.append(s)
    return np.stack(potentials), np.stack(spikes)
