// A whole sequence through one ConvLSTM layer, forward and backward.
//
// Shapes: T steps, N batch, C input channels, D hidden channels, H height, W width, K side of the kernel; all dense.
// Channels are few, so convolutions run directly: a vector is neighbouring pixels of a row, and the four gates of one
// hidden channel are summed over all taps in registers, where the gate arithmetic follows at once. Backward computes the
// gates anew from the hidden states and cells, which are all that forward leaves behind.
//
// Samples are shared out among the threads; what is left over (a batch smaller than the team) is cut into bands of rows.
#include <algorithm>
#include <exception>

#include "common.h"

namespace {

#ifdef __AVX512F__
constexpr int kTile = 4;  // vectors of pixels at a time: 16 sums in 32 registers
#else
constexpr int kTile = 1;  // a vector is several registers already
#endif

// Where sigmoid and tanh are taken as constant, so that the product of three e^x is finite.
template <class R>
constexpr R kLimit = sizeof(R) == 4 ? R(29) : R(230);

struct Size {
  int T, N, C, D, H, W, K, pool;
  int before() const { return (K - 1) / 2; }  // rows and columns of zeros at the beginning and at the end
  int after() const { return K / 2; }
};

// Planes of one sample with zeros around them, wide enough for whole vectors.
template <class R>
struct Planes {
  int width;  // of rows without padding, in whole vectors
  int left;   // columns before a row's first pixel, which begins a vector
  size_t stride, plane;
  Planes(const Size& s, int padding)
      : width(whole(s.W)), left(whole(padding)), stride(left + whole(width + padding)), plane(stride * (s.H + padding)) {}
  static int whole(int count) { return (count + kLanes<R> - 1) / kLanes<R> * kLanes<R>; }
};

template <class R>
void copy_rows(const R* from, R* to, const Size& s, const Planes<R>& p, int channels, int y0, int y1) {
  for (int c = 0; c < channels; ++c)
    for (int y = y0; y < y1; ++y)
      std::memcpy(to + c * p.plane + (y + s.before()) * p.stride + p.left, from + (size_t(c) * s.H + y) * s.W,
                  s.W * sizeof(R));
}

// sums[g][v] += the four convolutions of `planes` planes whose weights lie as [plane][row][column][4].
template <class R, int K, int V>
INLINE void convolve(const R* at, const Planes<R>& p, int planes, const R* weights, int side, Vec<R> (&sums)[4][V]) {
  const int k = K ? K : side;
  for (int c = 0; c < planes; ++c, at += p.plane)
    for (int ky = 0; ky < k; ++ky)
#pragma GCC unroll 3
      for (int kx = 0; kx < k; ++kx, weights += 4) {
        const R* row = at + ky * p.stride + kx;
        Vec<R> pixels[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) pixels[v] = load<R>(row + v * kLanes<R>);
#pragma GCC unroll 8
        for (int g = 0; g < 4; ++g) {
          const Vec<R> weight = spread<R>(weights[g]);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sums[g][v] += weight * pixels[v];
        }
      }
}

// Calls tile(x, std::integral_constant<int, V>) for tiles of V vectors that cover a row.
template <class R, class Tile>
INLINE void along_row(int width, const Tile& tile) {
  int x = 0;
  if constexpr (kTile >= 4)
    for (; x + 4 * kLanes<R> <= width; x += 4 * kLanes<R>) tile(x, std::integral_constant<int, 4>{});
  if constexpr (kTile >= 2)
    for (; x + 2 * kLanes<R> <= width; x += 2 * kLanes<R>) tile(x, std::integral_constant<int, 2>{});
  for (; x < width; x += kLanes<R>) tile(x, std::integral_constant<int, 1>{});
}

// Weights (4 D, channels, K, K), gates in the order i, f, o, g, as [d][channel][row][column][gate], from channel `first`.
template <class R>
void pack_gates(const R* from, R* to, const Size& s, int channels, int first) {
  const int taps = s.K * s.K;
  for (int d = 0; d < s.D; ++d)
    for (int c = 0; c < channels; ++c)
      for (int tap = 0; tap < taps; ++tap)
        for (int g = 0; g < 4; ++g)
          to[((size_t(d) * (s.C + s.D) + first + c) * taps + tap) * 4 + g] =
              from[((size_t(g) * s.D + d) * channels + c) * taps + tap];
}

// The same weights for the way back, as [output / 4][gate d, then i f o g][row][column][output % 4], kernels turned around.
template <class R>
void pack_back(const R* from, R* to, const Size& s, int channels, int first) {
  const int taps = s.K * s.K;
  for (int c = 0; c < channels; ++c)
    for (int d = 0; d < s.D; ++d)
      for (int g = 0; g < 4; ++g)
        for (int tap = 0; tap < taps; ++tap)
          to[((size_t((first + c) / 4) * 4 * s.D + 4 * d + g) * taps + tap) * 4 + (first + c) % 4] =
              from[((size_t(g) * s.D + d) * channels + c) * taps + taps - 1 - tap];
}

template <class R>
struct Step {
  const R *weights, *bias;  // packed; (4 D) or null
  const R *frame, *hidden;  // padded planes of X_t and H_{t-1}
};

// The four gates' pre-activations of hidden channel d at row y, from column x on.
template <class R, int K, int V>
INLINE void gates_at(const Step<R>& step, const Size& s, const Planes<R>& p, int d, int y, int x, Vec<R> (&sums)[4][V]) {
  const int taps = s.K * s.K;
#pragma GCC unroll 8
  for (int g = 0; g < 4; ++g)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[g][v] = spread<R>(step.bias ? step.bias[g * s.D + d] : 0);
  const R* weights = step.weights + size_t(d) * (s.C + s.D) * taps * 4;
  convolve<R, K, V>(step.frame + y * p.stride + p.left - s.before() + x, p, s.C, weights, s.K, sums);
  convolve<R, K, V>(step.hidden + y * p.stride + p.left - s.before() + x, p, s.D, weights + size_t(s.C) * taps * 4, s.K, sums);
}

// Rows of the next hidden state (padded, and dense in `out` unless null) and of the cell, in place.
template <class R, int K>
void forward_rows(const Step<R>& step, const Size& s, const Planes<R>& p, R* cell, R* next, R* out, int y0, int y1) {
  for (int y = y0; y < y1; ++y)
    for (int d = 0; d < s.D; ++d) {
      R* c_row = cell + (size_t(d) * s.H + y) * p.width;
      R* h_row = next + d * p.plane + (y + s.before()) * p.stride + p.left;
      R* out_row = out ? out + (size_t(d) * s.H + y) * s.W : nullptr;
      along_row<R>(p.width, [&](int x, auto tile) {
        constexpr int V = decltype(tile)::value;
        Vec<R> sums[4][V];
        gates_at<R, K, V>(step, s, p, d, y, x, sums);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const int at = x + v * kLanes<R>;
          // sigmoid(x) = 1 / (1 + e^-x) and tanh(x) = -m / (m + 2), m = e^-2x - 1, over common denominators: divisions
          // are slow.
          const Vec<R> i = (R)1 + exp_of(-sums[0][v], kLimit<R>), f = (R)1 + exp_of(-sums[1][v], kLimit<R>);
          const Vec<R> o = (R)1 + exp_of(-sums[2][v], kLimit<R>), g = expm1_of(sums[3][v] * (R)-2, kLimit<R>);
          const Vec<R> ig = i * (g + (R)2);
          const Vec<R> c = (load<R>(c_row + at) * ig - g * f) / (f * ig);
          const Vec<R> m = expm1_of(c * (R)-2, kLimit<R>);
          const Vec<R> h = -m / (o * (m + (R)2));
          store<R>(c_row + at, c);
          store<R>(h_row + at, h, s.W - at);
          if (out_row) store<R>(out_row + at, h, s.W - at);
        }
      });
    }
}

