// Convolutions of maps with many output channels, stride 1 and zeros around, row by row: only what is not zero is
// multiplied and added where that is little, and everything where it is not.
//
// Maps are (H, W, C) with channels next to each other. For each pixel the sums of many outputs stay in registers.
#pragma once

#include <algorithm>

#include "neuron.h"
#include "words.h"

struct Shape {
  int64_t H, W, C, D, K;
  int64_t outputs;  // D in whole vectors of words
  Shape(const int64_t* size, int word_channels) : H(size[0]), W(size[1]), C(size[2]), D(size[3]), K(size[4]) {
    const int64_t some = kL * word_channels;
    outputs = (D + some - 1) / some * some;
  }
  int64_t before() const { return (K - 1) / 2; }
};

#ifdef __AVX512F__
constexpr int kVectors = 8, kPixels = 2;  // sums at a time: so many vectors of outputs, for so many pixels
#else
constexpr int kVectors = 2, kPixels = 2;
#endif

// Weights (D, C, K, K), each output's times `scale` (or null): `full` as [row][column][word of channels][output] and, for
// few inputs, `few` as [row][column][channel][word of outputs], whose parts are vectors next to each other.
template <class A>
class Weights {
 public:
  Weights(const Shape& s, const R* weights, const R* scale, const R* shift)
      : s_(s),
        weights_(weights),
        full_(s.K * s.K * words_of<A>(int(s.C)) * s.outputs),
        few_(A::kChannels == 1 ? 0 : s.K * s.K * s.C * s.outputs / A::kChannels),
        shift_(s.outputs) {
    if (shift) std::copy_n(shift, s.D, shift_.data());
    Buffer<R> factors(s.outputs);
    for (int64_t d = 0; d < s.D; ++d) factors.data()[d] = scale ? scale[d] : R(1);
    // Output by output, as they lie: each line of memory is read while it is in the cache.
    const int64_t words = words_of<A>(int(s.C)), taps = s.K * s.K;
    for (int64_t d = 0; d < s.outputs; d += kL)
      for (int64_t c = 0; c < s.C; c += A::kChannels)
        for (int64_t tap = 0; tap < taps; ++tap) {
          V channels[A::kChannels];
          for (int64_t i = 0; i < A::kChannels; ++i) channels[i] = at(d, c + i, tap) * load<R>(factors.data() + d);
          store<R>(full_.data() + (tap * words + c / A::kChannels) * s.outputs + d, A::word(channels));
        }
    for (int64_t d = 0; d < s.outputs && A::kChannels > 1; d += kL * A::kChannels)
      for (int64_t c = 0; c < s.C; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) {
          V outputs[A::kChannels];
          for (int64_t i = 0; i < A::kChannels; ++i)
            outputs[i] = at(d + i * kL, c, tap) * load<R>(factors.data() + d + i * kL);
          store<R>(few_.data() + ((tap * s.C + c) * s.outputs + d) / A::kChannels, A::word(outputs));
        }
  }
  const R* full() const { return full_.data(); }
  const R* few() const { return A::kChannels == 1 ? full_.data() : few_.data(); }
  const R* shift() const { return shift_.data(); }

 private:
  // Of kL outputs from d on.
  V at(int64_t d, int64_t c, int64_t tap) const {
    V values{};
    for (int lane = 0; lane < kL && d + lane < s_.D && c < s_.C; ++lane)
      values[lane] = weights_[((d + lane) * s_.C + c) * s_.K * s_.K + tap];
    return values;
  }
  const Shape& s_;
  const R* weights_;
  Buffer<R> full_, few_, shift_;
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

// What is not zero of some rows of a map.
class Lists {
 public:
  Lists(const Shape& s, int64_t rows) : s_(s), place_(rows * s.W * s.C + kL), value_(place_.size()), first_(rows * s.W + 1) {}
  // Takes rows y0 to y1; false where there is more than `most`.
  template <class X>
  bool fill(const X* map, int64_t y0, int64_t y1, int64_t most) {
    int64_t n = 0, pixel = 0;
    for (int64_t y = y0; y < y1; ++y)
      for (int64_t x = 0; x < s_.W; ++x) {
        first_[pixel++] = int32_t(n);
        for (int64_t c = 0; c < s_.C; c += kL) {
          const V values = load_as(map + (y * s_.W + x) * s_.C + c, int(std::min<int64_t>(kL, s_.C - c)));
          for (uint32_t found = nonzero_lanes(values); found; found &= found - 1) {
            const int lane = __builtin_ctz(found);
            place_[n] = int32_t(x * s_.C + c + lane);
            value_[n++] = values[lane];
          }
        }
        if (n > most) return false;
      }
    first_[pixel] = int32_t(n);
    return true;
  }
  // Adds what the pixels x0 to x1 of a row (the how-maniest taken) do to B vectors of outputs. `weights` are those of
  // pixel 0, `stride` words from channel to channel.
  template <class A, int B>
  INLINE void add(int64_t row, int64_t x0, int64_t x1, const R* weights, int64_t stride, V (&sums)[B]) const {
    for (int32_t n = first_[row * s_.W + x0]; n < first_[row * s_.W + x1]; ++n) {
      const R* from = weights + place_[n] * stride;
#pragma GCC unroll 8
      for (int b = 0; b < B; b += A::kChannels) A::add_outputs(sums + b, load<R>(from + b / A::kChannels * kL), value_[n]);
    }
  }

