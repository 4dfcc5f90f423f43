// Steps forward through one ConvLSTM layer.
//
// For each row of pixels all gates of all hidden channels are summed, and their arithmetic follows while the sums are
// in the innermost cache.
#pragma once

#include "convlstm.h"

template <class R>
struct Forward {
  const R *w_input, *w_hidden, *bias, *frames, *hidden, *cell;  // bias, hidden and cell (before the first step) may be null
  R *all_hidden, *all_cells, *pooled, *last_hidden, *last_cell;  // all_* and pooled may be null
  R* places;  // may be null; (D, H, W): how often each is not zero is added
};

// A row of the cell, in place, and of the hidden state from one of the gates; `width` between the gates.
template <class R>
void update_row(const R* gates, R* cell, R* hidden, int width) {
  for (int x = 0; x < width; x += kLanes<R>) {
    const auto exponential = [&](int gate) { return exp2_of(load<R>(gates + gate * width + x), kLimit<R>); };
    const Vec<R> i = (R)1 + exponential(0), f = (R)1 + exponential(1), o = (R)1 + exponential(2);
    const Vec<R> g = exp2m1_of(load<R>(gates + 3 * width + x), kLimit<R>);
    // Over common denominators: divisions are slow.
    const Vec<R> ig = i * (g + (R)2);
    const Vec<R> c = (load<R>(cell + x) * ig - g * f) / (f * ig);
    const Vec<R> m = exp2m1_of(c * (R)kTanhFactor, kLimit<R>);
    store<R>(cell + x, c);
    store<R>(hidden + x, -m / (o * (m + (R)2)));
  }
}

// Adds one where a number of the row is not zero.
template <class R>
void count_row(const R* row, R* counts, int width) {
  for (int x = 0; x < width; x += kLanes<R>)
    store<R>(counts + x, load<R>(counts + x) + (load<R>(row + x) != (R)0 ? spread((R)1) : Vec<R>{}));
}

// Maxima over windows of `pool` x `pool` pixels of `rows` (channels x pool rows of `width`), for one row of windows.
template <class R>
void pool_row(const R* rows, R* out, const Size& s, int width) {
  const int w = s.W / s.pool;
  for (int d = 0; d < s.D; ++d, rows += size_t(s.pool) * width, out += size_t(s.H / s.pool) * w)
    if (s.pool == 2) {
      const R* below = rows + width;
      for (int x = 0; x < w; ++x) {
        const R a = std::max(rows[2 * x], rows[2 * x + 1]), b = std::max(below[2 * x], below[2 * x + 1]);
        out[x] = std::max(a, b);
      }
    } else {
      for (int x = 0; x < w; ++x) {
        R best = rows[x * s.pool];
        for (int i = 0; i < s.pool; ++i)
          for (int j = 0; j < s.pool; ++j) best = std::max(best, rows[size_t(i) * width + x * s.pool + j]);
        out[x] = best;
      }
    }
}

// One sample, or the band of it that falls to one member of a team.
template <class A, int K>
class Sample {
 public:
  typedef typename A::R R;
  // Memory of the sample, and of each member; zeroed before the first sample.
  static size_t shared_size(const Size& s, const Planes<R>& p) {
    return (s.T > 1 ? 2 : 1) * words(s) * p.plane + kLanes<R> + (in_place(s, p) ? 0 : size_t(s.D) * s.H * p.width);
  }
  static size_t own_size(const Size& s, const Planes<R>& p) {
    return rows_size<A, K>(p, int(words(s)), 4 * s.D) + size_t(s.D) * s.pool * p.width;
  }
  // Of the sample too, where hidden states are counted: how many of its steps were not zero, by place.
  static size_t counts_size(const Size& s, const Planes<R>& p) { return size_t(s.D) * s.H * p.width; }

  Sample(const Size& s, const Planes<R>& p, const Forward<R>& f, const R* packed, int n, R* shared, R* own, R* counts,
         int y0, int y1)
      : s_(s), p_(p), f_(f), packed_(packed), n_(n), y0_(y0), y1_(y1), counts_(counts) {
    for (int parity = 0; parity < 2; ++parity) maps_[parity] = shared + (s.T > 1 ? parity : 0) * words(s) * p.plane;
    cell_ = in_place(s, p) ? f.last_cell + n * s.D * s.pixels()
                           : shared + shared_size(s, p) - size_t(s.D) * s.H * p.width;
    gates_ = own;
    rows_ = own + rows_size<A, K>(p, int(words(s)), 4 * s.D);
  }