// Maxima of windows of `pool` x `pool`: the rows of windows that lie within rows y0 to y1 of the padded hidden state.
template <class R>
void pool_rows(const R* hidden, R* out, const Size& s, const Planes<R>& p, int y0, int y1) {
  const int h = s.H / s.pool, w = s.W / s.pool;
  for (int d = 0; d < s.D; ++d)
    for (int y = y0 / s.pool; y < std::min(y1 / s.pool, h); ++y) {
      const R* in = hidden + d * p.plane + (y * s.pool + s.before()) * p.stride + p.left;
      R* to = out + (size_t(d) * h + y) * w;
      if (s.pool == 2) {
        const R* below = in + p.stride;
        for (int x = 0; x < w; ++x) {
          const R a = std::max(in[2 * x], in[2 * x + 1]), b = std::max(below[2 * x], below[2 * x + 1]);
          to[x] = std::max(a, b);
        }
      } else {
        for (int x = 0; x < w; ++x) {
          R best = in[x * s.pool];
          for (int i = 0; i < s.pool; ++i)
            for (int j = 0; j < s.pool; ++j) best = std::max(best, in[i * p.stride + x * s.pool + j]);
          to[x] = best;
        }
      }
    }
}

// Adds to dh (rows of p.width) what the gradients of the maxima in rows y0 to y1 of `hidden` (dense) are: each belongs
// to the first largest pixel of its window, row by row, as in torch.
template <class R>
void unpool_rows(const R* hidden, const R* gradient, R* dh, const Size& s, const Planes<R>& p, int y0, int y1) {
  const int h = s.H / s.pool, w = s.W / s.pool;
  for (int d = 0; d < s.D; ++d)
    for (int y = y0 / s.pool; y < std::min(y1 / s.pool, h); ++y) {
      const R* in = hidden + (size_t(d) * s.H + y * s.pool) * s.W;
      const R* from = gradient + (size_t(d) * h + y) * w;
      R* to = dh + (size_t(d) * s.H + y * s.pool) * p.width;
      if (s.pool == 2) {
        const R* below = in + s.W;
        R* to_below = to + p.width;
        for (int x = 0; x < w; ++x) {
          const R a = in[2 * x], b = in[2 * x + 1], c = below[2 * x], e = below[2 * x + 1], g = from[x];
          const R top = std::max(a, b), bottom = std::max(c, e);
          const R up = top >= bottom ? g : 0, down = top >= bottom ? 0 : g;
          const R left = a >= b ? up : 0, left_below = c >= e ? down : 0;
          to[2 * x] += left;
          to[2 * x + 1] += up - left;
          to_below[2 * x] += left_below;
          to_below[2 * x + 1] += down - left_below;
        }
      } else {
        for (int x = 0; x < w; ++x) {
          int best_i = 0, best_j = 0;
          for (int i = 0; i < s.pool; ++i)
            for (int j = 0; j < s.pool; ++j)
              if (in[i * s.W + x * s.pool + j] > in[best_i * s.W + x * s.pool + best_j]) best_i = i, best_j = j;
          to[best_i * p.width + x * s.pool + best_j] += from[x];
        }
      }
    }
}

