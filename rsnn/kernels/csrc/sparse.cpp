// A convolution over maps that are mostly zeros, as spikes are: only what is not zero is multiplied and added.
//
// Maps are (images, H, W, C) with channels next to each other; the kernel is K x K with zeros around the map. For each
// pixel of the result the sums of all its output channels stay in registers, and each non-zero input in reach adds its
// row of weights.
#include <algorithm>
#include <exception>

#include "common.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

typedef REAL R;
typedef Vec<R> V;
constexpr int kL = kLanes<R>;

struct Size {
  int64_t images, H, W, C, D, K;
};

// A bit for each lane that is not zero.
INLINE uint32_t nonzero_lanes(V v) {
#ifdef __AVX512F__
  if constexpr (sizeof(R) == 4)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  else
    return _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_NEQ_UQ);
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kL; ++lane) bits |= uint32_t(v[lane] != 0) << lane;
  return bits;
#endif
}

// Indices and values of one image's non-zero channels, pixel by pixel.
struct Lists {
  std::vector<int32_t> index;
  std::vector<R> value;
  std::vector<int32_t> first;  // of each pixel, and one more
  explicit Lists(const Size& s) : index(s.H * s.W * s.C + kL), value(s.H * s.W * s.C + kL), first(s.H * s.W + 1) {}
  void fill(const Size& s, const R* x) {
    int32_t n = 0;
    for (int64_t pixel = 0; pixel < s.H * s.W; ++pixel) {
      first[pixel] = n;
      for (int64_t c = 0; c < s.C; c += kL) {
        const R* from = x + pixel * s.C + c;
        for (uint32_t found = nonzero_lanes(load<R>(from, int(std::min<int64_t>(kL, s.C - c)))); found;
             found &= found - 1) {
          const int lane = __builtin_ctz(found);
          index[n] = int32_t(c + lane);
          value[n++] = from[lane];
        }
      }
    }
    first[s.H * s.W] = n;
  }
};

// The sums of B vectors of output channels for row y of an image.
template <int B>
INLINE void row_of(const Size& s, const Lists& lists, const R* weights, int64_t stride, int64_t y, R* out, int count) {
  const int64_t before = (s.K - 1) / 2;
  for (int64_t x = 0; x < s.W; ++x) {
    V sums[B] = {};
    for (int64_t ky = 0; ky < s.K; ++ky) {
      const int64_t from_y = y + ky - before;
      if (from_y < 0 || from_y >= s.H) continue;
      for (int64_t kx = 0; kx < s.K; ++kx) {
        const int64_t from_x = x + kx - before;
        if (from_x < 0 || from_x >= s.W) continue;
        const int64_t pixel = from_y * s.W + from_x;
        const R* tap = weights + (ky * s.K + kx) * s.C * stride;
        for (int32_t n = lists.first[pixel]; n < lists.first[pixel + 1]; ++n) {
          const R* row = tap + lists.index[n] * stride;
          const V value = spread<R>(lists.value[n]);
#pragma GCC unroll 8
          for (int b = 0; b < B; ++b) sums[b] += value * load<R>(row + b * kL);
        }
      }
    }
    R* to = out + x * s.D;
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b)
      if (count > b * kL) store<R>(to + b * kL, sums[b], count - b * kL);
  }
}

}  // namespace

// Weights (D, C, K, K). Returns 2, and leaves `out` undone, where more than `most` of the inputs are not zero.
EXPORT int sparse_convolution(const int64_t* size, int threads, double most, const R* x, const R* w, R* out) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5]};
  const int64_t inputs = s.images * s.H * s.W * s.C;
  int64_t nonzero = 0;
  for (int64_t n = 0; n < inputs; n += kL)
    nonzero += __builtin_popcount(nonzero_lanes(load<R>(x + n, int(std::min<int64_t>(kL, inputs - n)))));
  if (double(nonzero) > most * double(inputs)) return 2;
  try {
    const int64_t stride = (s.D + kL - 1) / kL * kL, taps = s.K * s.K;
    Buffer<R> packed(taps * s.C * stride + 8 * kL);
    for (int64_t d = 0; d < s.D; ++d)
      for (int64_t c = 0; c < s.C; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) packed.data()[(tap * s.C + c) * stride + d] = w[(d * s.C + c) * taps + tap];
    const bool bands = s.images < threads;  // few images are cut into rows
    std::vector<Lists> lists(bands ? 1 : threads, Lists(s));
    for (int64_t image = 0; image < (bands ? s.images : 1); ++image) {
      if (bands) lists[0].fill(s, x + image * s.H * s.W * s.C);
      on_team(threads, [&](int rank, int size) {
        const int64_t first = bands ? image : s.images * rank / size, end = bands ? image + 1 : s.images * (rank + 1) / size;
        for (int64_t i = first; i < end; ++i) {
          Lists& own = lists[bands ? 0 : rank];
          if (!bands) own.fill(s, x + i * s.H * s.W * s.C);
          const int64_t y0 = bands ? s.H * rank / size : 0, y1 = bands ? s.H * (rank + 1) / size : s.H;
          for (int64_t y = y0; y < y1; ++y) {
            R* row = out + (i * s.H + y) * s.W * s.D;
            int64_t d = 0;
            for (; d + 4 * kL < s.D; d += 8 * kL)
              row_of<8>(s, own, packed.data() + d, stride, y, row + d, int(std::min<int64_t>(s.D - d, 8 * kL)));
            for (; d < s.D; d += 4 * kL)
              row_of<4>(s, own, packed.data() + d, stride, y, row + d, int(std::min<int64_t>(s.D - d, 4 * kL)));
          }
        }
      });
    }
    return 0;
  } catch (const std::exception&) {  // no memory, no threads
    return 1;
  }
}
