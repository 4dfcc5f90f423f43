// A whole sequence backward through one ConvLSTM layer.
//
// The gates are computed anew from the hidden states and cells, which are all that forward leaves behind.
#include "convlstm.h"

namespace {

template <class R>
struct Backward {
  const R *w_input, *w_hidden, *bias, *frames, *hidden, *cell, *all_hidden, *all_cells;  // as in forward
  const R *d_all, *d_pooled, *d_hidden, *d_cell;  // gradients of the outputs and of the last states; each may be null
  R *d_frames, *d_w_input, *d_w_hidden, *d_bias, *d_first_hidden, *d_first_cell;  // results; d_frames may be null
};

// The gates' weights for the way back, kernels turned around: to H_{t-1}, and to X_t where `outputs` counts it, from the
// gradients of gates 4 d + gate.
template <class R, int K>
void pack_back(const R* w_input, const R* w_hidden, R* to, const Size& s, int outputs) {
  const int taps = s.taps();
  pack<Singles<R>, K>(
      to, outputs, 4 * s.D, s.K,
      [&](int output, int channel, int tap) {
        if (output >= outputs) return R(0);
        const size_t row = size_t(channel % 4) * s.D + channel / 4;
        return output < s.D ? w_hidden[(row * s.D + output) * taps + taps - 1 - tap]
                            : w_input[(row * s.C + output - s.D) * taps + taps - 1 - tap];
      },
      [](int) { return R(0); });
}

// Adds to dh (rows of width) what the gradients of the maxima in rows y0 to y1 of `hidden` (dense) are: each belongs
// to the first largest pixel of its window, row by row, as in torch.
template <class R>
void unpool_rows(const R* hidden, const R* gradient, R* dh, const Size& s, int width, int y0, int y1) {
  const int h = s.H / s.pool, w = s.W / s.pool;
  for (int d = 0; d < s.D; ++d)
    for (int y = y0 / s.pool; y < std::min(y1 / s.pool, h); ++y) {
      const R* in = hidden + (size_t(d) * s.H + y * s.pool) * s.W;
      const R* from = gradient + (size_t(d) * h + y) * w;
      R* to = dh + (size_t(d) * s.H + y * s.pool) * width;
      if (s.pool == 2) {
        const R* below = in + s.W;
        R* to_below = to + width;
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
          to[best_i * width + x * s.pool + best_j] += from[x];
        }
      }
    }
}

// Gradients of one row's pre-activations (rows of `plane` words from gate to gate) and of the cell, in place.
template <class R>
void backward_row(const R* gates, const R* before, const R* hidden, const R* d_hidden, R* d_cell, R* d_gates,
                  size_t plane, Vec<R>* d_bias, int W, int width) {
  for (int x = 0; x < width; x += kLanes<R>) {
    const int count = W - x;
    const auto exponential = [&](int gate) { return exp2_of(load<R>(gates + gate * width + x), kLimit<R>); };
    const Vec<R> not_i = (R)1 + exponential(0), not_f = (R)1 + exponential(1), not_o = (R)1 + exponential(2);
    const Vec<R> one = (R)1 / (not_i * not_f * not_o), o = not_i * not_f * one;
    const Vec<R> i = not_f * not_o * one, f = not_i * not_o * one;
    const Vec<R> m = exp2m1_of(load<R>(gates + 3 * width + x), kLimit<R>), g = -m / (m + (R)2);
    __builtin_prefetch(hidden + W + x);  // of the next row
    if (before) __builtin_prefetch(before + W + x);
    const Vec<R> c_before = before ? load<R>(before + x, count) : Vec<R>{};
    const Vec<R> c = load<R>(hidden + x, count) * not_o;  // tanh of the cell, as H = o tanh(c)
    const Vec<R> d_h = load<R>(d_hidden + x);
    const Vec<R> d_c = load<R>(d_cell + x) + d_h * o * ((R)1 - c * c);
    const Vec<R> d_sums[4] = {d_c * g * i * ((R)1 - i), d_c * c_before * f * ((R)1 - f), d_h * c * o * ((R)1 - o),
                              d_c * i * ((R)1 - g * g)};
    store<R>(d_cell + x, d_c * f, count);
#pragma GCC unroll 4
    for (int gate = 0; gate < 4; ++gate) {
      R* to = d_gates + gate * plane + x;
      store<R>(to, d_sums[gate], count);
      d_bias[gate] += count >= kLanes<R> ? d_sums[gate] : load<R>(to, count);
    }
  }
}

