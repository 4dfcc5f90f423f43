// A whole sequence forward through one ConvLSTM layer.
#include "convlstm_forward.h"

namespace {

template <class A, int K, class R = typename A::R>
void forward(const Size& s, const Forward<R>& f, int threads) {
  const Planes<R> p(s.H, s.W, s.before(), s.after());
  Buffer<R> packed(packed_size<A, K>(4 * s.D, words_of<A>(s.C) + words_of<A>(s.D), s.K));
  pack_gates<A, K>(f.w_input, f.w_hidden, f.bias, packed.data(), s);
  const size_t shared = Sample<A, K>::shared_size(s, p), own = Sample<A, K>::own_size(s, p);
  const size_t counts = f.places ? Sample<A, K>::counts_size(s, p) : 0;
  Buffer<R> of_sets(sets(s, threads) * (shared + counts)), of_workers(workers(s, threads) * own);
  Barrier barrier;
  on_team(threads, [&](int rank, int size) {
    R* mine = of_workers.data() + worker(s, rank, size) * own;
    share_out(s.N, rank, size, [&](int n, int set, int member, int members) {
      R* ours = of_sets.data() + set * (shared + counts);
      R* seen = f.places ? ours + shared : nullptr;
      Sample<A, K> sample(s, p, f, packed.data(), n, ours, mine, seen, band(s, member, members),
                          band(s, member + 1, members));
      sample.start();
      barrier.wait(members);
      for (int t = 0; t < s.T; ++t) {
        sample.step(t);
        barrier.wait(members);
      }
    });
  });
  if (!f.places) return;
  for (int set = 0; set < sets(s, threads); ++set) {
    const R* seen = of_sets.data() + set * (shared + counts) + shared;
    for (size_t row = 0; row < size_t(s.D) * s.H; ++row)
      for (int x = 0; x < s.W; ++x) f.places[row * s.W + x] += seen[row * p.width + x];
  }
}

template <class A, class R = typename A::R>
int forward_any(const Size& s, const Forward<R>& f, int threads) {
  return guarded([&] { s.K == 3 ? forward<A, 3>(s, f, threads) : forward<A, 0>(s, f, threads); });
}

}  // namespace

// Tells whether `convlstm_forward_pairs` is there: convolutions of numbers rounded to bfloat16, all else in float32.
EXPORT int convlstm_has_pairs() {
#if defined(HAS_PAIRS) && defined(REAL_float)
  return 1;
#else
  return 0;
#endif
}

#define FORWARD(NAME, A)                                                                                              \
  EXPORT int NAME(const int* size, int threads, const REAL* w_input, const REAL* w_hidden, const REAL* bias,          \
                  const REAL* frames, const REAL* hidden, const REAL* cell, REAL* all_hidden, REAL* all_cells,        \
                  REAL* pooled, REAL* last_hidden, REAL* last_cell, REAL* places) {                                   \
    const Forward<REAL> f{w_input, w_hidden, bias, frames, hidden, cell, all_hidden, all_cells, pooled, last_hidden,  \
                          last_cell, places};                                                                         \
    return forward_any<A>(Size(size), f, threads);                                                                    \
  }

FORWARD(convlstm_forward, Singles<REAL>)
#if defined(HAS_PAIRS) && defined(REAL_float)
FORWARD(convlstm_forward_pairs, Pairs)
#endif
