// The LIF sequence with a normalization of the channels before and a maximum pooling after it, forward and backward.
//
// Arrays are (T, N, H, W, C), the channels next to each other; VECTOR divides C. A thread has VECTOR channels of a
// window of POOL x POOL pixels, all T steps in its registers, then those of the window `slots` further on. A rest that
// fills no window at the lower and right edges has its neurons, but neither spikes nor their gradients. Beside the
// macros of neuron.cuh:
//   PASS   the kernels: 0 the moments, 1 forward, 2 backward
//   POOL   side of the pooling
//   WHOLE  1 where POOL divides H and W
//   CHUNK  steps whose potentials backward computes anew at once, from the potential before them that forward has kept
//   EVEN   1 where DEPTH (CHUNK in backward) divides T
//
// A step has less than 2^31 / max(2 DEPTH, CHUNK) numbers, so that what is between two of a thread's fits an int.
//
// x^ = (x - mean) / sqrt(variance + eps);    X = weight x^ + bias is what charges the neurons.

constexpr int kPixels = POOL * POOL;

// Which channels and which windows (pixels, for the moments) are a thread's.
struct Share {
    long long slot;
    int channel;
    bool any;
};

__device__ __forceinline__ Share share_of_thread(int C) {
    const int packs = C / VECTOR, across = packs < THREADS ? packs : THREADS, rows = THREADS / across;
    const int parts = (packs + across - 1) / across, part = blockIdx.x % parts;
    const int row = threadIdx.x / across, pack = part * across + threadIdx.x % across;
    return {static_cast<long long>(blockIdx.x / parts) * rows + row, pack * VECTOR, row < rows && pack < packs};
}

// Where a window's pixels and its output are, within a step.
struct Window {
    int first, out;  // out is negative where it is not whole
    int rows, columns, W, C;

    __device__ __forceinline__ Window(unsigned number, int channel, int H, int W, int C) : W(W), C(C) {
        const unsigned across = (W + POOL - 1) / POOL, down = (H + POOL - 1) / POOL;
        const unsigned column = number % across, row = number / across % down;
        const int n = number / across / down;
        rows = H - row * POOL, columns = W - column * POOL;
        first = ((n * H + row * POOL) * W + column * POOL) * C + channel;
        out = ((n * (H / POOL) + row) * (W / POOL) + column) * C + channel;
        if (!has(kPixels - 1)) out = -1;
    }
    __device__ __forceinline__ bool has(int p) const { return WHOLE || (p / POOL < rows && p % POOL < columns); }
    // From the first pixel.
    __device__ __forceinline__ int to(int p) const { return (p / POOL * W + p % POOL) * C; }
};

// scale: weight / sqrt(variance + eps); shift: bias - mean scale; deviation: 1 / sqrt(variance + eps).
struct Normalization {
    Pack<State> mean, deviation, scale, shift;

    __device__ __forceinline__ Normalization(const State* means, const State* variances, const State* weights,
                                             const State* biases, double eps, int channel) {
        const Pack<State> variance = get(variances + channel);
        const Pack<State> weight = weights ? get(weights + channel) : all(static_cast<State>(1));
        const Pack<State> bias = biases ? get(biases + channel) : all(static_cast<State>(0));
        mean = get(means + channel);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            deviation.of[i] = 1 / sqrt(variance.of[i] + static_cast<State>(eps));
            scale.of[i] = weight.of[i] * deviation.of[i];
            shift.of[i] = fma(-mean.of[i], scale.of[i], bias.of[i]);
        }
    }
    __device__ __forceinline__ State operator()(State x, int i) const { return fma(x, scale.of[i], shift.of[i]); }
};

#if PASS == 0
// sums[slot]: of x - x[0] and of its square over the rows of each slot, for every channel, of rows x C values.
extern "C" __global__ void __launch_bounds__(THREADS)
    moments(const Value* __restrict__ x, long long rows, long long C, long long slots, State* __restrict__ sums) {
    const Share share = share_of_thread(C);
    if (!share.any) return;
    constexpr int kAtOnce = 4;
    const Pack<Value> pivot = get(x + share.channel);
    Pack<State> sum = all(static_cast<State>(0)), squares = sum;
    for (long long row = share.slot; row < rows; row += kAtOnce * slots) {
        Pack<Value> values[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const long long at = rows - 1 - row - k * slots;  // what was written last may still be in a cache
            values[k] = at >= 0 ? get(x + at * C + share.channel) : pivot;
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const State difference = load(values[k].of[i]) - load(pivot.of[i]);
                sum.of[i] += difference;
                squares.of[i] = fma(difference, difference, squares.of[i]);
            }
    }
    put(sums + share.slot * 2 * C + share.channel, sum);
    put(sums + (share.slot * 2 + 1) * C + share.channel, squares);
}