// Gradients of the weights, in lanes that are added up at the end, as [d][channel][row][column][gate].
template <class R, int K>
void backward_weights(const R* maps, const R* d_gates, const Size& s, const Planes<R>& p, const Planes<R>& back,
                      Vec<R>* d_weights, int y0, int y1) {
  constexpr int kRows = 8;  // so many that they stay in the innermost cache
  constexpr int kColumns = K ? K : 1;
  const int channels = s.C + s.D;
  const auto tile = [&](int top, int d, int c, int ky, int left, auto count) {
    constexpr int kMaps = decltype(count)::value;
    Vec<R> sums[kMaps][kColumns][4] = {};
    for (int y = top; y < std::min(top + kRows, y1); ++y) {
      const R* in = maps + c * p.plane + p.window(y + ky) + left;
      const R* gates = d_gates + 4 * d * back.plane + back.row(y);
      for (int x = 0; x < p.width; x += kLanes<R>) {
        Vec<R> g[4];
#pragma GCC unroll 8
        for (int gate = 0; gate < 4; ++gate) g[gate] = load<R>(gates + gate * back.plane + x);
#pragma GCC unroll 8
        for (int map = 0; map < kMaps; ++map)
#pragma GCC unroll 8
          for (int kx = 0; kx < kColumns; ++kx) {
            const Vec<R> pixels = held(load<R>(in + map * p.plane + kx + x));
#pragma GCC unroll 8
            for (int gate = 0; gate < 4; ++gate) sums[map][kx][gate] += g[gate] * pixels;
          }
      }
    }
#pragma GCC unroll 8
    for (int map = 0; map < kMaps; ++map) {
      Vec<R>* to = d_weights + (((size_t(d) * channels + c + map) * s.K + ky) * s.K + left) * 4;
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
          if constexpr (kSums >= 24)
            for (; c + 2 <= channels; c += 2) tile(top, d, c, ky, left, std::integral_constant<int, 2>{});
          for (; c < channels; ++c) tile(top, d, c, ky, left, std::integral_constant<int, 1>{});
        }
}

constexpr int kPairs = 4;  // of rows, so many that they stay in the innermost cache

// The same two rows at a time, for kernels 3 x 3: gradients of the kernels' sums, as [d][channel][sum][column][gate].
// Memory for the sums of the maps: kPairs times 4 rows of sums_stride for each channel.
template <class R>
void backward_sums(const R* maps, const R* d_gates, const Size& s, const Planes<R>& p, const Planes<R>& back, R* sums,
                   Vec<R>* d_weights, int y0, int y1) {
  const int channels = s.C + s.D;
  const size_t stride = sums_stride(p), pair_size = 4 * channels * stride;
  const auto tile = [&](int top, int pairs, int d, int c, auto which, auto count) {
    constexpr int kSum = decltype(which)::value, kMaps = decltype(count)::value;
    Vec<R> found[kMaps][3][4] = {};
    for (int pair = 0; pair < pairs; ++pair) {
      const R* in = sums + pair * pair_size + (4 * c + kSum) * stride;
      const R* gates = d_gates + 4 * d * back.plane + back.row(top + 2 * pair);
      for (int x = 0; x < p.width; x += kLanes<R>) {
        Vec<R> g[4];
#pragma GCC unroll 4
        for (int gate = 0; gate < 4; ++gate) {
          const R* from = gates + gate * back.plane + x;
          if (kSum < 3) g[gate] = load<R>(from);
          if (kSum == 1) g[gate] += load<R>(from + back.stride);
          if (kSum == 2) g[gate] -= load<R>(from + back.stride);
          if (kSum == 3) g[gate] = load<R>(from + back.stride);
        }
#pragma GCC unroll 2
        for (int map = 0; map < kMaps; ++map)
#pragma GCC unroll 3
          for (int column = 0; column < 3; ++column) {
            const Vec<R> pixels = held(load<R>(in + 4 * map * stride + column + x));
#pragma GCC unroll 4
            for (int gate = 0; gate < 4; ++gate) found[map][column][gate] += g[gate] * pixels;
          }
      }
    }
#pragma GCC unroll 2
    for (int map = 0; map < kMaps; ++map)
#pragma GCC unroll 3
      for (int column = 0; column < 3; ++column)
#pragma GCC unroll 4
        for (int gate = 0; gate < 4; ++gate)
          d_weights[(((size_t(d) * channels + c + map) * 4 + kSum) * 3 + column) * 4 + gate] += found[map][column][gate];
  };
  for (int top = y0; top < y1; top += 2 * kPairs) {
    const int pairs = std::min(kPairs, (y1 - top + 1) / 2);
    for (int pair = 0; pair < pairs; ++pair)
      sum_rows(maps + p.window(top + 2 * pair), p, channels, sums + pair * pair_size);
    for (int d = 0; d < s.D; ++d) {
      const auto all = [&](auto which) {
        int c = 0;
        for (; c + 2 <= channels; c += 2) tile(top, pairs, d, c, which, std::integral_constant<int, 2>());
        if (c < channels) tile(top, pairs, d, c, which, std::integral_constant<int, 1>());
      };
      all(std::integral_constant<int, 0>());
      all(std::integral_constant<int, 1>());
      all(std::integral_constant<int, 2>());
      all(std::integral_constant<int, 3>());
    }
  }
}

// One sample, or the band of it that falls to one member of a team.
template <class R, int K>
class Sample {
 public:
  static constexpr bool kByTwo = kAtOnce<Singles<R>, K> == 2;
  // Rows of kernels, or sums of theirs, whose gradients are added up.
  static int kernel_rows(const Size& s) { return kByTwo ? 4 : s.K; }
  // Memory of the sample: maps, gradients of the gates, of hidden state and cell; and of each member.
  static size_t shared_size(const Size& s, const Planes<R>& p, const Planes<R>& back) {
    return (s.C + s.D) * p.plane + 4 * s.D * back.plane + 2 * kLanes<R> + 2 * size_t(s.D) * s.H * p.width;
  }
  static size_t own_size(const Size& s, const Planes<R>& p) {
    const auto of = [&](int words, int outputs) { return rows_size<Singles<R>, K>(p, words, outputs); };
    const size_t sums = kByTwo ? kPairs * 4 * (s.C + s.D) * sums_stride(p) : 0;
    return std::max({of(s.C + s.D, 4 * s.D), of(4 * s.D, s.C + s.D), sums});
  }

  Sample(const Size& s, const Planes<R>& p, const Planes<R>& back, const Backward<R>& b, int n, R* shared, R* own,
         Vec<R>* d_weights, int y0, int y1)
      : s_(s), p_(p), back_(back), b_(b), n_(n), y0_(y0), y1_(y1), maps_(shared), rows_(own), d_weights_(d_weights) {
    d_gates_ = maps_ + (s.C + s.D) * p.plane + kLanes<R>;
    d_hidden_ = d_gates_ + 4 * s.D * back.plane + kLanes<R>;
    d_cell_ = d_hidden_ + size_t(s.D) * s.H * p.width;
  }

  void start() {
    each_row(y0_, y1_, [&](size_t dense, size_t wide) {
      std::memset(d_hidden_ + wide, 0, p_.width * sizeof(R));
      std::memset(d_cell_ + wide, 0, p_.width * sizeof(R));
      if (b_.d_hidden) std::memcpy(d_hidden_ + wide, b_.d_hidden + state() + dense, s_.W * sizeof(R));
      if (b_.d_cell) std::memcpy(d_cell_ + wide, b_.d_cell + state() + dense, s_.W * sizeof(R));
    });
  }

  // One step. A sample alone goes through it in blocks of rows, each of which is still in the caches when it is needed
  // again; the members of a team wait for each other's rows.
  template <class Wait>
  void step(int t, bool alone, const R* packed, const R* packed_back, int outputs, Vec<R>* d_bias, const Wait& wait) {
    const int window = s_.pool * (1 + s_.pool % 2), block = alone ? 2 * kPairs : s_.H + 2 * kPairs;
    int y = y0_, prepared = y0_, mapped = y0_;
    do {  // once even without rows, for the others to go on
      const int end = std::min(y1_, y + block);
      const int ahead = std::min(y1_, (end + s_.K + window - 1) / window * window);
      prepare(t, prepared, ahead);
      prepared = ahead;
      wait();
      backward_gates(t, packed, d_bias, y, end);
      wait();
      const int behind = end == y1_ ? y1_ : std::max(mapped, (end - s_.K + 1) / 2 * 2);
      backward_maps(t, packed_back, outputs, mapped, behind);
      mapped = behind;
      if constexpr (kByTwo)
        backward_sums(maps_, d_gates_, s_, p_, back_, rows_, d_weights_, y, end);
      else
        backward_weights<R, K>(maps_, d_gates_, s_, p_, back_, d_weights_, y, end);
      y = end;
    } while (y < y1_);
    wait();
  }

  void finish() {
    each_row(y0_, y1_, [&](size_t dense, size_t wide) {
      std::memcpy(b_.d_first_hidden + state() + dense, d_hidden_ + wide, s_.W * sizeof(R));
      std::memcpy(b_.d_first_cell + state() + dense, d_cell_ + wide, s_.W * sizeof(R));
    });
  }

 private:
  // What the gates were computed from, and the gradient of what they led to.
  void prepare(int t, int y0, int y1) {
    copy_rows<Singles<R>>(b_.frames + item(t) * s_.C * s_.pixels(), maps_, p_, s_.C, y0, y1);
    R* hidden = maps_ + s_.C * p_.plane;
    if (const R* from = before(t, b_.all_hidden, b_.hidden))
      copy_rows<Singles<R>>(from, hidden, p_, s_.D, y0, y1);
    else
      for (int d = 0; d < s_.D; ++d)
        for (int y = y0; y < y1; ++y) std::memset(hidden + d * p_.plane + p_.row(y), 0, p_.width * sizeof(R));
    const size_t maps = item(t) * s_.D * s_.pixels();
    if (b_.d_pooled)
      unpool_rows(b_.all_hidden + maps, b_.d_pooled + item(t) * s_.pooled(), d_hidden_, s_, p_.width, y0, y1);
    if (b_.d_all)
      each_row(y0, y1, [&](size_t dense, size_t wide) {
        for (int x = 0; x < s_.W; x += kLanes<R>) {
          R* to = d_hidden_ + wide + x;
          store<R>(to, load<R>(to) + load<R>(b_.d_all + maps + dense + x, s_.W - x));
        }
      });
  }

  void backward_gates(int t, const R* packed, Vec<R>* d_bias, int y0, int y1) {
    const R *cells = before(t, b_.all_cells, b_.cell), *hidden = b_.all_hidden + item(t) * s_.D * s_.pixels();
    for (int y = y0; y < y1; ++y) {
      const int taken = y % kAtOnce<Singles<R>, K>;
      if (!taken) convolve_rows<Singles<R>, K>(maps_ + p_.window(y), p_, s_.C + s_.D, packed, 4 * s_.D, s_.K, rows_);
      const R* gates = rows_ + size_t(taken) * padded_outputs<Singles<R>, K>(4 * s_.D) * p_.width;
      for (int d = 0; d < s_.D; ++d) {
        const size_t dense = (size_t(d) * s_.H + y) * s_.W, wide = (size_t(d) * s_.H + y) * p_.width;
        backward_row(gates + size_t(4 * d) * p_.width, cells ? cells + dense : nullptr, hidden + dense,
                     d_hidden_ + wide, d_cell_ + wide, d_gates_ + 4 * d * back_.plane + back_.row(y), back_.plane,
                     d_bias + 4 * d, s_.W, p_.width);
      }
    }
  }

  // Gradients of H_{t-1}, X_t (the first of `outputs` channels, those after).
  void backward_maps(int t, const R* packed_back, int outputs, int y0, int y1) {
    R* d_frame = b_.d_frames + item(t) * s_.C * s_.pixels();
    for (int y = y0; y < y1; ++y) {
      const int taken = y % kAtOnce<Singles<R>, K>;
      if (!taken)
        convolve_rows<Singles<R>, K>(d_gates_ + back_.window(y), back_, 4 * s_.D, packed_back, outputs, s_.K, rows_);
      const R* row = rows_ + size_t(taken) * padded_outputs<Singles<R>, K>(outputs) * p_.width;
      for (int c = 0; c < outputs; ++c) {
        R* to = c < s_.D ? d_hidden_ + (size_t(c) * s_.H + y) * p_.width : d_frame + (size_t(c - s_.D) * s_.H + y) * s_.W;
        std::memcpy(to, row + size_t(c) * p_.width, s_.W * sizeof(R));
      }
    }
  }

  size_t item(int t) const { return size_t(t) * s_.N + n_; }
  size_t state() const { return n_ * s_.D * s_.pixels(); }
  // The state before step t: of the step before in `all`, or the `first`, which may be null.
  const R* before(int t, const R* all, const R* first) const {
    return t ? all + item(t - 1) * s_.D * s_.pixels() : first ? first + state() : nullptr;
  }
  template <class One>
  void each_row(int y0, int y1, const One& one) {
    for (int d = 0; d < s_.D; ++d)
      for (int y = y0; y < y1; ++y) one((size_t(d) * s_.H + y) * s_.W, (size_t(d) * s_.H + y) * p_.width);
  }

  const Size& s_;
  const Planes<R>&p_, &back_;
  const Backward<R>& b_;
  const int n_, y0_, y1_;
  R *maps_, *d_gates_, *d_hidden_, *d_cell_, *rows_;
  Vec<R>* d_weights_;
};

// Adds up the members' lanes: `each` vectors of each member, those of `rows` rows of kernels first, then the biases'.
template <class R>
void add_up(const Vec<R>* lanes, size_t each, int members, int rows, const Size& s, const Backward<R>& b) {
  const auto sum_of = [&](size_t at) {
    R sum = 0;
    for (int member = 0; member < members; ++member) sum += total<R>(lanes[member * each + at]);
    return sum;
  };
  const int taps = s.taps(), channels = s.C + s.D;
  std::vector<R> found(rows);
  for (int d = 0; d < s.D; ++d)
    for (int g = 0; g < 4; ++g) {
      const size_t row = size_t(g) * s.D + d;
      b.d_bias[row] = sum_of(each - 4 * s.D + 4 * d + g);
      for (int c = 0; c < channels; ++c)
        for (int column = 0; column < s.K; ++column) {
          R* to = c < s.C ? b.d_w_input + (row * s.C + c) * taps : b.d_w_hidden + (row * s.D + c - s.C) * taps;
          to += column;
          for (int i = 0; i < rows; ++i)
            found[i] = sum_of((((size_t(d) * channels + c) * rows + i) * s.K + column) * 4 + g);
          if (rows > s.K)
            winograd_gradient(found.data(), 1, to[0], to[3], to[6]);
          else
            for (int ky = 0; ky < s.K; ++ky) to[ky * s.K] = found[ky];
        }
    }
}

template <class R, int K>
void backward(const Size& s, const Backward<R>& b, int threads) {
  typedef Singles<R> A;
  const Planes<R> p(s.H, s.W, s.before(), s.after()), back(s.H, s.W, s.after(), s.before());
  const int outputs = s.D + (b.d_frames ? s.C : 0);
  Buffer<R> packed(packed_size<A, K>(4 * s.D, s.C + s.D, s.K)), packed_back(packed_size<A, K>(outputs, 4 * s.D, s.K));
  pack_gates<A, K>(b.w_input, b.w_hidden, b.bias, packed.data(), s);
  pack_back<R, K>(b.w_input, b.w_hidden, packed_back.data(), s, outputs);
  const size_t shared = Sample<R, K>::shared_size(s, p, back), own = Sample<R, K>::own_size(s, p);
  const int most = workers(s, threads);
  Buffer<R> of_sets(sets(s, threads) * shared), of_workers(most * own);
  const int rows = Sample<R, K>::kernel_rows(s);
  const size_t weights = size_t(s.D) * (s.C + s.D) * rows * s.K * 4, sums = weights + 4 * s.D;  // vectors
  Buffer<R> lanes(most * sums * kLanes<R>);
  Barrier barrier;
  on_team(threads, [&](int rank, int size) {
    const int mine = worker(s, rank, size);
    Vec<R>* d_weights = reinterpret_cast<Vec<R>*>(lanes.data()) + mine * sums;
    share_out(s.N, rank, size, [&](int n, int set, int member, int members) {
      Sample<R, K> sample(s, p, back, b, n, of_sets.data() + set * shared, of_workers.data() + mine * own, d_weights,
                          band(s, member, members), band(s, member + 1, members));
      sample.start();
      for (int t = s.T - 1; t >= 0; --t)
        sample.step(t, members == 1, packed.data(), packed_back.data(), outputs, d_weights + weights,
                    [&] { barrier.wait(members); });
      sample.finish();
    });
  });
  add_up(reinterpret_cast<const Vec<R>*>(lanes.data()), sums, most, rows, s, b);
}

}  // namespace

EXPORT int convlstm_backward(const int* size, int threads, const REAL* w_input, const REAL* w_hidden, const REAL* bias,
                             const REAL* frames, const REAL* hidden, const REAL* cell, const REAL* all_hidden,
                             const REAL* all_cells, const REAL* d_all, const REAL* d_pooled, const REAL* d_hidden,
                             const REAL* d_cell, REAL* d_frames, REAL* d_w_input, REAL* d_w_hidden, REAL* d_bias,
                             REAL* d_first_hidden, REAL* d_first_cell) {
  const Size s(size);
  const Backward<REAL> b{w_input,  w_hidden, bias,     frames, hidden,   cell,      all_hidden, all_cells,      d_all,
                         d_pooled, d_hidden, d_cell, d_frames, d_w_input, d_w_hidden, d_bias,     d_first_hidden, d_first_cell};
  return guarded([&] { s.K == 3 ? backward<REAL, 3>(s, b, threads) : backward<REAL, 0>(s, b, threads); });
}
