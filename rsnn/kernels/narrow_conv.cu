// A convolution 3 x 3 of few channels (up to 8) to 128 and its gradients, on tensor cores in TF32, which holds half and
// bfloat16 exactly; sums are in float. Beside the macros of neuron.cuh, of which INPUT is 0, 2 or 3 and a Pack 16
// bytes:
//   COLUMNS  pixels of a row that a block takes at once: 16 or 32
//   BLOCKS   that should fit into a multiprocessor
//
// The input is (N, C, H, W), the output (N, H, W, 128), W a multiple of COLUMNS. Each of a block's four warps has 32 of
// the output channels for itself; rows come in through shared memory, the next one on its way while one is computed.

constexpr int kOutputs = 128, kChannels = 8, kWarps = 4, kShare = kOutputs / kWarps;
constexpr int kWide = COLUMNS + 2;  // with a pixel on either side
constexpr int kRow = kWide * kOutputs;
constexpr int kPiece = 16 / sizeof(Value);

// Where a pixel's output channel is in a row: each warp's after the other's. Groups of 8 channels change places from
// pixel to pixel, so that a warp's loads, of channels of one pixel or of pixels of one channel, meet all banks.
__device__ __forceinline__ int place(int warp, int pixel, int channel) {
    const int turn = sizeof(Value) == 4 ? pixel & 3 : pixel >> 1 & 3;
    return (warp * kWide + pixel) * kShare + ((channel / 8 ^ turn) * 8) + channel % 8;
}

// The part of the images that a block has: rows [top, bottom) of 16 or 32 columns from `left` on.
struct Part {
    int n, left, top, bottom;

    __device__ __forceinline__ Part(int number, int H, int W, int rows) {
        const int across = W / COLUMNS, down = (H + rows - 1) / rows;
        left = number % across * COLUMNS;
        top = number / across % down * rows;
        bottom = top + rows < H ? top + rows : H;
        n = number / across / down;
    }
};

// Starts to copy row y of the output's gradient, zeros around the image.
__device__ __forceinline__ void fetch(Value* to, const Value* grad, const Part& part, int y, int H, int W) {
    constexpr int kPieces = kOutputs / kPiece, kPixels = THREADS / kPieces;
    const int channel = threadIdx.x % kPieces * kPiece, first = threadIdx.x / kPieces;
    const Value* row = grad + (static_cast<long long>(part.n) * H + y) * W * kOutputs + channel;
    to += place(channel / kShare, first, channel % kShare);
#pragma unroll
    for (int i = 0; i < (kWide + kPixels - 1) / kPixels; ++i) {
        const int pixel = i * kPixels + first, x = part.left - 1 + pixel;
        const bool outside = y < 0 || y >= H || x < 0 || x >= W;
        if (pixel < kWide)
            start_copy_past_l1<16>(to + i * kPixels * kShare, outside ? grad : row + x * kOutputs, !outside);
    }
}

// Rows of the input, pixels of a channel next to each other: three that a row of the output needs, and the next one.
template <int kStride>
struct Inputs {
    static constexpr int kTake = (kWide * kChannels + THREADS - 1) / THREADS;
    unsigned (&rows)[4][kChannels * kStride];
    unsigned coming[kTake];

    // Starts to load row y, zeros around the image and for the channels that are missing.
    __device__ __forceinline__ void take(const Value* input, const Part& part, int y, int H, int W, int C) {
#pragma unroll
        for (int i = 0; i < kTake; ++i) {
            const int at = i * THREADS + threadIdx.x, c = at / kWide, x = part.left - 1 + at % kWide;
            coming[i] = 0;
            if (c < C && y >= 0 && y < H && x >= 0 && x < W)
                coming[i] = rounded(load(input[((part.n * C + c) * H + y) * W + x]));
        }
    }

    __device__ __forceinline__ void keep(int y) {
#pragma unroll
        for (int i = 0; i < kTake; ++i) {
            const int at = i * THREADS + threadIdx.x, c = at / kWide;
            if (c < kChannels) rows[y & 3][c * kStride + at % kWide] = coming[i];
        }
    }
};

