// A stage of a spiking CNN whose input has few channels, without gradients: convolution 3 x 3 on tensor cores,
// normalization, LIF neurons, maximum pooling by 2.
//
// A block has 8 windows of 2 x 2 pixels next to each other and 128 output channels, 32 of them a warp, for all T steps:
// the weights and the potentials stay in registers, the input of the next steps comes in through shared memory, and
// nothing leaves but the spikes. Beside the macros of neuron.cuh, of which INPUT is 0 (products of half precision, whose
// 11 bits are TF32's; factors past 65504 count as that) or 3 (of bfloat16):
//   CHANNELS  of the input, up to 8
//   BLOCKS    that should fit into a multiprocessor
//   HALVES    1 writes spikes of half precision
//
// x is (T, N, CHANNELS, H, W), W a multiple of 16 and H of 2; weight (D, CHANNELS, 3, 3), D a multiple of 128; the spikes
// are (T, N, H / 2, W / 2, D).
//
// A product has 8 channels of two taps: left and right of a row, or the middle ones of two rows.

constexpr int kProducts = 5;
// Numbers of the pixels that the windows see, 4 rows of 18: of a row even columns before odd ones, 8 channels of each.
constexpr int kRows = 4, kColumns = 18, kHalfRow = kColumns / 2 * 8, kRow = 2 * kHalfRow, kTile = kRows * kRow;

#if HALVES
typedef Bits16 Spike;
constexpr Spike kOne = 0x3c00;
#elif INPUT == 0
typedef float Spike;
constexpr Spike kOne = 1;
#else
typedef Value Spike;
constexpr Spike kOne = 0x3f80;
#endif

