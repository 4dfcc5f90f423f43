// Winograd's F(2, 3): a kernel of 3 over 4 pixels in a row gives 2 results from 4 products, of 4 sums of the pixels and 4 of
// the kernel, instead of 6. Where the pixels are equal, so are the results, to the last bit.
#pragma once

#include "common.h"

// Pixels (each `step` after the one before) to their sums, in place.
template <class T>
INLINE void winograd_pixels(T* d, int step) {
  const T second = d[step], third = d[2 * step];
  d[0] -= third;
  d[step] = second + third;
  d[2 * step] = third - second;
  d[3 * step] = second - d[3 * step];
}

template <class T>
INLINE void winograd_kernel(T first, T second, T third, T* to, int step) {
  // Half, a float, times anything.
  to[0] = first;
  to[step] = (first + second + third) * 0.5f;
  to[2 * step] = (first - second + third) * 0.5f;
  to[3 * step] = third;
}

// The two results of four products.
template <class T>
INLINE void winograd_results(const T* products, int step, T& first, T& second) {
  first = products[0] + products[step] + products[2 * step];
  second = products[step] - products[2 * step] - products[3 * step];
}

// A kernel's gradient of those of its sums. The last sum is taken with the second result's gradient as it is, its sign here.
template <class T>
INLINE void winograd_gradient(const T* sums, int step, T& first, T& second, T& third) {
  const T plus = (sums[step] + sums[2 * step]) * 0.5f;
  first = sums[0] + plus;
  second = (sums[step] - sums[2 * step]) * 0.5f;
  third = plus - sums[3 * step];
}
