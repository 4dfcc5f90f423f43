// What a CUDA source needs of its compiler, for one that compiles for the CPU: the threads of a launch run one by one,
// or with TOGETHER those of a block at the same time, and of CLUSTER blocks where that is defined.
#include <pthread.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>
using std::exp;
using std::fma;
using std::sqrt;

struct Dim {
    unsigned x;
};
static thread_local Dim threadIdx;
static thread_local Dim blockIdx;

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
#ifndef CLUSTER
#define CLUSTER 1
#endif
constexpr unsigned kMostWarps = 8 * 32;  // of a cluster; what functions keep of them is shared by all loaded libraries
static pthread_barrier_t cluster, block[CLUSTER], warps[CLUSTER * 32];
static std::vector<char> shared[CLUSTER];
static thread_local unsigned rank;
static unsigned this_warp() { return rank * 32 + threadIdx.x / 32; }
static void warp_on_host() { pthread_barrier_wait(&warps[this_warp()]); }
static void __syncthreads() { pthread_barrier_wait(&block[rank]); }
static void cluster_together() { pthread_barrier_wait(&cluster); }
static void* shared_memory() { return shared[rank].data() + (-reinterpret_cast<std::uintptr_t>(shared[rank].data()) & 15); }

// As in cluster.cuh. What is sent arrives at once.
struct Signal {
    int missing, phase;  // bytes, and the number of ended phases; one of them ends when it is expected and none is missing
};
static std::mutex signals;
static void make(Signal* signal) { *signal = {1 << 30, 0}; }
static void count(Signal* signal, int bytes) {
    signal->missing += bytes;
    if (signal->missing != 0) return;
    signal->missing = 1 << 30;
    ++signal->phase;
}
static void expect(Signal* signal, int bytes) {
    std::lock_guard<std::mutex> alone(signals);
    count(signal, bytes - (1 << 30));
}
static void await_signal(Signal* signal, int phase) {
    for (bool ends = false; !ends; std::this_thread::yield()) {
        std::lock_guard<std::mutex> alone(signals);
        ends = signal->phase % 2 != phase;
    }
}
static void send(const void* here, unsigned value, const Signal* signal, int other) {
    const auto there = [&](const void* mine) {
        const auto place = static_cast<const char*>(mine) - static_cast<char*>(shared_memory());
        const auto me = rank;
        rank = other;
        char* const found = static_cast<char*>(shared_memory()) + place;
        rank = me;
        return found;
    };
    std::lock_guard<std::mutex> alone(signals);
    std::memcpy(there(here), &value, sizeof(value));
    count(reinterpret_cast<Signal*>(there(signal)), -4);
}

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

static float half_in(unsigned bits) {
    const std::uint16_t lower = static_cast<std::uint16_t>(bits);
    _Float16 number;
    std::memcpy(&number, &lower, sizeof(number));
    return number;
}

// A warp's c += a b as on a tensor core: m16n8k8 of TF32 (INPUT 0) or m16n8k16 of half (2) or bfloat16, with the layouts
// of the PTX manual.
template <int input>
void multiply_on_host(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    static unsigned all_a[kMostWarps][32][4], all_b[kMostWarps][32][2];
    const int warp = this_warp(), lane = threadIdx.x % 32;
    std::memcpy(all_a[warp][lane], a, sizeof(a));
    std::memcpy(all_b[warp][lane], b, sizeof(b));
    warp_on_host();
    for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 2; ++half)  // of the inner dimension
            for (int k = 0; k < 4; ++k) {
                const unsigned left = all_a[warp][lane / 4 * 4 + k][2 * half + i / 2];
                const unsigned right = all_b[warp][(lane % 4 * 2 + i % 2) * 4 + k][half];
                if (input == 0) {
                    c[i] += number_in(left) * number_in(right);
                } else if (input == 2) {
                    c[i] += half_in(left) * half_in(right);
                    c[i] += half_in(left >> 16) * half_in(right >> 16);
                } else {
                    c[i] += number_in(left << 16) * number_in(right << 16);
                    c[i] += number_in(left & 0xffff0000u) * number_in(right & 0xffff0000u);
                }
            }
    warp_on_host();
}

template <typename Number>
Number __shfl_xor_sync(unsigned, Number x, int mask) {
    static Number all[kMostWarps][32];
    const int warp = this_warp(), lane = threadIdx.x % 32;
    all[warp][lane] = x;
    warp_on_host();
    const Number other = all[warp][lane ^ mask];
    warp_on_host();
    return other;
}

static void load_matrices_on_host(unsigned (&to)[4], const unsigned short* row) {
    static const unsigned short* all[kMostWarps][32];
    const int warp = this_warp(), lane = threadIdx.x % 32;
    all[warp][lane] = row;
    warp_on_host();
    for (int i = 0; i < 4; ++i) std::memcpy(&to[i], all[warp][8 * i + lane / 4] + lane % 4 * 2, sizeof(unsigned));
    warp_on_host();
}
#endif

template <typename Kernel>
struct Launch;
template <typename... Arguments>
struct Launch<void (*)(Arguments...)> {
    template <void (*kernel)(Arguments...)>
    static void run(unsigned blocks, unsigned threads, int backwards, Arguments... arguments) {
#ifdef TOGETHER
        pthread_barrier_init(&cluster, nullptr, threads * CLUSTER);
        for (auto& one : block) pthread_barrier_init(&one, nullptr, threads);
        for (auto& warp : warps) pthread_barrier_init(&warp, nullptr, 32);
        for (auto& memory : shared) memory.assign(1 << 18, 1);
        for (unsigned i = 0; i < blocks; i += CLUSTER) {
            const unsigned first = backwards ? blocks - CLUSTER - i : i;
            std::vector<std::thread> team;
            for (unsigned thread = 0; thread < threads * CLUSTER; ++thread)
                team.emplace_back([=] {
                    threadIdx.x = thread % threads;
                    rank = thread / threads;
                    blockIdx.x = first + rank;
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