 private:
  const Shape& s_;
  std::vector<int32_t> place_;  // column times C, plus channel
  std::vector<R> value_;
  std::vector<int32_t> first_;  // of each pixel, and one more
};

// Convolves bands of rows of maps, for one thread.
template <class A, class X>
class Convolution {
 public:
  // For at most `rows` rows at a time; `most`: the share that is not zero up to which only that is added.
  Convolution(const Shape& s, const Weights<A>& weights, double most, int64_t rows)
      : s_(s),
        weights_(weights),
        most_(s.C < kL ? -1 : most),  // with few channels finding them costs more than adding all
        words_(words_of<A>(int(s.C))),
        stride_((s.W + s.K - 1) * words_),
        lists_(s, most_ < 0 ? 0 : rows + s.K - 1),
        padded_((rows + s.K - 1) * stride_) {}

  // Takes what rows y0 to y1 of the result need of a map.
  void take(const X* map, int64_t y0, int64_t y1) {
    top_ = y0 - s_.before();
    first_ = std::max<int64_t>(0, top_);
    end_ = std::min(s_.H, y1 + s_.K - 1 - s_.before());
    const int64_t inputs = (end_ - first_) * s_.W * s_.C;
    sparse_ = most_ >= 0 && lists_.fill(map, first_, end_, int64_t(most_ * double(inputs)));
    if (!sparse_) pad(map, y1 - y0 + s_.K - 1);
  }

  // Row y of the result, W x outputs.
  void row(int64_t y, R* out) const {
    int64_t d = 0;
    for (; d + kVectors * kL <= s_.outputs; d += kVectors * kL) block<kVectors>(y, d, out);
    for (; d < s_.outputs; d += kL * A::kChannels) block<A::kChannels>(y, d, out);
  }

 private:
  void pad(const X* map, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      R* to = padded_.data() + i * stride_;
      const int64_t y = top_ + i;
      std::memset(to, 0, stride_ * sizeof(R));
      if (y < 0 || y >= s_.H) continue;
      const X* from = map + y * s_.W * s_.C;
      to += s_.before() * words_;
      if (s_.C % A::kChannels == 0)
        A::copy(from, to, s_.W * s_.C);
      else
        for (int64_t x = 0; x < s_.W; ++x) A::copy(from + x * s_.C, to + x * words_, s_.C);
    }
  }

  template <int B>
  INLINE void block(int64_t y, int64_t d, R* out) const {
    if (sparse_)
      sparse<B>(y, d, out + d);
    else
      dense<B>(y, d, out + d);
  }

  template <int B>
  void sparse(int64_t y, int64_t d, R* out) const {
    for (int64_t x = 0; x < s_.W; ++x, out += s_.outputs) {
      V sums[B];
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sums[b] = load<R>(weights_.shift() + d + b * kL);
      const int64_t left = x - s_.before(), x0 = std::max<int64_t>(0, left), x1 = std::min(s_.W, left + s_.K);
      for (int64_t ky = 0; ky < s_.K; ++ky) {
        const int64_t from = y - s_.before() + ky;
        if (from < first_ || from >= end_) continue;
        const int64_t stride = s_.outputs / A::kChannels;
        const R* weights = weights_.few() + (ky * s_.K - left) * s_.C * stride + d / A::kChannels;
        lists_.template add<A>(from - first_, x0, x1, weights, stride, sums);
      }
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) store<R>(out + b * kL, sums[b]);
    }
  }

  template <int B>
  void dense(int64_t y, int64_t d, R* out) const {
    const R* from = padded_.data() + (y - s_.before() - top_) * stride_;
    int64_t x = 0;
    for (; x + kPixels <= s_.W; x += kPixels) pixels<B, kPixels>(from + x * words_, d, out + x * s_.outputs);
    for (; x < s_.W; ++x) pixels<B, 1>(from + x * words_, d, out + x * s_.outputs);
  }

  // B vectors of outputs of P pixels next to each other.
  template <int B, int P>
  INLINE void pixels(const R* from, int64_t d, R* out) const {
    V sums[P][B];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sums[p][b] = load<R>(weights_.shift() + d + b * kL);
    const R* weights = weights_.full() + d;
    for (int64_t ky = 0; ky < s_.K; ++ky, from += stride_)
      for (int64_t j = 0; j < s_.K * words_; ++j, weights += s_.outputs)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          const V words = load<R>(weights + b * kL);
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) sums[p][b] = A::add(sums[p][b], words, from + p * words_ + j);
        }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) store<R>(out + p * s_.outputs + b * kL, sums[p][b]);
  }

  const Shape& s_;
  const Weights<A>& weights_;
  const double most_;
  const int64_t words_, stride_;
  Lists lists_;
  Buffer<R> padded_;
  int64_t top_ = 0, first_ = 0, end_ = 0;  // of the rows taken: the first one needed; the first and last that there are
  bool sparse_ = false;
};
