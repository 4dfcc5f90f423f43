// The LIF sequence, forward and backward: one thread a group of VECTOR neurons, all T steps in its registers.
//
// Arrays are (T, M) with the M neurons next to each other; element t * M + m belongs to step t of neuron m. Compiled
// with these macros, one set of them a kernel:
//   INPUT      0 float, 1 double, 2 half, 3 bfloat16: type of the input, the spikes and their gradients. The potential
//              is float, and double where the input is.
//   SURROGATE  0 ATan, 1 Sigmoid, 2 Rectangle, 3 Exponential
//   SOFT       1 subtracts the threshold on a spike, 0 resets to v_rest
//   DETACH     1 leaves the reset out of backward
//   VECTOR     neurons a thread: a power of two that divides M, every array aligned to VECTOR elements
//
// No header is included, so that any compiler of CUDA can build it, and so can a C++ compiler that is told what
// __global__, threadIdx and the like are. Products are never followed by a sum in the charge and the reset, so that no
// compiler fuses them: the spikes are, bit for bit, those of the same steps taken one operation at a time.

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

// VECTOR elements that one instruction loads or stores.
template <typename Element>
struct alignas(sizeof(Element) * VECTOR) Pack {
    Element of[VECTOR];
};

template <typename Element>
__device__ __forceinline__ Pack<Element> get(const Element* from) {
    return *reinterpret_cast<const Pack<Element>*>(from);
}

template <typename Element>
__device__ __forceinline__ void put(Element* to, const Pack<Element>& pack) {
    *reinterpret_cast<Pack<Element>*>(to) = pack;
}

__device__ __forceinline__ State slope(State x, State alpha, State scale) {
#if SURROGATE == 0
    const State y = static_cast<State>(1.5707963267948966) * alpha * x;
    return alpha / 2 / (1 + y * y);
#elif SURROGATE == 1
    const State s = 1 / (1 + exp(-alpha * x));
    return alpha * s * (1 - s);
#elif SURROGATE == 2
    return (x < 0 ? -x : x) < static_cast<State>(0.5) / alpha ? alpha : static_cast<State>(0);
#else
    return scale * exp(-alpha * (x < 0 ? -x : x));
#endif
}

// The first of this thread's neurons; at or past M where it has none. 64 bits: T * M may be more than 2^31.
__device__ __forceinline__ long long first_neuron() {
    return (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * VECTOR;
}

// spikes[t], potential after the last step, and, where it is not null, charged[t]: the potential before the reset.
// tau is at tau_there where that is not null.
extern "C" __global__ void lif_forward(const Value* __restrict__ x, const State* __restrict__ v_start,
                                       const State* __restrict__ tau_there, double tau_here, double v_threshold,
                                       double v_rest, long long T, long long M, Value* __restrict__ spikes,
                                       State* __restrict__ v_end, State* __restrict__ charged) {
    const long long m = first_neuron();
    if (m >= M) return;
    const State tau = tau_there ? *tau_there : static_cast<State>(tau_here);
    const State threshold = static_cast<State>(v_threshold), rest = static_cast<State>(v_rest);
    const Value one = store(static_cast<State>(1)), none = store(static_cast<State>(0));
    Pack<State> v = get(v_start + m);
    Pack<Value> coming = get(x + m);  // the next step's input is on its way while this step is computed
#pragma unroll 2
    for (long long t = 0; t < T; ++t) {
        const long long at = t * M + m;
        const Pack<Value> input = coming;
        if (t + 1 < T) coming = get(x + at + M);
        Pack<Value> fired;
        Pack<State> h;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            h.of[k] = v.of[k] + (load(input.of[k]) - (v.of[k] - rest)) / tau;
            const bool fires = h.of[k] >= threshold;
            fired.of[k] = fires ? one : none;
#if SOFT
            v.of[k] = fires ? h.of[k] - threshold : h.of[k];
#else
            v.of[k] = fires ? rest : h.of[k];
#endif
        }
        put(spikes + at, fired);
        if (charged) put(charged + at, h);
    }
    put(v_end + m, v);
}

// Gradients by the input and by the first potential, from those by the spikes and by the last potential (null: zero).
// h, the charged potential, tells which neuron fired.
//   dL/dH = dL/dS slope(H - V_th) + dL/dV dV/dH;    dL/dX = dL/dH / tau;    dL/dV(t-1) = dL/dH (1 - 1 / tau)
//   dV/dH = 1 - S, and 1 with soft reset; where the reset counts, S depends on H too: + slope (V_rest - H), or - slope V_th
extern "C" __global__ void lif_backward(const Value* __restrict__ spikes_grad, const State* __restrict__ v_end_grad,
                                        const State* __restrict__ charged, const State* __restrict__ tau_there,
                                        double tau_here, double v_threshold, double v_rest, double width,
                                        double height, long long T, long long M, Value* __restrict__ x_grad,
                                        State* __restrict__ v_start_grad) {
    const long long m = first_neuron();
    if (m >= M) return;
    const State tau = tau_there ? *tau_there : static_cast<State>(tau_here);
    const State threshold = static_cast<State>(v_threshold);
    const State alpha = static_cast<State>(width), scale = static_cast<State>(height);
    Pack<State> v_grad;
    if (v_end_grad) {
        v_grad = get(v_end_grad + m);
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) v_grad.of[k] = 0;
    }
    const long long last = (T - 1) * M + m;
    Pack<State> h_coming = get(charged + last);
    Pack<Value> spike_grad_coming;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) spike_grad_coming.of[k] = store(static_cast<State>(0));
    if (spikes_grad) spike_grad_coming = get(spikes_grad + last);
#pragma unroll 2
    for (long long at = last; at >= 0; at -= M) {
        const Pack<State> h = h_coming;
        const Pack<Value> spike_grad = spike_grad_coming;
        if (at >= M) {
            h_coming = get(charged + at - M);
            if (spikes_grad) spike_grad_coming = get(spikes_grad + at - M);
        }
        Pack<Value> input_grad;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            const State s = slope(h.of[k] - threshold, alpha, scale);
            State kept = SOFT || !(h.of[k] >= threshold) ? 1 : 0;
#if !DETACH
            kept += s * (SOFT ? -threshold : static_cast<State>(v_rest) - h.of[k]);
#endif
            const State h_grad = load(spike_grad.of[k]) * s + v_grad.of[k] * kept;
            const State x_part = h_grad / tau;
            input_grad.of[k] = store(x_part);
            v_grad.of[k] = h_grad - x_part;
        }
        put(x_grad + at, input_grad);
    }
    put(v_start_grad + m, v_grad);
}
