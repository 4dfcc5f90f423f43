// All steps of a ConvLSTM layer of few channels in one launch (compute capability 9.0): convolutions 3 x 3 of frame and
// hidden state on tensor cores, gates, cell, hidden state, maximum pooling. Beside the macros of neuron.cuh, of which
// INPUT is 0, 2 or 3 (type of frames and hidden states):
//   CHANNELS, HIDDEN  of a frame, up to 4, and of the hidden state, up to 6
//   HEIGHT, WIDTH     CLUSTER x ROWS; a multiple of 16
//   POOL              2 writes maxima of 2 x 2 hidden states in place of these
//   ROWS, CLUSTER     of an image that a block has, an even number, and blocks of an image, up to 8
//   KEEP              1 writes hidden states and cells after all steps but the last
//   ROUGH             1 takes the processor's own tanh, exact to 11 bits
//
// The blocks of a cluster have an image for all steps. In shared memory a block has its rows and those above and below
// twice: step t reads hidden state and frame, pixel by pixel in half precision (whose 11 bits are TF32's), from one and
// writes to the other what step t + 1 will read; rows at an edge go to the neighbour's memory too. The cells stay in
// shared memory, in float, each where only the lane that computes it looks. Factors past 65504 count as that.
//
// A warp goes from one group of 2 x 16 pixels to the next. Rows of a product are 8 even columns of the pixels and the 8
// odd ones; columns of a product are gates, i and f of channel q next to each other and o and g as well, so that a lane
// ends up with all gates of a window of 2 x 2 pixels. Of the fifth and sixth channel two lanes share a window. A product
// has 16 channels of a tap or, where 8 are enough, of two: left and right of a row, or the middle ones of two rows.
//
// frames is (T, N, C, H, W), hidden states and cells are (N, D, H, W), features (T, N, D, H / POOL, W / POOL); kept
// hidden states (with POOL 2) and cells (T - 1, N, D, H, W). What is missing (0) is zero. What the weights are is in
// convlstm_sequence_cupy.py.

constexpr int kPlane = HEIGHT * WIDTH, kWarps = THREADS / 32;
constexpr int kPieces = (HIDDEN + CHANNELS + 7) / 8;  // of a pixel, each of 8 channels: hidden ones, then the frame's
constexpr int kProducts = kPieces == 1 ? 5 : 9;
constexpr int kTiles = HIDDEN > 4 ? 3 : 2;            // of 8 gates
constexpr int kAcross = WIDTH / 16, kGroups = kAcross * (ROWS / 2), kAround = WIDTH / 16;  // groups, and above and below
// Numbers of a block's pixels: even columns of a row, from the one left of the image on, then odd ones.
constexpr int kHalfRow = (WIDTH / 2 + 1) * 8, kRow = 2 * kHalfRow, kPiece = (ROWS + 2) * kRow, kPixels = kPieces * kPiece;

__device__ __forceinline__ float larger(float x, float y) { return x > y || x != x ? x : y; }

__device__ __forceinline__ Bits16 as_half(float x) { return half_of(at_least(at_most(x, 65504.0f), -65504.0f)); }

// The gates' sums come scaled, as below. Writes the cell and returns the hidden state.
#if ROUGH
// sigmoid(x) = tanh(x / 2) / 2 + 1 / 2
constexpr float kSigmoid = 0.5f, kTanh = 1.0f;
__device__ __forceinline__ float sigmoid_of(float half) { return fma(rough_tanh(half), 0.5f, 0.5f); }
__device__ __forceinline__ float step(float i, float f, float o, float g, float& cell) {
    cell = fma(sigmoid_of(f), cell, sigmoid_of(i) * rough_tanh(g));
    return sigmoid_of(o) * rough_tanh(cell);
}
#else
// sigmoid(x) = 1 / (1 + e^-x), tanh(x) = (e^2x - 1) / (e^2x + 1): the sums are exponents of two. Products of three
// denominators up to 2^40, and of two up to 2^60, are finite.
constexpr float kSigmoid = -1.442695041f, kTanh = 2.885390082f;
__device__ __forceinline__ float exponential(float x, float most) { return power_of_two(at_most(x, most)); }
__device__ __forceinline__ float step(float i, float f, float o, float g, float& cell) {
    const float ei = exponential(i, 40.0f), ef = exponential(f, 40.0f), eg = exponential(g, 40.0f);
    const float of_g = 1 + eg, of_input = fma(of_g, ei, of_g), of_f = 1 + ef;
    cell = fma(eg - 1, of_f, cell * of_input) * reciprocal(of_input * of_f);
    const float ec = exponential(cell * kTanh, 60.0f), eo = exponential(o, 60.0f), of_c = 1 + ec;
    return (ec - 1) * reciprocal(fma(of_c, eo, of_c));
}
#endif

