// What lies in memory, and what a convolution multiplies at once: words of one channel's number, or of a pair of channels
// in bfloat16.
#pragma once

#include <algorithm>

#include "common.h"

// Values in memory: float, double, or bfloat16, which is float in registers.
struct BFloat16 {
  uint16_t bits;
};

template <class R>
INLINE Vec<R> load_as(const R* from, int count) {
  return load<R>(from, count);
}
template <class R>
INLINE void store_as(R* to, Vec<R> value, int count) {
  store<R>(to, value, count);
}

INLINE Vec<float> load_as(const BFloat16* from, int count) {
  typedef uint16_t Half __attribute__((vector_size(kBytes / 2)));
  typedef uint32_t Word __attribute__((vector_size(kBytes)));
  Half half{};
  if (count >= kLanes<float>)
    std::memcpy(&half, from, sizeof half);
  else
    std::memcpy(&half, from, 2 * count);
  return (Vec<float>)(__builtin_convertvector(half, Word) << 16);
}

INLINE void store_as(BFloat16* to, Vec<float> value, int count) {
  typedef uint16_t Half __attribute__((vector_size(kBytes / 2)));
  typedef uint32_t Word __attribute__((vector_size(kBytes)));
  Word bits = (Word)value;
  bits += 0x7fffu + ((bits >> 16) & 1u);  // to the nearest, ties to even
  const Half half = __builtin_convertvector(bits >> 16, Half);
  if (count >= kLanes<float>)
    std::memcpy(to, &half, sizeof half);
  else
    std::memcpy(to, &half, 2 * count);
}

// One channel a word.
template <class T>
struct Singles {
  typedef T R;
  static constexpr int kChannels = 1;
  static INLINE Vec<R> add(Vec<R> sum, Vec<R> words, const R* weight) { return sum + *weight * words; }
  static INLINE Vec<R> word(const Vec<R>* channels) { return channels[0]; }
  // Adds `value` times the words of vectors of outputs, as many a word as there are channels.
  static INLINE void add_outputs(Vec<R>* sums, Vec<R> words, R value) { sums[0] += value * words; }
  // Words of `count` channels that lie next to each other.
  template <class X>
  static void copy(const X* from, R* to, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes<R>) {
      const int some = int(std::min<int64_t>(kLanes<R>, count - i));
      store<R>(to + i, load_as(from + i, some), some);
    }
  }
};

// Processors with AMX multiply pairs no faster than single numbers, and have to round these to bfloat16 first.
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define HAS_PAIRS
#endif

#ifdef HAS_PAIRS
// Two channels a word, rounded to bfloat16; sums in float32.
struct Pairs {
  typedef float R;
  static constexpr int kChannels = 2;
  static INLINE Vec<R> add(Vec<R> sum, Vec<R> words, const R* weight) {
    int32_t both;
    std::memcpy(&both, weight, sizeof both);
    return (Vec<R>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)words, (__m512bh)_mm512_set1_epi32(both));
  }
  static INLINE Vec<R> word(const Vec<R>* channels) {
    typedef uint32_t Word __attribute__((vector_size(kBytes)));
    return (Vec<R>)((Word)rounded(channels[0]) >> 16 | (Word)rounded(channels[1]));
  }
  static INLINE void add_outputs(Vec<R>* sums, Vec<R> words, R value) {
    // A number in bfloat16 is the upper half of its bits: as the second of a pair it is there, as the first it is moved.
    const __m512i second = (__m512i)spread(value), first = _mm512_srli_epi32(second, 16);
    sums[0] = (Vec<R>)_mm512_dpbf16_ps((__m512)sums[0], (__m512bh)(__m512)words, (__m512bh)first);
    sums[1] = (Vec<R>)_mm512_dpbf16_ps((__m512)sums[1], (__m512bh)(__m512)words, (__m512bh)second);
  }
  static void copy(const float* from, R* to, int64_t count) {
    for (int64_t i = 0; i < count; i += 2 * kLanes<R>) {
      const int some = int(std::min<int64_t>(2 * kLanes<R>, count - i));
      const Vec<R> low = load<R>(from + i, some);
      const Vec<R> high = some > kLanes<R> ? load<R>(from + i + kLanes<R>, some - kLanes<R>) : Vec<R>{};
      store<R>(to + i / 2, (Vec<R>)(__m512)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low), (some + 1) / 2);
    }
  }
  static void copy(const BFloat16* from, R* to, int64_t count) { std::memcpy(to, from, count * sizeof(BFloat16)); }

 private:
  // To the nearest bfloat16, ties to even, in the upper half of each lane.
  static INLINE Vec<R> rounded(Vec<R> value) {
    typedef uint32_t Word __attribute__((vector_size(kBytes)));
    const Word bits = (Word)value;
    return (Vec<R>)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
  }
};
#endif

template <class A>
constexpr int words_of(int channels) {
  return (channels + A::kChannels - 1) / A::kChannels;
}
