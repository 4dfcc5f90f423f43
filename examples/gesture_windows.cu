// What `_seen` in gesture_windows.py does, in one pass: a thread an event. Events come in parts (windows, or sources of
// noise), one after the other; `begins` has the first number of each part and the number of all. Chances depend on
// nothing but the seed of the batch and the event's number.

constexpr int kThreads = 128, kSensor = 128;  // of a block, pixels of the sensor's side

// Two numbers from 0 to 1, the latter excluded: SplitMix64 (Steele et al., OOPSLA 2014).
struct Chances {
    float first, second;
};
__device__ __forceinline__ Chances chances(unsigned long long seed, unsigned long long number) {
    unsigned long long z = seed + (number + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    constexpr float kUnit = 1.0f / (1 << 24);
    return {static_cast<float>(static_cast<unsigned>(z >> 40)) * kUnit,
            static_cast<float>(static_cast<unsigned>(z & 0xffffff)) * kUnit};
}

// The last part that begins at or before event i.
__device__ __forceinline__ int part_of(const int* __restrict__ begins, int parts, long long i) {
    int low = 0, high = parts;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (begins[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// Counts (T, N, 2, side, side).
struct Frames {
    float* __restrict__ counts;
    int T, N, side;
};
__device__ __forceinline__ void count(const Frames& frames, int step, int sample, int p, float x, float y) {
    if (!(x >= 0 && x < kSensor && y >= 0 && y < kSensor)) return;
    const int pixel = kSensor / frames.side, column = static_cast<int>(x) / pixel, row = static_cast<int>(y) / pixel;
    const long long image = (static_cast<long long>(step) * frames.N + sample) * 2 + p;
    atomicAdd(frames.counts + (image * frames.side + row) * frames.side + column, 1.0f);
}

// Events of windows: words (ticks << 15 | y << 8 | x << 1 | p) through the sensors (11, N), see `batch`.
extern "C" __global__ void __launch_bounds__(kThreads)
    seen(const int* __restrict__ words, const int* __restrict__ begins, const float* __restrict__ sensors,
         float* __restrict__ counts, long long number, long long N, long long T, long long side,
         unsigned long long seed) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= number) return;
    const Frames frames = {counts, static_cast<int>(T), static_cast<int>(N), static_cast<int>(side)};
    const int word = words[i], p = word & 1, sample = part_of(begins, frames.N, i);
    const float* const of = sensors + sample;  // every N-th is of this sample
    const float gain = of[(6 + p) * N], luck = chances(seed, 4 * i).first;
    if (!(luck < gain)) return;

    const float begin = of[9 * N], span = of[10 * N];
    int step = static_cast<int>(((word >> 15) - begin) * static_cast<float>(frames.T) / span);
    step = step < 0 ? 0 : step < frames.T ? step : frames.T - 1;
    const int swapped = of[8 * N] > 0.5f ? p ^ 1 : p;
    for (int copy = 0; copy < (luck < gain - 1 ? 2 : 1); ++copy) {
        const Chances within = chances(seed, 4 * i + 1 + copy);
        float x = (word >> 1 & 127) - 64 + within.first, y = (word >> 8 & 127) - 64 + within.second;
        if (copy) {  // a repeat lands nearby, by a normal distribution
            const Chances away = chances(seed, 4 * i + 3);
            const float distance = 0.7f * sqrtf(-2 * logf(1 - away.first)), angle = 6.2831853f * away.second;
            x += distance * cosf(angle);
            y += distance * sinf(angle);
        }
        const float column = of[0] * x + of[N] * y + of[2 * N], row = of[3 * N] * x + of[4 * N] * y + of[5 * N];
        count(frames, step, sample, swapped, column, row);
    }
}

// Events of sources of noise, at any time: source s belongs to window samples[s] and lies at (places[0][s],
// places[1][s]), or everywhere where that is below zero.
extern "C" __global__ void __launch_bounds__(kThreads)
    noise(const int* __restrict__ begins, const int* __restrict__ samples, const float* __restrict__ places,
          float* __restrict__ counts, long long number, long long sources, long long N, long long T, long long side,
          unsigned long long seed) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= number) return;
    const Frames frames = {counts, static_cast<int>(T), static_cast<int>(N), static_cast<int>(side)};
    const int source = part_of(begins, static_cast<int>(sources), i);
    const Chances place = chances(seed, 2 * i), rest = chances(seed, 2 * i + 1);
    float x = places[source], y = places[sources + source];
    if (x < 0) {
        x = kSensor * place.first;
        y = kSensor * place.second;
    }
    const int step = static_cast<int>(rest.first * frames.T);
    count(frames, step < frames.T ? step : frames.T - 1, samples[source], rest.second < 0.5f, x, y);
}
