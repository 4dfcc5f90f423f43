// What both directions of a ConvLSTM layer need.
//
// Shapes: T steps, N batch, C input channels, D hidden channels, H height, W width, K side of the kernel; all dense.
#pragma once

#include "planes.h"

struct Size {
  int T, N, C, D, H, W, K, pool;
  explicit Size(const int* s) : T(s[0]), N(s[1]), C(s[2]), D(s[3]), H(s[4]), W(s[5]), K(s[6]), pool(s[7]) {}
  int before() const { return (K - 1) / 2; }  // rows and columns of zeros at the beginning and at the end
  int after() const { return K / 2; }
  int taps() const { return K * K; }
  size_t pixels() const { return size_t(H) * W; }
  size_t pooled() const { return size_t(D) * (H / pool) * (W / pool); }
};

// sigmoid(x) = 1 / (1 + 2^s) and tanh(x) = -m / (m + 2), m = 2^s - 1: the gates' weights are multiplied so that what
// comes out is s. Beyond these limits both are constant, and the product of three 2^s is finite.
constexpr double kSigmoidFactor = -1.44269504088896340736, kTanhFactor = 2 * kSigmoidFactor;
template <class R>
constexpr R kLimit = sizeof(R) == 4 ? R(41) : R(330);

// Weights (4 D, C and D, K, K), gates in the order i, f, o, g, packed for outputs 4 d + gate.
template <class A, int K, class R = typename A::R>
void pack_gates(const R* w_input, const R* w_hidden, const R* bias, R* to, const Size& s) {
  const int inputs = words_of<A>(s.C) * A::kChannels, taps = s.taps();
  const auto scale = [](int output) { return R(output % 4 == 3 ? kTanhFactor : kSigmoidFactor); };
  const auto row = [&](int output) { return size_t(output % 4) * s.D + output / 4; };
  pack<A, K>(
      to, 4 * s.D, words_of<A>(s.C) + words_of<A>(s.D), s.K,
      [&](int output, int channel, int tap) {
        const bool hidden = channel >= inputs;
        const int c = hidden ? channel - inputs : channel, channels = hidden ? s.D : s.C;
        if (c >= channels) return R(0);
        return scale(output) * (hidden ? w_hidden : w_input)[(row(output) * channels + c) * taps + tap];
      },
      [&](int output) { return bias ? scale(output) * bias[row(output)] : R(0); });
}

// What a sample is cut into for a team: an even number of rows, in whole windows of the pooling.
inline int part_rows(const Size& s) { return s.pool % 2 ? 2 * s.pool : s.pool; }
inline int parts(const Size& s) { return (s.H + part_rows(s) - 1) / part_rows(s); }

// The first row of member `rank` of `size`.
inline int band(const Size& s, int rank, int size) {
  return std::min(s.H, int(int64_t(parts(s)) * rank / size) * part_rows(s));
}

// Samples are shared out among the threads; what is left over (a batch smaller than the team) is cut into bands of rows.
// Calls one(sample, set, member, members), `set` being a number for the memory of the sample.
template <class One>
void share_out(int N, int rank, int size, const One& one) {
  const int alone = N / size * size;
  for (int n = rank; n < alone; n += size) one(n, rank, 0, 1);
  for (int n = alone; n < N; ++n) one(n, alone ? size : 0, rank, size);
}

// So many sets do for teams of `threads` and for smaller ones.
inline int sets(const Size& s, int threads) { return std::min(s.N, threads + 1); }

// A number for the memory of each thread that gets rows. One that gets none has a neighbour's, and does not use it.
inline int worker(const Size& s, int rank, int size) {
  return s.N >= size || parts(s) >= size ? rank : int(int64_t(parts(s)) * rank / size);
}

// So many of these numbers there are in teams of `threads` and in smaller ones.
inline int workers(const Size& s, int threads) { return std::min(threads, std::max(s.N, parts(s))); }