// The rows of member `rank` of `size`, in whole windows of the pooling.
inline int band(const Size& s, int rank, int size) {
  const int windows = (s.H + s.pool - 1) / s.pool;
  return std::min(s.H, int(int64_t(windows) * rank / size) * s.pool);
}

// Which samples a thread runs alone, and which the whole team runs together.
template <class One>
void share_out(int N, int rank, int size, const One& one) {
  const int alone = N / size * size;
  for (int n = rank; n < alone; n += size) one(n, 0, 1);
  for (int n = alone; n < N; ++n) one(n, rank, size);
}

template <class R>
struct Forward {
  const R *frames, *bias, *hidden, *cell;  // hidden and cell before the first step, or null for zeros
  R *all_hidden, *all_cells, *pooled, *last_hidden, *last_cell;  // all_* and pooled may be null
};

template <class R, int K>
void forward(const Size& s, const R* w_input, const R* w_hidden, const Forward<R>& f, int threads) {
  const Planes<R> p(s, s.K - 1);
  const size_t pixels = size_t(s.H) * s.W, in = s.C * pixels, out = s.D * pixels;
  const size_t pooled = size_t(s.D) * (s.H / s.pool) * (s.W / s.pool);
  Buffer<R> packed(size_t(s.D) * (s.C + s.D) * s.K * s.K * 4);
  pack_gates(w_input, packed.data(), s, s.C, 0);
  pack_gates(w_hidden, packed.data(), s, s.D, s.C);
  // Two frames, two hidden states and a cell; one set for the team, then one for each thread.
  const size_t each = 2 * (s.C + s.D) * p.plane + kLanes<R>, cells = size_t(s.D) * s.H * p.width;
  Buffer<R> memory((threads + 1) * (each + cells));
  Barrier barrier;

  on_team(threads, [&](int rank, int size) {
    share_out(s.N, rank, size, [&](int n, int member, int members) {
      R* own = memory.data() + (members == 1 ? 1 + rank : 0) * (each + cells);
      R* frame[2] = {own, own + s.C * p.plane};
      R* hidden[2] = {own + 2 * s.C * p.plane, own + (2 * s.C + s.D) * p.plane};
      R* cell = own + each;
      const int y0 = band(s, member, members), y1 = band(s, member + 1, members);
      for (int d = 0; d < s.D; ++d)
        for (int y = y0; y < y1; ++y) {
          R* c_row = cell + (size_t(d) * s.H + y) * p.width;
          R* h_row = hidden[0] + d * p.plane + (y + s.before()) * p.stride + p.left;
          const size_t at = n * out + (size_t(d) * s.H + y) * s.W;
          std::memset(c_row, 0, p.width * sizeof(R));
          std::memset(h_row, 0, s.W * sizeof(R));
          if (f.cell) std::memcpy(c_row, f.cell + at, s.W * sizeof(R));
          if (f.hidden) std::memcpy(h_row, f.hidden + at, s.W * sizeof(R));
        }
      copy_rows(f.frames + n * in, frame[0], s, p, s.C, y0, y1);
      barrier.wait(members);
      for (int t = 0; t < s.T; ++t) {
        const size_t item = size_t(t) * s.N + n;
        const bool last = t + 1 == s.T;
        const Step<R> step{packed.data(), f.bias, frame[t % 2], hidden[t % 2]};
        R* dense = f.all_hidden ? f.all_hidden + item * out : last ? f.last_hidden + n * out : nullptr;
        forward_rows<R, K>(step, s, p, cell, hidden[(t + 1) % 2], dense, y0, y1);
        if (f.pooled) pool_rows(hidden[(t + 1) % 2], f.pooled + item * pooled, s, p, y0, y1);
        if (f.all_cells || last) {
          R* to = last ? f.last_cell + n * out : f.all_cells + item * out;
          for (int d = 0; d < s.D; ++d)
            for (int y = y0; y < y1; ++y)
              std::memcpy(to + (size_t(d) * s.H + y) * s.W, cell + (size_t(d) * s.H + y) * p.width, s.W * sizeof(R));
        }
        if (!last) copy_rows(f.frames + (item + s.N) * in, frame[(t + 1) % 2], s, p, s.C, y0, y1);
        barrier.wait(members);
      }
      if (f.all_hidden && f.last_hidden)
        for (int d = 0; d < s.D; ++d)
          std::memcpy(f.last_hidden + n * out + (size_t(d) * s.H + y0) * s.W,
                      f.all_hidden + (size_t(s.T - 1) * s.N + n) * out + (size_t(d) * s.H + y0) * s.W,
                      size_t(y1 - y0) * s.W * sizeof(R));
    });
  });
}

