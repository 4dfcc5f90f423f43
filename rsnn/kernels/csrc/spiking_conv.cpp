// Convolutions of spikes, alone or with the LIF neurons and the maximum pooling that follow them.
//
// Shapes as in spiking_stage.h.
#include "spiking_stage.h"
#ifdef __AVX512F__
#include "tiles.h"
#endif

namespace {

void convolve(int64_t images, const Shape& s, int threads, double most, const R* x, const R* w, R* out) {
  typedef Singles<R> A;
  const Weights<A> weights(s, w, nullptr, nullptr);
  const Bands bands(images, s.H, 1, s.H, threads);
  Team<A, R> team(s, weights, most, bands.rows(1), threads);
  team.run(images * bands.count, [&](int64_t item, Convolution<A, R>& convolution, R* row, R*) {
    const int64_t image = item / bands.count, y0 = item % bands.count * bands.each, y1 = std::min(s.H, y0 + bands.each);
    convolution.take(x + image * s.H * s.W * s.C, y0, y1);
    for (int64_t y = y0; y < y1; ++y) {
      R* to = out + (image * s.H + y) * s.W * s.D;
      convolution.row(y, s.outputs == s.D ? to : row);
      if (s.outputs == s.D) continue;
      for (int64_t pixel = 0; pixel < s.W; ++pixel)
        for (int64_t d = 0; d < s.D; d += kL)
          store<R>(to + pixel * s.D + d, load<R>(row + pixel * s.outputs + d), int(std::min<int64_t>(kL, s.D - d)));
    }
  });
}

// What is not zero of some maps, channel by channel.
class ByChannel {
 public:
  struct Spike {
    int32_t map, y, x;
    R value;
  };
  ByChannel(const Shape& s, int64_t maps) : s_(s), most_(maps * s.H * s.W), count_(s.C), spikes_(s.C * most_) {}
  void fill(const R* maps, int64_t count) {
    std::fill(count_.begin(), count_.end(), 0);
    for (int64_t map = 0; map < count; ++map)
      for (int64_t y = 0; y < s_.H; ++y)
        for (int64_t x = 0; x < s_.W; ++x, maps += s_.C)
          for (int64_t c = 0; c < s_.C; c += kL) {
            const V values = load<R>(maps + c, int(std::min<int64_t>(kL, s_.C - c)));
            for (uint32_t found = nonzero_lanes(values); found; found &= found - 1) {
              const int64_t channel = c + __builtin_ctz(found);
              spikes_[channel * most_ + count_[channel]++] = {int32_t(map), int32_t(y), int32_t(x), maps[channel]};
            }
          }
  }
  const Spike* begin(int64_t channel) const { return spikes_.data() + channel * most_; }
  const Spike* end(int64_t channel) const { return begin(channel) + count_[channel]; }

 private:
  const Shape& s_;
  const int64_t most_;
  std::vector<int64_t> count_;
  std::vector<Spike> spikes_;
};

// Adds to B vectors of d_w what the spikes of a channel say of one tap.
template <int B>
INLINE void add_tap(const Shape& s, const ByChannel& spikes, int64_t c, int64_t up, int64_t left, const R* d_out, R* d_w) {
  V sums[B];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) sums[b] = load<R>(d_w + b * kL);
  for (const auto* spike = spikes.begin(c); spike != spikes.end(c); ++spike) {
    const int64_t y = spike->y + up, x = spike->x + left;
    if (y < 0 || y >= s.H || x < 0 || x >= s.W) continue;
    const R* from = d_out + ((spike->map * s.H + y) * s.W + x) * s.D;
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) sums[b] += spike->value * load<R>(from + b * kL);
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) store<R>(d_w + b * kL, sums[b]);
}

