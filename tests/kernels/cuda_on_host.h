// What a CUDA source needs of its compiler, for one that compiles for the CPU: the threads of a launch run one by one.
#include <cmath>
using std::exp;

struct Dim {
    unsigned x;
};
static Dim threadIdx, blockIdx, blockDim;

#define __global__
#define __device__
#define __forceinline__ inline

template <typename Kernel>
struct Launch;
template <typename... Arguments>
struct Launch<void (*)(Arguments...)> {
    template <void (*kernel)(Arguments...)>
    static void run(unsigned blocks, unsigned threads, int backwards, Arguments... arguments) {
        blockDim.x = threads;
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
