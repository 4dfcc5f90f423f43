// What kernels of clusters of blocks need (compute capability 9.0); the text between tensor_core.cuh and theirs.

typedef unsigned short Bits16;  // of a half

#ifdef __CUDACC__
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)

// What a launch gives each block beside what it declares.
__device__ __forceinline__ void* shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}
// Waits for all threads of the cluster; what they wrote to any memory is there then. Takes as long as all writes of theirs
// to global memory: for once, not for each step.
__device__ __forceinline__ void cluster_together() {
    asm volatile("fence.mbarrier_init.release.cluster;\nbarrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}

__device__ __forceinline__ unsigned shared_address(const void* here) {
    return static_cast<unsigned>(__cvta_generic_to_shared(here));
}
// Tells a block that all that other blocks send it has come: an mbarrier in its shared memory.
typedef unsigned long long Signal;
__device__ __forceinline__ void make(Signal* signal) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(signal)) : "memory");
}
// Ends a phase once so many bytes have come. The next one may be expected when this has ended.
__device__ __forceinline__ void expect(Signal* signal, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(signal)), "r"(bytes)
                 : "memory");
}
// Waits for the end of a phase: they are 0 and 1 by turns.
__device__ __forceinline__ void await_signal(Signal* signal, int phase) {
    asm volatile(
        "{\n.reg .pred ends;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ends, [%0], %1;\n@!ends bra again;\n}" ::"r"(shared_address(signal)),
        "r"(phase)
        : "memory");
}
// Writes to another block's shared memory, where this block has `here`, and counts the bytes for its `signal`.
__device__ __forceinline__ void send(const void* here, unsigned value, const Signal* signal, int rank) {
    asm volatile(
        "{\n.reg .u32 there, told;\nmapa.shared::cluster.u32 there, %0, %3;\nmapa.shared::cluster.u32 told, %2, %3;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %1, [told];\n}" ::"r"(shared_address(here)),
        "r"(value), "r"(shared_address(signal)), "r"(rank)
        : "memory");
}

// Keeps the compiler from computing a number anew each time.
__device__ __forceinline__ int kept(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

__device__ __forceinline__ Bits16 half_of(float x) {
    Bits16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
// Two halves, the first one in the lower bits.
__device__ __forceinline__ unsigned halves_of(float first, float second) {
    unsigned two;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(second), "f"(first));
    return two;
}
// What is not a number stays that.
__device__ __forceinline__ float at_least(float x, float least) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(least));
    return x;
}
// Exact to 11 bits.
__device__ __forceinline__ float rough_tanh(float x) {
    asm("tanh.approx.f32 %0, %0;" : "+f"(x));
    return x;
}
// c (16 x 8) += a (16 x 16) b (16 x 8) of halves: two neighbours of a row of a, or of a column of b, are one number.
__device__ __forceinline__ void multiply_half(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four matrices of 8 x 8 halves in shared memory, of which a lane gives row lane % 8 of matrix lane / 8: it gets its part
// of each, as a fragment has it.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const Bits16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}
#else
#define CLUSTER_OF(blocks)

inline Bits16 half_of(float x) {
    const _Float16 y = static_cast<_Float16>(x);
    Bits16 bits;
    std::memcpy(&bits, &y, sizeof(bits));
    return bits;
}
inline unsigned halves_of(float first, float second) {
    return half_of(first) | static_cast<unsigned>(half_of(second)) << 16;
}
inline float at_least(float x, float least) { return x > least || x != x ? x : least; }
inline float rough_tanh(float x) { return std::tanh(x); }
inline void multiply_half(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { multiply_on_host<2>(c, a, b); }
inline void load_matrices(unsigned (&to)[4], const Bits16* row) { load_matrices_on_host(to, row); }
inline int kept(int x) { return x; }
#endif
