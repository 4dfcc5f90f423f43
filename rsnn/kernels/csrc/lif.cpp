// LIF neurons over a sequence of input currents, with what stands around them in a spiking network: scale and shift of
// every channel before (a batch normalization), maximum pooling after; forward and backward.
//
// Shapes: T steps, N batch, H height, W width, C channels; channels lie next to each other (channels_last). Neurons
// without such a structure are one row of H = W = 1. Each neuron's whole sequence is run while its potential is in the
// innermost cache. Backward computes the potentials anew from the inputs: forward leaves nothing behind.
#include "neuron.h"

namespace {

struct Size {
  int64_t T, N, H, W, C, pool;
};

// What is known when this is compiled, if kPool is not 0: the usual neurons in whole vectors of channels and whole windows
// of kPool, and results that begin a line of the cache.
template <int kPool>
struct Known {
  static constexpr bool kUsual = kPool > 0;
  static INLINE Size size(Size s) {
    if (kUsual) s.pool = kPool;
    return s;
  }
  static INLINE Neuron neuron(Neuron n) {
    if (kUsual) n.soft = 0, n.detach = 1, n.exact = true, n.surrogate = kATan;
    return n;
  }
  // For what is not needed again soon: past the caches, which would first read what is overwritten.
  template <class X>
  static INLINE void store_past(X* to, V value, int count) {
#ifdef __AVX512F__
    if (kUsual && sizeof(X) == sizeof(R))
      _mm512_stream_ps(reinterpret_cast<float*>(to), (__m512)value);
    else
#endif
      store_as(to, value, count);
  }
  // Before other threads read it.
  static INLINE void passed() {
#ifdef __AVX512F__
    _mm_sfence();
#endif
  }
  // How many of the `wanted` there are.
  static INLINE int64_t count(int64_t wanted, int64_t rest) { return kUsual ? wanted : std::min(wanted, rest); }
};

// A piece of work: channels c0 to c1 of the windows w0 to w1 of a row of windows of sample n.
struct Piece {
  int64_t n, row, w0, w1, c0, c1;
};

// How the neurons are cut into pieces of about `target` neurons.
struct Cut {
  int64_t rows, columns, across, width, channels, pieces;
  Cut(const Size& s, int64_t target) {
    rows = (s.H + s.pool - 1) / s.pool;
    columns = (s.W + s.pool - 1) / s.pool;
    const int64_t window = s.pool * s.pool;
    channels = std::max<int64_t>(kL, std::min(s.C, target / window / kL * kL));
    width = std::max<int64_t>(1, target / (window * channels));
    across = (columns + width - 1) / width;
    parts = (s.C + channels - 1) / channels;
    pieces = s.N * rows * across * parts;
  }
  Piece piece(const Size& s, int64_t number) const {
    Piece p;
    p.c0 = number % parts * channels;
    p.c1 = std::min(s.C, p.c0 + channels);
    number /= parts;
    p.w0 = number % across * width;
    p.w1 = std::min(columns, p.w0 + width);
    number /= across;
    p.row = number % rows;
    p.n = number / rows;
    return p;
  }