template <class R>
struct Backward {
  const R *frames, *bias, *hidden, *cell, *all_hidden, *all_cells;  // as in forward
  const R *d_all, *d_pooled, *d_hidden, *d_cell;  // gradients of the outputs and of the last states; each may be null
  R *d_frames, *d_w_input, *d_w_hidden, *d_bias, *d_first_hidden, *d_first_cell;  // results; d_frames may be null
};

// Gradients of the gates' pre-activations (padded planes, 4 d + gate) in rows y0 to y1, and of the cell, in place.
template <class R, int K>
void backward_gates(const Step<R>& step, const Size& s, const Planes<R>& p, const R* cell, const R* d_all, const R* dh,
                    R* dc, R* d_gates, Vec<R>* d_bias, int y0, int y1) {
  for (int y = y0; y < y1; ++y)
    for (int d = 0; d < s.D; ++d) {
      const size_t dense = (size_t(d) * s.H + y) * s.W, wide = (size_t(d) * s.H + y) * p.width;
      R* to = d_gates + 4 * d * p.plane + (y + s.after()) * p.stride + p.left;
      along_row<R>(p.width, [&](int x, auto tile) {
        constexpr int V = decltype(tile)::value;
        Vec<R> sums[4][V];
        gates_at<R, K, V>(step, s, p, d, y, x, sums);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const int at = x + v * kLanes<R>, count = s.W - at;
          const Vec<R> not_i = (R)1 + exp_of(-sums[0][v], kLimit<R>), not_f = (R)1 + exp_of(-sums[1][v], kLimit<R>);
          const Vec<R> not_o = (R)1 + exp_of(-sums[2][v], kLimit<R>);
          const Vec<R> both = not_i * not_f, one = (R)1 / (both * not_o), o = both * one;
          const Vec<R> i = not_f * not_o * one, f = not_i * not_o * one, g = tanh_of<R>(sums[3][v]);
          const Vec<R> before = cell ? load<R>(cell + dense + at, count) : Vec<R>{};
          const Vec<R> c = tanh_of<R>(f * before + i * g);
          Vec<R> d_h = load<R>(dh + wide + at);
          if (d_all) d_h += load<R>(d_all + dense + at, count);
          const Vec<R> d_c = load<R>(dc + wide + at) + d_h * o * ((R)1 - c * c);
          const Vec<R> d_sums[4] = {d_c * g * i * ((R)1 - i), d_c * before * f * ((R)1 - f), d_h * c * o * ((R)1 - o),
                                    d_c * i * ((R)1 - g * g)};
          store<R>(dc + wide + at, d_c * f, count);
#pragma GCC unroll 8
          for (int gate = 0; gate < 4; ++gate) {
            store<R>(to + gate * p.plane + at, d_sums[gate], count);
            d_bias[4 * d + gate] += count >= kLanes<R> ? d_sums[gate] : load<R>(to + gate * p.plane + at, count);
          }
        }
      });
    }
}

