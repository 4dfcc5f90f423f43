// A stage of a spiking CNN whose input has few channels, without gradients: convolution 3 x 3 on tensor cores,
// normalization, LIF neurons, maximum pooling by 2.
//
// A block has 8 windows of 2 x 2 pixels next to each other and 128 output channels, 32 of them a warp, for all T steps:
// the weights and the potentials stay in registers, the input of the next steps comes in through shared memory, and
// nothing leaves but the spikes. Beside the macros of neuron.cuh, of which INPUT is 0 (products of TF32) or 3 (of
// bfloat16):
//   BLOCKS  that should fit into a multiprocessor
//
// x is (T, N, H, W, 8), W a multiple of 16 and H of 2; weight (D, C, 3, 3), C <= 8 and D a multiple of 128; the spikes
// are (T, N, H / 2, W / 2, D).

constexpr int kChannels = 8, kColumns = 18, kStages = 4, kTile = 4 * kColumns * kChannels;

// A pixel's channels 2 q and 2 q + 1 as a lane hands them to a tensor core.
#if INPUT == 0
struct Pair {
    unsigned first, second;
};
constexpr int kProducts = 9;  // of a convolution: each has a tap's 8 channels
#else
typedef unsigned Pair;
constexpr int kProducts = 5;  // two taps' channels, the last one's second are zeros
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    spiking_convolution(const Value* __restrict__ x, const float* __restrict__ weight,
                        const float* __restrict__ v_start, const float* __restrict__ mean,
                        const float* __restrict__ variance, const float* __restrict__ gain,
                        const float* __restrict__ bias, double eps, double tau, double v_threshold, double v_rest,
                        long long T, long long N, long long H, long long W, long long C, long long D,
                        Value* __restrict__ spikes, float* __restrict__ v_end) {
    alignas(16) __shared__ Value tiles[kStages * kTile];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    const int parts = D / 128, across = W / 16, down = H / 2;
    const int part = blockIdx.x % parts, column = blockIdx.x / parts % across;
    const int row = blockIdx.x / parts / across % down, n = blockIdx.x / parts / across / down;
    const Neuron neuron = {static_cast<float>(tau), static_cast<float>(v_threshold), static_cast<float>(v_rest), 0, 0};

    // The pixels that the windows see, in pieces of 16 bytes: where this thread's are in a step, and in a tile, where
    // even columns are before odd ones, so that a warp's loads meet all banks.
    constexpr int kPieces = sizeof(Value) * kChannels / 16, kAll = 4 * kColumns * kPieces;
    constexpr int kMine = (kAll + THREADS - 1) / THREADS;
    const Value* from[kMine];
    int to[kMine];
    bool outside[kMine];
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
        const int piece = i * THREADS + threadIdx.x, pixel = piece / kPieces;
        const int of_pixel = piece % kPieces * (16 / sizeof(Value));
        const int down = pixel / kColumns, right = pixel % kColumns;
        const int y = 2 * row - 1 + down, z = 16 * column - 1 + right;
        outside[i] = y < 0 || y >= H || z < 0 || z >= W;
        from[i] = x + (outside[i] ? 0 : ((n * H + y) * W + z) * kChannels + of_pixel);
        to[i] = (down * kColumns + right / 2 + right % 2 * (kColumns / 2)) * kChannels + of_pixel;
    }
    const long long step = N * H * W * kChannels;
    const auto fetch = [&](int t) {
#pragma unroll
        for (int i = 0; i < kMine; ++i)
            if (i * THREADS + threadIdx.x < kAll)
                start_copy<16>(tiles + t % kStages * kTile + to[i], from[i] + t * step, !outside[i]);
    };
#pragma unroll
    for (int t = 0; t < kStages - 1; ++t) {
        if (t < T) fetch(t);
        end_of_copies();
    }

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
            return k < 9 && c < C ? weight[(of_column * C + c) * 9 + k] * scale_of_column : 0.0f;
        };
#pragma unroll
        for (int k = 0; k < kProducts; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i)
#if INPUT == 0
                weights[k][j][i] = rounded(tap(k, 2 * q + i));
#else
                weights[k][j][i] = store(tap(2 * k + i, 2 * q)) |
                                   static_cast<unsigned>(store(tap(2 * k + i, 2 * q + 1))) << 16;
#endif
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
    Value* out = spikes + ((static_cast<long long>(n) * down + row) * (W / 2) + 8 * column + g) * D + channel;
    const long long out_step = N * down * (W / 2) * D;
    for (int t = 0; t < T; ++t) {
        await<kStages - 2>();
        __syncthreads();  // all of step t has arrived, and nobody is at step t - 1 any more
        if (t + kStages - 1 < T) fetch(t + kStages - 1);
        end_of_copies();
        const Value* tile = tiles + t % kStages * kTile + g * kChannels + 2 * q;
        Pair pixels[4][4];  // from the one up and left of the window on
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int place = i * kColumns + k / 2 + k % 2 * (kColumns / 2);
                const auto two = *reinterpret_cast<const Two<Value>*>(tile + place * kChannels);
#if INPUT == 0
                pixels[i][k] = {rounded(two.first), rounded(two.second)};
#else
                pixels[i][k] = two.first | static_cast<unsigned>(two.second) << 16;
#endif
            }
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
#if INPUT == 0
                const Pair left = pixels[lower + k / 3][k % 3], right = pixels[lower + k / 3][k % 3 + 1];
                const unsigned input[4] = {left.first, right.first, left.second, right.second};
#else
                const int one = 2 * k, other = 2 * k + 1 < 9 ? 2 * k + 1 : 0;
                const Pair *first = pixels[lower + one / 3], *second = pixels[lower + other / 3];
                const unsigned input[4] = {first[one % 3], first[one % 3 + 1],
                                           second[other % 3], second[other % 3 + 1]};
#endif
#pragma unroll
                for (int j = 0; j < 4; ++j)
#if INPUT == 0
                    multiply(current[j], input, weights[k][j]);
#else
                    multiply_bfloat16(current[j], input, weights[k][j]);
#endif
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
        const Value one = store(1.0f), none = store(0.0f);
#pragma unroll
        for (int j = 0; j < 4; j += VECTOR / 2) {
            Pack<Value> pack;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) pack.of[i] = fired[j + i / 2][i % 2] ? one : none;
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
