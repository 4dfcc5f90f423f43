// LIF neurons, vector by vector.
#pragma once

#include "words.h"

typedef REAL R;  // of potentials and arithmetic: float or double
typedef Vec<R> V;
constexpr int kL = kLanes<R>;

enum Surrogate { kATan, kSigmoid, kRectangle, kExponential };

struct Neuron {
  R tau, threshold, rest, alpha, scale;
  int soft, detach, surrogate;
  // A division by a power of two is a product, exactly.
  R inverse;
  bool exact;
  explicit Neuron(const double* v)
      : tau(v[0]), threshold(v[1]), rest(v[2]), alpha(v[3]), scale(v[4]), soft(v[5]), detach(v[6]), surrogate(v[7]) {
    int exponent;
    exact = std::frexp(tau, &exponent) == (R)0.5;
    inverse = 1 / tau;
  }
  INLINE V charge(V v, V x) const {
    const V pull = x - (v - rest);
    return exact ? v + pull * inverse : v + pull / tau;
  }
  INLINE V after(V h) const {
    if (soft) return h - (h >= threshold ? spread<R>(threshold) : V{});
    return h >= threshold ? spread<R>(rest) : h;
  }
  INLINE V derivative(V h) const {
    const V x = h - threshold;
    switch (surrogate) {
      case kATan: {
        const V z = (R)(1.57079632679489661923 * alpha) * x;
        return (alpha / 2) / ((R)1 + z * z);
      }
      case kSigmoid: {
        const V s = sigmoid<R>(alpha * x);
        return alpha * s * ((R)1 - s);
      }
      case kRectangle: {
        const V distance = x < (R)0 ? -x : x;
        return distance < (R)0.5 / alpha ? spread<R>(alpha) : V{};
      }
      default: {
        const V distance = x < (R)0 ? -x : x;
        return scale * exp_of(-alpha * distance);
      }
    }
  }
};
