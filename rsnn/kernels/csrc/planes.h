// Convolutions with few channels, directly: a vector is neighbouring pixels of a row, and the sums of many outputs stay
// in registers while all taps of all channels are added.
//
// Maps lie as planes of words with zeros around them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "words.h"

// The planes of one map of H x W pixels with `before` rows and columns of zeros above and to the left of it, and `after`
// below and to the right.
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
        plane(stride * (height + before_ + after)) {}
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

// Outputs are summed in blocks: of so many, where `rest` are left, a multiple of 4.
constexpr int block_of(int rest) {
  return kSums < 16 ? 4 : rest == 16 ? 16 : rest >= 12 ? 12 : rest >= 8 ? 8 : 4;
}

constexpr int padded_outputs(int outputs) { return (outputs + 3) / 4 * 4; }

template <class A>
constexpr size_t packed_size(int outputs, int words, int taps) {
  return size_t(padded_outputs(outputs)) * (1 + size_t(words) * taps);
}

// For each block its biases, then weights by word, tap and output. `weight(output, channel, tap)` and `bias(output)` are
// asked for padded outputs and for the channels of all words.
template <class A, class Weight, class Bias, class R = typename A::R>
void pack(R* to, int outputs, int words, int taps, const Weight& weight, const Bias& bias) {
  for (int first = 0, block; first < padded_outputs(outputs); first += block) {
    block = block_of(padded_outputs(outputs) - first);
    for (int o = 0; o < block; ++o) *to++ = bias(first + o);
    for (int word = 0; word < words; ++word)
      for (int tap = 0; tap < taps; ++tap)
        for (int o = 0; o < block; ++o, ++to) {
          Vec<R> values[A::kChannels];
          for (int c = 0; c < A::kChannels; ++c)
            values[c] = spread<R>(weight(first + o, A::kChannels * word + c, tap));
          const Vec<R> packed = A::word(values);
          std::memcpy(to, &packed, sizeof(R));
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

// One row of all outputs into `out`, rows of p.width one after another, from the padded planes and `pack`ed weights.
// `at` is where the first tap of the row's first pixel reads.
template <class A, int K, class R = typename A::R>
void convolve_row(const R* at, const Planes<R>& p, int words, const R* weights, int outputs, int side, R* out) {
  for (int first = 0, block; first < padded_outputs(outputs); first += block) {
    block = block_of(padded_outputs(outputs) - first);
    R* to = out + size_t(first) * p.width;
    if (block == 4) convolve_block<A, K, 4>(at, p, words, weights, side, to);
    if constexpr (kSums >= 16) {
      if (block == 8) convolve_block<A, K, 8>(at, p, words, weights, side, to);
      if (block == 12) convolve_block<A, K, 12>(at, p, words, weights, side, to);
      if (block == 16) convolve_block<A, K, 16>(at, p, words, weights, side, to);
    }
    weights += packed_size<A>(block, words, side * side);
  }
}