 private:
  int64_t parts;
};

// Calls one(place in a step, place in the piece's memory, whether it is the first) for the pixels of window `w`, as far as
// there are any, each meaning its channel c0.
template <class K, class One>
INLINE void each_pixel(const Size& s, const Piece& p, int64_t w, const One& one) {
  const int64_t channels = (p.c1 - p.c0 + kL - 1) / kL * kL, y0 = p.row * s.pool, x0 = w * s.pool;
  const int64_t rows = K::count(s.pool, s.H - y0), columns = K::count(s.pool, s.W - x0);
#pragma GCC unroll 2
  for (int64_t y = 0; y < rows; ++y)
#pragma GCC unroll 2
    for (int64_t x = 0; x < columns; ++x) {
      const int64_t own = (y * (p.w1 - p.w0) + w - p.w0) * s.pool + x;
      one(((p.n * s.H + y0 + y) * s.W + x0 + x) * s.C + p.c0, own * channels, y == 0 && x == 0);
    }
}

// Calls one(c - c0, how many of its lanes count) for each vector of the piece's channels.
template <class K, class One>
INLINE void each_vector(const Piece& p, const One& one) {
  for (int64_t c = 0; c < p.c1 - p.c0; c += kL) one(c, int(K::count(kL, p.c1 - p.c0 - c)));
}

// Calls one(place in a step, place in the piece's memory, channel, count) for each vector of the piece.
template <class K, class One>
INLINE void each(const Size& s, const Piece& p, const One& one) {
  for (int64_t w = p.w0; w < p.w1; ++w)
    each_pixel<K>(s, p, w, [&](int64_t at, int64_t own, bool) {
      each_vector<K>(p, [&](int64_t c, int count) { one(at + c, own + c, p.c0 + c, count); });
    });
}

struct Affine {
  const R *scale, *shift;  // of each channel, or null
  INLINE V operator()(V x, int64_t c, int count) const {
    return scale ? x * load<R>(scale + c, count) + load<R>(shift + c, count) : x;
  }
};

template <class X>
struct Forward {
  Affine affine;
  const X* x;
  const R* start;
  X* spikes;
  R* end;
};

// One piece. All by value: what is nowhere in memory stays in registers.
template <class K, class X>
void forward_piece(Size s, Neuron neuron, const Forward<X> f, const Piece p) {
  s = K::size(s);
  neuron = K::neuron(neuron);
  const int64_t step = s.N * s.H * s.W * s.C;
  const int64_t h = s.H / s.pool, w = s.W / s.pool, pooled = s.N * h * w * s.C;
  const R* from = f.start;  // then `end`, where the potential stays between the steps
  for (int64_t t = 0; t < s.T; ++t) {
    const X* x_t = f.x + t * step;
    X* out = f.spikes + t * pooled;
    for (int64_t window = p.w0; window < p.w1; ++window)
      each_vector<K>(p, [&](int64_t c, int count) {
        V any{};
        each_pixel<K>(s, p, window, [&](int64_t at, int64_t, bool) {
          __builtin_prefetch(x_t + step + at + c);  // of the next step, which is too far for the processor to guess
          const V before = from ? load<R>(from + at + c, count) : spread<R>(neuron.rest);
          const V charged = neuron.charge(before, f.affine(load_as(x_t + at + c, count), p.c0 + c, count));
          store<R>(f.end + at + c, neuron.after(charged), count);
          any = charged >= neuron.threshold ? spread<R>(1) : any;
        });
        if (p.row < h && window < w)  // else the rest that fills no window
          store_as(out + ((p.n * h + p.row) * w + window) * s.C + p.c0 + c, any, count);
      });
    from = f.end;
  }
}

template <class K, class X>
void forward(const Size& s, const Neuron& neuron, const Forward<X>& f, int threads) {
  const Cut cut(s, 2048);
  on_team(threads, [&](int rank, int size) {
    for (int64_t number = rank; number < cut.pieces; number += size)
      forward_piece<K>(s, neuron, f, cut.piece(s, number));
  });
}

// d_x is by the scaled and shifted input. sums: for each thread and channel, of d_x and of d_x (x - center), or null;
// d_tau: for each thread, or null.
template <class X>
struct Backward {
  Affine affine;
  const R* center;
  const X* x;
  const R* start;
  const X* d_spikes;
  const R* d_end;
  X* d_x;
  R* d_start;
  double *sums, *d_tau;
};

// One piece; returns its part of the gradient by tau. Memory: inputs and charged potentials of all steps of `own` neurons
// (steps of a large tensor would drive each other out of the caches), the gradient of the potential, and two sums of each
// channel. All by value: what can be nowhere in memory stays in registers.
template <class K, class X>
double backward_piece(Size s, Neuron neuron, const Backward<X> b, const Piece p, R* inputs, int64_t own, double* sums) {
  s = K::size(s);
  neuron = K::neuron(neuron);
  const int64_t step = s.N * s.H * s.W * s.C;
  const int64_t h = s.H / s.pool, w = s.W / s.pool, pooled = s.N * h * w * s.C;
  R* charged = inputs + s.T * own;
  R* d_v = charged + s.T * own;
  R* partial = d_v + own;
  for (int64_t t = 0; t < s.T; ++t)
    each<K>(s, p, [&](int64_t at, int64_t mine, int64_t c, int count) {
      const V before = t ? neuron.after(load<R>(charged + (t - 1) * own + mine))
                         : b.start ? load<R>(b.start + at, count)
                                   : spread<R>(neuron.rest);
      const X* from = b.x + t * step + at;
      __builtin_prefetch(from + step);  // of the next step, which is too far away for the processor to guess
      const V input = load_as(from, count);
      store<R>(inputs + t * own + mine, input);
      store<R>(charged + t * own + mine, neuron.charge(before, b.affine(input, c, count)));
    });
  each<K>(s, p, [&](int64_t at, int64_t mine, int64_t, int count) {
    store<R>(d_v + mine, b.d_end ? load<R>(b.d_end + at, count) : V{});
  });
  std::memset(partial, 0, 2 * (p.c1 - p.c0 + kL) * sizeof(R));
  V tau_lanes{};
  for (int64_t t = s.T - 1; t >= 0; --t) {
    const X* d_out = b.d_spikes ? b.d_spikes + t * pooled : nullptr;
    const R* now = charged + t * own;
    // The gradient of a window belongs to its first pixel that fires or, without any, to its first, as in torch.
    for (int64_t window = p.w0; window < p.w1; ++window)
      each_vector<K>(p, [&](int64_t c, int count) {
        const int64_t channel = p.c0 + c;
        V d_window{}, any{}, left = spread<R>(1), sum{}, centred{};
        const V middle = sums ? load<R>(b.center + channel, count) : V{};
        if (d_out && p.row < h && window < w) {
          const X* from = d_out + ((p.n * h + p.row) * w + window) * s.C + channel;
          __builtin_prefetch(from - pooled);
          d_window = load_as(from, count);
        }
        if (s.pool > 1)
          each_pixel<K>(s, p, window, [&](int64_t, int64_t mine, bool) {
            any = load<R>(now + mine + c) >= neuron.threshold ? spread<R>(1) : any;
          });
        each_pixel<K>(s, p, window, [&](int64_t at, int64_t mine, bool first) {
          at += c, mine += c;
          const V charge = load<R>(now + mine), slope = neuron.derivative(charge);
          V chosen = charge >= neuron.threshold ? left : V{};
          if (first) chosen = any == (R)0 ? spread<R>(1) : chosen;
          left -= chosen;
          const V d_spike = d_window * chosen;
          const V d_after = load<R>(d_v + mine);
          V through = charge >= neuron.threshold && !neuron.soft ? V{} : spread<R>(1);
          if (!neuron.detach) through += (neuron.soft ? spread<R>(-neuron.threshold) : neuron.rest - charge) * slope;
          const V d_charge = d_spike * slope + d_after * through;
          const V d_input = neuron.exact ? d_charge * neuron.inverse : d_charge / neuron.tau;
          store<R>(d_v + mine, d_charge - d_input);
          K::store_past(b.d_x + t * step + at, d_input, count);
          sum += d_input;
          centred += d_input * (load<R>(inputs + t * own + mine) - middle);
          if (b.d_tau) {  // H = V + (X - (V - rest)) / tau
            const V before = t ? neuron.after(load<R>(now - own + mine))
                               : b.start ? load<R>(b.start + at, count)
                                         : spread<R>(neuron.rest);
            const V part = d_input * (before - charge);
            for (int lane = 0; lane < count; ++lane) tau_lanes[lane] += part[lane];
          }
        });
        if (sums) {
          R *all = partial + 2 * c, *of_centred = all + kL;
          store<R>(all, load<R>(all) + sum);
          store<R>(of_centred, load<R>(of_centred) + centred);
        }
      });
  }
  each<K>(s, p, [&](int64_t at, int64_t mine, int64_t, int count) {
    store<R>(b.d_start + at, load<R>(d_v + mine), count);
  });
  if (sums)
    for (int64_t c = 0; c < p.c1 - p.c0; ++c) {
      sums[p.c0 + c] += partial[2 * (c - c % kL) + c % kL];
      sums[s.C + p.c0 + c] += partial[2 * (c - c % kL) + kL + c % kL];
    }
  double tau_sum = 0;
  for (int lane = 0; lane < kL; ++lane) tau_sum += tau_lanes[lane];
  return tau_sum;
}

template <class K, class X>
void backward(const Size& s, const Neuron& neuron, const Backward<X>& b, int threads) {
  const Cut cut(s, std::max<int64_t>(256, std::min<int64_t>(2048, 32768 / s.T)));
  const int64_t channels = (cut.channels + kL - 1) / kL * kL, own = cut.width * s.pool * s.pool * channels;
  const int64_t each_thread = (2 * s.T + 1) * own + 2 * (channels + kL);
  Buffer<R> memory(threads * each_thread);
  on_team(threads, [&](int rank, int size) {
    double tau_sum = 0;
    for (int64_t number = rank; number < cut.pieces; number += size)
      tau_sum += backward_piece<K>(s, neuron, b, cut.piece(s, number), memory.data() + rank * each_thread, own,
                                   b.sums ? b.sums + 2 * rank * s.C : nullptr);
    if (b.d_tau) b.d_tau[rank] = tau_sum;
    K::passed();
  });
}

// Calls one(Known) with what fits these neurons and where their results lie.
template <class One>
void as_known(const Size& s, const Neuron& n, const void* results, const One& one) {
  const bool usual = !n.soft && n.detach && n.exact && n.surrogate == kATan;
  const bool whole = s.C % kL == 0 && s.H % s.pool == 0 && s.W % s.pool == 0;
  if (!usual || !whole || reinterpret_cast<uintptr_t>(results) % kBytes || s.pool > 2)
    one(Known<0>());
  else if (s.pool == 2)
    one(Known<2>());
  else
    one(Known<1>());
}

#ifdef __AVX512F__
constexpr int kMoments = 8;  // vectors of channels at a time
#else
constexpr int kMoments = 2;
#endif

// Adds sums and sums of squares of differences from `pivot` over some rows to those of B vectors of channels from x on.
template <int B, class X>
INLINE void add_moments(int64_t rows, int64_t C, const X* x, const R* pivot, int64_t count, double* sums, double* squares) {
  V sum[B] = {}, square[B] = {};
  for (int64_t row = 0; row < rows; ++row, x += C)
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      const V difference = load_as(x + b * kL, B > 1 ? kL : int(count)) - load<R>(pivot + b * kL);
      sum[b] += difference;
      square[b] += difference * difference;
    }
  for (int64_t c = 0; c < std::min<int64_t>(count, B * kL); ++c) {
    sums[c] += sum[c / kL][c % kL];
    squares[c] += square[c / kL][c % kL];
  }
}

