// What the CUDA kernels on tensor cores share; the text between neuron.cuh and theirs.
//
// In a fragment of a product lane 4 g + q of a warp has rows g and g + 8 of columns 2 q and 2 q + 1 of c, rows g and
// g + 8 of columns q and q + 4 of a, and rows q and q + 4 of column g of b.

// Numbers that one instruction loads or stores.
template <typename Number>
struct alignas(2 * sizeof(Number)) Two {
    Number first, second;
};
template <typename Number>
struct alignas(4 * sizeof(Number)) Four {
    Number of[4];
};

typedef unsigned short Bits16;  // of a half

#ifdef __CUDACC__
__device__ __forceinline__ unsigned bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float number_of(unsigned x) { return __uint_as_float(x); }
// To TF32.
__device__ __forceinline__ unsigned rounded(float x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

// c (16 x 8) += a (16 x 8) b (8 x 8) in TF32; a lane has four numbers of c.
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c (16 x 8) += a (16 x 16) b (16 x 8) in bfloat16: two neighbours of a row of a, or of a column of b, are one number.
__device__ __forceinline__ void multiply_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Both are exact to 2 units in the last place.
__device__ __forceinline__ float power_of_two(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
__device__ __forceinline__ float reciprocal(float x) {
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
// What is not a number stays that.
__device__ __forceinline__ float at_most(float x, float most) {
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(most));
    return x;
}

__device__ __forceinline__ unsigned shared_address(const void* here) {
    return static_cast<unsigned>(__cvta_generic_to_shared(here));
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
// Starts to copy 4, 8 or 16 bytes to shared memory, or to write zeros there. Those that a thread started before its
// last `kOpen` ends have arrived after await<kOpen>, and all after arrived().
template <int kBytes>
__device__ __forceinline__ void start_copy(void* to, const void* from, bool exists) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from), "n"(kBytes), "r"(exists ? kBytes : 0)
                 : "memory");
}
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kOpen>
__device__ __forceinline__ void await() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}
__device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void warp_together() { __syncwarp(); }
#else
union Bits {
    float number;
    unsigned bits;
};
inline unsigned bits_of(float x) { Bits y; y.number = x; return y.bits; }
inline float number_of(unsigned x) { Bits y; y.bits = x; return y.number; }
inline unsigned rounded(float x) { return rounded_on_host(bits_of(x)); }
inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { multiply_on_host<0>(c, a, b); }
inline void multiply_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_on_host<3>(c, a, b);
}
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
inline float power_of_two(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1 / x; }
inline float at_most(float x, float most) { return x > most ? most : x; }
template <int kBytes>
inline void start_copy(void* to, const void* from, bool exists) {
    if (exists) std::memcpy(to, from, kBytes);
    else std::memset(to, 0, kBytes);
}
inline void end_of_copies() {}
template <int kOpen>
inline void await() {}
inline void arrived() {}
inline void warp_together() { warp_on_host(); }
#endif

// A number that a half can hold; what is not a number stays that.
__device__ __forceinline__ float limited(float x) { return at_least(at_most(x, 65504.0f), -65504.0f); }

// Past the first level of the cache where that can be, with 16 bytes.
template <int kBytes>
__device__ __forceinline__ void start_copy_past_l1(void* to, const void* from, bool exists) {
#ifdef __CUDACC__
    if (kBytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         static_cast<unsigned>(__cvta_generic_to_shared(to))),
                     "l"(from), "r"(exists ? 16 : 0)
                     : "memory");
        return;
    }
#endif
    start_copy<kBytes>(to, from, exists);
}
