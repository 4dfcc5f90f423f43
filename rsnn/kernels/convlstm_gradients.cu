// The gradients of a ConvLSTM layer of few channels once those by its gates are known, on tensor cores in TF32, which
// holds half and bfloat16 exactly; sums are in float. Beside the macros of neuron.cuh, of which INPUT is 0, 2 or 3 and
// DEPTH counts rows of pixels:
//   BACK           1 for convolve_back, 0 for weight_gradient
//   CHANNELS       of a frame, up to 4; of what convolve_back results in, up to 6
//   HIDDEN         channels of the hidden state, up to 6: a quarter of the gates
//   HEIGHT, WIDTH  the latter even
//   WIDE           1 writes the result of convolve_back in float, whatever INPUT is
//   BLOCKS         that should fit into a multiprocessor
//
// A warp goes down strips of 32 pixels, a row at a time, by itself: rows come in through a part of the shared memory
// that it alone uses, DEPTH of them on their way. A strip of an image, or as many rows of it as `rows`, is a unit.

constexpr int kPlane = HEIGHT * WIDTH, kGates = 4 * HIDDEN;
constexpr int kStrip = 32, kAcross = (WIDTH + kStrip - 1) / kStrip, kWarps = THREADS / 32;
// A row in shared memory: room for the pixel on the left, the strip's; that on the right is in the next row's room.
// A warp's loads of what it takes of eight rows then meet all banks.
constexpr int kRoom = 16 / sizeof(Value), kRow = kRoom + kStrip;
constexpr int kStages = DEPTH + 1;

// What one instruction copies, 16 bytes or as many as rows are aligned to.
constexpr int kPiece = WIDTH % kRoom == 0 ? kRoom : WIDTH % 4 == 0 ? 4 : 2;
constexpr int kPieces = kStrip / kPiece, kSide = 4 / sizeof(Value);

__device__ __forceinline__ unsigned as_factor(Value x) {
#if INPUT == 3
    return static_cast<unsigned>(x) << 16;
#elif INPUT == 2
    return bits_of(load(x));
#else
    return rounded(load(x));
#endif
}

// What a lane copies of a row of several planes: a piece of the strip in each kPiece-th plane, and in one plane the
// pixel, or the two in four bytes, on one side.
struct Lane {
    int plane, at, side_plane, side;

    __device__ __forceinline__ Lane(int lane)
        : plane(lane / kPieces), at(lane % kPieces * kPiece), side_plane(lane / 2), side(lane % 2 ? kStrip : -kSide) {}
    __device__ __forceinline__ int from() const { return plane * kPlane + at; }
    __device__ __forceinline__ int side_from() const { return side_plane * kPlane + side - from(); }  // its own
    __device__ __forceinline__ int to() const { return plane * kRow + kRoom + at; }
    __device__ __forceinline__ int side_to() const { return side_plane * kRow + kRoom + side; }
};

// Starts to copy what a lane has of a row of kPlanes planes, to and from where the first piece is, or zeros.
template <int kPlanes>
__device__ __forceinline__ void fetch(Value* to, const Value* from, const Lane& lane, bool exists) {
#pragma unroll
    for (int i = 0; i < kPlanes; i += kPiece)
        if (i + kPiece <= kPlanes || lane.plane < kPlanes - i)
            start_copy<kPiece * sizeof(Value)>(to + i * kRow, from + i * kPlane, exists);
}
template <int kPlanes>
__device__ __forceinline__ void fetch_sides(Value* to, const Value* from, const Lane& lane, bool exists) {
    static_assert(kPlanes <= 16, "two sides of each");
    if (lane.side_plane < kPlanes) start_copy<4>(to, from, exists);
}

// Four pixels next to each other, for a tensor core.
__device__ __forceinline__ void take(const Value* from, unsigned* pixels) {
    const Four<Value> four = *reinterpret_cast<const Four<Value>*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) pixels[i] = as_factor(four.of[i]);
}

// The part of the images that a warp has at a time: `count` rows of a strip.
struct Unit {
    int image, x, top, count;

    __device__ __forceinline__ Unit(int number, int rows) {
        const int down = (HEIGHT + rows - 1) / rows;
        x = number % kAcross * kStrip;
        top = number / kAcross % down * rows;
        count = top + rows < HEIGHT ? rows : HEIGHT - top;
        image = number / kAcross / down;
    }
};

#if BACK
#if WIDE
typedef float Result;
__device__ __forceinline__ Result as_result(float x) { return x; }
#else
typedef Value Result;
__device__ __forceinline__ Result as_result(float x) { return store(x); }
#endif

