// A convolution, the LIF neurons that it charges and the maximum pooling of their spikes, in one pass.
//
// Shapes: T steps, N batch, H height, W width, C input and D output channels, K side of the kernel; channels lie next
// to each other (channels_last). Bands of rows of samples are shared out among the threads. Currents are never stored:
// a row of them is summed, charges the potentials and is forgotten.
#pragma once

#include <memory>

#include "spikes.h"

// Bands of about `rows` rows, whole windows of the pooling, so many that every thread has work.
struct Bands {
  int64_t windows, each, count;
  Bands(int64_t samples, int64_t H, int64_t pool, int64_t rows, int threads) : windows((H + pool - 1) / pool) {
    const int64_t to_share = (2 * threads + samples - 1) / samples;
    each = std::max<int64_t>(1, std::min(rows / pool, windows / to_share));
    count = (windows + each - 1) / each;
  }
  int64_t rows(int64_t pool) const { return each * pool; }
};

template <class A, class X>
class Team {
 public:
  Team(const Shape& s, const Weights<A>& weights, double most, int64_t rows, int threads) : row_size_(s.W * s.outputs) {
    for (int rank = 0; rank < threads; ++rank) {
      convolutions_.push_back(std::make_unique<Convolution<A, X>>(s, weights, most, rows));
      rows_.push_back(std::make_unique<Buffer<R>>(2 * row_size_));
    }
  }
  // Calls one(item, convolution, row, another row) for all items.
  template <class One>
  void run(int64_t items, const One& one) {
    std::atomic<int64_t> next{0};
    on_team(int(rows_.size()), [&](int rank, int) {
      for (int64_t item; (item = next.fetch_add(1)) < items;)
        one(item, *convolutions_[rank], rows_[rank]->data(), rows_[rank]->data() + row_size_);
    });
  }

 private:
  const int64_t row_size_;
  std::vector<std::unique_ptr<Convolution<A, X>>> convolutions_;
  std::vector<std::unique_ptr<Buffer<R>>> rows_;
};

// Charges a row of neurons with a row of currents and returns how many fire. `fired`: a row of windows, whose maximum
// this is the `first` row of.
inline int64_t charge_row(const Shape& s, const Neuron& neuron, const R* currents, const R* before, R* after, R* fired,
                   int64_t pool, bool first) {
  V firing{};
  for (int64_t window = 0; window * pool < s.W; ++window)
    for (int64_t d = 0; d < s.D; d += kL) {
      const int count = int(std::min<int64_t>(kL, s.D - d));
      R* to = fired + window * s.outputs + d;
      V any = first ? V{} : load<R>(to);
      for (int64_t x = window * pool; x < std::min(s.W, window * pool + pool); ++x) {
        const V v = before ? load<R>(before + x * s.D + d, count) : spread<R>(neuron.rest);
        const V charged = neuron.charge(v, load<R>(currents + x * s.outputs + d));
        const V fires = charged >= neuron.threshold ? spread<R>(1) : V{};
        any = fires > any ? fires : any;
        firing += first_lanes<R>(fires, count);
        store<R>(after + x * s.D + d, neuron.after(charged), count);
      }
      store<R>(to, any);
    }
  return int64_t(total<R>(firing));
}

// Bands of N samples for `spike`: a band's potentials stay in the second-level cache from step to step.
inline Bands spiking_bands(int64_t N, const Shape& s, int64_t pool, int threads) {
  return Bands(N, s.H, pool, (1 << 15) / (s.W * s.D) + 1, threads);
}

// Returns how many spikes there were before the pooling. The team is for bands of `bands.rows(pool)` rows; `start`
// (null: rest) may be `end`.
template <class A, class X>
int64_t spike(int64_t T, int64_t N, const Shape& s, int64_t pool, const Neuron& neuron, const Bands& bands,
              Team<A, X>& team, const X* x, const R* start, X* spikes, R* end) {
  const int64_t h = s.H / pool, width = s.W / pool;
  std::atomic<int64_t> all{0};
  team.run(N * bands.count, [&](int64_t item, Convolution<A, X>& convolution, R* currents, R* fired) {
    int64_t firing = 0;
    const int64_t n = item / bands.count, y0 = item % bands.count * bands.rows(pool);
    const int64_t y1 = std::min(s.H, y0 + bands.rows(pool));
    for (int64_t t = 0; t < T; ++t) {
      convolution.take(x + (t * N + n) * s.H * s.W * s.C, y0, y1);
      for (int64_t y = y0; y < y1; ++y) {
        convolution.row(y, currents);
        const int64_t at = (n * s.H + y) * s.W * s.D;
        const R* before = t ? end + at : start ? start + at : nullptr;
        firing += charge_row(s, neuron, currents, before, end + at, fired, pool, y % pool == 0);
        if ((y + 1) % pool) continue;
        X* to = spikes + (((t * N + n) * h + y / pool) * width) * s.D;
        for (int64_t window = 0; window < width; ++window)
          for (int64_t d = 0; d < s.D; d += kL)
            store_as(to + window * s.D + d, load<R>(fired + window * s.outputs + d), int(std::min<int64_t>(kL, s.D - d)));
      }
    }
    all += firing;
  });
  return all;
}
