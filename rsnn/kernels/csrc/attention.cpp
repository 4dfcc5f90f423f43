// Softmax attention with heads of few channels, forward and backward: what a pixel of an event frame has to say.
//
// Shapes: B batch times heads, L positions, Dk channels of queries and keys, Dv of values; all dense. A vector is
// neighbouring keys; scores are never stored. Backward computes them anew from the logarithm of each query's sum.
// Batch items are shared out among the threads.
#include <algorithm>
#include <limits>
#include <new>

#include "common.h"

namespace {

struct Size {
  int B, L, Dk, Dv;
};

// (L, D) to (D, rows of whole vectors).
template <class R>
void transpose(const R* from, R* to, int L, int D, int stride) {
  for (int d = 0; d < D; ++d) {
    for (int l = 0; l < L; ++l) to[size_t(d) * stride + l] = from[size_t(l) * D + d];
    for (int l = L; l < stride; ++l) to[size_t(d) * stride + l] = 0;
  }
}

template <class R>
void transpose_back(const R* from, R* to, int L, int D, int stride) {
  for (int d = 0; d < D; ++d)
    for (int l = 0; l < L; ++l) to[size_t(l) * D + d] = from[size_t(d) * stride + l];
}

template <class R>
INLINE R largest(Vec<R> v) {
  R best = v[0];
  for (int lane = 1; lane < kLanes<R>; ++lane) best = std::max(best, v[lane]);
  return best;
}

template <class R, int D>
INLINE Vec<R> dot(const R* one, const R* planes, int channels, int stride, int at) {
  Vec<R> sum{};
  for (int d = 0; d < (D ? D : channels); ++d) sum += one[d] * load<R>(planes + size_t(d) * stride + at);
  return sum;
}

// The scores of one query into `row`, -infinity beyond the last key.
template <class R, int D>
INLINE R scores(const R* query, const R* keys, R* row, int L, int channels, int stride) {
  Vec<R> best = spread<R>(-std::numeric_limits<R>::infinity());
  for (int at = 0; at < stride; at += kLanes<R>) {
    const Vec<R> s = dot<R, D>(query, keys, channels, stride, at);
    store<R>(row + at, s);
    if (at + kLanes<R> <= L) best = s > best ? s : best;
  }
  R most = largest<R>(best);
  for (int l = L / kLanes<R> * kLanes<R>; l < L; ++l) most = std::max(most, row[l]);
  for (int l = L; l < stride; ++l) row[l] = -std::numeric_limits<R>::infinity();
  return most;
}

// DK and DV are the channels where they are known when this is compiled, else 0.
template <class R, int DK, int DV>
void forward(const Size& s, const R* q, const R* k, const R* v, R scale, R* out, R* log_sums, int threads) {
  const int Dk = DK ? DK : s.Dk, Dv = DV ? DV : s.Dv;
  const int stride = (s.L + kLanes<R> - 1) / kLanes<R> * kLanes<R>;
  const size_t own = size_t(Dk + Dv + 1) * stride + Dk;
  Buffer<R> memory(threads * own);
  std::atomic<int> next{0};
  on_team(threads, [&](int rank, int) {
    R *keys = memory.data() + rank * own, *values = keys + size_t(Dk) * stride, *row = values + size_t(Dv) * stride;
    R* query = row + stride;
    for (int b; (b = next.fetch_add(1)) < s.B;) {
      transpose(k + size_t(b) * s.L * Dk, keys, s.L, Dk, stride);
      transpose(v + size_t(b) * s.L * Dv, values, s.L, Dv, stride);
      for (int l = 0; l < s.L; ++l) {
        const size_t place = size_t(b) * s.L + l;
        for (int d = 0; d < Dk; ++d) query[d] = scale * q[place * Dk + d];
        const R most = scores<R, DK>(query, keys, row, s.L, Dk, stride);
        Vec<R> sum{};
        for (int at = 0; at < stride; at += kLanes<R>) {
          const Vec<R> difference = load<R>(row + at) - most;
          // exp_of is bounded below: what lies beyond the last key must not count.
          const Vec<R> p = difference > (R)-79 ? exp_of(difference) : Vec<R>{};
          store<R>(row + at, p);
          sum += p;
        }
        const R all = total<R>(sum);
        for (int d = 0; d < Dv; ++d) {
          Vec<R> mean{};
          for (int at = 0; at < stride; at += kLanes<R>)
            mean += load<R>(row + at) * load<R>(values + size_t(d) * stride + at);
          out[place * Dv + d] = total<R>(mean) / all;
        }
        log_sums[place] = most + std::log(all);
      }
    }
  });
}

// p_ij = exp(q_i k_j scale - log_sum_i);  dv_j = sum_i p_ij do_i;  ds_ij = p_ij (do_i v_j - do_i o_i);
// dq_i = scale sum_j ds_ij k_j;  dk_j = scale sum_i ds_ij q_i
template <class R, int DK, int DV>
void backward(const Size& s, const R* q, const R* k, const R* v, R scale, const R* out, const R* log_sums,
              const R* d_out, R* dq, R* dk, R* dv, int threads) {
  const int Dk = DK ? DK : s.Dk, Dv = DV ? DV : s.Dv;
  const int stride = (s.L + kLanes<R> - 1) / kLanes<R> * kLanes<R>;
  const size_t own = size_t(2 * (Dk + Dv) + 2) * stride + Dk;
  Buffer<R> memory(threads * own);
  std::atomic<int> next{0};
  on_team(threads, [&](int rank, int) {
    R *keys = memory.data() + rank * own, *values = keys + size_t(Dk) * stride;
    R *d_keys = values + size_t(Dv) * stride, *d_values = d_keys + size_t(Dk) * stride;
    R *row = d_values + size_t(Dv) * stride, *d_row = row + stride, *query = d_row + stride;
    for (int b; (b = next.fetch_add(1)) < s.B;) {
      const size_t item = size_t(b) * s.L;
      transpose(k + item * Dk, keys, s.L, Dk, stride);
      transpose(v + item * Dv, values, s.L, Dv, stride);
      std::fill_n(d_keys, size_t(Dk + Dv) * stride, R(0));
      for (int l = 0; l < s.L; ++l) {
        const size_t place = item + l;
        const R* d_o = d_out + place * Dv;
        for (int d = 0; d < Dk; ++d) query[d] = scale * q[place * Dk + d];
        R own_part = 0;
        for (int d = 0; d < Dv; ++d) own_part += d_o[d] * out[place * Dv + d];
        for (int at = 0; at < stride; at += kLanes<R>) {
          const Vec<R> p = exp_of(dot<R, DK>(query, keys, Dk, stride, at) - log_sums[place]);
          const Vec<R> ds = p * (dot<R, DV>(d_o, values, Dv, stride, at) - own_part);
          store<R>(row + at, p);
          store<R>(d_row + at, ds);
        }
        for (int i = s.L; i < stride; ++i) row[i] = d_row[i] = 0;
        for (int d = 0; d < Dv; ++d) {
          R* to = d_values + size_t(d) * stride;
          for (int at = 0; at < stride; at += kLanes<R>) store<R>(to + at, load<R>(to + at) + d_o[d] * load<R>(row + at));
        }
        for (int d = 0; d < Dk; ++d) {
          R* to = d_keys + size_t(d) * stride;
          Vec<R> sum{};
          for (int at = 0; at < stride; at += kLanes<R>) {
            const Vec<R> ds = load<R>(d_row + at);
            store<R>(to + at, load<R>(to + at) + query[d] * ds);
            sum += ds * load<R>(keys + size_t(d) * stride + at);
          }
          dq[place * Dk + d] = scale * total<R>(sum);
        }
      }
      transpose_back(d_keys, dk + item * Dk, s.L, Dk, stride);
      transpose_back(d_values, dv + item * Dv, s.L, Dv, stride);
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
