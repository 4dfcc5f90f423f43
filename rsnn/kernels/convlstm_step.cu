// A step of a ConvLSTM layer of few channels: convolutions 3 x 3 of frame and hidden state on tensor cores in TF32,
// gates, cell, hidden state, maximum pooling. Beside the macros of neuron.cuh, of which INPUT is 0, 2 or 3 (type of
// frames and hidden states):
//   CHANNELS, HIDDEN  of a frame, up to 4, and of the hidden state, up to 6
//   HEIGHT, WIDTH     both even
//   POOL              2 writes maxima of 2 x 2 hidden states as well
//   BLOCKS            that should fit into a multiprocessor
//
// Warps work for themselves, without shared memory: a warp keeps the weights of the gates of 4 hidden channels, which
// are rows of a product, and goes from one group of 2 x 16 pixels to the next. The columns of a product are the even or
// the odd pixels of 16 neighbours, so that a lane that has the pixels 2 g - 1 ... 2 g + 2 of a row has what both
// products take of it for all taps, and ends up with two neighbours of the result.
//
// frame is (N, C, H, W), hidden states and cells are (N, D, H, W), features (N, D, H / 2, W / 2). A cell may be written
// where it was read. Hidden state and cell are zero where there are none (0). What the weights are is in
// convlstm_cupy.py.

constexpr int kPlane = HEIGHT * WIDTH, kAcross = (WIDTH + 15) / 16, kGroups = kAcross * (HEIGHT / 2);
constexpr int kParts = (HIDDEN + 3) / 4;        // of the gates; a warp has one
constexpr int kProducts = HIDDEN > 4 ? 12 : 9;  // one a tap, one a column of taps for the fifth and sixth channel
constexpr int kWarps = THREADS / 32 / kParts;   // of a block, for each part

#ifdef __CUDACC__
// Two numbers, loaded in the order of the calls.
__device__ __forceinline__ Two<float> early(const float* from) {
    Two<float> two;
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(two.first), "=f"(two.second) : "l"(from));
    return two;
}
#else
inline Two<float> early(const float* from) { return {from[0], from[1]}; }
#endif

// sigmoid(x) is 1 / (1 + e^-x) and tanh(x) is (e^2x - 1) / (e^2x + 1). The sums come as exponents of two: their weights
// and biases are scaled. Up to 2^60 a product of two denominators is finite.
constexpr float kSigmoid = -1.442695041f, kTanh = 2.885390082f;
__device__ __forceinline__ float exponential(float x) { return power_of_two(at_most(x, 60.0f)); }
// (x - 1) / ((1 + x) (1 + y))
__device__ __forceinline__ float tanh_of_x_times_sigmoid_of_y(float x, float y) {
    const float denominator = 1 + x;
    return (x - 1) * reciprocal(fma(denominator, y, denominator));
}
__device__ __forceinline__ float larger(float x, float y) { return x > y || x != x ? x : y; }

__device__ __forceinline__ unsigned as_factor(Value x) {
#if INPUT == 3
    return static_cast<unsigned>(x) << 16;
#else
    return rounded(load(x));
#endif
}

