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
template <class One>
INLINE void each_pixel(const Size& s, const Piece& p, int64_t w, const One& one) {
  const int64_t channels = (p.c1 - p.c0 + kL - 1) / kL * kL;
  for (int64_t y = p.row * s.pool; y < std::min(s.H, (p.row + 1) * s.pool); ++y)
    for (int64_t x = w * s.pool; x < std::min(s.W, (w + 1) * s.pool); ++x) {
      const int64_t own = (y - p.row * s.pool) * (p.w1 - p.w0) * s.pool + x - p.w0 * s.pool;
      one(((p.n * s.H + y) * s.W + x) * s.C + p.c0, own * channels, y == p.row * s.pool && x == w * s.pool);
    }
}

// Calls one(c - c0, how many of its lanes count) for each vector of the piece's channels.
template <class One>
INLINE void each_vector(const Piece& p, const One& one) {
  for (int64_t c = 0; c < p.c1 - p.c0; c += kL) one(c, int(std::min<int64_t>(kL, p.c1 - p.c0 - c)));
}

// Calls one(place in a step, place in the piece's memory, channel, count) for each vector of the piece.
template <class One>
INLINE void each(const Size& s, const Piece& p, const One& one) {
  for (int64_t w = p.w0; w < p.w1; ++w)
    each_pixel(s, p, w, [&](int64_t at, int64_t own, bool) {
      each_vector(p, [&](int64_t c, int count) { one(at + c, own + c, p.c0 + c, count); });
    });
}

struct Affine {
  const R *scale, *shift;  // of each channel, or null
  INLINE V operator()(V x, int64_t c, int count) const {
    return scale ? x * load<R>(scale + c, count) + load<R>(shift + c, count) : x;
  }
};

template <class X>
void forward(const Size& s, const Neuron& neuron, const Affine& affine, const X* x, const R* start, X* spikes, R* end,
             int threads) {
  const int64_t step = s.N * s.H * s.W * s.C;
  const int64_t h = s.H / s.pool, w = s.W / s.pool, pooled = s.N * h * w * s.C;
  const Cut cut(s, 2048);
  on_team(threads, [&](int rank, int size) {
    for (int64_t number = rank; number < cut.pieces; number += size) {
      const Piece p = cut.piece(s, number);
      const R* from = start;  // then `end`, where the potential stays between the steps
      for (int64_t t = 0; t < s.T; ++t) {
        const X* x_t = x + t * step;
        X* out = spikes + t * pooled;
        for (int64_t window = p.w0; window < p.w1; ++window)
          each_vector(p, [&](int64_t c, int count) {
            V any{};
            each_pixel(s, p, window, [&](int64_t at, int64_t, bool) {
              const V before = from ? load<R>(from + at + c, count) : spread<R>(neuron.rest);
              const V charged = neuron.charge(before, affine(load_as(x_t + at + c, count), p.c0 + c, count));
              store<R>(end + at + c, neuron.after(charged), count);
              any = charged >= neuron.threshold ? spread<R>(1) : any;
            });
            if (p.row < h && window < w)  // else the rest that fills no window
              store_as(out + ((p.n * h + p.row) * w + window) * s.C + p.c0 + c, any, count);
          });
        from = end;
      }
    }
  });
}

