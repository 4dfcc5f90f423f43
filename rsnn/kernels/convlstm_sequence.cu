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
// writes to the other what step t + 1 will read. The cells stay in shared memory, in float, each where only the lane that
// computes it looks. Factors past 65504 count as that.
//
// Hidden states of rows at an edge are sent to the neighbour as well, while the rows between are computed. A group of
// pixels at an edge waits for those of the step before. It has read what its neighbour's last step sent before it sends
// itself, and without that the neighbour does not go on to the step whose results would overwrite this.
//
// A warp goes from one group of 2 x 16 pixels to the next. Rows of a product are 8 even columns of the pixels and the 8
// odd ones; columns of a product are gates, i and f of channel q next to each other and o and g as well, so that a lane
// ends up with all gates of a window of 2 x 2 pixels. Of the fifth and sixth channel two lanes share a window. A product
// has 16 channels of a tap or, where 8 are enough, of two: left and right of a row, or the middle ones of two rows.
//
// frames is (T, N, C, H, W), hidden states and cells are (N, D, H, W), features (T, N, D, H / POOL, W / POOL); kept
// hidden states (with POOL 2) and cells (T - 1, N, D, H, W). What is missing (0) is zero. Weights are (4 D, C, 3, 3) and
// (4 D, D, 3, 3) and bias (4 D), gates in the order i, f, o, g.

constexpr int kPlane = HEIGHT * WIDTH, kWarps = THREADS / 32;
constexpr int kFrom = (HIDDEN + 1) / 2 * 2;            // a pixel's channels: hidden ones, from here on the frame's
constexpr int kPieces = (kFrom + CHANNELS + 7) / 8;    // of 8 of these channels
constexpr int kProducts = kPieces == 1 ? 5 : 9;
constexpr int kTiles = HIDDEN > 4 ? 3 : 2;             // of 8 gates
constexpr int kPairs = ROWS / 2, kAcross = WIDTH / 16, kGroups = kAcross * kPairs;
// Numbers of a block's pixels: even columns of a row, from the one left of the image on, then odd ones.
constexpr int kHalfRow = (WIDTH / 2 + 1) * 8, kRow = 2 * kHalfRow, kPiece = (ROWS + 2) * kRow, kPixels = kPieces * kPiece;
constexpr int kSent = WIDTH * kFrom * 2;               // bytes of a row of hidden states

__device__ __forceinline__ unsigned factors(float x, float y) { return halves_of(limited(x), limited(y)); }

// A hidden state of the next step's products is the one that is stored: it goes on from there, and so does backward.
__device__ __forceinline__ float as_stored(float x) {
#if INPUT == 3
    return load(store(x));
#else
    return x;
#endif
}

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

// Gate and channel of column c of tile j: i, f and o, g of the first four channels, all gates of the next two.
__device__ __forceinline__ int gate_of(int j, int c) { return j == 2 ? c % 4 : 2 * j + c % 2; }
__device__ __forceinline__ int channel_of(int j, int c) { return j == 2 ? 4 + c / 4 : c / 2; }

// Row `row` of product k is channel `row % 8` of a piece and of a tap, or none.
__device__ __forceinline__ float weight_of(const float* __restrict__ w_input, const float* __restrict__ w_hidden, int k,
                                           int row, int gate, int channel) {
    const int second = row / 8, c = kPieces == 1 ? row % 8 : row;
    const int tap = kPieces > 1 ? k : k < 3 ? 3 * k + 2 * second : k == 3 ? 1 + 3 * second : second ? 9 : 7;
    const int place = gate * HIDDEN + channel;
    if (channel >= HIDDEN || tap > 8) return 0.0f;
    if (c < HIDDEN) return w_hidden[(place * HIDDEN + c) * 9 + tap];
    if (c >= kFrom && c < kFrom + CHANNELS) return w_input[(place * CHANNELS + c - kFrom) * 9 + tap];
    return 0.0f;
}

// A frame's pixel on its way to a block's pixels.
struct Pixel {
    Value of[CHANNELS];

    __device__ __forceinline__ Pixel(const Value* from, bool exists) {
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) of[c] = exists ? from[c * kPlane] : static_cast<Value>(0);
    }
    __device__ __forceinline__ void put(Bits16* to) const {
#pragma unroll
        for (int c = 0; c < CHANNELS; c += 2) {
            const float second = c + 1 < CHANNELS ? load(of[c + 1 < CHANNELS ? c + 1 : c]) : 0.0f;
            *reinterpret_cast<unsigned*>(to + (kFrom + c) / 8 * kPiece + (kFrom + c) % 8) = factors(load(of[c]), second);
        }
    }
};