// A lane's pixels: of rows y - 1 ... y + 2 or, a row ahead, y and y + 1, each from the one before `from`, at row y, on;
// zeros where there are none.
__device__ __forceinline__ void look(const Value* __restrict__ from, bool exists, int shift, bool above, bool below,
                                     bool left, bool right, unsigned (&pixels)[4][4]) {
    Two<Value> middle[4];
    Value sides[4][2];
    const Value none = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = i + shift;
        const bool here = exists && (row > 0 || above) && (row < 3 || below) && (i < 2 || shift == 0);
        const Value* at = from + (row - 1) * WIDTH;
        middle[i] = {none, none};
        if (here) middle[i] = *reinterpret_cast<const Two<Value>*>(at);
        sides[i][0] = here && left ? at[-1] : none;
        sides[i][1] = here && right ? at[2] : none;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        pixels[i][0] = as_factor(sides[i][0]);
        pixels[i][1] = as_factor(middle[i].first);
        pixels[i][2] = as_factor(middle[i].second);
        pixels[i][3] = as_factor(sides[i][1]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    convlstm_step(const Value* __restrict__ frame, const Value* __restrict__ before, const float* cell,
                  const float* __restrict__ weight, const float* __restrict__ bias, long long N, long long blocks,
                  long long turned, Value* __restrict__ after, float* cell_after, Value* __restrict__ features) {
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;  // of a fragment
    const int part = threadIdx.x / 32 % kParts, warp = blockIdx.x * kWarps + threadIdx.x / 32 / kParts;
    const float scales[2] = {kSigmoid, g % 2 ? kTanh : kSigmoid};  // of rows g and g + 8
    unsigned weights[kProducts][4];
#pragma unroll
    for (int k = 0; k < kProducts; ++k) {
        const Four<float> four = reinterpret_cast<const Four<float>*>(weight)[(part * kProducts + k) * 32 + lane];
#pragma unroll
        for (int i = 0; i < 4; ++i) weights[k][i] = rounded(four.of[i] * scales[i % 2]);
    }
    const float start[2] = {bias[part * 64 + lane] * scales[0], bias[part * 64 + 32 + lane] * scales[1]};

    // Rows g and g + 8 are i and o of a channel where g is even, else f and g. After half of both is exchanged between
    // lanes an even one has all gates of columns 2 q of the products, an odd one those of 2 q + 1.
    const int odd = g % 2, channel = part * 4 + g / 2, mine = 2 * (2 * q + odd);
    const int all = static_cast<int>(N) * kGroups, stride = static_cast<int>(blocks) * kWarps;
    for (int number = warp; number < all; number += stride) {
        const int group = turned ? all - 1 - number : number;
        const int n = group / kGroups, y = group % kGroups / kAcross * 2, x = group % kAcross * 16;
        const int place = y * WIDTH + x + 2 * g;
        const bool above = y > 0, below = y + 2 < HEIGHT, inside = WIDTH % 16 == 0 || x + 2 * g < WIDTH;
        const bool left = x + 2 * g > 0, right = x + 2 * g + 2 < WIDTH;
        const Value* const states = before + static_cast<long long>(n) * (HIDDEN * kPlane) + place;
        const Value* const pixels = frame + static_cast<long long>(n) * (CHANNELS * kPlane) + place;
        const bool writes = channel < HIDDEN && (WIDTH % 16 == 0 || x + mine < WIDTH);
        const long long to = static_cast<long long>(n) * (HIDDEN * kPlane) + (channel * kPlane + y * WIDTH + x + mine);
        Two<float> c[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            c[i] = {0.0f, 0.0f};
            if (writes && cell) c[i] = early(cell + to + i * WIDTH);
        }
        unsigned hidden[4][4], input[4][4];
        look(states + q * kPlane, inside && before && q < HIDDEN, 0, above, below, left, right, hidden);
        look(pixels + q * kPlane, inside && q < CHANNELS, 0, above, below, left, right, input);
#if HIDDEN > 4
        unsigned others[4][4];  // half of the lanes are a row ahead
        look(states + (4 + q % 2) * kPlane, inside && before && 4 + q % 2 < HIDDEN, q / 2, above, below, left, right,
             others);
#endif
        warp_together();  // keeps the compiler from putting off loads until after the products

        float sums[2][2][4];  // rows, even and odd pixels
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int e = 0; e < 2; ++e)
#pragma unroll
                for (int k = 0; k < 4; ++k) sums[i][e][k] = start[k / 2];
#pragma unroll
        for (int k = 0; k < 9; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    multiply(sums[i][e], weights[k], {hidden[i + k / 3][e + k % 3], input[i + k / 3][e + k % 3]});
#if HIDDEN > 4
#pragma unroll
        for (int k = 0; k < 3; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    multiply(sums[i][e], weights[9 + k], {others[i][e + k], others[i + 2][e + k]});
#endif

        float h[2][2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float(&sum)[4] = sums[i][e];
                const float first = __shfl_xor_sync(0xffffffffu, odd ? sum[0] : sum[1], 4);
                const float second = __shfl_xor_sync(0xffffffffu, odd ? sum[2] : sum[3], 4);
                const float gate_i = exponential(odd ? first : sum[0]), gate_f = exponential(odd ? sum[1] : first);
                const float gate_o = exponential(odd ? second : sum[2]), gate_g = exponential(odd ? sum[3] : second);
                float& state = e ? c[i].second : c[i].first;
                state = fma(state, reciprocal(1 + gate_f), tanh_of_x_times_sigmoid_of_y(gate_g, gate_i));
                h[i][e] = tanh_of_x_times_sigmoid_of_y(exponential(state * kTanh), gate_o);
            }
        if (writes) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                *reinterpret_cast<Two<float>*>(cell_after + to + i * WIDTH) = c[i];
                *reinterpret_cast<Two<Value>*>(after + to + i * WIDTH) = {store(h[i][0]), store(h[i][1])};
            }
#if POOL == 2
            const int window = channel * (kPlane / 4) + y / 2 * (WIDTH / 2) + (x + mine) / 2;
            features[static_cast<long long>(n) * (HIDDEN * kPlane / 4) + window] =
                store(larger(larger(h[0][0], h[0][1]), larger(h[1][0], h[1][1])));
#endif
        }
    }
}