//   output[y, x] = sum of input[y + i - 1, x + j - 1] weight[i, j], a part of the images a block
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    narrow_convolution(const Value* __restrict__ input, const float* __restrict__ weight, long long height,
                       long long width, long long channels, long long rows, Value* __restrict__ output) {
    constexpr int kTiles = COLUMNS / 16, kStride = 40;
    const int H = height, W = width, C = channels;
    __shared__ unsigned shared[4][kChannels * kStride];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    const Part part(blockIdx.x, H, W, rows);
    Inputs<kStride> inputs = {shared, {}};

    // A lane's outputs are 8 channels next to each other: columns 2 q and 2 q + 1 of tile n are channels 2 n and
    // 2 n + 1 of the q-th eight. Of the weights it holds column g.
    unsigned weights[9][4][2];
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int c = q + 4 * i, of_column = warp * kShare + g / 2 * 8 + 2 * n + g % 2;
#pragma unroll
            for (int tap = 0; tap < 9; ++tap)
                weights[tap][n][i] = rounded(c < C ? weight[(of_column * C + c) * 9 + tap] : 0.0f);
        }
    for (int y = part.top - 1; y <= part.top + 1; ++y) {
        inputs.take(input, part, y, H, W, C);
        inputs.keep(y);
    }
    Value* to = output + ((static_cast<long long>(part.n) * H + part.top) * W + part.left + g) * kOutputs +
                warp * kShare + 8 * q;
    for (int y = part.top; y < part.bottom; ++y) {
        __syncthreads();  // rows up to y + 1 are there, and nobody is at row y - 1 any more
        inputs.take(input, part, y + 2, H, W, C);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
            float current[4][4] = {};
#pragma unroll
            for (int tap = 0; tap < 9; ++tap) {
                const unsigned* row = shared[(y + tap / 3 - 1) & 3] + q * kStride + 16 * m + g + tap % 3;
                const unsigned a[4] = {row[0], row[8], row[4 * kStride], row[4 * kStride + 8]};
#pragma unroll
                for (int n = 0; n < 4; ++n) multiply(current[n], a, weights[tap][n]);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int n = 0; n < 4; n += VECTOR / 2) {
                    Pack<Value> pack;
#pragma unroll
                    for (int i = 0; i < VECTOR; ++i) pack.of[i] = store(current[n + i / 2][2 * half + i % 2]);
                    put(to + (16 * m + 8 * half) * kOutputs + 2 * n, pack);
                }
        }
        to += W * kOutputs;
        inputs.keep(y + 2);
    }
}

// x_grad (N, C, H, W): by the convolution's input, a part of the images a block.
//   x_grad[y, x] = sum of grad[y + 1 - i, x + 1 - j] weight[i, j]
// A row of `grad` adds to three of x_grad at once. What the warps' channels make of a row is added up in a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    input_gradient(const Value* __restrict__ grad, const float* __restrict__ weight, long long height, long long width,
                   long long channels, long long rows, Value* __restrict__ x_grad) {
    const int H = height, W = width, C = channels;
    constexpr int kTiles = COLUMNS / 16, kStride = COLUMNS + 4;
    alignas(16) __shared__ Value tiles[2 * kRow];
    __shared__ float sums[2][kWarps][kChannels * kStride];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    const Part part(blockIdx.x, H, W, rows);
    fetch(tiles, grad, part, part.top - 1, H, W);

    unsigned weights[4][9][2];
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                weights[k][tap][i] =
                    rounded(g < C ? weight[((warp * kShare + 8 * k + 2 * q + i) * C + g) * 9 + tap] : 0.0f);

    const auto finish = [&](int y) {
#pragma unroll
        for (int i = 0; i < COLUMNS * kChannels / THREADS; ++i) {
            const int pixel = (i * THREADS + threadIdx.x) % COLUMNS, c = (i * THREADS + threadIdx.x) / COLUMNS;
            float sum = 0;
#pragma unroll
            for (int of = 0; of < kWarps; ++of) sum += sums[y & 1][of][c * kStride + pixel];
            if (c < C)
                x_grad[((part.n * C + c) * H + y) * W + part.left + pixel] = store(sum);
        }
    };
    float current[3][kTiles][4] = {};  // rows y - 1, y and y + 1 of x_grad
    for (int y = part.top - 1; y <= part.bottom; ++y) {
        const int turn = y - part.top + 1;
        arrived();
        __syncthreads();  // row y is there, and nobody is at row y - 1 any more
        if (y < part.bottom) fetch(tiles + (turn + 1) % 2 * kRow, grad, part, y + 1, H, W);
        if (turn > 2) finish(y - 2);
        if (y >= 0 && y < H) {
            const Value* tile = tiles + turn % 2 * kRow;
#pragma unroll
            for (int j = 0; j < 3; ++j)
#pragma unroll
                for (int k = 0; k < 4; ++k)
#pragma unroll
                    for (int m = 0; m < kTiles; ++m) {
                        // Numbers q and q + 4 of the products' inner dimension are channels 2 q and 2 q + 1.
                        const Value* upper = tile + place(warp, 16 * m + g + 2 - j, 8 * k + 2 * q);
                        const Value* lower = tile + place(warp, 16 * m + 8 + g + 2 - j, 8 * k + 2 * q);
                        const auto one = *reinterpret_cast<const Two<Value>*>(upper);
                        const auto other = *reinterpret_cast<const Two<Value>*>(lower);
                        const unsigned a[4] = {rounded(load(one.first)), rounded(load(other.first)),
                                               rounded(load(one.second)), rounded(load(other.second))};
#pragma unroll
                        for (int i = 0; i < 3; ++i) multiply(current[i][m], a, weights[k][3 * i + j]);
                    }
        }
        float* own = sums[(y - 1) & 1][warp];
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                own[(2 * q + i % 2) * kStride + 16 * m + g + i / 2 * 8] = current[0][m][i];
                current[0][m][i] = current[1][m][i];
                current[1][m][i] = current[2][m][i];
                current[2][m][i] = 0;
            }
    }
    __syncthreads();
    finish(part.bottom - 1);
}