// result (images, CHANNELS, H, W): the gradient by what was convolved with weight (4 D, CHANNELS, 3, 3).
//   result[y, x] = sum of gate_grads[y + 1 - i, x + 1 - j] weight[i, j];    gate_grads is (images, 4 D, H, W)
// Pixels are rows of a product, channels its columns, gates are summed over. A row of pixels adds to three at once.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    convolve_back(const Value* __restrict__ gate_grads, const float* __restrict__ weight, long long units,
                  long long rows, long long blocks, Result* __restrict__ result) {
    constexpr int kProducts = (kGates + 7) / 8, kStage = kGates * kRow + kRoom;
    constexpr int kFew = kGates < 16 ? kGates : 16;
    alignas(16) __shared__ Value shared[kWarps * kStages * kStage];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    Value* const tiles = shared + warp * kStages * kStage;
    const Lane part(lane);

    // Numbers q and q + 4 that a product sums over are gates 2 q and 2 q + 1, so that loads meet all banks.
    unsigned weights[kProducts][9][2];
#pragma unroll
    for (int k = 0; k < kProducts; ++k)
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int gate = 8 * k + 2 * q + e;
                const bool exists = gate < kGates && g < CHANNELS;
                weights[k][tap][e] = rounded(exists ? weight[(gate * CHANNELS + g) * 9 + tap] : 0.0f);
            }

    for (int number = blockIdx.x * kWarps + warp; number < units; number += blocks * kWarps) {
        const Unit unit(number, rows);
        const Value* const image = gate_grads + static_cast<long long>(unit.image) * (kGates * kPlane) +
                                   ((unit.top - 1) * WIDTH + unit.x);
        const Value* from = image + part.from();
        const bool inside = WIDTH % kStrip == 0 || unit.x + part.at < WIDTH;
        const bool beside = unit.x + part.side >= 0 && unit.x + part.side < WIDTH;
        int turn = 0;  // of the rows' places
        const auto start = [&](int step) {
            const int y = unit.top - 1 + step;
            const bool exists = y >= 0 && y < HEIGHT;
            if (step < unit.count + 2) {
                Value* const to = tiles + turn * kStage;
                fetch<kGates>(to + part.to(), from, part, exists && inside);
                const Value* const side = from + part.side_from();
                fetch_sides<kFew>(to + part.side_to(), side, part, exists && beside);
                if (kGates > kFew)
                    fetch_sides<kGates - kFew>(to + (part.side_to() + kFew * kRow), side + kFew * kPlane, part,
                                               exists && beside);
            }
            from += WIDTH;
            turn = turn < DEPTH ? turn + 1 : 0;
            end_of_copies();
        };
        warp_together();  // nobody is at the unit before any more
#pragma unroll
        for (int step = 0; step < DEPTH; ++step) start(step);

        float sums[3][2][4] = {};  // rows y - 1, y and y + 1 of the result, pixels 0 and 1, 2 and 3
#pragma unroll 1
        for (int step = 0; step < unit.count + 2; ++step) {
            await<DEPTH - 1>();
            warp_together();  // the row is there, and nobody is at the one before any more
            start(step + DEPTH);  // where the row before was: now it is this one's turn
            const Value* const tile = tiles + turn * kStage + kRoom + 4 * g;
#pragma unroll
            for (int k = 0; k < kProducts; ++k) {
                unsigned pixels[2][6];  // from the one on the left of the lane's four on
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int gate = 8 * k + 2 * q + e;
                    const Value* const row = tile + (gate < kGates ? gate : kGates - 1) * kRow;
                    pixels[e][0] = as_factor(row[-1]);
                    take(row, pixels[e] + 1);
                    pixels[e][5] = as_factor(row[4]);
                }
#pragma unroll
                for (int tap = 0; tap < 9; ++tap)
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const int at = 2 * m + 2 - tap % 3;
                        const unsigned a[4] = {pixels[0][at], pixels[0][at + 1], pixels[1][at], pixels[1][at + 1]};
                        multiply(sums[tap / 3][m], a, weights[k][tap]);
                    }
            }
            const int y = unit.top - 2 + step, x = unit.x + 4 * g;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int channel = 2 * q + e;
                if (step >= 2 && channel < CHANNELS) {
                    Result* const to = result + static_cast<long long>(unit.image) * (CHANNELS * kPlane) +
                                       (channel * kPlane + y * WIDTH + x);
                    Four<Result> four;
#pragma unroll
                    for (int i = 0; i < 4; ++i) four.of[i] = as_result(sums[0][i / 2][i % 2 * 2 + e]);
#if WIDTH % 4 == 0
                    if (WIDTH % kStrip == 0 || x < WIDTH) *reinterpret_cast<Four<Result>*>(to) = four;
#else
                    if (x < WIDTH) *reinterpret_cast<Two<Result>*>(to) = {four.of[0], four.of[1]};
                    if (x + 2 < WIDTH) *reinterpret_cast<Two<Result>*>(to + 2) = {four.of[2], four.of[3]};
#endif
                }
            }
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    sums[0][m][i] = sums[1][m][i];
                    sums[1][m][i] = sums[2][m][i];
                    sums[2][m][i] = 0;
                }
        }
    }
}
#else
// parts (blocks, kTiles, kColumns, 4, 32): the weights' gradient of the units that each block goes through.
//   weight_grad[i, j] = sum of gate_grads[y, x] input[y + i - 1, x + j - 1]
// gate_grads is (T, N, 4 D, H, W); the input is frames (T, N, C, H, W), then the hidden state before, which is `first`
// (N, D, H, W) or zeros at step 0, then hiddens (T, N, D, H, W).
//
// Pixels are summed over, gates are columns of a product. Eight of its rows are the first eight channels for one tap.
// Beside the upper taps are the middle ones; beside the lower ones the other channels, two for three taps, and two rows
// of ones, for the bias. Without others the third of the lower taps is beside the first, and ones beside the second.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    weight_gradient(const Value* __restrict__ gate_grads, const Value* __restrict__ frames,
                    const Value* __restrict__ first, const Value* __restrict__ hiddens, long long N, long long units,
                    long long rows, long long blocks, float* __restrict__ parts) {
    constexpr int kAll = CHANNELS + HIDDEN, kInputs = kAll < 8 ? kAll : 8, kOthers = kAll - kInputs;
    constexpr int kTiles = kOthers ? 6 : 5, kColumns = (kGates + 7) / 8;
    constexpr int kStage = (kGates + kInputs) * kRow + kRoom;
    constexpr int kRing = DEPTH + 3, kOther = kOthers ? kOthers * kRow + kRoom : 0;  // rows of others stay for three
    constexpr int kNumbers = kTiles * kColumns * 4;
    alignas(16) __shared__ Value shared[kWarps * (kStages * kStage + kRing * kOther)];
    static_assert(sizeof(shared) >= kNumbers * 32 * sizeof(float), "the sums of a warp fit");
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    Value* const tiles = shared + warp * (kStages * kStage + kRing * kOther);
    Value* const ring = tiles + kStages * kStage;
    const Lane part(lane);

    float sums[kTiles][kColumns][4] = {};
    for (int number = blockIdx.x * kWarps + warp; number < units; number += blocks * kWarps) {
        const Unit unit(number, rows);
        const long long image = unit.image, before = image - N;
        const bool some = before >= 0 || first, inside = WIDTH % kStrip == 0 || unit.x + part.at < WIDTH;
        const bool beside = unit.x + part.side >= 0 && unit.x + part.side < WIDTH;
        const int corner = unit.top * WIDTH + unit.x;
        const Value* grads = gate_grads + image * (kGates * kPlane) + (corner + part.from());
        const Value* frame = frames + image * (CHANNELS * kPlane) + (corner - WIDTH + part.from());
        const Value* hidden =
            (before < 0 && first ? first + image * (HIDDEN * kPlane) : hiddens + before * (HIDDEN * kPlane)) +
            (corner - WIDTH + part.from());
        int turn = 0, other_turn = 0;  // of the rows' places
        const auto start = [&](int step) {
            const int y = unit.top - 1 + step;
            const bool exists = y >= 0 && y < HEIGHT;
            if (step < unit.count + 2) {
                Value* const to = tiles + turn * kStage + part.to();
                Value* const side = tiles + turn * kStage + part.side_to();
                if (step >= 2) fetch<kGates>(to, grads, part, inside);
                fetch<CHANNELS>(to + kGates * kRow, frame, part, exists && inside);
                fetch_sides<CHANNELS>(side + kGates * kRow, frame + part.side_from(), part, exists && beside);
                constexpr int kFew = kInputs - CHANNELS, kFirst = kGates + CHANNELS;
                fetch<kFew>(to + kFirst * kRow, hidden, part, exists && inside && some);
                fetch_sides<kFew>(side + kFirst * kRow, hidden + part.side_from(), part, exists && beside && some);
                if (kOthers) {
                    Value* const other = ring + other_turn * kOther;
                    fetch<kOthers>(other + part.to(), hidden + kFew * kPlane, part, exists && inside && some);
                    fetch_sides<kOthers>(other + part.side_to(), hidden + (kFew * kPlane + part.side_from()), part,
                                         exists && beside && some);
                }
            }
            if (step >= 2) grads += WIDTH;
            frame += WIDTH;
            hidden += WIDTH;
            turn = turn < DEPTH ? turn + 1 : 0;
            if (kOthers) other_turn = other_turn < kRing - 1 ? other_turn + 1 : 0;
            end_of_copies();
        };
        warp_together();  // nobody is at the unit before any more
#pragma unroll
        for (int step = 0; step < DEPTH; ++step) start(step);

        unsigned pixels[3][10] = {};  // of the lane's channel: rows y - 1, y and y + 1 from the one left of its 8 on
#pragma unroll 1
        for (int step = 0; step < unit.count + 2; ++step) {
            await<DEPTH - 1>();
            warp_together();  // the row is there, and nobody is at the one before any more
            start(step + DEPTH);  // where the row before was: now it is this one's turn
#pragma unroll
            for (int i = 0; i < 10; ++i) {
                pixels[0][i] = pixels[1][i];
                pixels[1][i] = pixels[2][i];
            }
            const Value* const tile = tiles + turn * kStage + kRoom + 8 * q;
            const auto look = [&](const Value* row, unsigned(&at)[10]) {
                at[0] = as_factor(row[-1]);
                take(row, at + 1);
                take(row + 4, at + 5);
                at[9] = as_factor(row[8]);
            };
            look(tile + (kGates + (g < kInputs ? g : kInputs - 1)) * kRow, pixels[2]);
            if (step < 2) continue;
            unsigned others[10] = {};
            const unsigned one = rounded(1.0f);
            if (kOthers) {
                const int row = other_turn + (g < 6 ? g / 2 : 0), other = g % 2 < kOthers ? g % 2 : 0;
                look(ring + (row < kRing ? row : row - kRing) * kOther + (other * kRow + kRoom + 8 * q), others);
#pragma unroll
                for (int i = 0; i < 10; ++i) others[i] = g < 6 ? others[i] : one;
            }
            const auto upper = [&](int m, int i) { return pixels[m < 3 ? 0 : 2][i]; };
            const auto lower = [&](int m, int i) {
                return m < 3 ? pixels[1][i] : kOthers ? others[i] : m == 3 ? pixels[2][i < 8 ? i + 2 : i] : one;
            };
            // Numbers q and q + 4 that a product sums over are pixels 2 k and 2 k + 1 of the ten, so that the rows' are
            // where they are for all taps, and it is the gates that are shifted.
            unsigned by_gates[kColumns][8];
#pragma unroll
            for (int n = 0; n < kColumns; ++n) {
                const int gate = 8 * n + g;
                const Value* const row = tile + (gate < kGates ? gate : kGates - 1) * kRow;
                take(row, by_gates[n]);
                take(row + 4, by_gates[n] + 4);
            }
#pragma unroll
            for (int k = 0; k < 5; ++k)
#pragma unroll
                for (int m = 0; m < kTiles; ++m) {
                    const int at = 2 * k - m % 3;
                    if (at < -1 || at > 7) continue;
                    const unsigned a[4] = {upper(m, 2 * k), lower(m, 2 * k), upper(m, 2 * k + 1), lower(m, 2 * k + 1)};
#pragma unroll
                    for (int n = 0; n < kColumns; ++n) {
                        const unsigned b[2] = {at < 0 ? 0 : by_gates[n][at], at > 6 ? 0 : by_gates[n][at + 1]};
                        multiply(sums[m][n], a, b);
                    }
                }
        }
    }

    float* const total = reinterpret_cast<float*>(shared);
    await<0>();
    for (int turn = 0; turn < kWarps; ++turn) {  // in a fixed order
        __syncthreads();
        if (turn == warp) {
#pragma unroll
            for (int m = 0; m < kTiles; ++m)
#pragma unroll
                for (int n = 0; n < kColumns; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        float& sum = total[((m * kColumns + n) * 4 + i) * 32 + lane];
                        sum = turn ? sum + sums[m][n][i] : sums[m][n][i];
                    }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kNumbers * 32; i += THREADS)
        parts[static_cast<long long>(blockIdx.x) * (kNumbers * 32) + i] = total[i];
}
#endif