// Mean and variance from the sums of all slots.
extern "C" __global__ void __launch_bounds__(THREADS)
    moments_end(const Value* __restrict__ x, const double* __restrict__ sums, long long rows, long long C,
                State* __restrict__ mean, State* __restrict__ variance) {
    const long long c = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (c >= C) return;
    const double distance = sums[c] / rows, square = sums[C + c] / rows - distance * distance;
    mean[c] = static_cast<State>(load(x[c]) + distance);
    variance[c] = static_cast<State>(square < 0 ? 0 : square);
}

#elif PASS == 1
// Spikes (pooled), the potential after the last step, and, where it is not null, kept[k]: the potential before step
// (k + 1) CHUNK. Weight, bias and v_start may be null: 1, 0 and rest.
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_lif_forward(const Value* __restrict__ x, const State* __restrict__ v_start, const State* __restrict__ mean,
                     const State* __restrict__ variance, const State* __restrict__ weight,
                     const State* __restrict__ bias, double eps, double tau, double v_threshold, double v_rest,
                     long long T, long long N, long long H, long long W, long long C, long long slots,
                     Value* __restrict__ spikes, State* __restrict__ v_end, State* __restrict__ kept) {
    const Share share = share_of_thread(C);
    if (!share.any) return;
    const Neuron neuron = {static_cast<State>(tau), static_cast<State>(v_threshold), static_cast<State>(v_rest), 0, 0};
    const Normalization normal(mean, variance, weight, bias, eps, share.channel);
    const Value one = store(static_cast<State>(1)), none = store(static_cast<State>(0));
    const int step = N * H * W * C, out_step = N * (H / POOL) * (W / POOL) * C;
    const int windows = N * ((H + POOL - 1) / POOL) * ((W + POOL - 1) / POOL);
    for (long long number = share.slot; number < windows; number += slots) {
        const Window window(number, share.channel, H, W, C);
        const Value* input = x + window.first;  // at the step that is computed
        Value* output = spikes + window.out;
        State* keep = kept + window.first;
        Pack<Value> coming[DEPTH][kPixels] = {};
        Pack<State> v[kPixels];
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
#pragma unroll
            for (int k = 0; k < DEPTH; ++k)
                if ((EVEN || k < T) && window.has(p)) coming[k][p] = get_once(input + k * step + window.to(p));
            v[p] = v_start && window.has(p) ? get(v_start + window.first + window.to(p)) : all(neuron.rest);
        }
        int until_kept = CHUNK;
        for (int t = 0; t < T; t += DEPTH) {
            const bool more = t + DEPTH < T;
#pragma unroll
            for (int k = 0; k < DEPTH; ++k) {
                if (!EVEN && t + k >= T) break;
                if (kept && until_kept == 0) {
#pragma unroll
                    for (int p = 0; p < kPixels; ++p)
                        if (window.has(p)) put_once(keep + window.to(p), v[p]);
                    keep += step;
                    until_kept = CHUNK;
                }
                --until_kept;
                Pack<Value> now[kPixels], fired;
#pragma unroll
                for (int p = 0; p < kPixels; ++p) {
                    now[p] = coming[k][p];
                    if ((EVEN ? more : t + k + DEPTH < T) && window.has(p))
                        coming[k][p] = get_once(input + (k + DEPTH) * step + window.to(p));
                }
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    bool any = false;
#pragma unroll
                    for (int p = 0; p < kPixels; ++p) {
                        const State h = neuron.charge(v[p].of[i], normal(load(now[p].of[i]), i));
                        any |= neuron.fires(h);
                        v[p].of[i] = neuron.after(h);
                    }
                    fired.of[i] = any ? one : none;
                }
                if (WHOLE || window.out >= 0) put(output + k * out_step, fired);
            }
            input += static_cast<long long>(DEPTH) * step;
            output += static_cast<long long>(DEPTH) * out_step;
        }
#pragma unroll
        for (int p = 0; p < kPixels; ++p)
            if (window.has(p)) put(v_end + window.first + window.to(p), v[p]);
    }
}

