// What kernels of clusters of blocks need (compute capability 9.0); the text between tensor_core.cuh and theirs.

typedef unsigned short Bits16;  // of a half

#ifdef __CUDACC__
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)

// What a launch gives each block beside what it declares.
__device__ __forceinline__ void* shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}
// Waits for all threads of the cluster; what they wrote to any block's shared memory is there then.
__device__ __forceinline__ void cluster_together() {
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}
// Where another block of the cluster has what is here in this block's shared memory.
template <typename Element>
__device__ __forceinline__ Element* of_block(Element* here, int rank) {
    Element* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(here), "r"(rank));
    return there;
}

__device__ __forceinline__ Bits16 half_of(float x) {
    Bits16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
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
// Four matrices of 8 x 8 halves in shared memory, of which row l % 8 of matrix l / 8 is at row_of(l): a lane gets its
// part of each, as a fragment has it.
template <typename RowOf>
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const RowOf& row_of) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row_of(threadIdx.x % 32))))
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
inline float at_least(float x, float least) { return x < least ? least : x; }
inline float rough_tanh(float x) { return std::tanh(x); }
inline void multiply_half(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { multiply_on_host<2>(c, a, b); }
template <typename RowOf>
inline void load_matrices(unsigned (&to)[4], const RowOf& row_of) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) std::memcpy(&to[i], row_of(8 * i + lane / 4) + lane % 4 * 2, sizeof(unsigned));
}
#endif