// Where a pixel is among a block's; row 0 is above its own, and column -1 left of the image.
__device__ __forceinline__ int place_of(int row, int column) {
    return row * kRow + (column + 1) % 2 * kHalfRow + (column + 1) / 2 * 8;
}
// Where a channel of a pixel is from there.
__device__ __forceinline__ int channel_of(int c) { return c / 8 * kPiece + c % 8; }

// A pixel of the next frame on its way.
struct Pixel {
    Value of[CHANNELS];
    int place;  // negative where there is none

    // Number `group` of the groups and, after these, of those of the rows above and below. y is the block's first row.
    __device__ __forceinline__ Pixel(const Value* frame, int group, int lane, int y) {
        int row, column;
        if (group < kGroups) {
            row = 1 + group / kAcross * 2 + lane / 16, column = group % kAcross * 16 + lane % 16;
        } else {
            const int pixel = (group - kGroups) * 32 + lane;
            row = pixel / WIDTH * (ROWS + 1), column = pixel % WIDTH;
        }
        const int at = y + row - 1;
        place = frame && at >= 0 && at < HEIGHT ? place_of(row, column) : -1;
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c)
            if (place >= 0) of[c] = frame[c * kPlane + at * WIDTH + column];
    }
    __device__ __forceinline__ void put(Bits16* pixels) const {
        if (place < 0) return;
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) pixels[place + channel_of(HIDDEN + c)] = as_half(load(of[c]));
    }
};

extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS, 512 / THREADS)
    convlstm_sequence(const Value* __restrict__ frames, const Value* __restrict__ before,
                      const float* __restrict__ cell_before, const float* __restrict__ weight,
                      const float* __restrict__ bias, long long T, long long N, Value* __restrict__ features,
                      Value* __restrict__ last, float* __restrict__ cell_last, Value* __restrict__ hiddens,
                      float* __restrict__ cells_kept) {
    Bits16* const memory = reinterpret_cast<Bits16*>(shared_memory());  // 2 x kPixels
    Bits16* const nothing = memory + 2 * kPixels;                       // 8 zeros
    float* const cells = reinterpret_cast<float*>(nothing + 8);         // (4 or 6, kGroups, 32)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    const int rank = blockIdx.x % CLUSTER, n = blockIdx.x / CLUSTER, y = rank * ROWS;

    // b of product k, tile j: a lane has of column g the rows 2 q, 2 q + 1, 2 q + 8 and 2 q + 9.
    unsigned weights[kProducts][kTiles][2];
    float start[kTiles][2];  // of columns 2 q and 2 q + 1
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
        // Gate of column c: i, f in the first tile, o, g in the second; in the third all four, twice.
        const auto scale = [&](int c) { return (j == 2 ? c % 4 == 3 : j == 1 && c % 2) ? kTanh : kSigmoid; };
#pragma unroll
        for (int k = 0; k < kProducts; ++k) {
            const Four<float> four = reinterpret_cast<const Four<float>*>(weight)[(k * kTiles + j) * 32 + lane];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                weights[k][j][i] = as_half(four.of[2 * i] * scale(g)) |
                                   static_cast<unsigned>(as_half(four.of[2 * i + 1] * scale(g))) << 16;
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) start[j][e] = bias[j * 8 + 2 * q + e] * scale(2 * q + e);
    }

    for (int i = threadIdx.x; i < (2 * kPixels + 8) / 8; i += THREADS)
        reinterpret_cast<Four<unsigned>*>(memory)[i] = {{0, 0, 0, 0}};
    __syncthreads();
    const long long state = static_cast<long long>(n) * (HIDDEN * kPlane);
    const Value* const images = frames + static_cast<long long>(n) * (CHANNELS * kPlane);
    const long long frame = N * (CHANNELS * kPlane), states = N * (HIDDEN * kPlane);
    for (int group = warp; group < kGroups + kAround; group += kWarps) Pixel(images, group, lane, y).put(memory);
    if (before)
        for (int i = threadIdx.x; i < (ROWS + 2) * WIDTH; i += THREADS) {
            const int row = i / WIDTH, column = i % WIDTH, at = y + row - 1;
            if (at < 0 || at >= HEIGHT) continue;
#pragma unroll
            for (int c = 0; c < HIDDEN; ++c)
                memory[place_of(row, column) + channel_of(c)] =
                    as_half(load(before[state + c * kPlane + at * WIDTH + column]));
        }
    // A lane's cells of a group: columns 2 g and 2 g + 1 of channel q in both rows and, of the fifth and sixth channel,
    // an even lane's the left and an odd one's the right column. Where they are in a state, from its group's pixels on:
    const auto pair_of = [&](int r, int group) {
        return reinterpret_cast<Two<float>*>(cells) + (r * kGroups + group) * 32 + lane;
    };
    const bool has_pair = q < HIDDEN;
    const int pair_at = q * kPlane + 2 * g;
