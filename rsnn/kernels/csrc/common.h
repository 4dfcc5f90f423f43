// What every native kernel needs: vectors of 64 bytes, a fast exponential, and a team of threads.
//
// Vectors are the compilers' own extension (GCC, Clang): wide registers where the machine has them, several narrow ones
// where it does not.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
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

// 2^n and e^r - 1 with x = n ln(2) + r, |r| <= ln(2) / 2, x clamped to +-`limit`, in float32.
INLINE void split_exp(Vec<float> x, float limit, Vec<float>& power, Vec<float>& rest) {
  typedef Vectors<float>::I I;
  x = x < limit ? x : spread(limit);
  x = x > -limit ? x : spread(-limit);
  const Vec<float> shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are round(x / ln 2)
  const Vec<float> n = shifted - 12582912.0f;
  Vec<float> r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec<float> p = r * 1.98756912e-4f + 1.39819994e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666657e-1f;
  p = p * r + 0.5f;
  rest = p * (r * r) + r;
  power = (Vec<float>)(((I)shifted << 23) + 0x3f800000);
}

// exp(x) to about 1 ulp, x clamped to +-80.
INLINE Vec<float> exp_of(Vec<float> x, float limit = 80.0f) {
  Vec<float> power, rest;
  split_exp(x, limit, power, rest);
  return power * rest + power;
}

// exp(x) - 1, exact near 0 too.
INLINE Vec<float> expm1_of(Vec<float> x, float limit = 80.0f) {
  Vec<float> power, rest;
  split_exp(x, limit, power, rest);
  return power * rest + (power - 1.0f);
}

INLINE Vec<double> exp_of(Vec<double> x, double limit = 700.0) {
  Vec<double> result;
  for (int lane = 0; lane < kLanes<double>; ++lane) result[lane] = std::exp(std::fmin(std::fmax(x[lane], -limit), limit));
  return result;
}

INLINE Vec<double> expm1_of(Vec<double> x, double limit = 700.0) {
  Vec<double> result;
  for (int lane = 0; lane < kLanes<double>; ++lane)
    result[lane] = std::expm1(std::fmin(std::fmax(x[lane], -limit), limit));
  return result;
}

template <class R>
INLINE Vec<R> sigmoid(Vec<R> x) {
  return (R)1 / ((R)1 + exp_of(-x));
}

// tanh(x) = -m / (m + 2) with m = e^(-2 x) - 1.
template <class R>
INLINE Vec<R> tanh_of(Vec<R> x) {
  const Vec<R> m = expm1_of(x * (R)-2);
  return -m / (m + (R)2);
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

 private:
  std::vector<R> memory_;
  R* data_;
};
