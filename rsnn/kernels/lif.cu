// The LIF sequence, forward and backward: one thread a group of VECTOR neurons, all T steps in its registers.
//
// Arrays are (T, M) with the M neurons next to each other, VECTOR divides M; element t * M + m belongs to step t of
// neuron m. The macros are those of neuron.cuh.

// The first of this thread's neurons; at or past M where it has none. 64 bits: T * M may be more than 2^31.
__device__ __forceinline__ long long first_neuron() {
    return (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * VECTOR;
}

// spikes[t], potential after the last step, and, where it is not null, charged[t]: the potential before the reset.
// v_start may be null: rest. tau is at tau_there where that is not null.
extern "C" __global__ void __launch_bounds__(THREADS)
    lif_forward(const Value* __restrict__ x, const State* __restrict__ v_start, const State* __restrict__ tau_there,
                double tau_here, double v_threshold, double v_rest, long long T, long long M,
                Value* __restrict__ spikes, State* __restrict__ v_end, State* __restrict__ charged) {
    const long long m = first_neuron();
    if (m >= M) return;
    const Neuron neuron = {tau_there ? *tau_there : static_cast<State>(tau_here), static_cast<State>(v_threshold),
                           static_cast<State>(v_rest), 0, 0};
    const Value one = store(static_cast<State>(1)), none = store(static_cast<State>(0));
    Pack<Value> coming[DEPTH] = {};
#pragma unroll
    for (int k = 0; k < DEPTH; ++k)
        if (k < T) coming[k] = get_once(x + k * M + m);
    Pack<State> v = v_start ? get(v_start + m) : all(neuron.rest);
    for (long long t = 0; t < T; t += DEPTH)
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            if (t + k >= T) break;
            const long long at = (t + k) * M + m;
            const Pack<Value> input = coming[k];
            if (t + k + DEPTH < T) coming[k] = get_once(x + at + DEPTH * M);
            Pack<Value> fired;
            Pack<State> h;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                h.of[i] = neuron.charge(v.of[i], load(input.of[i]));
                fired.of[i] = neuron.fires(h.of[i]) ? one : none;
                v.of[i] = neuron.after(h.of[i]);
            }
            put(spikes + at, fired);
            if (charged) put_once(charged + at, h);
        }
    put(v_end + m, v);
}

// Gradients by the input and by the first potential, from those by the spikes and by the last potential (null: zero).
// h, the charged potential, tells which neuron fired.
extern "C" __global__ void __launch_bounds__(THREADS)
    lif_backward(const Value* __restrict__ spikes_grad, const State* __restrict__ v_end_grad,
                 const State* __restrict__ charged, const State* __restrict__ tau_there, double tau_here,
                 double v_threshold, double v_rest, double width, double height, long long T, long long M,
                 Value* __restrict__ x_grad, State* __restrict__ v_start_grad) {
    const long long m = first_neuron();
    if (m >= M) return;
    const Neuron neuron = {tau_there ? *tau_there : static_cast<State>(tau_here), static_cast<State>(v_threshold),
                           static_cast<State>(v_rest), static_cast<State>(width), static_cast<State>(height)};
    const Pack<Value> nothing = all(store(static_cast<State>(0)));
    Pack<State> v_grad = v_end_grad ? get(v_end_grad + m) : all(static_cast<State>(0));
    Pack<State> h_coming[DEPTH] = {};
    Pack<Value> grad_coming[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
        const long long at = (T - 1 - k) * M + m;
        if (k < T) h_coming[k] = get_once(charged + at);
        grad_coming[k] = spikes_grad && k < T ? get_once(spikes_grad + at) : nothing;
    }
    for (long long t = T - 1; t >= 0; t -= DEPTH)
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            if (t - k < 0) break;
            const long long at = (t - k) * M + m;
            const Pack<State> h = h_coming[k];
            const Pack<Value> spike_grad = grad_coming[k];
            if (t - k - DEPTH >= 0) {
                h_coming[k] = get_once(charged + at - DEPTH * M);
                if (spikes_grad) grad_coming[k] = get_once(spikes_grad + at - DEPTH * M);
            }
            Pack<Value> input_grad;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                input_grad.of[i] = store(neuron.back(h.of[i], load(spike_grad.of[i]), v_grad.of[i]));
            put(x_grad + at, input_grad);
        }
    put(v_start_grad + m, v_grad);
}
