// What every native kernel needs: vectors of 64 bytes, fast exponentials, and a team of threads.
//
// Vectors are the compilers' own extension (GCC, Clang): wide registers where the machine has them, several narrow ones
// where it does not.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))

constexpr int kBytes = 64;

template <class R>
struct Vectors;

template <>
struct Vectors<float> {
  typedef float V __attribute__((vector_size(kBytes)));
  typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));
  typedef int32_t I __attribute__((vector_size(kBytes)));
};

template <>
struct Vectors<double> {
  typedef double V __attribute__((vector_size(kBytes)));
  typedef double Unaligned __attribute__((vector_size(kBytes), aligned(8), may_alias));
  typedef int64_t I __attribute__((vector_size(kBytes)));
};

template <class R>
using Vec = typename Vectors<R>::V;
template <class R>
constexpr int kLanes = kBytes / sizeof(R);

template <class R>
INLINE Vec<R> load(const R* from) {
  return *reinterpret_cast<const typename Vectors<R>::Unaligned*>(from);
}

template <class R>
INLINE void store(R* to, Vec<R> value) {
  *reinterpret_cast<typename Vectors<R>::Unaligned*>(to) = value;
}

// The first `count` lanes, zeros beyond.
template <class R>
INLINE Vec<R> load(const R* from, int count) {
  if (count >= kLanes<R>) return load<R>(from);
  Vec<R> value{};
  for (int lane = 0; lane < count; ++lane) value[lane] = from[lane];
  return value;
}

// The first `count` lanes only.
template <class R>
INLINE void store(R* to, Vec<R> value, int count) {
  if (count >= kLanes<R>)
    store<R>(to, value);
  else
    for (int lane = 0; lane < count; ++lane) to[lane] = value[lane];
}

template <class R>
INLINE Vec<R> spread(R value) {
  return value - Vec<R>{};
}

// A value that is loaded once: compilers would rather do so at every use.
template <class V>
INLINE V held(V value) {
#ifdef __AVX512F__
  asm("" : "+v"(value));
#endif
  return value;
}

// The first `count` lanes of a vector, zeros beyond.
template <class R>
INLINE Vec<R> first_lanes(Vec<R> value, int count) {
  for (int lane = count; lane < kLanes<R>; ++lane) value[lane] = 0;
  return value;
}

template <class R>
INLINE R total(Vec<R> v) {
  R sum = 0;
  for (int lane = 0; lane < kLanes<R>; ++lane) sum += v[lane];
  return sum;
}

// 2^(x + more) = power (1 + rest), with power = 2^n, in float32; x clamped to at most `limit`, |more| small.
INLINE void split_exp2(Vec<float> x, Vec<float> more, float limit, Vec<float>& power, Vec<float>& rest) {
  x = x > limit ? spread(limit) : x;
#ifdef __AVX512F__
  Vec<float> r = (Vec<float>)_mm512_reduce_ps((__m512)x, 0);
  power = (Vec<float>)_mm512_scalef_ps(_mm512_set1_ps(1), (__m512)(x - r));
#else
  x = x < -126.0f ? spread(-126.0f) : x;
  const Vec<float> shifted = x + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are round(x)
  Vec<float> r = x - (shifted - 12582912.0f);
  power = (Vec<float>)(((Vectors<float>::I)shifted << 23) + 0x3f800000);
#endif
  r += more;
  Vec<float> p = r * 1.53533619e-4f + 1.33988744e-3f;
  p = p * r + 9.61843736e-3f;
  p = p * r + 5.55033247e-2f;
  p = p * r + 2.40226479e-1f;
  p = p * r + 6.93147203e-1f;
  rest = p * r;
}

// 2^x to about 1 ulp, x clamped to at most `limit`.
INLINE Vec<float> exp2_of(Vec<float> x, float limit = 126.0f) {
  Vec<float> power, rest;
  split_exp2(x, Vec<float>{}, limit, power, rest);
  return power * rest + power;
}

// 2^x - 1, exact near 0 too.
INLINE Vec<float> exp2m1_of(Vec<float> x, float limit = 126.0f) {
  Vec<float> power, rest;
  split_exp2(x, Vec<float>{}, limit, power, rest);
  return power * rest + (power - 1.0f);
}

// e^x to about 1 ulp, x clamped to at most 87.
INLINE Vec<float> exp_of(Vec<float> x) {
  x = x > 87.0f ? spread(87.0f) : x;
  x = x < -87.0f ? spread(-87.0f) : x;
  const Vec<float> whole = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 rounds
  // ln 2 in two parts, the first so short that its product is exact.
  const Vec<float> more = (x - whole * 0.693359375f) * 1.44269504f + whole * 3.06131867e-4f;
  Vec<float> power, rest;
  split_exp2(whole, more, 126.0f, power, rest);
  return power * rest + power;
}

template <class Function>
INLINE Vec<double> in_lanes(Vec<double> x, double limit, const Function& function) {
  Vec<double> result;
  for (int lane = 0; lane < kLanes<double>; ++lane) result[lane] = function(x[lane] > limit ? limit : x[lane]);
  return result;
}

INLINE Vec<double> exp2_of(Vec<double> x, double limit = 1022.0) {
  return in_lanes(x, limit, [](double lane) { return std::exp2(lane); });
}

INLINE Vec<double> exp2m1_of(Vec<double> x, double limit = 1022.0) {
  return in_lanes(x, limit, [](double lane) { return std::expm1(lane * 0.693147180559945309417); });
}

INLINE Vec<double> exp_of(Vec<double> x) {
  return in_lanes(x, 709.0, [](double lane) { return std::exp(lane); });
}

template <class R>
INLINE Vec<R> sigmoid(Vec<R> x) {
  return (R)1 / ((R)1 + exp_of(-x));
}

// Where the members of a team wait until all of them are there.
class Barrier {
 public:
  void wait(int size) {
    if (size == 1) return;
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      if (spins > 2000) std::this_thread::yield();
  }

 private:
  std::atomic<int> arrived_{0}, round_{0};
};

// Calls run(rank, size) on `threads` threads and returns when all are done; size may be smaller than asked for.
template <class Run>
void on_team(int threads, const Run& run) {
  if (threads <= 1) {
    run(0, 1);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  run(omp_get_thread_num(), omp_get_num_threads());
#else
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank) others.emplace_back([&run, rank, threads] { run(rank, threads); });
  run(0, threads);
  for (auto& other : others) other.join();
#endif
}

// Zeroed memory of whole cache lines.
template <class R>
class Buffer {
 public:
  explicit Buffer(size_t count) : memory_(count + 2 * kLanes<R>) {
    const auto at = reinterpret_cast<uintptr_t>(memory_.data());
    data_ = memory_.data() + ((kBytes - at % kBytes) % kBytes) / sizeof(R);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  R* data() { return data_; }
  const R* data() const { return data_; }

 private:
  std::vector<R> memory_;
  R* data_;
};

// Calls run() and returns 0, or 1 where there is no memory or no thread to be had.
template <class Run>
int guarded(const Run& run) {
  try {
    run();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