// Mean and variance of every channel of rows x C values.
template <class X>
void moments(int64_t rows, int64_t C, const X* x, R* mean, R* variance, int threads) {
  constexpr int64_t kRows = 64;
  Buffer<double> sums(size_t(threads) * 2 * C);
  Buffer<R> pivot(C + kL);
  for (int64_t c = 0; c < C; c += kL) store<R>(pivot.data() + c, load_as(x + c, int(std::min<int64_t>(kL, C - c))));
  on_team(threads, [&](int rank, int size) {
    double* own = sums.data() + size_t(rank) * 2 * C;
    for (int64_t first = rank * kRows; first < rows; first += size * kRows) {
      const int64_t some = std::min(kRows, rows - first);
      int64_t c = 0;
      const auto add = [&](auto vectors) {
        constexpr int B = decltype(vectors)::value;
        for (; c + (B > 1 ? B * kL : 1) <= C; c += B * kL)
          add_moments<B>(some, C, x + first * C + c, pivot.data() + c, C - c, own + c, own + C + c);
      };
      add(std::integral_constant<int, kMoments>());
      add(std::integral_constant<int, 1>());
    }
  });
  for (int64_t c = 0; c < C; ++c) {
    double sum = 0, squares = 0;
    for (int rank = 0; rank < threads; ++rank) {
      sum += sums.data()[size_t(rank) * 2 * C + c];
      squares += sums.data()[size_t(rank) * 2 * C + C + c];
    }
    sum /= rows;
    mean[c] = R(pivot.data()[c] + sum);
    variance[c] = R(std::max(0.0, squares / rows - sum * sum));
  }
}