// Where a pixel is among a block's; row 0 is above its own, and column -1 left of the image.
__device__ __forceinline__ int place_of(int row, int column) {
    return row * kRow + (column + 1) % 2 * kHalfRow + (column + 1) / 2 * 8;
}

extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS, 512 / THREADS)
    convlstm_sequence(const Value* __restrict__ frames, const Value* __restrict__ before,
                      const float* __restrict__ cell_before, const float* __restrict__ w_input,
                      const float* __restrict__ w_hidden, const float* __restrict__ bias, long long T, long long N,
                      Value* __restrict__ features, Value* __restrict__ last, float* __restrict__ cell_last,
                      Value* __restrict__ hiddens, float* __restrict__ cells_kept) {
    Bits16* const memory = static_cast<Bits16*>(shared_memory());         // 2 x kPixels
    Bits16* const nothing = memory + 2 * kPixels;                         // 8 zeros
    Signal* const signals = reinterpret_cast<Signal*>(nothing + 8);       // of even and odd steps, from above, below
    Four<float>* const pairs = reinterpret_cast<Four<float>*>(signals + 4);  // cells (kGroups, 32)
#if HIDDEN > 4
    Two<float>* const singles = reinterpret_cast<Two<float>*>(pairs + kGroups * 32);
#endif
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    const int rank = blockIdx.x % CLUSTER, n = blockIdx.x / CLUSTER, y = rank * ROWS;
    const bool has_above = rank > 0, has_below = rank + 1 < CLUSTER;

    // b of product k, tile j: a lane has of column g the rows 2 q, 2 q + 1, 2 q + 8 and 2 q + 9.
    unsigned weights[kProducts][kTiles][2];
    float start[kTiles][2];  // of columns 2 q and 2 q + 1
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
        const int gate = gate_of(j, g), channel = channel_of(j, g);
        const float scale = gate == 3 ? kTanh : kSigmoid;
#pragma unroll
        for (int k = 0; k < kProducts; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float low = weight_of(w_input, w_hidden, k, 2 * q + 8 * i, gate, channel);
                const float high = weight_of(w_input, w_hidden, k, 2 * q + 8 * i + 1, gate, channel);
                weights[k][j][i] = factors(low * scale, high * scale);
            }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int gate = gate_of(j, 2 * q + e), channel = channel_of(j, 2 * q + e);
            start[j][e] = bias && channel < HIDDEN ? bias[gate * HIDDEN + channel] * (gate == 3 ? kTanh : kSigmoid) : 0;
        }
    }

    for (int i = threadIdx.x; i < (2 * kPixels + 8) / 8; i += THREADS)
        reinterpret_cast<Four<unsigned>*>(memory)[i] = {{0, 0, 0, 0}};
    if (threadIdx.x < 4) make(signals + threadIdx.x);
    __syncthreads();
    const long long state = static_cast<long long>(n) * (HIDDEN * kPlane);
    const long long frame = N * (CHANNELS * kPlane), states = N * (HIDDEN * kPlane);
    const Value* image = frames + static_cast<long long>(n) * (CHANNELS * kPlane);
    for (int i = threadIdx.x; i < (ROWS + 2) * WIDTH; i += THREADS) {
        const int row = i / WIDTH, column = i % WIDTH, at = (y + row - 1) * WIDTH + column, place = place_of(row, column);
        if (at < 0 || at >= kPlane) continue;
        Pixel(image + at, true).put(memory + place);
        if (before)
#pragma unroll
            for (int c = 0; c < HIDDEN; ++c) memory[place + c] = half_of(limited(load(before[state + c * kPlane + at])));
    }
    // A lane's cells of a group: columns 2 g and 2 g + 1 of channel q in both rows and, of the fifth and sixth channel,
    // an even lane's the left and an odd one's the right column. Where they are in a state, from its group's pixels on:
    const bool has_pair = q < HIDDEN;
    const int pair_at = q * kPlane + 2 * g;
#if HIDDEN > 4
    const int fifth = 4 + q / 2, odd = q % 2;
    const bool has_single = fifth < HIDDEN;
    const int single_at = fifth * kPlane + 2 * g + odd;
#endif
    // The groups of rows at an edge come last.
    const auto row_of = [&](int group) { return (group / kAcross + 1) % kPairs * 2; };
    for (int group = warp; group < kGroups; group += kWarps) {
        const float* const from = cell_before + state + (y + row_of(group)) * WIDTH + group % kAcross * 16;
        Four<float> four = {{0, 0, 0, 0}};
        if (cell_before && has_pair)
#pragma unroll
            for (int i = 0; i < 4; ++i) four.of[i] = from[pair_at + i / 2 * WIDTH + i % 2];
        pairs[group * 32 + lane] = four;
#if HIDDEN > 4
        const bool exists = cell_before && has_single;
        singles[group * 32 + lane] = {exists ? from[single_at] : 0, exists ? from[single_at + WIDTH] : 0};
#endif
    }
    const auto expect_rows = [&](int t) {
        if (threadIdx.x != 0 || t + 1 >= T) return;
        if (has_above) expect(signals + t % 2, kSent);
        if (has_below) expect(signals + 2 + t % 2, kSent);
    };
    expect_rows(0);
    cluster_together();  // every block has its memory, and all that step 0 reads is there

    // A lane's row of the matrices that are products' factors, from a group's corner on: channels of columns from x - 1,
    // x, x + 1 and x + 2 on, every other one.
    const auto factor = [&](int column) { return column % 2 * kHalfRow + column / 2 * 8 + lane % 8 * 8; };
    const int quarter = lane / 8;
