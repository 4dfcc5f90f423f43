// What the CUDA kernels of LIF neurons share; the text before theirs. Compiled with these macros:
//   INPUT      0 float, 1 double, 2 half, 3 bfloat16: type of the input, the spikes and their gradients. The potential
//              is float, and double where the input is.
//   SURROGATE  0 ATan, 1 Sigmoid, 2 Rectangle, 3 Exponential
//   SOFT       1 subtracts the threshold on a spike, 0 resets to v_rest
//   DETACH     1 leaves the reset out of backward
//   INVERSE    1 multiplies with 1 / tau, which is the same, bit for bit, where tau is a power of two; 0 divides
//   VECTOR     neurons next to each other in a thread: a power of two, every array aligned to VECTOR elements
//   DEPTH      steps whose inputs are on their way while one is computed
//   THREADS    of a block
//
// No header is included, so that any compiler of CUDA can build it, and so can a C++ compiler that is told what
// __global__, threadIdx and the like are. No compiler may fuse operations of the charge and the reset where that
// changes the result: the spikes are, bit for bit, those of the same steps taken one operation at a time.

#if INPUT == 1
typedef double State;
#else
typedef float State;
#endif

#if INPUT == 0
typedef float Value;
__device__ __forceinline__ State load(Value x) { return x; }
__device__ __forceinline__ Value store(State x) { return x; }
#elif INPUT == 1
typedef double Value;
__device__ __forceinline__ State load(Value x) { return x; }
__device__ __forceinline__ Value store(State x) { return x; }
#elif INPUT == 2
typedef unsigned short Value;  // the bits of a half
#ifdef __CUDACC__
__device__ __forceinline__ State load(Value x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ Value store(State x) {
    Value y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#else
union Half {
    Value bits;
    _Float16 number;
};
inline State load(Value x) { Half h; h.bits = x; return h.number; }
inline Value store(State x) { Half h; h.number = static_cast<_Float16>(x); return h.bits; }
#endif
#else
typedef unsigned short Value;  // the bits of a bfloat16: the upper half of a float
union Float {
    unsigned int bits;
    float number;
};
__device__ __forceinline__ State load(Value x) {
    Float f;
    f.bits = static_cast<unsigned int>(x) << 16;
    return f.number;
}
__device__ __forceinline__ Value store(State x) {
    Float f;
    f.number = x;
    if (x != x) return 0x7fc0;
    return static_cast<Value>((f.bits + 0x7fff + ((f.bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}
#endif

// VECTOR elements that one instruction loads or stores (two, of more than 16 bytes).
template <typename Element>
struct alignas(sizeof(Element) * VECTOR) Pack {
    Element of[VECTOR];
};

template <typename Element>
__device__ __forceinline__ Pack<Element> all(Element x) {
    Pack<Element> pack;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) pack.of[k] = x;
    return pack;
}

// get_once and put_once: for what nobody reads again soon, so that it is the first to leave the cache.
#ifdef __CUDACC__
template <int bytes>
struct Word;
template <>
struct Word<2> {
    typedef unsigned short type;
};
template <>
struct Word<4> {
    typedef unsigned int type;
};
template <>
struct Word<8> {
    typedef uint2 type;
};
template <>
struct Word<16> {
    typedef uint4 type;
};

template <typename Element>
union Words {
    static constexpr int bytes = sizeof(Pack<Element>) < 16 ? sizeof(Pack<Element>) : 16;
    static constexpr int number = sizeof(Pack<Element>) / bytes;
    typedef typename Word<bytes>::type type;
    Pack<Element> pack;
    type of[number];
};

#define ACCESSES(get, load, put, store)                                                       \
    template <typename Element>                                                               \
    __device__ __forceinline__ Pack<Element> get(const Element* from) {                       \
        Words<Element> words;                                                                 \
        _Pragma("unroll") for (int k = 0; k < words.number; ++k)                              \
            words.of[k] = load(reinterpret_cast<const typename Words<Element>::type*>(from) + k); \
        return words.pack;                                                                    \
    }                                                                                         \
    template <typename Element>                                                               \
    __device__ __forceinline__ void put(Element* to, const Pack<Element>& pack) {             \
        Words<Element> words;                                                                 \
        words.pack = pack;                                                                    \
        _Pragma("unroll") for (int k = 0; k < words.number; ++k)                              \
            store(reinterpret_cast<typename Words<Element>::type*>(to) + k, words.of[k]);     \
    }
ACCESSES(get, __ldg, put, __stwb)
ACCESSES(get_once, __ldcs, put_once, __stcs)

// a / b for b >= 1, of float within two last bits.
__device__ __forceinline__ float ratio(float a, float b) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
    return a * inverse;
}
__device__ __forceinline__ double ratio(double a, double b) { return a / b; }
#else
template <typename Element>
inline Pack<Element> get(const Element* from) { return *reinterpret_cast<const Pack<Element>*>(from); }
template <typename Element>
inline void put(Element* to, const Pack<Element>& pack) { *reinterpret_cast<Pack<Element>*>(to) = pack; }
template <typename Element>
inline Pack<Element> get_once(const Element* from) { return get(from); }
template <typename Element>
inline void put_once(Element* to, const Pack<Element>& pack) { put(to, pack); }
inline State ratio(State a, State b) { return a / b; }
#endif

struct Neuron {
    State tau, threshold, rest, alpha, scale;

    // by / tau
    __device__ __forceinline__ State share(State x) const {
#if INVERSE
        return x * (1 / tau);
#else
        return x / tau;
#endif
    }

    // H(t) = V(t-1) + (X(t) - (V(t-1) - V_rest)) / tau
    __device__ __forceinline__ State charge(State v, State x) const { return v + share(x - (v - rest)); }

    __device__ __forceinline__ bool fires(State h) const { return h >= threshold; }

    __device__ __forceinline__ State after(State h) const {
#if SOFT
        return fires(h) ? h - threshold : h;
#else
        return fires(h) ? rest : h;
#endif
    }

    __device__ __forceinline__ State slope(State h) const {
        const State x = h - threshold;
#if SURROGATE == 0
        const State y = static_cast<State>(1.5707963267948966) * alpha * x;
        return ratio(alpha / 2, 1 + y * y);
#elif SURROGATE == 1
        const State s = 1 / (1 + exp(-alpha * x));
        return alpha * s * (1 - s);
#elif SURROGATE == 2
        return (x < 0 ? -x : x) < static_cast<State>(0.5) / alpha ? alpha : static_cast<State>(0);
#else
        return scale * exp(-alpha * (x < 0 ? -x : x));
#endif
    }

    // The gradient by the input, from those by the spike and by the potential after it (in v_grad, where that by the
    // potential before it comes out).
    //   dL/dH = dL/dS slope(H - V_th) + dL/dV dV/dH;    dL/dX = dL/dH / tau;    dL/dV(t-1) = dL/dH (1 - 1 / tau)
    //   dV/dH = 1 - S, and 1 with soft reset; where the reset counts, S depends on H too:
    //   + slope (V_rest - H), or - slope V_th
    __device__ __forceinline__ State back(State h, State spike_grad, State& v_grad) const {
        const State s = slope(h);
        State kept = SOFT || !fires(h) ? 1 : 0;
#if !DETACH
        kept += s * (SOFT ? -threshold : rest - h);
#endif
        const State h_grad = spike_grad * s + v_grad * kept;
        const State x_grad = share(h_grad);
        v_grad = h_grad - x_grad;
        return x_grad;
    }
};