// Gradient of the weights (D, C, K, K), D in whole vectors, by spikes.
void weights_gradient(int64_t images, const Shape& s, int threads, const R* x, const R* d_out, R* d_w) {
  const int64_t each = std::max<int64_t>(1, 512 / (s.H * s.W)), taps = s.K * s.K, size = s.C * taps * s.D;
  Buffer<R> sums(threads * size);
  std::vector<ByChannel> lists(threads, ByChannel(s, each));
  on_team(threads, [&](int rank, int members) {
    // Dealt out beforehand, so that the same numbers are added in the same order every time.
    for (int64_t first = rank * each; first < images; first += members * each) {
      lists[rank].fill(x + first * s.H * s.W * s.C, std::min(each, images - first));
      const R* gradients = d_out + first * s.H * s.W * s.D;
      for (int64_t c = 0; c < s.C; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t up = s.before() - tap / s.K, left = s.before() - tap % s.K;
          R* to = sums.data() + rank * size + (c * taps + tap) * s.D;
          int64_t d = 0;
          for (; d + kVectors * kL <= s.D; d += kVectors * kL)
            add_tap<kVectors>(s, lists[rank], c, up, left, gradients + d, to + d);
          for (; d < s.D; d += kL) add_tap<1>(s, lists[rank], c, up, left, gradients + d, to + d);
        }
    }
  });
  for (int64_t d = 0; d < s.D; ++d)
    for (int64_t n = 0; n < s.C * taps; ++n) {
      R sum = 0;
      for (int rank = 0; rank < threads; ++rank) sum += sums.data()[rank * size + n * s.D + d];
      d_w[d * s.C * taps + n] = sum;
    }
}

// What P pixels next to each other, of D gradients each, give to all taps and channels: `lanes` (whole blocks) numbers each.
template <int P>
INLINE void spread_pixels(const R* d_out, int64_t D, const R* weights, int64_t lanes, R* to) {
  constexpr int B = kVectors / 2;
  for (int64_t lane = 0; lane < lanes; lane += B * kL) {
    V sums[P][B] = {};
    for (int64_t d = 0; d < D; ++d)
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) {
        const V weight = held(load<R>(weights + d * lanes + lane + b * kL));
#pragma GCC unroll 6
        for (int p = 0; p < P; ++p) sums[p][b] += d_out[p * D + d] * weight;
      }
#pragma GCC unroll 6
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) store<R>(to + p * lanes + lane + b * kL, sums[p][b]);
  }
}

// Gradient of maps of few channels.
void maps_gradient(int64_t images, const Shape& s, int threads, const R* w, const R* d_out, R* d_x) {
  constexpr int P = kVectors == 8 ? 6 : 2;
  const int64_t taps = s.K * s.K, block = kVectors / 2 * kL, lanes = (taps * s.C + block - 1) / block * block;
  Buffer<R> weights(s.D * lanes);  // [output][row][column][channel]
  for (int64_t d = 0; d < s.D; ++d)
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t tap = 0; tap < taps; ++tap) weights.data()[d * lanes + tap * s.C + c] = w[(d * s.C + c) * taps + tap];
  const int64_t stride = (s.W + s.K - 1) * s.C, padded = (s.H + s.K - 1) * stride, in_reach = s.K * s.C;
  Buffer<R> memory(threads * (padded + P * lanes));
  std::atomic<int64_t> next{0};
  on_team(threads, [&](int rank, int) {
    R *map = memory.data() + rank * (padded + P * lanes), *given = map + padded;
    for (int64_t image; (image = next.fetch_add(1)) < images;) {
      std::fill_n(map, padded, R(0));
      const R* from = d_out + image * s.H * s.W * s.D;
      for (int64_t y = 0; y < s.H; ++y)
        for (int64_t x = 0, some; x < s.W; x += some, from += some * s.D) {
          some = x + P <= s.W ? P : 1;
          for (int64_t i = 0; i < some * s.D; i += kL) __builtin_prefetch(from + some * s.D + i);
          if (some == P)
            spread_pixels<P>(from, s.D, weights.data(), lanes, given);
          else
            spread_pixels<1>(from, s.D, weights.data(), lanes, given);
          for (int64_t p = 0; p < some; ++p)
            for (int64_t ky = 0; ky < s.K; ++ky) {
              R* to = map + (y + ky) * stride + (x + p) * s.C;
              for (int64_t i = 0; i < in_reach; ++i) to[i] += given[p * lanes + ky * in_reach + i];
            }
        }
      for (int64_t y = 0; y < s.H; ++y)
        std::copy_n(map + (y + s.before()) * stride + s.before() * s.C, s.W * s.C, d_x + (image * s.H + y) * s.W * s.C);
    }
  });
}

