// Convolutions with few channels, directly: a vector is neighbouring pixels of a row, and the sums of many outputs stay
// in registers while all taps of all channels are added.
//
// Maps lie as planes of words with zeros around them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "winograd.h"
#include "words.h"

// The planes of one map of H x W pixels with `before` rows and columns of zeros above and to the left of it, and `after`
// below and to the right; one row more where H is odd, for what takes rows by two.
template <class R>
struct Planes {
  int H, W, before;
  int width;  // of a row without the zeros, in whole vectors
  int left;   // words before a row's first pixel, which begins a vector
  size_t stride, plane;
  Planes(int height, int columns, int before_, int after)
      : H(height),
        W(columns),
        before(before_),
        width(whole(columns)),
        left(whole(before_)),
        stride(left + whole(width + after)),
        plane(stride * (height + height % 2 + before_ + after)) {}
  // A row's first pixel.
  size_t row(int y) const { return (y + before) * stride + left; }
  // What the first tap of a row's first pixel reads.
  size_t window(int y) const { return y * stride + left - before; }
  static int whole(int count) { return (count + kLanes<R> - 1) / kLanes<R> * kLanes<R>; }
};

// Rows y0 to y1 of `channels` dense maps into their words.
template <class A, class R = typename A::R>
void copy_rows(const R* from, R* to, const Planes<R>& p, int channels, int y0, int y1) {
  for (int first = 0; first < channels; first += A::kChannels, to += p.plane)
    for (int y = y0; y < y1; ++y)
      for (int x = 0; x < p.W; x += kLanes<R>) {
        Vec<R> values[A::kChannels];
        for (int c = 0; c < A::kChannels; ++c)
          values[c] = first + c < channels ? load<R>(from + (size_t(first + c) * p.H + y) * p.W + x, p.W - x) : Vec<R>{};
        store<R>(to + p.row(y) + x, A::word(values));  // zeros beyond the row's end
      }
}

#ifdef __AVX512F__
constexpr int kSums = 24;  // vectors of sums at a time, of 32 registers
#else
constexpr int kSums = 4;  // a vector is several registers already
#endif

// Rows of a convolution that are computed at once. Two of one 3 x 3, where the registers suffice: down the columns it is
// done by Winograd's F(2, 3).
template <class A, int K>
constexpr int kAtOnce = K == 3 && A::kChannels == 1 && kSums >= 24 ? 2 : 1;

// Outputs are summed in blocks: of so many, where `rest` are left.
template <class A, int K>
constexpr int block_of(int rest) {
  if (kAtOnce<A, K> == 2) return rest > 4 ? 6 : rest > 2 ? 4 : 2;
  return kSums < 16 ? 4 : rest > 12 && rest <= 16 ? 16 : rest > 8 ? 12 : rest > 4 ? 8 : 4;
}

template <class A, int K>
constexpr int padded_outputs(int outputs) {
  int padded = 0;
  while (padded < outputs) padded += block_of<A, K>(outputs - padded);
  return padded;
}

template <class A, int K>
constexpr size_t packed_size(int outputs, int words, int side) {
  return size_t(padded_outputs<A, K>(outputs)) * (1 + size_t(words) * side * (kAtOnce<A, K> == 2 ? 4 : side));
}

// For each block its biases, then weights by word, tap and output; by word, column, output and sum where rows are taken by
// two. `weight(output, channel, tap)` and `bias(output)` are asked for padded outputs and for the channels of all words.
template <class A, int K, class Weight, class Bias, class R = typename A::R>
void pack(R* to, int outputs, int words, int side, const Weight& weight, const Bias& bias) {
  for (int first = 0, block; first < outputs; first += block) {
    block = block_of<A, K>(outputs - first);
    for (int o = first; o < first + block; ++o) *to++ = bias(o);
    for (int word = 0; word < words; ++word)
      if constexpr (kAtOnce<A, K> == 2) {
        for (int column = 0; column < 3; ++column)
          for (int o = first; o < first + block; ++o, to += 4)
            winograd_kernel(weight(o, word, column), weight(o, word, 3 + column), weight(o, word, 6 + column), to, 1);
      } else {
        for (int tap = 0; tap < side * side; ++tap)
          for (int o = first; o < first + block; ++o, ++to) {
            Vec<R> values[A::kChannels];
            for (int c = 0; c < A::kChannels; ++c) values[c] = spread<R>(weight(o, A::kChannels * word + c, tap));
            const Vec<R> packed = A::word(values);
            std::memcpy(to, &packed, sizeof(R));
          }
      }
  }
}

// One block: O outputs of V vectors of pixels at a time. `side` counts where K, the side of the kernel, is 0.
template <class A, int K, int O, int V, class R = typename A::R>
INLINE void convolve_tile(const R* at, const Planes<R>& p, int words, const R* weights, int side, R* out) {
  const int k = K ? K : side;
  Vec<R> sums[O][V];
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[o][v] = spread<R>(weights[o]);
  weights += O;
  for (int word = 0; word < words; ++word, at += p.plane)
    for (int ky = 0; ky < k; ++ky)
#pragma GCC unroll 3
      for (int kx = 0; kx < k; ++kx, weights += O) {
        const R* row = at + ky * p.stride + kx;
        Vec<R> pixels[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) pixels[v] = held(load<R>(row + v * kLanes<R>));
#pragma GCC unroll 16
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sums[o][v] = A::add(sums[o][v], pixels[v], weights + o);
      }
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store<R>(out + size_t(o) * p.width + v * kLanes<R>, sums[o][v]);
}