#if HIDDEN + HIDDEN % 2 + CHANNELS <= 8
    const int sides = kept(factor(quarter)), middles = kept(quarter / 2 * kRow + factor(1 + quarter % 2));
#else
    const int left = kept(quarter / 2 * kPiece + factor(quarter % 2));
    const int middle = kept(quarter / 2 * kPiece + factor(1 + quarter % 2));
#endif
    const int own = kept(place_of(1 + lane / 16, lane % 16)), own_at = lane / 16 * WIDTH + lane % 16;  // of its Pixel
    // A lane's pixel of a group and of the frame that the group's hidden states will be seen with. It is on its way while
    // the group before is computed, which takes about as long.
    const auto of_next = [&](int group, int t, const Value* image) {
        return Pixel(image + ((y + row_of(group)) * WIDTH + group % kAcross * 16 + own_at), t < T);
    };
    Pixel coming = of_next(warp, 1, image + frame);
    for (int t = 0; t < T; ++t, image += frame) {
        const bool ends = t + 1 == T;
        const int before_phase = (t + 1) / 2 % 2 ^ 1;  // of step t - 1: (t - 1) / 2 % 2
        Bits16 *const seen = memory + t % 2 * kPixels, *const next = memory + (t + 1) % 2 * kPixels;
        for (int group = warp; group < kGroups; group += kWarps) {
            const int row = row_of(group), x = group % kAcross * 16, corner = row * kRow + x / 2 * 8;
            const int at = (y + row) * WIDTH + x;
            const Pixel pixel = coming;
            const bool goes_on = group + kWarps < kGroups;
            coming = of_next(goes_on ? group + kWarps : warp, goes_on ? t + 1 : t + 2, image + (goes_on ? frame : 2 * frame));
            if (t > 0 && row == 0 && has_above) await_signal(signals + (t + 1) % 2, before_phase);
            if (t > 0 && row == ROWS - 2 && has_below) await_signal(signals + 2 + (t + 1) % 2, before_phase);

            float sums[2][kTiles][4];
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[r][j][i] = start[j][i % 2];
            // Even columns of the first half of a product's channels, odd ones; the same of the second half.
            unsigned pixels[4];
            const auto add = [&](int r, int k) {
#pragma unroll
                for (int j = 0; j < kTiles; ++j) multiply_half(sums[r][j], pixels, weights[k][j]);
            };
            const Bits16* const from = seen + corner;
#if HIDDEN + HIDDEN % 2 + CHANNELS <= 8
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                load_matrices(pixels, from + sides + i * kRow);
                if (i < 3) add(0, i);
                if (i > 0) add(1, i - 1);
            }
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                load_matrices(pixels, from + middles + r * kRow);
                add(r, 3);
                load_matrices(pixels, lane < 16 ? from + middles + (r + 2) * kRow : nothing);
                add(r, 4);
            }
#else
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int tap = 0; tap < 3; ++tap) {
                    load_matrices(pixels, from + (tap == 1 ? middle : left + tap / 2 * 8) + i * kRow);
                    if (i < 3) add(0, 3 * i + tap);
                    if (i > 0) add(1, 3 * (i - 1) + tap);
                }
#endif

            float h[2][3];
            Four<float> c = pairs[group * 32 + lane];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float(&sum)[kTiles][4] = sums[r];
                h[r][0] = as_stored(step(sum[0][0], sum[0][1], sum[1][0], sum[1][1], c.of[2 * r]));
                h[r][1] = as_stored(step(sum[0][2], sum[0][3], sum[1][2], sum[1][3], c.of[2 * r + 1]));
            }
            pairs[group * 32 + lane] = c;
#if HIDDEN > 4
            Two<float> single = singles[group * 32 + lane];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                // Even lanes have i and f, odd ones o and g, of both columns: each takes those of its own column.
                const float(&sum)[4] = sums[r][2];
                const float one = __shfl_xor_sync(0xffffffffu, odd ? sum[0] : sum[2], 1);
                const float other = __shfl_xor_sync(0xffffffffu, odd ? sum[1] : sum[3], 1);
                h[r][2] = as_stored(step(odd ? one : sum[0], odd ? other : sum[1], odd ? sum[2] : one,
                                         odd ? sum[3] : other, r ? single.second : single.first));
            }
            singles[group * 32 + lane] = single;
