// A step backward through a ConvLSTM layer of few channels: the gradients by its gates and by the cell before it, from
// those by the gates of the step after it. Convolutions 3 x 3 on tensor cores in TF32; the gates are computed anew from
// frame, hidden state and cell. Macros as in convlstm_step.cu; POOL 2 says that features are maxima of 2 x 2 hidden
// states.
//
// A block copies what it needs for 4 or 8 rows of 32 pixels to shared memory, with the pixels around where convolutions
// see them and zeros around the image, while the other blocks of its multiprocessor compute. Its warps then take groups
// of 2 x 16 pixels, each for 4 of the hidden channels. Columns of the products are the even or the odd pixels of 16
// neighbours; rows are gates in convlstm_step.cu's order, and for the gradient by the hidden state channels and rows of
// taps, so that a row of pixels adds to three rows of the result at once.
//
// frame is (N, C, H, W), hidden states, cells and their gradients are (N, D, H, W), gradients of gates (N, 4 D, H, W),
// of features (N, D, H / 2, W / 2). What is missing (0) is zero. The gradient by the cell may be written where it was
// read. What the weights are is in convlstm_cupy.py.

constexpr int kPlane = HEIGHT * WIDTH;
constexpr int kParts = (HIDDEN + 3) / 4;        // of the hidden channels; a warp has one
constexpr int kProducts = HIDDEN > 4 ? 12 : 9;  // of the gates; the first nine's weights stay in registers
constexpr int kEights = (HIDDEN + 1) / 2;       // of the gates whose gradients a product takes
constexpr int kWarps = THREADS / 32 / kParts;   // of a block, for each part
constexpr int kColumns = 32;
constexpr int kBackWeights = kParts * kEights * 3 * 32 * 4;

// Loads from memory that nobody writes to, each time anew: else the compiler would keep it in a loop.
#ifdef __CUDACC__
__device__ __forceinline__ Four<unsigned> anew(const Four<unsigned>* from) {
    Four<unsigned> x;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.of[0]), "=r"(x.of[1]), "=r"(x.of[2]), "=r"(x.of[3])
                 : "l"(from));
    return x;
}
#else
inline Four<unsigned> anew(const Four<unsigned>* from) { return *from; }
#endif

// sigmoid(x) is 1 / (1 + e^-x) and tanh(x) is (e^2x - 1) / (e^2x + 1). The sums come as exponents of two: their weights
// and biases are scaled.
constexpr float kSigmoid = -1.442695041f, kTanh = 2.885390082f;
__device__ __forceinline__ float exponential(float x) { return power_of_two(at_most(x, 60.0f)); }

__device__ __forceinline__ unsigned as_factor(Value x) {
#if INPUT == 3
    return static_cast<unsigned>(x) << 16;
#else
    return rounded(load(x));
#endif
}

// What a block has of a plane in shared memory: `high` rows of 32 pixels, and `around` rows and pieces on either side.
template <typename Element, int high, int around>
struct Part {
    static constexpr int kMost = 16 / sizeof(Element);  // copied at once
    static constexpr int kPiece = WIDTH % kMost == 0 ? kMost : WIDTH % (kMost / 2) == 0 ? kMost / 2 : 2;  // pixels
    static constexpr int kStride = kColumns + 2 * around * kPiece, kRows = high + 2 * around;
    static constexpr int kStart = around * kStride + around * kPiece;  // of the rows themselves
    // Words of a plane: those that are seen such that four planes' pixels of a group are in banks of their own.
    static constexpr int kUsed = kRows * kStride * static_cast<int>(sizeof(Element)) / 4;
    static constexpr int kWords = around ? (kUsed + 7) / 16 * 16 + 8 : kUsed;
    static constexpr int kSize = kWords * 4 / sizeof(Element);

    // Starts to copy `planes` of an image, whose first one `from` is, from row y and column x on.
    template <int planes>
    static __device__ __forceinline__ void fetch(Element* to, const Element* from, bool zeros, int y, int x) {
        constexpr int kAcross = kStride / kPiece, kPieces = kAcross * kRows;
        constexpr int kTogether = kPieces < THREADS ? THREADS / kPieces : 1;  // planes
        const int first = kPieces < THREADS ? threadIdx.x / kPieces : 0;
        for (int piece = threadIdx.x - first * kPieces; first < kTogether && piece < kPieces; piece += THREADS) {
            const int row = piece / kAcross, column = piece % kAcross;
            const int at_y = y + row - around, at_x = x + (column - around) * kPiece;
            const bool none = zeros || at_y < 0 || at_y >= HEIGHT || at_x < 0 || at_x >= WIDTH;
            const Element* const source = from + (none ? 0 : at_y * WIDTH + at_x) + first * kPlane;
            Element* const target = to + row * kStride + column * kPiece + first * kSize;
#pragma unroll
            for (int plane = 0; plane < planes; plane += kTogether)
                if (planes % kTogether == 0 || plane + first < planes)
                    start_copy_past_l1<kPiece * sizeof(Element)>(target + plane * kSize, source + plane * kPlane,
                                                                 !none);
        }
    }
};