#if INPUT == 0
__device__ __forceinline__ unsigned factors(float x, float y) { return halves_of(limited(x), limited(y)); }
__device__ __forceinline__ void multiply_factors(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_half(c, a, b);
}
#else
__device__ __forceinline__ unsigned factors(float x, float y) { return store(x) | static_cast<unsigned>(store(y)) << 16; }
__device__ __forceinline__ void multiply_factors(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_bfloat16(c, a, b);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    spiking_convolution(const Value* __restrict__ x, const float* __restrict__ weight,
                        const float* __restrict__ v_start, const float* __restrict__ mean,
                        const float* __restrict__ variance, const float* __restrict__ gain,
                        const float* __restrict__ bias, double eps, double tau, double v_threshold, double v_rest,
                        long long T, long long N, long long H, long long W, long long D, Spike* __restrict__ spikes,
                        float* __restrict__ v_end) {
    alignas(16) __shared__ Bits16 tiles[2 * kTile + 8];
    Bits16* const nothing = tiles + 2 * kTile;  // 8 zeros
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    const int parts = D / 128, across = W / 16, down = H / 2;
    const int part = blockIdx.x % parts, column = blockIdx.x / parts % across;
    const int row = blockIdx.x / parts / across % down, n = blockIdx.x / parts / across / down;
    const Neuron neuron = {static_cast<float>(tau), static_cast<float>(v_threshold), static_cast<float>(v_rest), 0, 0};

    // A thread fetches a pixel of each step, while the step before is computed.
    const int plane = H * W;
    Value pixel[CHANNELS];
    const int its_row = threadIdx.x / kColumns, its_column = threadIdx.x % kColumns;
    const int at_y = 2 * row - 1 + its_row, at_x = 16 * column - 1 + its_column;
    const bool fetches = its_row < kRows, inside = fetches && at_y >= 0 && at_y < H && at_x >= 0 && at_x < W;
    const Value* from = x + static_cast<long long>(n) * CHANNELS * plane + (inside ? at_y * static_cast<int>(W) + at_x : 0);
    const long long step = N * CHANNELS * plane;
    const auto fetch = [&](bool exists) {
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) pixel[c] = exists && inside ? from[c * plane] : static_cast<Value>(0);
        from += step;
    };
    const int its_place = its_row * kRow + its_column % 2 * kHalfRow + its_column / 2 * 8;
    const auto hand_in = [&](int t) {
        Four<unsigned> all;
#pragma unroll
        for (int c = 0; c < 8; c += 2) {
            const float first = c < CHANNELS ? load(pixel[c < CHANNELS ? c : 0]) : 0.0f;
            const float second = c + 1 < CHANNELS ? load(pixel[c + 1 < CHANNELS ? c + 1 : 0]) : 0.0f;
            all.of[c / 2] = factors(first, second);
        }
        if (fetches) *reinterpret_cast<Four<unsigned>*>(tiles + t % 2 * kTile + its_place) = all;
    };
    if (threadIdx.x < 8) nothing[threadIdx.x] = 0;
    fetch(true);
    hand_in(0);
    fetch(T > 1);

    // A lane's channels are channel + 2 j + e: column 2 q + e of fragment j. Of the weights it holds column g.
    const int channel = part * 128 + warp * 32 + q * 8;
    unsigned weights[kProducts][4][2];
    float shift[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int of_column = part * 128 + warp * 32 + g / 2 * 8 + 2 * j + g % 2;
        const auto scale = [&](int c) {
            return (gain ? gain[c] : 1.0f) / sqrt(variance[c] + static_cast<float>(eps));
        };
        const float scale_of_column = scale(of_column);
        const auto tap = [&](int k, int c) {
            return k < 9 && c < CHANNELS ? weight[(of_column * CHANNELS + c) * 9 + k] * scale_of_column : 0.0f;
        };
#pragma unroll
        for (int k = 0; k < kProducts; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int of_half = k < 3 ? 3 * k + 2 * i : k == 3 ? 1 + 3 * i : i ? 9 : 7;
                weights[k][j][i] = factors(tap(of_half, 2 * q), tap(of_half, 2 * q + 1));
            }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int c = channel + 2 * j + e;
            shift[j][e] = fma(-mean[c], scale(c), bias ? bias[c] : 0.0f);
        }
    }

    // Windows are rows g of the fragments, their right pixels rows g + 8, their lower ones the second fragment.
    const auto potential = [&](int lower, int right) {
        return ((static_cast<long long>(n) * H + 2 * row + lower) * W + 16 * column + 2 * g + right) * D + channel;
    };
    float v[2][4][4];
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                v[lower][j][i] = v_start ? v_start[potential(lower, i / 2) + 2 * j + i % 2] : neuron.rest;
    Spike* out = spikes + ((static_cast<long long>(n) * down + row) * (W / 2) + 8 * column + g) * D + channel;
    const long long out_step = N * down * (W / 2) * D;
    // A lane's row of the matrices that are products' factors: channels of columns from -1, 0, 1 and 2 on, every other.
    const auto factor = [&](int column) { return column % 2 * kHalfRow + column / 2 * 8 + lane % 8 * 8; };
    const int quarter = lane / 8;
    const int sides = kept(factor(quarter)), middles = kept(quarter / 2 * kRow + factor(1 + quarter % 2));
    for (int t = 0; t < T; ++t) {
        __syncthreads();  // all of step t is in its tile, and nobody is at step t - 1 any more
        if (t + 1 < T) hand_in(t + 1);
        fetch(t + 2 < T);
        const Bits16* const tile = tiles + t % 2 * kTile;
        bool fired[4][2] = {};
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
            float current[4][4];
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) current[j][i] = shift[j][i % 2];
#pragma unroll
            for (int k = 0; k < kProducts; ++k) {
                unsigned input[4];
                const Bits16* const last = lane < 16 ? tile + middles + (lower + 2) * kRow : nothing;
                load_matrices(input, k < 3 ? tile + sides + (lower + k) * kRow : k == 3 ? tile + middles + lower * kRow : last);
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply_factors(current[j], input, weights[k][j]);
            }
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float h = neuron.charge(v[lower][j][i], current[j][i]);
                    fired[j][i % 2] |= neuron.fires(h);
                    v[lower][j][i] = neuron.after(h);
                }
        }
#pragma unroll
        for (int j = 0; j < 4; j += VECTOR / 2) {
            Pack<Spike> pack;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) pack.of[i] = fired[j + i / 2][i % 2] ? kOne : 0;
            put(out + 2 * j, pack);
        }
        out += out_step;
    }
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) v_end[potential(lower, i / 2) + 2 * j + i % 2] = v[lower][j][i];
}
