// What the queries of one head get by softmax attention, for heads of few channels: what a pixel of an event frame has to
// say.
//
// Shapes: L positions, Dk channels of queries and keys, Dv of values; all dense. A vector is neighbouring keys; scores are
// never stored.
//
// Most pixels of an event frame are empty: their query, key and value are zeros. All these silent positions have the
// same output, and count as one key whose weight is their number, its logarithm added to the score; so the work goes
// with the square of the other positions.
#pragma once

#include <algorithm>
#include <limits>

#include "common.h"

template <class R>
bool is_silent(const R* vector, int D) {
  for (int d = 0; d < D; ++d)
    if (vector[d] != 0) return false;
  return true;
}

// Of one head the positions that are not silent, in order, and after them one for all that are.
template <class R>
struct Voices {
  int L, Dk, Dv, loud, silent, count, width;  // count: with the one for the silent; width: in whole vectors
  const int* at;                              // (loud)

  Voices(int positions, int key_channels, int value_channels, const R* q, const R* k, const R* v, int* places)
      : L(positions), Dk(key_channels), Dv(value_channels), loud(0), at(places) {
    for (int l = 0; l < L; ++l)
      if (!is_silent(q + size_t(l) * Dk, Dk) || !is_silent(k + size_t(l) * Dk, Dk) ||
          !is_silent(v + size_t(l) * Dv, Dv))
        places[loud++] = l;
    silent = L - loud;
    count = loud + (silent ? 1 : 0);
    width = whole(count);
  }
  static int whole(int count) { return (count + kLanes<R> - 1) / kLanes<R> * kLanes<R>; }

  template <class Function>
  void each_silent(const Function& function) const {
    for (int l = 0, i = 0; l < L; ++l) {
      if (i < loud && at[i] == l)
        ++i;
      else
        function(l);
    }
  }

  // (L, D) to (D, width), zeros for the silent.
  void gather(const R* from, R* to, int D) const {
    for (int d = 0; d < D; ++d) {
      R* row = to + size_t(d) * width;
      for (int i = 0; i < loud; ++i) row[i] = from[size_t(at[i]) * D + d];
      std::fill(row + loud, row + width, R(0));
    }
  }

  // (D, width) to (L, D), to each of the silent its part.
  void scatter(const R* from, R* to, int D) const {
    for (int d = 0; d < D; ++d) {
      const R* row = from + size_t(d) * width;
      for (int i = 0; i < loud; ++i) to[size_t(at[i]) * D + d] = row[i];
      if (silent) each_silent([&](int l) { to[size_t(l) * D + d] = row[loud] / silent; });
    }
  }

  // What is added to the scores of the keys: nothing, the logarithm of a weight, and beyond the last key -infinity.
  void weigh(R* row) const {
    std::fill_n(row, loud, R(0));
    if (silent) row[loud] = std::log(R(silent));
    std::fill(row + count, row + width, -std::numeric_limits<R>::infinity());
  }
};

template <class R>
INLINE R largest(Vec<R> v) {
  R best = v[0];
  for (int lane = 1; lane < kLanes<R>; ++lane) best = std::max(best, v[lane]);
  return best;
}

// sum + one . planes at some keys.
template <class R, int D>
INLINE Vec<R> add_dot(Vec<R> sum, const R* one, const R* planes, int channels, int width, int at) {
  for (int d = 0; d < (D ? D : channels); ++d) sum += one[d] * load<R>(planes + size_t(d) * width + at);
  return sum;
}

// Keys and values of the voices, one plane a channel, and what is added to the scores.
template <class R>
struct Heard {
  R *keys, *values, *weights;  // (Dk, width), (Dv, width), (width)
  static size_t size(int L, int Dk, int Dv) { return size_t(Dk + Dv + 1) * Voices<R>::whole(L); }

  Heard(const Voices<R>& voices, const R* k, const R* v, R* memory)
      : keys(memory), values(keys + size_t(voices.Dk) * voices.width), weights(values + size_t(voices.Dv) * voices.width) {
    voices.gather(k, keys, voices.Dk);
    voices.gather(v, values, voices.Dv);
    voices.weigh(weights);
  }
};

template <class R>
size_t attend_size(int L, int Dk, int Dv) {
  return size_t(Voices<R>::whole(L)) + Dk + Dv;
}

// Calls write(l, said, log_sum) for the positions of the voices `first` to `last`: the mean of the values (Dv), and the
// logarithm of the sum of the weights. DK and DV are the channels where they are known when this is compiled, else 0.
template <class R, int DK, int DV, class Write>
void attend(const Voices<R>& voices, const Heard<R>& heard, const R* q, R scale, int first, int last, R* memory,
            const Write& write) {
  const int Dk = DK ? DK : voices.Dk, Dv = DV ? DV : voices.Dv, width = voices.width;
  R *row = memory, *query = row + width, *said = query + Dk;
  for (int i = first; i < last; ++i) {
    const bool loud = i < voices.loud;
    for (int d = 0; d < Dk; ++d) query[d] = loud ? scale * q[size_t(voices.at[i]) * Dk + d] : 0;
    Vec<R> best = spread<R>(-std::numeric_limits<R>::infinity());
    for (int at = 0; at < width; at += kLanes<R>) {
      const Vec<R> score = add_dot<R, DK>(load<R>(heard.weights + at), query, heard.keys, Dk, width, at);
      store<R>(row + at, score);
      best = score > best ? score : best;
    }
    const R most = largest<R>(best);
    Vec<R> sum{};
    for (int at = 0; at < width; at += kLanes<R>) {
      const Vec<R> difference = load<R>(row + at) - most;
      // exp_of is bounded below: what lies beyond the last key must not count.
      const Vec<R> p = difference > (R)-79 ? exp_of(difference) : Vec<R>{};
      store<R>(row + at, p);
      sum += p;
    }
    const R all = total<R>(sum), log_sum = most + std::log(all);
    for (int d = 0; d < Dv; ++d) {
      Vec<R> mean{};
      for (int at = 0; at < width; at += kLanes<R>)
        mean += load<R>(row + at) * load<R>(heard.values + size_t(d) * width + at);
      said[d] = total<R>(mean) / all;
    }
    if (loud)
      write(voices.at[i], said, log_sum);
    else
      voices.each_silent([&](int l) { write(l, said, log_sum); });
  }
}