#if HIDDEN > 4
    const auto single_of = [&](int r, int group) { return cells + ((4 + r) * kGroups + group) * 32 + lane; };
    const int fifth = 4 + q / 2, odd = q % 2;
    const bool has_single = fifth < HIDDEN;
    const int single_at = fifth * kPlane + 2 * g + odd;
#endif
    for (int group = warp; group < kGroups; group += kWarps)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float* const from = cell_before + state + (y + group / kAcross * 2 + r) * WIDTH + group % kAcross * 16;
            Two<float> two = {0.0f, 0.0f};
            if (cell_before && has_pair) two = *reinterpret_cast<const Two<float>*>(from + pair_at);
            *pair_of(r, group) = two;
#if HIDDEN > 4
            *single_of(r, group) = cell_before && has_single ? from[single_at] : 0.0f;
#endif
        }
    cluster_together();  // every block has its memory, and all that step 0 reads is there

    for (int t = 0; t < T; ++t) {
        const bool ends = t + 1 == T;
        Bits16 *const seen = memory + t % 2 * kPixels, *const next = memory + (t + 1) % 2 * kPixels;
        Bits16* const above = rank > 0 ? of_block(next, rank - 1) : nullptr;
        Bits16* const below = rank + 1 < CLUSTER ? of_block(next, rank + 1) : nullptr;
        const Value* const image = ends ? nullptr : images + (t + 1) * frame;
        for (int group = warp; group < kGroups + kAround; group += kWarps) {
            const Pixel pixel(image, group, lane, y);
            if (group >= kGroups) {
                pixel.put(next);
                continue;
            }
            const int row = group / kAcross * 2, x = group % kAcross * 16;
            float sums[2][kTiles][4];
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[r][j][i] = start[j][i % 2];
            // Pixels of row i above, in, in or below the group, columns from x + dx on, every other; 8 channels of each.
            const Bits16* const corner = seen + row * kRow + x / 2 * 8;
            const auto pixels_of = [&](int piece, int i, int dx) {
                return corner + piece * kPiece + i * kRow + (dx + 1) % 2 * kHalfRow + (dx + 1) / 2 * 8;
            };
            const auto add = [&](int r, int k, const unsigned(&pixels)[4]) {
#pragma unroll
                for (int j = 0; j < kTiles; ++j) multiply_half(sums[r][j], pixels, weights[k][j]);
            };
            // Even columns of the first half of a product's channels, odd ones; the same of the second half.
            unsigned pixels[4];
#if HIDDEN + CHANNELS <= 8
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                load_matrices(pixels, [&](int l) { return pixels_of(0, i, l / 8 - 1) + l % 8 * 8; });
                if (i < 3) add(0, i, pixels);
                if (i > 0) add(1, i - 1, pixels);
            }
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                load_matrices(pixels, [&](int l) { return pixels_of(0, r + l / 16, l / 8 % 2) + l % 8 * 8; });
                add(r, 3, pixels);
                load_matrices(pixels, [&](int l) {
                    return l < 16 ? pixels_of(0, r + 2, l / 8) + l % 8 * 8 : nothing;
                });
                add(r, 4, pixels);
            }