#ifdef __AVX512F__
// Gradient of maps of many channels, K = 3.
void maps_gradient_of_many(int64_t images, const Shape& s, int threads, const R* w, const R* d_out, R* d_x) {
  const tiles::Kernels kernels(s.C, s.D, w);
  std::vector<std::unique_ptr<tiles::Tiles>> own;
  for (int rank = 0; rank < threads; ++rank) own.push_back(std::make_unique<tiles::Tiles>(s, kernels));
  const int64_t all = images * own[0]->each();
  std::atomic<int64_t> next{0};
  on_team(threads, [&](int rank, int) {
    for (int64_t first; (first = next.fetch_add(tiles::kTogether)) < all;)
      own[rank]->run(first, std::min(all, first + tiles::kTogether), d_out, d_x);
  });
}
#endif

template <class A, class X>
void spike_all(int64_t T, int64_t N, const Shape& s, int64_t pool, const Neuron& neuron, int threads, double most,
               const X* x, const R* w, const R* scale, const R* shift, const R* start, X* spikes, R* end,
               int64_t* number) {
  const Weights<A> weights(s, w, scale, shift);
  const Bands bands = spiking_bands(N, s, pool, threads);
  Team<A, X> team(s, weights, most, bands.rows(pool), threads);
  *number = spike(T, N, s, pool, neuron, bands, team, x, start, spikes, end);
}

}  // namespace

// Sizes: T, N, H, W, C, D, K, pool. Currents are convolutions, times `scale` and plus `shift` of each channel.
#define SPIKES(NAME, A, X)                                                                                            \
  EXPORT int NAME(const int64_t* size, int threads, double most, const double* neuron, const X* x, const R* w,        \
                  const R* scale, const R* shift, const R* start, X* spikes, R* end, int64_t* number) {               \
    const Shape s(size + 2, A::kChannels);                                                                            \
    return guarded([&] {                                                                                              \
      spike_all<A, X>(size[0], size[1], s, size[7], Neuron(neuron), threads, most, x, w, scale, shift, start, spikes, \
                      end, number);                                                                                   \
    });                                                                                                               \
  }

// Sizes: images, H, W, C, D, K.
EXPORT int convolution(const int64_t* size, int threads, double most, const R* x, const R* w, R* out) {
  const Shape s(size + 1, 1);
  return guarded([&] { convolve(size[0], s, threads, most, x, w, out); });
}

EXPORT int convolution_weights_gradient(const int64_t* size, int threads, const R* x, const R* d_out, R* d_w) {
  const Shape s(size + 1, 1);
  return guarded([&] { weights_gradient(size[0], s, threads, x, d_out, d_w); });
}

EXPORT int convolution_maps_gradient(const int64_t* size, int threads, const R* w, const R* d_out, R* d_x) {
  const Shape s(size + 1, 1);
  return guarded([&] { maps_gradient(size[0], s, threads, w, d_out, d_x); });
}

// Tells whether `convolution_maps_gradient_of_many` is there: for fewer registers it would be slower than torch's own.
EXPORT int convolution_has_tiles() {
#ifdef __AVX512F__
  return 1;
#else
  return 0;
#endif
}

#ifdef __AVX512F__
EXPORT int convolution_maps_gradient_of_many(const int64_t* size, int threads, const R* w, const R* d_out, R* d_x) {
  const Shape s(size + 1, 1);
  return guarded([&] { maps_gradient_of_many(size[0], s, threads, w, d_out, d_x); });
}
#endif

SPIKES(spiking_convolution, Singles<R>, R)
#ifdef REAL_float
#ifdef HAS_PAIRS
SPIKES(spiking_convolution_bfloat16, Pairs, BFloat16)
#else
SPIKES(spiking_convolution_bfloat16, Singles<R>, BFloat16)
#endif
#endif
