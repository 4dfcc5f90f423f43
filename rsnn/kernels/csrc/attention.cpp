// Softmax attention with heads of few channels, forward and backward.
//
// Shapes: B batch times heads, L positions, Dk channels of queries and keys, Dv of values; all dense. Backward computes
// the scores anew from the logarithm of each query's sum. Batch items are shared out among the threads.
#include "attention.h"

namespace {

struct Size {
  int B, L, Dk, Dv;
};

template <class R, int DK, int DV>
void forward(const Size& s, const R* q, const R* k, const R* v, R scale, R* out, R* log_sums, int threads) {
  const size_t heard_size = Heard<R>::size(s.L, s.Dk, s.Dv), own = heard_size + attend_size<R>(s.L, s.Dk, s.Dv);
  Buffer<R> memory(threads * own);
  Buffer<int> places(threads * size_t(s.L));
  std::atomic<int> next{0};
  on_team(threads, [&](int rank, int) {
    R* mine = memory.data() + rank * own;
    for (int b; (b = next.fetch_add(1)) < s.B;) {
      const size_t item = size_t(b) * s.L;
      const R *query = q + item * s.Dk, *key = k + item * s.Dk, *value = v + item * s.Dv;
      const Voices<R> voices(s.L, s.Dk, s.Dv, query, key, value, places.data() + size_t(rank) * s.L);
      attend<R, DK, DV>(voices, Heard<R>(voices, key, value, mine), query, scale, 0, voices.count, mine + heard_size,
                        [&](int l, const R* said, R log_sum) {
                          std::copy_n(said, s.Dv, out + (item + l) * s.Dv);
                          log_sums[item + l] = log_sum;
                        });
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
  const size_t most_wide = Voices<R>::whole(s.L), heard_size = Heard<R>::size(s.L, Dk, Dv);
  const size_t own = heard_size + (Dk + Dv + 2) * most_wide + Dk + Dv;
  Buffer<R> memory(threads * own);
  Buffer<int> places(threads * size_t(s.L));
  std::atomic<int> next{0};
  on_team(threads, [&](int rank, int) {
    R* mine = memory.data() + rank * own;
    R *d_keys = mine + heard_size, *d_values = d_keys + Dk * most_wide;
    R *row = d_values + Dv * most_wide, *d_row = row + most_wide, *query = d_row + most_wide, *d_o = query + Dk;
    for (int b; (b = next.fetch_add(1)) < s.B;) {
      const size_t item = size_t(b) * s.L;
      const R *all_q = q + item * Dk, *all_k = k + item * Dk, *all_v = v + item * Dv;
      const Voices<R> voices(s.L, Dk, Dv, all_q, all_k, all_v, places.data() + size_t(rank) * s.L);
      const Heard<R> heard(voices, all_k, all_v, mine);
      const R *keys = heard.keys, *values = heard.values, *weights = heard.weights;
      const int width = voices.width;
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