// Gradients of H_{t-1} (into dh) and of X_t (into d_frame unless null) from those of the gates, rows y0 to y1.
template <class R, int K>
void backward_maps(const R* packed, const R* d_gates, const Size& s, const Planes<R>& p, R* dh, R* d_frame, int y0,
                   int y1) {
  const int outputs = s.D + (d_frame ? s.C : 0);
  for (int y = y0; y < y1; ++y)
    for (int first = 0; first < outputs; first += 4)
      along_row<R>(p.width, [&](int x, auto tile) {
        constexpr int V = decltype(tile)::value;
        Vec<R> sums[4][V] = {};
        const R* weights = packed + size_t(first) * s.D * s.K * s.K * 4;
        convolve<R, K, V>(d_gates + y * p.stride + p.left - s.after() + x, p, 4 * s.D, weights, s.K, sums);
#pragma GCC unroll 8
        for (int o = 0; o < 4; ++o) {
          const int c = first + o;
          if (c >= outputs) break;
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) {
            const int at = x + v * kLanes<R>;
            if (c < s.D)
              store<R>(dh + (size_t(c) * s.H + y) * p.width + at, sums[o][v], s.W - at);
            else
              store<R>(d_frame + (size_t(c - s.D) * s.H + y) * s.W + at, sums[o][v], s.W - at);
          }
        }
      });
}

// Gradients of the weights, in lanes that are added up at the end, as [d][channel][row][column][gate].
template <class R, int K>
void backward_weights(const R* maps, const R* d_gates, const Size& s, const Planes<R>& p, int channels, int first,
                      Vec<R>* d_weights, int y0, int y1) {
  constexpr int kRows = 8;  // so many that they stay in the innermost cache
  constexpr int kColumns = K ? K : 1;
  const auto tile = [&](int top, int d, int c, int ky, int left, auto count) {
    constexpr int kMaps = decltype(count)::value;
    Vec<R> sums[kMaps][kColumns][4] = {};
    for (int y = top; y < std::min(top + kRows, y1); ++y) {
      const R* in = maps + c * p.plane + (y + ky) * p.stride + p.left - s.before() + left;
      const R* gates = d_gates + 4 * d * p.plane + (y + s.after()) * p.stride + p.left;
      for (int x = 0; x < p.width; x += kLanes<R>) {
        Vec<R> g[4];
#pragma GCC unroll 8
        for (int gate = 0; gate < 4; ++gate) g[gate] = load<R>(gates + gate * p.plane + x);
#pragma GCC unroll 8
        for (int map = 0; map < kMaps; ++map)
#pragma GCC unroll 8
          for (int kx = 0; kx < kColumns; ++kx) {
            const Vec<R> pixels = load<R>(in + map * p.plane + kx + x);
#pragma GCC unroll 8
            for (int gate = 0; gate < 4; ++gate) sums[map][kx][gate] += g[gate] * pixels;
          }
      }
    }
#pragma GCC unroll 8
    for (int map = 0; map < kMaps; ++map) {
      Vec<R>* to = d_weights + (((size_t(d) * (s.C + s.D) + first + c + map) * s.K + ky) * s.K + left) * 4;
#pragma GCC unroll 8
      for (int kx = 0; kx < kColumns; ++kx)
#pragma GCC unroll 8
        for (int gate = 0; gate < 4; ++gate) to[kx * 4 + gate] += sums[map][kx][gate];
    }
  };
  for (int top = y0; top < y1; top += kRows)
    for (int d = 0; d < s.D; ++d)
      for (int ky = 0; ky < s.K; ++ky)
        for (int left = 0; left < s.K; left += kColumns) {
          int c = 0;
          for (; kTile >= 4 && c + 2 <= channels; c += 2) tile(top, d, c, ky, left, std::integral_constant<int, 2>{});
          for (; c < channels; ++c) tile(top, d, c, ky, left, std::integral_constant<int, 1>{});
        }
}

