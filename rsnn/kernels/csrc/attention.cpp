// Softmax attention with heads of few channels, forward and backward: what a pixel of an event frame has to say.
//
// Shapes: B batch times heads, L positions, Dk channels of queries and keys, Dv of values; all dense. A vector is
// neighbouring keys; scores are never stored. Backward computes them anew from the logarithm of each query's sum.
// Batch items are shared out among the threads.
//
// Most pixels of an event frame are empty: their query, key and value are zeros. All these silent positions have the
// same output, and count as one key whose weight is their number, its logarithm added to the score; so the work goes
// with the square of the other positions.
#include <algorithm>
#include <limits>
#include <new>

#include "common.h"

namespace {

struct Size {
  int B, L, Dk, Dv;
};

template <class R>
bool is_silent(const R* vector, int D) {
  for (int d = 0; d < D; ++d)
    if (vector[d] != 0) return false;
  return true;
}

// Of one batch item the positions that are not silent, in order, and after them one for all that are.
template <class R>
struct Voices {
  int L, loud, silent, count, width;  // count: with the one for the silent; width: in whole vectors
  const int* at;                      // (loud)

  Voices(const Size& s, const R* q, const R* k, const R* v, int* places) : L(s.L), loud(0), at(places) {
    for (int l = 0; l < L; ++l)
      if (!is_silent(q + size_t(l) * s.Dk, s.Dk) || !is_silent(k + size_t(l) * s.Dk, s.Dk) ||
          !is_silent(v + size_t(l) * s.Dv, s.Dv))
        places[loud++] = l;
    silent = L - loud;
    count = loud + (silent ? 1 : 0);
    width = (count + kLanes<R> - 1) / kLanes<R> * kLanes<R>;
  }

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

// DK and DV are the channels where they are known when this is compiled, else 0.
template <class R, int DK, int DV>
void forward(const Size& s, const R* q, const R* k, const R* v, R scale, R* out, R* log_sums, int threads) {
  const int Dk = DK ? DK : s.Dk, Dv = DV ? DV : s.Dv;
  const size_t most_wide = (s.L + kLanes<R> - 1) / kLanes<R> * kLanes<R>;
  const size_t own = (Dk + Dv + 2) * most_wide + Dk + Dv;
  Buffer<R> memory(threads * own);
  Buffer<int> places(threads * size_t(s.L));
  std::atomic<int> next{0};
  on_team(threads, [&](int rank, int) {
    R *keys = memory.data() + rank * own, *values = keys + Dk * most_wide, *weights = values + Dv * most_wide;
    R *row = weights + most_wide, *query = row + most_wide, *said = query + Dk;
    for (int b; (b = next.fetch_add(1)) < s.B;) {
      const size_t item = size_t(b) * s.L;
      const Voices<R> voices(s, q + item * Dk, k + item * Dk, v + item * Dv, places.data() + size_t(rank) * s.L);
      const int width = voices.width;
      voices.gather(k + item * Dk, keys, Dk);
      voices.gather(v + item * Dv, values, Dv);
      voices.weigh(weights);
      for (int i = 0; i < voices.count; ++i) {
        const bool loud = i < voices.loud;
        for (int d = 0; d < Dk; ++d) query[d] = loud ? scale * q[(item + voices.at[i]) * Dk + d] : 0;
        Vec<R> best = spread<R>(-std::numeric_limits<R>::infinity());
        for (int at = 0; at < width; at += kLanes<R>) {
          const Vec<R> score = add_dot<R, DK>(load<R>(weights + at), query, keys, Dk, width, at);
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
            mean += load<R>(row + at) * load<R>(values + size_t(d) * width + at);
          said[d] = total<R>(mean) / all;
        }
        const auto write = [&](int l) {
          std::copy_n(said, Dv, out + (item + l) * Dv);
          log_sums[item + l] = log_sum;
        };
        if (loud)
          write(voices.at[i]);
        else
          voices.each_silent(write);
      }
    }
  });
}

// p_ij = exp(q_i k_j scale - log_sum_i);  dv_j = sum_i p_ij do_i;  ds_ij = p_ij (do_i v_j - do_i o_i);
// dq_i = scale sum_j ds_ij k_j;  dk_j = scale sum_i ds_ij q_i
// All of these are linear in do_i: the silent queries, which are equal, pass their sum on to keys and values.
template <class R, int DK, int DV>
void backward(const Size& s, const R* q, const R* k, const R* v, R scale, const R* out, const R* log_sums,
              const R* d_out, R* dq, R* dk, R* dv, int threads) {
  const int Dk = DK ? DK : s.Dk, Dv = DV ? DV : s.Dv;
  const size_t most_wide = (s.L + kLanes<R> - 1) / kLanes<R> * kLanes<R>;
  const size_t own = (2 * (Dk + Dv) + 3) * most_wide + Dk + Dv;
  Buffer<R> memory(threads * own);
  Buffer<int> places(threads * size_t(s.L));
  std::atomic<int> next{0};
  on_team(threads, [&](int rank, int) {
    R *keys = memory.data() + rank * own, *values = keys + Dk * most_wide;
    R *d_keys = values + Dv * most_wide, *d_values = d_keys + Dk * most_wide;
    R *weights = d_values + Dv * most_wide, *row = weights + most_wide, *d_row = row + most_wide;
    R *query = d_row + most_wide, *d_o = query + Dk;
    for (int b; (b = next.fetch_add(1)) < s.B;) {
      const size_t item = size_t(b) * s.L;
      const Voices<R> voices(s, q + item * Dk, k + item * Dk, v + item * Dv, places.data() + size_t(rank) * s.L);
      const int width = voices.width;
      voices.gather(k + item * Dk, keys, Dk);
      voices.gather(v + item * Dv, values, Dv);
      voices.weigh(weights);
      std::fill_n(d_keys, (Dk + Dv) * most_wide, R(0));
      for (int i = 0; i < voices.count; ++i) {
        const bool loud = i < voices.loud;
        size_t place = item;  // of a query like this one
        if (loud) {
          place += voices.at[i];
          std::copy_n(d_out + place * Dv, Dv, d_o);
        } else {
          std::fill_n(d_o, Dv, R(0));
          voices.each_silent([&](int l) {
            place = item + l;
            for (int d = 0; d < Dv; ++d) d_o[d] += d_out[place * Dv + d];
          });
        }
        for (int d = 0; d < Dk; ++d) query[d] = loud ? scale * q[place * Dk + d] : 0;
        const R *said = out + place * Dv, log_sum = log_sums[place];
        R own_part = 0;
        for (int d = 0; d < Dv; ++d) own_part += d_o[d] * said[d];
        for (int at = 0; at < width; at += kLanes<R>) {
          const Vec<R> p = exp_of(add_dot<R, DK>(load<R>(weights + at), query, keys, Dk, width, at) - log_sum);
          const Vec<R> ds = p * (add_dot<R, DV>(Vec<R>{}, d_o, values, Dv, width, at) - own_part);
          store<R>(row + at, p);
          store<R>(d_row + at, ds);
        }
        for (int j = voices.count; j < width; ++j) row[j] = d_row[j] = 0;
        for (int d = 0; d < Dv; ++d) {
          R* to = d_values + size_t(d) * width;
          for (int at = 0; at < width; at += kLanes<R>) store<R>(to + at, load<R>(to + at) + d_o[d] * load<R>(row + at));
        }
        if (loud) {
          for (int d = 0; d < Dk; ++d) {
            R* to = d_keys + size_t(d) * width;
            Vec<R> sum{};
            for (int at = 0; at < width; at += kLanes<R>) {
              const Vec<R> ds = load<R>(d_row + at);
              store<R>(to + at, load<R>(to + at) + query[d] * ds);
              sum += ds * load<R>(keys + size_t(d) * width + at);
            }
            dq[place * Dk + d] = scale * total<R>(sum);
          }
          continue;
        }
        // dq of each silent query: scale sum_j p_j k_j (v_j - o)^T, the same matrix, times its own do.
        voices.each_silent([&](int l) { std::fill_n(dq + (item + l) * Dk, Dk, R(0)); });
        for (int d = 0; d < Dk; ++d) {
          for (int e = 0; e < Dv; ++e) {
            Vec<R> sum{};
            for (int at = 0; at < width; at += kLanes<R>)
              sum += load<R>(row + at) * load<R>(keys + size_t(d) * width + at) *
                     (load<R>(values + size_t(e) * width + at) - said[e]);
            const R factor = scale * total<R>(sum);
            voices.each_silent([&](int l) { dq[(item + l) * Dk + d] += factor * d_out[(item + l) * Dv + e]; });
          }
        }
      }
      voices.scatter(d_keys, dk + item * Dk, Dk);
      voices.scatter(d_values, dv + item * Dv, Dv);
    }
  });
}

}  // namespace

#define ATTENTION(R, NAME)                                                                                            \
  EXPORT int attention_forward_##NAME(const int* size, int threads, double scale, const R* q, const R* k, const R* v, \
                                      R* out, R* log_sums) {                                                          \
    const Size s{size[0], size[1], size[2], size[3]};                                                                 \
    return guarded([&] {                                                                                              \
      const auto run = s.Dk == 2 && s.Dv == 2 ? forward<R, 2, 2> : forward<R, 0, 0>;                                  \
      run(s, q, k, v, R(scale), out, log_sums, threads);                                                              \
    });                                                                                                               \
  }                                                                                                                   \
  EXPORT int attention_backward_##NAME(const int* size, int threads, double scale, const R* q, const R* k,            \
                                       const R* v, const R* out, const R* log_sums, const R* d_out, R* dq, R* dk,     \
                                       R* dv) {                                                                       \
    const Size s{size[0], size[1], size[2], size[3]};                                                                 \
    return guarded([&] {                                                                                              \
      const auto run = s.Dk == 2 && s.Dv == 2 ? backward<R, 2, 2> : backward<R, 0, 0>;                                \
      run(s, q, k, v, R(scale), out, log_sums, d_out, dq, dk, dv, threads);                                           \
    });                                                                                                               \
  }

ATTENTION(float, float32)
ATTENTION(double, float64)