#endif

            Bits16* const to = next + corner + kRow;  // column x - 1 of the group's first row
            const unsigned halves[2] = {halves_of(h[0][0], h[0][1]), halves_of(h[1][0], h[1][1])};
#if HIDDEN > 4
            const unsigned single_halves = halves_of(h[0][2], h[1][2]);
#endif
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                if (has_pair) {
                    to[r * kRow + kHalfRow + g * 8 + q] = static_cast<Bits16>(halves[r]);
                    to[r * kRow + 8 + g * 8 + q] = static_cast<Bits16>(halves[r] >> 16);
                }
#if HIDDEN > 4
                if (has_single)
                    to[r * kRow + (odd ? 8 : kHalfRow) + g * 8 + fifth] = static_cast<Bits16>(single_halves >> 16 * r);
#endif
            }
            // A row to the neighbour that sees it from the other side, two channels at a time.
            const auto send_row = [&](int r, int shift, Signal* signal, int rank) {
                const Bits16* const there = to + (r * kRow + shift) + g * 8;
                const unsigned others = __shfl_xor_sync(0xffffffffu, halves[r], 1);
                if (q % 2 == 0 && has_pair) {
                    send(there + kHalfRow + q, (halves[r] & 0xffff) | others << 16, signal, rank);
                    send(there + 8 + q, halves[r] >> 16 | (others & 0xffff0000u), signal, rank);
                }
#if HIDDEN > 4
                const unsigned mine = single_halves >> 16 * r & 0xffff, other = __shfl_xor_sync(0xffffffffu, mine, 2);
                if (q < 2) send(there + (odd ? 8 : kHalfRow) + 4, mine | other << 16, signal, rank);
#endif
            };
            if (!ends && row == 0 && has_above) send_row(0, ROWS * kRow, signals + 2 + t % 2, rank - 1);
            if (!ends && row == ROWS - 2 && has_below) send_row(1, -ROWS * kRow, signals + t % 2, rank + 1);

            Value* const whole = POOL == 1 ? features + t * states : ends ? last : KEEP ? hiddens + t * states : nullptr;
            float* const cells_to = ends ? cell_last : KEEP ? cells_kept + t * states : nullptr;
            if (POOL == 1 || KEEP || ends) {
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    if (has_pair) {
                        const long long place = state + (at + r * WIDTH + pair_at);
                        const Two<Value> two = {store(h[r][0]), store(h[r][1])};
                        if (whole) *reinterpret_cast<Two<Value>*>(whole + place) = two;
                        if (POOL == 1 && ends) *reinterpret_cast<Two<Value>*>(last + place) = two;
                        if (cells_to) *reinterpret_cast<Two<float>*>(cells_to + place) = {c.of[2 * r], c.of[2 * r + 1]};
                    }
#if HIDDEN > 4
                    if (has_single) {
                        const long long place = state + (at + r * WIDTH + single_at);
                        if (whole) whole[place] = store(h[r][2]);
                        if (POOL == 1 && ends) last[place] = store(h[r][2]);
                        if (cells_to) cells_to[place] = r ? single.second : single.first;
                    }
#endif
                }
            }
#if POOL == 2
            Value* const window = features + (t * states + state) / 4 + ((y + row) / 2 * (WIDTH / 2) + x / 2 + g);
            const float most = at_least(at_least(h[0][0], h[0][1]), at_least(h[1][0], h[1][1]));
            if (has_pair) window[q * (kPlane / 4)] = store(most);
#if HIDDEN > 4
            const float mine = at_least(h[0][2], h[1][2]), others = __shfl_xor_sync(0xffffffffu, mine, 1);
            if (has_single && !odd) window[fifth * (kPlane / 4)] = store(at_least(mine, others));
#endif
#endif
            if (!ends) pixel.put(next + corner + own);
        }
        if (!ends)  // the frame's rows above and below
            for (int i = threadIdx.x; i < 2 * WIDTH; i += THREADS) {
                const int down = i / WIDTH, column = i % WIDTH;
                if (down ? has_below : has_above)
                    Pixel(image + frame + ((y + (down ? ROWS : -1)) * WIDTH + column), true)
                        .put(next + place_of(down * (ROWS + 1), column));
            }
        if (threadIdx.x == 0 && t > 0) {
            if (has_above) await_signal(signals + (t + 1) % 2, before_phase);
            if (has_below) await_signal(signals + 2 + (t + 1) % 2, before_phase);
        }
        expect_rows(t + 1);
        __syncthreads();
    }
}
