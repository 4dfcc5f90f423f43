// Convolutions 3 x 3 of many channels in tiles of 4 x 4 pixels, whose 16 sums times those of a kernel add up to 2 x 2
// results (Winograd's F(2, 3) both ways), so that 16 numbers are multiplied instead of 36.
//
// Maps are (H, W, channels) with channels next to each other, stride 1 and zeros around.
#pragma once

#include "spikes.h"
#include "winograd.h"

namespace tiles {

constexpr int kTiles = 6, kOutputs = 4;  // sums at a time, of 32 registers: of so many tiles, so many vectors of outputs
constexpr int kSums = 16;                // of a tile
constexpr int kTogether = 8 * kTiles;    // tiles at a time, so few that their sums stay in the second-level cache

// Kernels for the way back through weights (D, C, 3, 3): turned around, as [sum][block of outputs C][D][output].
class Kernels {
 public:
  Kernels(int64_t C, int64_t D, const R* w) : D_(D), outputs_((C + kL - 1) / kL * kL), memory_(kSums * D * outputs_) {
    for (int64_t d = 0; d < D; ++d)
      for (int64_t c = 0; c < C; c += kL) {
        V kernel[9] = {}, rows[4][3], sums[kSums];
        for (int lane = 0; lane < kL && c + lane < C; ++lane)
          for (int tap = 0; tap < 9; ++tap) kernel[tap][lane] = w[(d * C + c + lane) * 9 + 8 - tap];
        for (int x = 0; x < 3; ++x) winograd_kernel(kernel[x], kernel[3 + x], kernel[6 + x], &rows[0][x], 3);
        for (int y = 0; y < 4; ++y) winograd_kernel(rows[y][0], rows[y][1], rows[y][2], sums + 4 * y, 1);
        for (int sum = 0; sum < kSums; ++sum) store<R>(memory_.data() + at(sum, c) + d * width(c), sums[sum]);
      }
  }
  // The weights of a sum for the vectors of outputs from c on: D rows of `width`.
  const R* of(int sum, int64_t c) const { return memory_.data() + at(sum, c); }
  int64_t outputs() const { return outputs_; }

 private:
  int64_t width(int64_t c) const { return c / kBlock < outputs_ / kBlock ? kBlock : kL; }
  size_t at(int sum, int64_t c) const { return sum * D_ * outputs_ + (c - c % width(c)) * D_ + c % width(c); }

  static constexpr int64_t kBlock = kOutputs * kL;
  const int64_t D_, outputs_;
  Buffer<R> memory_;
};

// Products of D numbers of each of P tiles with weights for B vectors of outputs.
template <int P, int B>
INLINE void multiply(const R* in, int64_t in_stride, int64_t D, const R* weights, R* out, int64_t out_stride) {
  V sums[P][B] = {};
  for (int64_t d = 0; d < D; ++d)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b, weights += kL) {
      const V weight = held(load<R>(weights));
#pragma GCC unroll 6
      for (int p = 0; p < P; ++p) sums[p][b] += in[p * in_stride + d] * weight;
    }
#pragma GCC unroll 6
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) store<R>(out + p * out_stride + b * kL, sums[p][b]);
}

// The tiles of one thread.
class Tiles {
 public:
  Tiles(const Shape& s, const Kernels& kernels)
      : s_(s), kernels_(kernels), rows_((s.H + 1) / 2), columns_((s.W + 1) / 2), inputs_((s.D + kL - 1) / kL * kL),
        zeros_(inputs_), in_(kSums * kTogether * inputs_), out_(kSums * kTogether * kernels.outputs()) {}
  int64_t each() const { return rows_ * columns_; }

  // d_x of the tiles `first` to `end` (at most kTogether) of all images.
  void run(int64_t first, int64_t end, const R* d_out, R* d_x) {
    for (int64_t tile = first; tile < end; ++tile) take(tile, d_out, in_.data() + (tile - first) * inputs_);
    for (int sum = 0; sum < kSums; ++sum) {
      const R* in = in_.data() + sum * kTogether * inputs_;
      R* out = out_.data() + sum * kTogether * kernels_.outputs();
      int64_t c = 0;
      for (; c + kOutputs * kL <= kernels_.outputs(); c += kOutputs * kL)
        block<kOutputs>(in, end - first, kernels_.of(sum, c), out + c);
      for (; c < kernels_.outputs(); c += kL) block<1>(in, end - first, kernels_.of(sum, c), out + c);
    }
    for (int64_t tile = first; tile < end; ++tile) give(tile, out_.data() + (tile - first) * kernels_.outputs(), d_x);
  }

 private:
  template <int B>
  void block(const R* in, int64_t tiles, const R* weights, R* out) const {
    int64_t tile = 0;
    for (; tile + kTiles <= tiles; tile += kTiles)
      multiply<kTiles, B>(in + tile * inputs_, inputs_, s_.D, weights, out + tile * kernels_.outputs(), kernels_.outputs());
    for (; tile < tiles; ++tile)
      multiply<1, B>(in + tile * inputs_, inputs_, s_.D, weights, out + tile * kernels_.outputs(), kernels_.outputs());
  }

  // Sums of the 4 x 4 pixels of a tile.
  void take(int64_t tile, const R* maps, R* to) const {
    const int64_t image = tile / each(), y = tile % each() / columns_ * 2 - 1, x = tile % columns_ * 2 - 1;
    const R* pixels[kSums];
    for (int i = 0; i < kSums; ++i) {
      const int64_t row = y + i / 4, column = x + i % 4;
      const bool inside = row >= 0 && row < s_.H && column >= 0 && column < s_.W;
      pixels[i] = inside ? maps + ((image * s_.H + row) * s_.W + column) * s_.D : zeros_.data();
    }
    for (int64_t d = 0; d < s_.D; d += kL, to += kL) {
      const int count = int(std::min<int64_t>(kL, s_.D - d));
      V sums[kSums];
#pragma GCC unroll 16
      for (int i = 0; i < kSums; ++i) sums[i] = load<R>(pixels[i] + d, count);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) winograd_pixels(sums + i, 4);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) winograd_pixels(sums + 4 * i, 1);
#pragma GCC unroll 16
      for (int i = 0; i < kSums; ++i) store<R>(to + i * kTogether * inputs_, sums[i]);
    }
  }

  // The 2 x 2 results of a tile.
  void give(int64_t tile, const R* from, R* maps) const {
    const int64_t image = tile / each(), y = tile % each() / columns_ * 2, x = tile % columns_ * 2;
    R* to = maps + ((image * s_.H + y) * s_.W + x) * s_.C;
    for (int64_t c = 0; c < s_.C; c += kL, from += kL) {
      const int count = int(std::min<int64_t>(kL, s_.C - c));
      V rows[2][4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        V column[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) column[j] = load<R>(from + (4 * j + i) * kTogether * kernels_.outputs());
        winograd_results(column, 1, rows[0][i], rows[1][i]);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        V left, right;
        winograd_results(rows[i], 1, left, right);
        if (y + i >= s_.H) continue;
        store<R>(to + i * s_.W * s_.C + c, left, count);
        if (x + 1 < s_.W) store<R>(to + (i * s_.W + 1) * s_.C + c, right, count);
      }
    }
  }

  const Shape& s_;
  const Kernels& kernels_;
  const int64_t rows_, columns_, inputs_;
  const Buffer<R> zeros_;
  Buffer<R> in_, out_;
};

}  // namespace tiles