// d_x is by the scaled and shifted input. sums: for each thread and channel, of d_x and of d_x (x - center), or null;
// d_tau: for each thread, or null.
template <class X>
void backward(const Size& s, const Neuron& neuron, const Affine& affine, const R* center, const X* x, const R* start,
              const X* d_spikes, const R* d_end, X* d_x, R* d_start, double* sums, double* d_tau, int threads) {
  const int64_t step = s.N * s.H * s.W * s.C;
  const int64_t h = s.H / s.pool, w = s.W / s.pool, pooled = s.N * h * w * s.C;
  const Cut cut(s, std::max<int64_t>(256, std::min<int64_t>(2048, 32768 / s.T)));
  const int64_t own = cut.width * s.pool * s.pool * ((cut.channels + kL - 1) / kL * kL);
  // Of each thread: charged potentials of all steps, the gradient of the potential, sums of each channel.
  const int64_t each_thread = (s.T + 1) * own + 2 * s.C + 2 * kL;
  Buffer<R> memory(threads * each_thread);
  on_team(threads, [&](int rank, int size) {
    R* charged = memory.data() + rank * each_thread;
    R* d_v = charged + s.T * own;
    R* partial = d_v + own;
    double tau_sum = 0;
    for (int64_t number = rank; number < cut.pieces; number += size) {
      const Piece p = cut.piece(s, number);
      for (int64_t t = 0; t < s.T; ++t)
        each(s, p, [&](int64_t at, int64_t mine, int64_t c, int count) {
          const V before = t ? neuron.after(load<R>(charged + (t - 1) * own + mine))
                             : start ? load<R>(start + at, count)
                                     : spread<R>(neuron.rest);
          store<R>(charged + t * own + mine, neuron.charge(before, affine(load_as(x + t * step + at, count), c, count)));
        });
      each(s, p, [&](int64_t at, int64_t mine, int64_t, int count) {
        store<R>(d_v + mine, d_end ? load<R>(d_end + at, count) : V{});
      });
      for (int64_t c = p.c0; c < p.c1 && sums; ++c) partial[c] = partial[s.C + c] = 0;
      V tau_lanes{};
      for (int64_t t = s.T - 1; t >= 0; --t) {
        const X* d_out = d_spikes ? d_spikes + t * pooled : nullptr;
        const R* now = charged + t * own;
        // The gradient of a window belongs to its first pixel that fires or, without any, to its first, as in torch.
        for (int64_t window = p.w0; window < p.w1; ++window)
          each_vector(p, [&](int64_t c, int count) {
            const int64_t channel = p.c0 + c;
            V d_window{}, any{}, left = spread<R>(1);
            if (d_out && p.row < h && window < w)
              d_window = load_as(d_out + ((p.n * h + p.row) * w + window) * s.C + channel, count);
            if (s.pool > 1)
              each_pixel(s, p, window, [&](int64_t, int64_t mine, bool) {
                any = load<R>(now + mine + c) >= neuron.threshold ? spread<R>(1) : any;
              });
            each_pixel(s, p, window, [&](int64_t at, int64_t mine, bool first) {
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
              store_as(d_x + t * step + at, d_input, count);
              if (sums) {
                const V input = load_as(x + t * step + at, count);
                store<R>(partial + channel, load<R>(partial + channel, count) + d_input, count);
                store<R>(partial + s.C + channel,
                         load<R>(partial + s.C + channel, count) + d_input * (input - load<R>(center + channel, count)), count);
              }
              if (d_tau) {  // H = V + (X - (V - rest)) / tau
                const V before = t ? neuron.after(load<R>(now - own + mine))
                                   : start ? load<R>(start + at, count)
                                           : spread<R>(neuron.rest);
                const V part = d_input * (before - charge);
                for (int lane = 0; lane < count; ++lane) tau_lanes[lane] += part[lane];
              }
            });
          });
      }
      each(s, p, [&](int64_t at, int64_t mine, int64_t, int count) {
        store<R>(d_start + at, load<R>(d_v + mine), count);
      });
      if (sums)
        for (int64_t c = p.c0; c < p.c1; ++c) {
          sums[(2 * rank) * s.C + c] += partial[c];
          sums[(2 * rank + 1) * s.C + c] += partial[s.C + c];
        }
      for (int lane = 0; lane < kL; ++lane) tau_sum += tau_lanes[lane];
    }
    if (d_tau) d_tau[rank] = tau_sum;
  });
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
    for (int64_t first = rank * kRows; first < rows; first += size * kRows)
      for (int64_t c = 0; c < C; c += kL) {
        const int count = int(std::min<int64_t>(kL, C - c));
        const V middle = load<R>(pivot.data() + c);
        V sum{}, squares{};
        for (int64_t row = first; row < std::min(first + kRows, rows); ++row) {
          const V difference = load_as(x + row * C + c, count) - middle;
          sum += difference;
          squares += difference * difference;
        }
        for (int lane = 0; lane < count; ++lane) {
          own[c + lane] += sum[lane];
          own[C + c + lane] += squares[lane];
        }
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
    return guarded([&] { forward<X>(sizes(size), Neuron(neuron), {scale, shift}, x, start, spikes, end, threads); }); \
  }                                                                                                                   \
  EXPORT int lif_backward##SUFFIX(const int64_t* size, int threads, const double* neuron, const R* scale,             \
                                  const R* shift, const R* center, const X* x, const R* start, const X* d_spikes,     \
                                  const R* d_end, X* d_x, R* d_start, double* sums, double* d_tau) {                  \
    return guarded([&] {                                                                                              \
      backward<X>(sizes(size), Neuron(neuron), {scale, shift}, center, x, start, d_spikes, d_end, d_x, d_start, sums, \
                  d_tau, threads);                                                                                    \
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