template <class R>
R total(Vec<R> v) {
  R sum = 0;
  for (int lane = 0; lane < kLanes<R>; ++lane) sum += v[lane];
  return sum;
}

template <class R, int K>
void backward(const Size& s, const R* w_input, const R* w_hidden, const Backward<R>& b, int threads) {
  const Planes<R> p(s, s.K - 1);
  const size_t pixels = size_t(s.H) * s.W, in = s.C * pixels, out = s.D * pixels;
  const size_t pooled = size_t(s.D) * (s.H / s.pool) * (s.W / s.pool);
  const int taps = s.K * s.K;
  const size_t weights = size_t(s.D) * (s.C + s.D) * taps * 4;
  Buffer<R> packed(weights), back(size_t(s.D + s.C + 3) / 4 * 4 * s.D * taps * 4);
  pack_gates(w_input, packed.data(), s, s.C, 0);
  pack_gates(w_hidden, packed.data(), s, s.D, s.C);
  pack_back(w_hidden, back.data(), s, s.D, 0);
  if (b.d_frames) pack_back(w_input, back.data(), s, s.C, s.D);
  const size_t planes = (s.C + s.D + 4 * s.D) * p.plane + 2 * kLanes<R>, maps = size_t(s.D) * s.H * p.width;
  Buffer<R> memory((threads + 1) * (planes + 2 * maps));
  const size_t sums = weights + 4 * s.D;  // vectors
  Buffer<R> lanes(threads * sums * kLanes<R>);
  Barrier barrier;

  on_team(threads, [&](int rank, int size) {
    Vec<R>* d_weights = reinterpret_cast<Vec<R>*>(lanes.data()) + rank * sums;
    share_out(s.N, rank, size, [&](int n, int member, int members) {
      R* own = memory.data() + (members == 1 ? 1 + rank : 0) * (planes + 2 * maps);
      R *frame = own, *hidden = own + s.C * p.plane, *d_gates = hidden + s.D * p.plane;
      R *dh = own + planes, *dc = dh + maps;
      const int y0 = band(s, member, members), y1 = band(s, member + 1, members);
      for (int d = 0; d < s.D; ++d)
        for (int y = y0; y < y1; ++y) {
          const size_t dense = n * out + (size_t(d) * s.H + y) * s.W, wide = (size_t(d) * s.H + y) * p.width;
          std::memset(dh + wide, 0, p.width * sizeof(R));
          std::memset(dc + wide, 0, p.width * sizeof(R));
          if (b.d_hidden) std::memcpy(dh + wide, b.d_hidden + dense, s.W * sizeof(R));
          if (b.d_cell) std::memcpy(dc + wide, b.d_cell + dense, s.W * sizeof(R));
        }
      for (int t = s.T - 1; t >= 0; --t) {
        const size_t item = size_t(t) * s.N + n, earlier = item - s.N;
        const R* h = t ? b.all_hidden + earlier * out : b.hidden ? b.hidden + n * out : nullptr;
        const R* c = t ? b.all_cells + earlier * out : b.cell ? b.cell + n * out : nullptr;
        copy_rows(b.frames + item * in, frame, s, p, s.C, y0, y1);
        if (h)
          copy_rows(h, hidden, s, p, s.D, y0, y1);
        else
          for (int d = 0; d < s.D; ++d)
            std::memset(hidden + d * p.plane + (y0 + s.before()) * p.stride, 0, (y1 - y0) * p.stride * sizeof(R));
        if (b.d_pooled) unpool_rows(b.all_hidden + item * out, b.d_pooled + item * pooled, dh, s, p, y0, y1);
        barrier.wait(members);
        const Step<R> step{packed.data(), b.bias, frame, hidden};
        const R* d_all = b.d_all ? b.d_all + item * out : nullptr;
        backward_gates<R, K>(step, s, p, c, d_all, dh, dc, d_gates, d_weights + weights, y0, y1);
        barrier.wait(members);
        R* d_frame = b.d_frames ? b.d_frames + item * in : nullptr;
        backward_maps<R, K>(back.data(), d_gates, s, p, dh, d_frame, y0, y1);
        backward_weights<R, K>(frame, d_gates, s, p, s.C, 0, d_weights, y0, y1);
        if (h) backward_weights<R, K>(hidden, d_gates, s, p, s.D, s.C, d_weights, y0, y1);
        barrier.wait(members);
      }
      for (int d = 0; d < s.D; ++d)
        for (int y = y0; y < y1; ++y) {
          const size_t dense = n * out + (size_t(d) * s.H + y) * s.W, wide = (size_t(d) * s.H + y) * p.width;
          std::memcpy(b.d_first_hidden + dense, dh + wide, s.W * sizeof(R));
          std::memcpy(b.d_first_cell + dense, dc + wide, s.W * sizeof(R));
        }
    });
  });

  const Vec<R>* vectors = reinterpret_cast<const Vec<R>*>(lanes.data());
  const auto sum_of = [&](size_t at) {
    R sum = 0;
    for (int rank = 0; rank < threads; ++rank) sum += total<R>(vectors[rank * sums + at]);
    return sum;
  };
  for (int d = 0; d < s.D; ++d)
    for (int g = 0; g < 4; ++g) {
      b.d_bias[g * s.D + d] = sum_of(weights + 4 * d + g);
      for (int c = 0; c < s.C + s.D; ++c)
        for (int tap = 0; tap < taps; ++tap) {
          const R sum = sum_of(((size_t(d) * (s.C + s.D) + c) * taps + tap) * 4 + g);
          const size_t row = size_t(g) * s.D + d;
          if (c < s.C)
            b.d_w_input[(row * s.C + c) * taps + tap] = sum;
          else
            b.d_w_hidden[(row * s.D + c - s.C) * taps + tap] = sum;
        }
    }
}