#else
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int tap = 0; tap < 3; ++tap) {
                    load_matrices(pixels, [&](int l) { return pixels_of(l / 16, i, tap - 1 + l / 8 % 2) + l % 8 * 8; });
                    if (i < 3) add(0, 3 * i + tap, pixels);
                    if (i > 0) add(1, 3 * (i - 1) + tap, pixels);
                }
#endif

            float h[2][3];
            Two<float> c[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float(&sum)[kTiles][4] = sums[r];
                c[r] = *pair_of(r, group);
                h[r][0] = step(sum[0][0], sum[0][1], sum[1][0], sum[1][1], c[r].first);
                h[r][1] = step(sum[0][2], sum[0][3], sum[1][2], sum[1][3], c[r].second);
                *pair_of(r, group) = c[r];
            }
            // To this block's pixels and, at an edge, to those of the block that sees them from the other side.
            const auto hand_on = [&](int r, int column, int channel, float hidden) {
                const int at = row + r + 1, place = place_of(at, x + column) + channel_of(channel);
                const Bits16 half = half_of(hidden);
                next[place] = half;
                if (r == 0 && at == 1 && above) above[place + ROWS * kRow] = half;
                if (r == 1 && at == ROWS && below) below[place - ROWS * kRow] = half;
            };
            if (has_pair)
#pragma unroll
                for (int r = 0; r < 2; ++r) hand_on(r, 2 * g, q, h[r][0]), hand_on(r, 2 * g + 1, q, h[r][1]);
#if HIDDEN > 4
            float single[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                // Even lanes have i and f, odd ones o and g, of both columns: each takes those of its own column.
                const float(&sum)[4] = sums[r][2];
                const float one = __shfl_xor_sync(0xffffffffu, odd ? sum[0] : sum[2], 1);
                const float other = __shfl_xor_sync(0xffffffffu, odd ? sum[1] : sum[3], 1);
                single[r] = *single_of(r, group);
                h[r][2] = step(odd ? one : sum[0], odd ? other : sum[1], odd ? sum[2] : one, odd ? sum[3] : other,
                               single[r]);
                *single_of(r, group) = single[r];
                if (has_single) hand_on(r, 2 * g + odd, fifth, h[r][2]);
            }
#endif

            const long long from = state + ((y + row) * WIDTH + x);
            Value* const whole = POOL == 1 ? features + t * states : ends ? last : KEEP ? hiddens + t * states : nullptr;
            float* const cells_to = ends ? cell_last : KEEP ? cells_kept + t * states : nullptr;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                if (has_pair) {
                    const long long to = from + r * WIDTH + pair_at;
                    const Two<Value> two = {store(h[r][0]), store(h[r][1])};
                    if (whole) *reinterpret_cast<Two<Value>*>(whole + to) = two;
                    if (POOL == 1 && ends) *reinterpret_cast<Two<Value>*>(last + to) = two;
                    if (cells_to) *reinterpret_cast<Two<float>*>(cells_to + to) = c[r];
                }
#if HIDDEN > 4
                if (has_single) {
                    const long long to = from + r * WIDTH + single_at;
                    if (whole) whole[to] = store(h[r][2]);
                    if (POOL == 1 && ends) last[to] = store(h[r][2]);
                    if (cells_to) cells_to[to] = single[r];
                }
#endif
            }
#if POOL == 2
            Value* const window = features + (t * states + state) / 4 + ((y + row) / 2 * (WIDTH / 2) + x / 2 + g);
            const float most = larger(larger(h[0][0], h[0][1]), larger(h[1][0], h[1][1]));
            if (has_pair) window[q * (kPlane / 4)] = store(most);
#if HIDDEN > 4
            const float mine = larger(h[0][2], h[1][2]), others = __shfl_xor_sync(0xffffffffu, mine, 1);
            if (has_single && !odd) window[fifth * (kPlane / 4)] = store(larger(mine, others));
#endif
#endif
            pixel.put(next);
        }
        cluster_together();
    }
}