// Shared memory for `high` rows: gradients of gates, hidden state and frame; cell and its gradient; weights.
constexpr int kSeen = 4 * HIDDEN + HIDDEN + CHANNELS;
template <int high>
__device__ constexpr int bytes() {
    return 4 * (kSeen * Part<Value, high, 1>::kWords + 2 * HIDDEN * Part<float, high, 0>::kWords + kBackWeights);
}
constexpr int kHigh = bytes<8>() <= 48 * 1024 ? 8 : 4;
static_assert(bytes<kHigh>() <= 48 * 1024, "more than a block gets");
typedef Part<Value, kHigh, 1> Seen;
typedef Part<float, kHigh, 0> Own;

// A lane's four pixels of a row, from the one before `at` on.
__device__ __forceinline__ void look(const Value* at, Value (&pixels)[4]) {
    const Two<Value> middle = *reinterpret_cast<const Two<Value>*>(at);
    pixels[0] = at[-1];
    pixels[1] = middle.first;
    pixels[2] = middle.second;
    pixels[3] = at[2];
}
__device__ __forceinline__ void look(const Value* at, bool exists, unsigned (&factors)[4]) {
    Value pixels[4] = {};
    if (exists) look(at, pixels);
#pragma unroll
    for (int j = 0; j < 4; ++j) factors[j] = as_factor(pixels[j]);
}
// The same of gradients of gates, which were rounded before they were written.
__device__ __forceinline__ void look_at_gradients(const Value* at, unsigned (&factors)[4]) {
    Value pixels[4];
    look(at, pixels);
#pragma unroll
    for (int j = 0; j < 4; ++j)
#if INPUT == 0
        factors[j] = bits_of(pixels[j]);
#else
        factors[j] = as_factor(pixels[j]);
#endif
}