// d_x = a d_x + b x + c, with three numbers for each channel: what is left of a batch normalization's backward.
template <class X>
void combine(int64_t rows, int64_t C, const X* x, X* d_x, const R* a, const R* b, const R* c, int threads) {
  constexpr int64_t kRows = 64;
  on_team(threads, [&](int rank, int size) {
    for (int64_t first = rank * kRows; first < rows; first += size * kRows)
      for (int64_t row = first; row < std::min(first + kRows, rows); ++row)
        for (int64_t at = 0; at < C; at += kL) {
          const int count = int(std::min<int64_t>(kL, C - at));
          const int64_t place = row * C + at;
          V value = load<R>(a + at, count) * load_as(d_x + place, count) + load<R>(c + at, count);
          if (b) value += load<R>(b + at, count) * load_as(x + place, count);
          store_as(d_x + place, value, count);
        }
  });
}

Size sizes(const int64_t* s) { return {s[0], s[1], s[2], s[3], s[4], s[5]}; }

}  // namespace

#define LIF(X, SUFFIX)                                                                                                \
  EXPORT int lif_forward##SUFFIX(const int64_t* size, int threads, const double* neuron, const R* scale,              \
                                 const R* shift, const X* x, const R* start, X* spikes, R* end) {                     \
    const Size s = sizes(size);                                                                                       \
    const Neuron n(neuron);                                                                                           \
    return guarded([&] {                                                                                              \
      as_known(s, n, spikes, [&](auto known) {                                                                        \
        forward<decltype(known)>(s, n, Forward<X>{{scale, shift}, x, start, spikes, end}, threads);                   \
      });                                                                                                             \
    });                                                                                                               \
  }                                                                                                                   \
  EXPORT int lif_backward##SUFFIX(const int64_t* size, int threads, const double* neuron, const R* scale,             \
                                  const R* shift, const R* center, const X* x, const R* start, const X* d_spikes,     \
                                  const R* d_end, X* d_x, R* d_start, double* sums, double* d_tau) {                  \
    const Size s = sizes(size);                                                                                       \
    const Neuron n(neuron);                                                                                           \
    const Backward<X> b{{scale, shift}, center, x, start, d_spikes, d_end, d_x, d_start, sums, d_tau};                \
    return guarded([&] {                                                                                              \
      as_known(s, n, d_x, [&](auto known) {                                                                           \
        backward<decltype(known)>(s, n, b, threads);                                                                  \
      });                                                                                                             \
    });                                                                                                               \
  }                                                                                                                   \
  EXPORT int lif_moments##SUFFIX(int64_t rows, int64_t C, int threads, const X* x, R* mean, R* variance) {            \
    return guarded([&] { moments<X>(rows, C, x, mean, variance, threads); });                                         \
  }                                                                                                                   \
  EXPORT int lif_combine##SUFFIX(int64_t rows, int64_t C, int threads, const X* x, X* d_x, const R* a, const R* b,    \
                                 const R* c) {                                                                        \
    return guarded([&] { combine<X>(rows, C, x, d_x, a, b, c, threads); });                                           \
  }

LIF(R, )
#ifdef REAL_float
LIF(BFloat16, _bfloat16)
#endif