#else
// What a backward pass reads.
struct Given {
    const Value *x, *spikes_grad;               // the second may be null: zero
    const State *v_start, *v_end_grad, *kept;  // as in forward; v_end_grad may be null: zero
};

// Calls each(from, at, x - mean, dL/dX) for the input x[from + at] of every pixel and step of a window, the last step
// first, then end(at, dL/dV before the first step) for every pixel.
//
// The gradient of a window belongs to its first pixel that fires or, without any, to its first, as in torch.
template <bool kReadAgain, typename Each, typename End>
__device__ __forceinline__ void back_through(const Given& given, const Window& window, const Neuron& neuron,
                                             const Normalization& normal, int T, int step, int out_step,
                                             const Each& each, const End& end) {
    Pack<State> v_grad[kPixels];
#pragma unroll
    for (int p = 0; p < kPixels; ++p)
        v_grad[p] = given.v_end_grad && window.has(p) ? get(given.v_end_grad + window.first + window.to(p))
                                                      : all(static_cast<State>(0));
    for (int chunk = (T - 1) / CHUNK; chunk >= 0; --chunk) {
        const int t = chunk * CHUNK, steps = EVEN || T - t > CHUNK ? CHUNK : T - t;
        const long long first = static_cast<long long>(t) * step + window.first;
        const Value* input = given.x + first;
        const Value* spikes_grad = given.spikes_grad + static_cast<long long>(t) * out_step + window.out;
        const State* start = chunk ? given.kept + static_cast<long long>(chunk - 1) * step : given.v_start;
        Pack<Value> inputs[CHUNK][kPixels] = {}, spike_grads[CHUNK];
        Pack<State> v[kPixels], h[CHUNK][kPixels];
#pragma unroll
        for (int p = 0; p < kPixels; ++p)
            v[p] = start && window.has(p) ? get(start + window.first + window.to(p)) : all(neuron.rest);
#pragma unroll
        for (int k = 0; k < CHUNK; ++k) {
#pragma unroll
            for (int p = 0; p < kPixels; ++p)
                if (k < steps && window.has(p)) {
                    const Value* from = input + k * step + window.to(p);
                    inputs[k][p] = kReadAgain ? get(from) : get_once(from);
                }
            spike_grads[k] = all(store(static_cast<State>(0)));
            if (given.spikes_grad && k < steps && (WHOLE || window.out >= 0))
                spike_grads[k] = kReadAgain ? get(spikes_grad + k * out_step) : get_once(spikes_grad + k * out_step);
        }
#pragma unroll
        for (int k = 0; k < CHUNK; ++k)
#pragma unroll
            for (int p = 0; p < kPixels; ++p)
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    h[k][p].of[i] = neuron.charge(v[p].of[i], normal(load(inputs[k][p].of[i]), i));
                    v[p].of[i] = neuron.after(h[k][p].of[i]);
                }
#pragma unroll
        for (int k = CHUNK - 1; k >= 0; --k) {
            if (k >= steps) continue;
            bool others[VECTOR] = {}, found[VECTOR] = {};  // another pixel than the first fires, one before does
#pragma unroll
            for (int p = 1; p < kPixels; ++p)
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) others[i] |= window.has(p) && neuron.fires(h[k][p].of[i]);
#pragma unroll
            for (int p = 0; p < kPixels; ++p) {
                Pack<State> centred, x_grad;
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const bool fires = neuron.fires(h[k][p].of[i]);
                    const bool chosen = p ? fires && !found[i] : fires || !others[i];
                    found[i] |= fires;
                    const State spike_grad = chosen ? load(spike_grads[k].of[i]) : static_cast<State>(0);
                    x_grad.of[i] = neuron.back(h[k][p].of[i], spike_grad, v_grad[p].of[i]);
                    centred.of[i] = load(inputs[k][p].of[i]) - normal.mean.of[i];
                }
                if (window.has(p)) each(first, k * step + window.to(p), centred, x_grad);
            }
        }
    }
#pragma unroll
    for (int p = 0; p < kPixels; ++p)
        if (window.has(p)) end(window.first + window.to(p), v_grad[p]);
}