// sums (slots, 128, 9, 8): the weights' gradient of the parts that each of the `slots` blocks goes through.
//   weight_grad[i, j] = sum of grad[y, x] input[y + i - 1, x + j - 1];    input is (N, C, H, W)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    weight_gradient(const Value* __restrict__ grad, const Value* __restrict__ input, long long height, long long width,
                    long long channels, long long rows, long long parts, long long slots, float* __restrict__ sums) {
    const int H = height, W = width, C = channels;
    constexpr int kStride = kWide + 2;
    alignas(16) __shared__ Value tiles[2 * kRow];
    __shared__ unsigned shared[4][kChannels * kStride];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;  // of a fragment
    Inputs<kStride> inputs = {shared, {}};
    float sum[2][9][4] = {};
    for (int number = blockIdx.x; number < parts; number += slots) {
        const Part part(number, H, W, rows);
        __syncthreads();  // nobody is at the part before any more
        fetch(tiles, grad, part, part.top, H, W);
        for (int y = part.top - 1; y <= part.top + 1; ++y) {
            inputs.take(input, part, y, H, W, C);
            inputs.keep(y);
        }
        for (int y = part.top; y < part.bottom; ++y) {
            const int turn = y - part.top;
            arrived();
            __syncthreads();  // row y is there, and nobody is at row y - 1 any more
            if (y + 1 < part.bottom) fetch(tiles + (turn + 1) % 2 * kRow, grad, part, y + 1, H, W);
            inputs.take(input, part, y + 2, H, W, C);
            const Value* tile = tiles + turn % 2 * kRow;
#pragma unroll
            for (int k = 0; k < COLUMNS / 8; ++k) {
                unsigned a[2][4];
#pragma unroll
                for (int m = 0; m < 2; ++m)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        a[m][i] = rounded(
                            load(tile[place(warp, 8 * k + 1 + q + i / 2 * 4, 16 * m + i % 2 * 8 + g)]));
#pragma unroll
                for (int tap = 0; tap < 9; ++tap) {
                    const unsigned* row = shared[(y + tap / 3 - 1) & 3] + g * kStride + 8 * k + q + tap % 3;
                    const unsigned b[2] = {row[0], row[4]};
#pragma unroll
                    for (int m = 0; m < 2; ++m) multiply(sum[m][tap], a[m], b);
                }
            }
            inputs.keep(y + 2);
        }
    }
    float* to = sums + (static_cast<long long>(blockIdx.x) * kOutputs + warp * kShare) * 9 * kChannels;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                to[((16 * m + g + i / 2 * 8) * 9 + tap) * kChannels + 2 * q + i % 2] = sum[m][tap][i];
}