  void start() {
    const size_t at = n_ * s_.D * s_.pixels();
    for (int d = 0; d < s_.D; ++d)
      for (int y = y0_; y < y1_; ++y) {
        R* to = cell_row(d, y);
        const R* from = f_.cell ? f_.cell + at + (size_t(d) * s_.H + y) * s_.W : nullptr;
        if (to == from) continue;
        std::memset(to, 0, p_.width * sizeof(R));
        if (from) std::memcpy(to, from, s_.W * sizeof(R));
      }
    if (f_.hidden)
      copy_rows<A>(f_.hidden + at, hidden(0), p_, s_.D, y0_, y1_);
    else
      for (int word = 0; word < words_of<A>(s_.D); ++word)
        for (int y = y0_; y < y1_; ++y)
          std::memset(hidden(0) + word * p_.plane + p_.row(y), 0, p_.width * sizeof(R));
    copy_frame(0);
  }

  void step(int t) {
    const size_t item = size_t(t) * s_.N + n_, maps = s_.D * s_.pixels();
    const bool last = t + 1 == s_.T;
    R* out = f_.all_hidden ? f_.all_hidden + item * maps : last ? f_.last_hidden + n_ * maps : nullptr;
    R* cells = last ? f_.last_cell + n_ * maps : f_.all_cells ? f_.all_cells + item * maps : nullptr;
    for (int y = y0_; y < y1_; ++y) {
      const int taken = y % kAtOnce<A, K>, in_window = y % s_.pool;
      if (!taken) convolve_rows<A, K>(maps_[t % 2] + p_.window(y), p_, words(s_), packed_, 4 * s_.D, s_.K, gates_);
      const R* gates = gates_ + size_t(taken) * padded_outputs<A, K>(4 * s_.D) * p_.width;
      for (int d = 0; d < s_.D; ++d) {
        update_row(gates + size_t(4 * d) * p_.width, cell_row(d, y), hidden_row(d, in_window), p_.width);
        const size_t row = (size_t(d) * s_.H + y) * s_.W;
        if (counts_) count_row(hidden_row(d, in_window), counts_ + (size_t(d) * s_.H + y) * p_.width, s_.W);
        if (out) std::memcpy(out + row, hidden_row(d, in_window), s_.W * sizeof(R));
        if (cells && cells + row != cell_row(d, y)) std::memcpy(cells + row, cell_row(d, y), s_.W * sizeof(R));
      }
      if (!last) pass_on(y, hidden((t + 1) % 2));
      if (f_.pooled && in_window + 1 == s_.pool)
        pool_row(rows_, f_.pooled + item * s_.pooled() + size_t(y / s_.pool) * (s_.W / s_.pool), s_, p_.width);
    }
    if (!last) copy_frame(t + 1);
    if (last && f_.all_hidden)
      for (int d = 0; d < s_.D; ++d) {
        const size_t row = (size_t(d) * s_.H + y0_) * s_.W;
        std::memcpy(f_.last_hidden + n_ * maps + row, out + row, size_t(y1_ - y0_) * s_.W * sizeof(R));
      }
  }

 private:
  // Rows without a rest are the cell's memory from the first step to the last.
  static bool in_place(const Size& s, const Planes<R>& p) { return p.width == s.W; }
  static size_t words(const Size& s) { return words_of<A>(s.C) + words_of<A>(s.D); }
  R* hidden(int parity) { return maps_[parity] + words_of<A>(s_.C) * p_.plane; }
  R* cell_row(int d, int y) { return cell_ + (size_t(d) * s_.H + y) * p_.width; }
  R* hidden_row(int d, int in_window) { return rows_ + (size_t(d) * s_.pool + in_window) * p_.width; }
  void copy_frame(int t) {
    copy_rows<A>(f_.frames + (size_t(t) * s_.N + n_) * s_.C * s_.pixels(), maps_[t % 2], p_, s_.C, y0_, y1_);
  }
  // A row of the hidden state into the words that the next step reads; zeros beyond the row's end.
  void pass_on(int y, R* to) {
    for (int first = 0; first < s_.D; first += A::kChannels, to += p_.plane)
      for (int x = 0; x < s_.W; x += kLanes<R>) {
        Vec<R> values[A::kChannels];
        for (int c = 0; c < A::kChannels; ++c)
          values[c] = first + c < s_.D ? load<R>(hidden_row(first + c, y % s_.pool) + x) : Vec<R>{};
        store<R>(to + p_.row(y) + x, A::word(values), s_.W - x);
      }
  }

  const Size& s_;
  const Planes<R>& p_;
  const Forward<R>& f_;
  const R* packed_;
  const int n_, y0_, y1_;
  R* const counts_;  // may be null
  R* maps_[2];  // words of frame and hidden state, of even and of odd steps
  R *cell_, *gates_, *rows_;
};