// sums[slot]: of dL/dX and of dL/dX (x - mean) over the windows of each slot, for every channel.
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_lif_sums(const Value* __restrict__ x, const Value* __restrict__ spikes_grad,
                  const State* __restrict__ v_start, const State* __restrict__ v_end_grad,
                  const State* __restrict__ kept, const State* __restrict__ mean, const State* __restrict__ variance,
                  const State* __restrict__ weight, const State* __restrict__ bias, double eps, double tau,
                  double v_threshold, double v_rest, double width, double height, long long T, long long N,
                  long long H, long long W, long long C, long long slots, State* __restrict__ sums) {
    const Share share = share_of_thread(C);
    if (!share.any) return;
    const Neuron neuron = {static_cast<State>(tau), static_cast<State>(v_threshold), static_cast<State>(v_rest),
                           static_cast<State>(width), static_cast<State>(height)};
    const Normalization normal(mean, variance, weight, bias, eps, share.channel);
    const Given given = {x, spikes_grad, v_start, v_end_grad, kept};
    const int step = N * H * W * C, out_step = N * (H / POOL) * (W / POOL) * C;
    const int windows = N * ((H + POOL - 1) / POOL) * ((W + POOL - 1) / POOL);
    Pack<State> sum = all(static_cast<State>(0)), products = sum;
    for (long long number = share.slot; number < windows; number += slots)
        back_through<true>(
            given, Window(number, share.channel, H, W, C), neuron, normal, T, step, out_step,
            [&](long long, int, const Pack<State>& centred, const Pack<State>& x_grad) {
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    sum.of[i] += x_grad.of[i];
                    products.of[i] = fma(x_grad.of[i], centred.of[i], products.of[i]);
                }
            },
            [](int, const Pack<State>&) {});
    put(sums + share.slot * 2 * C + share.channel, sum);
    put(sums + (share.slot * 2 + 1) * C + share.channel, products);
}

// Gradients by x and, where that is not null, by the first potential. totals: norm_lif_sums' sums of all slots where
// mean and variance are those of x, null where they are constants.
//   dL/dx = scale (dL/dX - [mean of dL/dX] - x^ [mean of dL/dX x^])
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_lif_backward(const Value* __restrict__ x, const Value* __restrict__ spikes_grad,
                      const State* __restrict__ v_start, const State* __restrict__ v_end_grad,
                      const State* __restrict__ kept, const State* __restrict__ mean,
                      const State* __restrict__ variance, const State* __restrict__ weight,
                      const State* __restrict__ bias, double eps, double tau, double v_threshold, double v_rest,
                      double width, double height, long long T, long long N, long long H, long long W, long long C,
                      long long slots, const double* __restrict__ totals, Value* __restrict__ x_grads,
                      State* __restrict__ v_start_grad) {
    const Share share = share_of_thread(C);
    if (!share.any) return;
    const Neuron neuron = {static_cast<State>(tau), static_cast<State>(v_threshold), static_cast<State>(v_rest),
                           static_cast<State>(width), static_cast<State>(height)};
    const Normalization normal(mean, variance, weight, bias, eps, share.channel);
    const Given given = {x, spikes_grad, v_start, v_end_grad, kept};
    const int step = N * H * W * C, out_step = N * (H / POOL) * (W / POOL) * C;
    const int windows = N * ((H + POOL - 1) / POOL) * ((W + POOL - 1) / POOL);
    Pack<State> by_centred = all(static_cast<State>(0)), constant = by_centred;  // dL/dx = scale dL/dX - these two
    if (totals) {
        const State share_of_one = 1 / (static_cast<State>(T * N) * static_cast<State>(H * W));
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const State factor = normal.scale.of[i] * share_of_one;
            constant.of[i] = factor * static_cast<State>(totals[share.channel + i]);
            by_centred.of[i] = factor * normal.deviation.of[i] * normal.deviation.of[i] *
                               static_cast<State>(totals[C + share.channel + i]);
        }
    }
    // From the last window on: what the sums have read last may still be in a cache.
    for (long long number = windows - 1 - share.slot; number >= 0; number -= slots)
        back_through<false>(
            given, Window(number, share.channel, H, W, C), neuron, normal, T, step, out_step,
            [&](long long from, int at, const Pack<State>& centred, const Pack<State>& x_grad) {
                Pack<Value> result;
#pragma unroll
                for (int i = 0; i < VECTOR; ++i)
                    result.of[i] = store(fma(-by_centred.of[i], centred.of[i],
                                             fma(normal.scale.of[i], x_grad.of[i], -constant.of[i])));
                put(x_grads + from + at, result);
            },
            [&](int at, const Pack<State>& v_grad) { if (v_start_grad) put(v_start_grad + at, v_grad); });
}
#endif