__device__ __forceinline__ Value store_rounded(float x) {
#if INPUT == 0
    return number_of(rounded(x));
#else
    return store(x);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    convlstm_step_back(const Value* __restrict__ frame, const Value* __restrict__ before,
                       const float* __restrict__ cell, const float* __restrict__ weight,
                       const float* __restrict__ bias, const float* __restrict__ weight_back,
                       const Value* __restrict__ later_grads, const Value* __restrict__ hidden_grad,
                       const Value* __restrict__ features_grad, const float* after_grad, long long N, long long blocks,
                       long long turned, Value* __restrict__ gate_grads, float* cell_grad) {
    alignas(16) __shared__ unsigned shared[bytes<kHigh>() / 4];
    Value* const later_part = reinterpret_cast<Value*>(shared);
    Value* const hidden_part = later_part + 4 * HIDDEN * Seen::kSize;
    Value* const frame_part = hidden_part + HIDDEN * Seen::kSize;
    float* const cell_part = reinterpret_cast<float*>(shared + kSeen * Seen::kWords);
    float* const after_part = cell_part + HIDDEN * Own::kSize;
    unsigned* const back = shared + kSeen * Seen::kWords + 2 * HIDDEN * Own::kWords;

    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;  // of a fragment
    const int part = threadIdx.x / 32 % kParts, warp = threadIdx.x / 32 / kParts;
    const float scales[2] = {kSigmoid, g % 2 ? kTanh : kSigmoid};  // of rows g and g + 8
    const auto weights_of = [&](int k, unsigned(&of)[4]) {
        const auto four = anew(reinterpret_cast<const Four<unsigned>*>(weight) + (part * kProducts + k) * 32 + lane);
#pragma unroll
        for (int i = 0; i < 4; ++i) of[i] = rounded(number_of(four.of[i]) * scales[i % 2]);
    };
    unsigned weights[9][4];
#pragma unroll
    for (int k = 0; k < 9; ++k) weights_of(k, weights[k]);
    const float start[2] = {bias[part * 64 + lane] * scales[0], bias[part * 64 + 32 + lane] * scales[1]};
    for (int i = threadIdx.x; i < kBackWeights; i += THREADS) back[i] = rounded(weight_back[i]);

    // As in convlstm_step.cu: after half of two rows is exchanged between lanes an even one has all of columns 2 q of
    // the products, an odd one those of 2 q + 1.
    const int odd = g % 2, channel = part * 4 + g / 2, mine = 2 * (2 * q + odd);
    constexpr int kAcross = (WIDTH + kColumns - 1) / kColumns, kTiles = kAcross * ((HEIGHT + kHigh - 1) / kHigh);
    const int all = static_cast<int>(N) * kTiles;
    for (int number = blockIdx.x; number < all; number += static_cast<int>(blocks)) {
        const int place = turned ? all - 1 - number : number;
        const int n = place / kTiles, top = place % kTiles / kAcross * kHigh, left = place % kAcross * kColumns;
        const int of_states = n * (HIDDEN * kPlane);
        __syncthreads();  // nobody is at the pixels before any more
        if (later_grads) Seen::fetch<4 * HIDDEN>(later_part, later_grads + 4ll * of_states, false, top, left);
        Seen::fetch<HIDDEN>(hidden_part, before ? before + of_states : frame, !before, top, left);
        Seen::fetch<CHANNELS>(frame_part, frame + n * (CHANNELS * kPlane), false, top, left);
        Own::fetch<HIDDEN>(cell_part, (cell ? cell : cell_grad) + of_states, !cell, top, left);
        Own::fetch<HIDDEN>(after_part, (after_grad ? after_grad : cell_grad) + of_states, !after_grad, top, left);
        arrived();
        __syncthreads();

#pragma unroll 1
        for (int group = warp; group < kHigh / 2 * (kColumns / 16); group += kWarps) {
            const int down = group / 2 * 2, right = group % 2 * 16, y = top + down, x = left + right;
            if (y >= HEIGHT || x >= WIDTH) continue;
            const bool writes = channel < HIDDEN && (WIDTH % 16 == 0 || x + mine < WIDTH);
            const int to = of_states + channel * kPlane + y * WIDTH + x + mine;
#if POOL == 2
            const int window = channel * (kPlane / 4) + y / 2 * (WIDTH / 2) + (x + mine) / 2;
            Value of_feature = 0;
            if (writes && features_grad) of_feature = features_grad[of_states / 4 + window];
#else
            Two<Value> of_features[2] = {};
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (writes && features_grad)
                    of_features[i] = *reinterpret_cast<const Two<Value>*>(features_grad + to + i * WIDTH);
#endif
            const int at = Seen::kStart + (down - 1) * Seen::kStride + right + 2 * g;

            float h_grad[2][2] = {};
            if (later_grads) {
                // Of pixels of row r, sums have what it adds to the rows r + 1, r and r - 1 of a channel: an even lane
                // the first and the third, an odd one the second.
                float sums[4][2][4] = {};
#pragma unroll
                for (int eight = 0; eight < kEights; ++eight) {
                    Four<unsigned> taps[3];
#pragma unroll
                    for (int k = 0; k < 3; ++k)
                        taps[k] = reinterpret_cast<const Four<unsigned>*>(
                            back)[((part * kEights + eight) * 3 + k) * 32 + lane];
                    const Value* const gradients = later_part + (8 * eight + q) * Seen::kSize + at;
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        unsigned one[4], other[4] = {};
                        look_at_gradients(gradients + r * Seen::kStride, one);
                        if (2 * eight + 1 < HIDDEN)
                            look_at_gradients(gradients + 4 * Seen::kSize + r * Seen::kStride, other);
#pragma unroll
                        for (int k = 0; k < 3; ++k)
#pragma unroll
                            for (int e = 0; e < 2; ++e) multiply(sums[r][e], taps[k].of, {one[e + k], other[e + k]});
                    }
                }
#pragma unroll
                for (int i = 0; i < 2; ++i)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float first = odd ? sums[i + 1][e][0] : sums[i][e][0] + sums[i + 2][e][2];
                        const float second = odd ? sums[i + 1][e][1] : sums[i][e][1] + sums[i + 2][e][3];
                        h_grad[i][e] = (odd ? second : first) + __shfl_xor_sync(0xffffffffu, odd ? first : second, 4);
                    }
            } else if (hidden_grad && writes) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const Two<Value> two = *reinterpret_cast<const Two<Value>*>(hidden_grad + to + i * WIDTH);
                    h_grad[i][0] = load(two.first);
                    h_grad[i][1] = load(two.second);
                }
            }

            float sums[2][2][4];  // rows, even and odd pixels
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int e = 0; e < 2; ++e)
#pragma unroll
                    for (int k = 0; k < 4; ++k) sums[i][e][k] = start[k / 2];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                unsigned hidden[4], input[4];
                look(hidden_part + q * Seen::kSize + at + r * Seen::kStride, q < HIDDEN, hidden);
                look(frame_part + q * Seen::kSize + at + r * Seen::kStride, q < CHANNELS, input);