template <class A, int K, int O, class R = typename A::R>
void convolve_block(const R* at, const Planes<R>& p, int words, const R* weights, int side, R* out) {
  constexpr int V = std::max(1, std::min(4, kSums / O));
  int x = 0;
  for (; x + V * kLanes<R> <= p.width; x += V * kLanes<R>)
    convolve_tile<A, K, O, V>(at + x, p, words, weights, side, out + x);
  if constexpr (V > 2)
    for (; x + 2 * kLanes<R> <= p.width; x += 2 * kLanes<R>)
      convolve_tile<A, K, O, 2>(at + x, p, words, weights, side, out + x);
  for (; x < p.width; x += kLanes<R>) convolve_tile<A, K, O, 1>(at + x, p, words, weights, side, out + x);
}

// Sums of the pixels of 4 rows for convolutions of two rows at once, [channel][sum][column].
template <class R>
constexpr size_t sums_stride(const Planes<R>& p) {
  return p.width + kLanes<R>;
}

template <class R>
void sum_rows(const R* at, const Planes<R>& p, int channels, R* to) {
  for (int c = 0; c < channels; ++c, at += p.plane, to += 4 * sums_stride(p))
    for (size_t x = 0; x < sums_stride(p); x += kLanes<R>) {
      Vec<R> sums[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[i] = load<R>(at + i * p.stride + x);
      winograd_pixels(sums, 1);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store<R>(to + i * sums_stride(p) + x, sums[i]);
    }
}

// One block of two rows, `between` words from the first row's outputs to the second's.
template <int O, class R>
void convolve_two(const R* sums, const Planes<R>& p, int channels, const R* weights, R* out, size_t between) {
  for (int x = 0; x < p.width; x += kLanes<R>) {
    Vec<R> products[O][4] = {};
#pragma GCC unroll 6
    for (int o = 0; o < O; ++o) products[o][1] = spread<R>(weights[o]);
    const R *at = sums + x, *weight = weights + O;
    for (int c = 0; c < channels; ++c, at += 4 * sums_stride(p))
#pragma GCC unroll 3
      for (int column = 0; column < 3; ++column, weight += 4 * O) {
        Vec<R> pixels[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) pixels[i] = held(load<R>(at + i * sums_stride(p) + column));
#pragma GCC unroll 6
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) products[o][i] += weight[4 * o + i] * pixels[i];
      }
#pragma GCC unroll 6
    for (int o = 0; o < O; ++o) {
      Vec<R> first, second;
      winograd_results(products[o], 1, first, second);
      R* to = out + size_t(o) * p.width + x;
      store<R>(to, first);
      store<R>(to + between, second);
    }
  }
}

// Words of memory for the rows below.
template <class A, int K, class R = typename A::R>
constexpr size_t rows_size(const Planes<R>& p, int words, int outputs) {
  const size_t rows = size_t(kAtOnce<A, K>) * padded_outputs<A, K>(outputs) * p.width;
  return rows + (kAtOnce<A, K> == 2 ? 4 * words * sums_stride(p) : 0);
}

// kAtOnce rows of all outputs into `out`, each of padded_outputs x p.width, from the padded planes and `pack`ed weights.
// `at` is where the first tap of the first row's first pixel reads.
template <class A, int K, class R = typename A::R>
void convolve_rows(const R* at, const Planes<R>& p, int words, const R* weights, int outputs, int side, R* out) {
  const size_t row = size_t(padded_outputs<A, K>(outputs)) * p.width;
  R* sums = out + 2 * row;
  if constexpr (kAtOnce<A, K> == 2) sum_rows(at, p, words, sums);
  for (int first = 0, block; first < outputs; first += block) {
    block = block_of<A, K>(outputs - first);
    R* to = out + size_t(first) * p.width;
    if constexpr (kAtOnce<A, K> == 2) {
      if (block == 2) convolve_two<2>(sums, p, words, weights, to, row);
      if (block == 4) convolve_two<4>(sums, p, words, weights, to, row);
      if (block == 6) convolve_two<6>(sums, p, words, weights, to, row);
    } else {
      if (block == 4) convolve_block<A, K, 4>(at, p, words, weights, side, to);
      if constexpr (kSums >= 16) {
        if (block == 8) convolve_block<A, K, 8>(at, p, words, weights, side, to);
        if (block == 12) convolve_block<A, K, 12>(at, p, words, weights, side, to);
        if (block == 16) convolve_block<A, K, 16>(at, p, words, weights, side, to);
      }
    }
    weights += packed_size<A, K>(block, words, side);
  }
}