template <class Run>
int guarded(const Run& run) {
  try {
    run();
    return 0;
  } catch (const std::exception&) {  // no memory, no threads
    return 1;
  }
}

template <class R>
int forward_any(const Size& s, const R* w_input, const R* w_hidden, const Forward<R>& f, int threads) {
  return guarded([&] {
    if (s.K == 3)
      forward<R, 3>(s, w_input, w_hidden, f, threads);
    else
      forward<R, 0>(s, w_input, w_hidden, f, threads);
  });
}

template <class R>
int backward_any(const Size& s, const R* w_input, const R* w_hidden, const Backward<R>& b, int threads) {
  return guarded([&] {
    if (s.K == 3)
      backward<R, 3>(s, w_input, w_hidden, b, threads);
    else
      backward<R, 0>(s, w_input, w_hidden, b, threads);
  });
}

}  // namespace

typedef REAL R;  // float or double: a library for each, so that nobody waits for the one not needed

EXPORT int convlstm_forward(const int* size, int threads, const R* w_input, const R* w_hidden, const R* bias,
                            const R* frames, const R* hidden, const R* cell, R* all_hidden, R* all_cells, R* pooled,
                            R* last_hidden, R* last_cell) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5], size[6], size[7]};
  return forward_any<R>(s, w_input, w_hidden,
                        {frames, bias, hidden, cell, all_hidden, all_cells, pooled, last_hidden, last_cell}, threads);
}

EXPORT int convlstm_backward(const int* size, int threads, const R* w_input, const R* w_hidden, const R* bias,
                             const R* frames, const R* hidden, const R* cell, const R* all_hidden, const R* all_cells,
                             const R* d_all, const R* d_pooled, const R* d_hidden, const R* d_cell, R* d_frames,
                             R* d_w_input, R* d_w_hidden, R* d_bias, R* d_first_hidden, R* d_first_cell) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5], size[6], size[7]};
  return backward_any<R>(s, w_input, w_hidden,
                         {frames, bias, hidden, cell, all_hidden, all_cells, d_all, d_pooled, d_hidden, d_cell,
                          d_frames, d_w_input, d_w_hidden, d_bias, d_first_hidden, d_first_cell},
                         threads);
}
