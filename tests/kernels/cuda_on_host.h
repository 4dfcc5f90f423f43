// What a CUDA source needs of its compiler, for one that compiles for the CPU: the threads of a launch run one by one,
// or with TOGETHER those of a block at the same time.
#include <pthread.h>

#include <cmath>
#include <cstring>
#include <thread>
#include <vector>
using std::exp;
using std::fma;
using std::sqrt;

struct Dim {
    unsigned x;
};
static thread_local Dim threadIdx;
static Dim blockIdx;

// The threads that add run one by one.
static float atomicAdd(float* to, float more) {
    const float before = *to;
    *to += more;
    return before;
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

#ifdef TOGETHER
static pthread_barrier_t block, warps[32];
static void __syncthreads() { pthread_barrier_wait(&block); }

static float number_in(unsigned bits) {
    float number;
    std::memcpy(&number, &bits, sizeof(number));
    return number;
}

// To TF32; with EXACT not at all, for tests that compare with products of float.
static unsigned rounded_on_host(unsigned bits) {
#ifdef EXACT
    return bits;
#else
    return (bits + 0x1000) & ~0x1fffu;
#endif
}

// A warp's c += a b as on a tensor core: m16n8k8 of TF32 (INPUT 0) or m16n8k16 of bfloat16, with the layouts of the PTX
// manual.
template <int input>
void multiply_on_host(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    static unsigned all_a[32][32][4], all_b[32][32][2];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    std::memcpy(all_a[warp][lane], a, sizeof(a));
    std::memcpy(all_b[warp][lane], b, sizeof(b));
    pthread_barrier_wait(&warps[warp]);
    for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 2; ++half)  // of the inner dimension
            for (int k = 0; k < 4; ++k) {
                const unsigned left = all_a[warp][lane / 4 * 4 + k][2 * half + i / 2];
                const unsigned right = all_b[warp][(lane % 4 * 2 + i % 2) * 4 + k][half];
                if (input == 0) {
                    c[i] += number_in(left) * number_in(right);
                } else {
                    c[i] += number_in(left << 16) * number_in(right << 16);
                    c[i] += number_in(left & 0xffff0000u) * number_in(right & 0xffff0000u);
                }
            }
    pthread_barrier_wait(&warps[warp]);
}

static float __shfl_xor_sync(unsigned, float x, int mask) {
    static float all[32][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    all[warp][lane] = x;
    pthread_barrier_wait(&warps[warp]);
    const float other = all[warp][lane ^ mask];
    pthread_barrier_wait(&warps[warp]);
    return other;
}
#endif

template <typename Kernel>
struct Launch;
template <typename... Arguments>
struct Launch<void (*)(Arguments...)> {
    template <void (*kernel)(Arguments...)>
    static void run(unsigned blocks, unsigned threads, int backwards, Arguments... arguments) {
#ifdef TOGETHER
        pthread_barrier_init(&block, nullptr, threads);
        for (unsigned warp = 0; warp < threads / 32; ++warp) pthread_barrier_init(&warps[warp], nullptr, 32);
        for (unsigned i = 0; i < blocks; ++i) {
            blockIdx.x = backwards ? blocks - 1 - i : i;
            std::vector<std::thread> team;
            for (unsigned thread = 0; thread < threads; ++thread)
                team.emplace_back([=] {
                    threadIdx.x = thread;
                    kernel(arguments...);
                });
            for (auto& member : team) member.join();
        }
        return;
#endif
        const unsigned long long all = static_cast<unsigned long long>(blocks) * threads;
        for (unsigned long long i = 0; i < all; ++i) {
            const unsigned long long at = backwards ? all - 1 - i : i;
            blockIdx.x = at / threads;
            threadIdx.x = at % threads;
            kernel(arguments...);
        }
    }
};

// Defines the function `launcher`, which returns the address of (blocks, threads, backwards, arguments...).
#define LAUNCHER(kernel)                                                        \
    extern "C" void* launcher() {                                               \
        return reinterpret_cast<void*>(&Launch<decltype(&kernel)>::run<kernel>); \
    }