#pragma unroll
                for (int k = 0; k < 3; ++k)
#pragma unroll
                    for (int i = 0; i < 2; ++i)
#pragma unroll
                        for (int e = 0; e < 2; ++e)
                            if (r >= i && r < i + 3)
                                multiply(sums[i][e], weights[3 * (r - i) + k], {hidden[e + k], input[e + k]});
            }
#if HIDDEN > 4
            unsigned others[4][4];  // half of the lanes are a row ahead
#pragma unroll
            for (int r = 0; r < 4; ++r)
                look(hidden_part + (4 + q % 2) * Seen::kSize + at + (r + q / 2) * Seen::kStride,
                     4 + q % 2 < HIDDEN && (r < 2 || q < 2), others[r]);
#pragma unroll
            for (int k = 0; k < 3; ++k) {
                unsigned of[4];
                weights_of(9 + k, of);
#pragma unroll
                for (int i = 0; i < 2; ++i)
#pragma unroll
                    for (int e = 0; e < 2; ++e) multiply(sums[i][e], of, {others[i][e + k], others[i + 2][e + k]});
            }
#endif

            float gate_i[2][2], gate_f[2][2], gate_o[2][2], gate_g[2][2], tanh_c[2][2];
            Two<float> c_before[2], c_grad[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int own = channel * Own::kSize + (down + i) * Own::kStride + right + mine;
                c_before[i] = c_grad[i] = {0.0f, 0.0f};
                if (writes) {
                    c_before[i] = *reinterpret_cast<const Two<float>*>(cell_part + own);
                    c_grad[i] = *reinterpret_cast<const Two<float>*>(after_part + own);
                }
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const float(&sum)[4] = sums[i][e];
                    const float first = __shfl_xor_sync(0xffffffffu, odd ? sum[0] : sum[1], 4);
                    const float second = __shfl_xor_sync(0xffffffffu, odd ? sum[2] : sum[3], 4);
                    gate_i[i][e] = reciprocal(1 + exponential(odd ? first : sum[0]));
                    gate_f[i][e] = reciprocal(1 + exponential(odd ? sum[1] : first));
                    gate_o[i][e] = reciprocal(1 + exponential(odd ? second : sum[2]));
                    const float of_g = exponential(odd ? sum[3] : second);
                    gate_g[i][e] = (of_g - 1) * reciprocal(1 + of_g);
                    const float c = fma(e ? c_before[i].second : c_before[i].first, gate_f[i][e],
                                        gate_i[i][e] * gate_g[i][e]);
                    const float of_c = exponential(c * kTanh);
                    tanh_c[i][e] = (of_c - 1) * reciprocal(1 + of_c);
                }
            }

#if POOL == 2
            // To the first of the largest; what is not a number counts as that.
            float largest = gate_o[0][0] * tanh_c[0][0];
            int which = 0;
#pragma unroll
            for (int k = 1; k < 4; ++k) {
                const float h = gate_o[k / 2][k % 2] * tanh_c[k / 2][k % 2];
                if (h > largest || (h != h && largest == largest)) {
                    largest = h;
                    which = k;
                }
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) h_grad[k / 2][k % 2] += which == k ? load(of_feature) : 0.0f;
#else
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                h_grad[i][0] += load(of_features[i].first);
                h_grad[i][1] += load(of_features[i].second);
            }
#endif
            if (writes) {
                Value* const grads = gate_grads + 3ll * of_states + to;
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    Value by[4][2];
                    float by_cell[2];
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float gi = gate_i[i][e], gf = gate_f[i][e], go = gate_o[i][e], gg = gate_g[i][e];
                        const float t = tanh_c[i][e], h = h_grad[i][e];
                        const float c = fma(h * go, 1 - t * t, e ? c_grad[i].second : c_grad[i].first);
                        by[0][e] = store_rounded(c * gg * gi * (1 - gi));
                        by[1][e] = store_rounded(c * (e ? c_before[i].second : c_before[i].first) * gf * (1 - gf));
                        by[2][e] = store_rounded(h * t * go * (1 - go));
                        by[3][e] = store_rounded(c * gi * (1 - gg * gg));
                        by_cell[e] = c * gf;
                    }
#pragma unroll
                    for (int gate = 0; gate < 4; ++gate)
                        *reinterpret_cast<Two<Value>*>(grads + gate * HIDDEN * kPlane + i * WIDTH) = {by[gate][0],
                                                                                                     by[gate][1]};
                    *reinterpret_cast<Two<float>*>(cell_grad + to + i * WIDTH) = {by_cell[0], by_cell[1]};
                }
            }
        }
    }
}
