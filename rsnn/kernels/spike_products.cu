// Weights as the factors of spikes in products of half precision, written anew at every call. A half holds a spike
// exactly, and 11 bits of a weight, which are TF32's.

// Weights of a convolution (D, C, K), K pixels, as (D, K, C). Those of an output channel, a block's, come times a power
// of two, with which their absolute values add up to at most 2^15, so that no sum of them is beyond a half. The mean and
// the gain of the normalization after it, (D) both, come so that they make up for that, exactly; no gain (0) is 1.
extern "C" __global__ void __launch_bounds__(THREADS)
    scaled_halves(const float* __restrict__ weight, const float* __restrict__ mean, const float* __restrict__ gain,
                  long long C, long long K, Bits16* __restrict__ halves, float* __restrict__ scaled_mean,
                  float* __restrict__ scaled_gain) {
    __shared__ float sums[THREADS / 32];
    const int count = C * K, d = blockIdx.x;
    const float* const from = weight + static_cast<long long>(d) * count;
    Bits16* const to = halves + static_cast<long long>(d) * count;
    float sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += from[i] < 0 ? -from[i] : from[i];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int warp = 0; warp < THREADS / 32; ++warp) sum += sums[warp];
    const int logarithm = static_cast<int>(bits_of(sum) >> 23) - 127;  // rounded down
    const int power = logarithm > 64 ? -50 : logarithm < -50 ? 64 : 14 - logarithm;
    const float scale = number_of((127u + power) << 23);
    for (int i = threadIdx.x; i < count; i += THREADS) to[i] = half_of(limited(from[i % C * K + i / C] * scale));
    if (threadIdx.x == 0) {
        scaled_mean[d] = mean[d] * scale;
        scaled_gain[d] = (gain ? gain[d] : 1.0f) * number_of((127u - power) << 23);
    }
}

// Weights as sums of two halves, high + low / 2^11, which have 22 bits of them.
extern "C" __global__ void __launch_bounds__(THREADS)
    two_halves(const float* __restrict__ weight, long long count, Bits16* __restrict__ high, Bits16* __restrict__ low) {
    const long long first = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * VECTOR;
    if (first >= count) return;
    const Pack<float> weights = get(weight + first);
    Pack<Value> upper, lower;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        upper.of[i] = store(limited(weights.of[i]));
        lower.of[i] = store(limited((weights.of[i] - load(upper.of[i])) * 2048.0f));
    }
    put(high + first, upper);
    put(low + first, lower);
}
