// One step of a whole network for one sample: a frame in; logits, or the features of the last layer, out.
//
// A network is a chain of layers: average pooling, attention, ConvLSTM layers with their maximum pooling, and spiking
// stages, of which a fully connected one is a convolution of one pixel. Its weights are laid out once, for all runners; a
// runner has the memory for one step at a time, and allocates nothing in it. The states lie where the caller has them, and
// change in place.
//
// Shapes: C input and D output channels, H height, W width of a layer's input, K side of its kernel.
#include "attention.h"
#include "convlstm_forward.h"
#include "spiking_stage.h"

namespace {

typedef Singles<R> A;

enum Kind : int64_t { kConvLSTM, kSpiking, kAveragePool, kAttention };
enum Join : int64_t { kAdd, kConcat, kReplace };  // an attention's result, with its input

// As in step_native.py. Weights: of a ConvLSTM those of its input (4 D, C, K, K) and of its hidden state
// (4 D, D, K, K), and its biases or null; of a spiking stage those of its convolution (D, C, K, K), and scale and shift of
// its channels; of an attention those of query and key (Dk, C) and of value (Dv, C), for all its heads, and of the
// projection of what they say (C, Dv) or null.
struct Description {
  int64_t kind, C, D, H, W, K, pool, heads, Dk, Dv, join;
  double neuron[8];
  const R* weights[4];
};

// The memory of one layer of one runner.
class Worker {
 public:
  virtual ~Worker() = default;
  // Returns the output. What the states hold counts for nothing where they are `fresh`.
  virtual const R* run(const R* in, R* const* states, bool fresh) = 0;
};

// The weights of one layer.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual std::unique_ptr<Worker> worker(int threads) const = 0;

  const int64_t C, D, pixels, pixels_out, states;
  const bool takes_planes, gives_planes;  // maps (C, H, W) in memory, or else (H, W, C)

 protected:
  Layer(const Description& d, int64_t states_, bool planes)
      : C(d.C), D(d.D), pixels(d.H * d.W), pixels_out((d.H / d.pool) * (d.W / d.pool)), states(states_),
        takes_planes(planes || pixels == 1), gives_planes(planes || pixels_out == 1) {}
};

template <int K>
class ConvLSTM final : public Layer {
  typedef Sample<A, K> One;

 public:
  explicit ConvLSTM(const Description& d)
      : Layer(d, 2, true),
        size_(size_of(d)),
        planes_(size_.H, size_.W, size_.before(), size_.after()),
        packed_(packed_size<A, K>(4 * size_.D, words_of<A>(size_.C) + words_of<A>(size_.D), size_.K)) {
    pack_gates<A, K>(d.weights[0], d.weights[1], d.weights[2], packed_.data(), size_);
  }
  std::unique_ptr<Worker> worker(int threads) const override { return std::make_unique<Own>(*this, threads); }

 private:
  static Size size_of(const Description& d) {
    const int size[] = {1, 1, int(d.C), int(d.D), int(d.H), int(d.W), int(d.K), int(d.pool)};
    return Size(size);
  }

  class Own final : public Worker {
   public:
    Own(const ConvLSTM& layer, int threads)
        : layer_(layer),
          threads_(threads),
          shared_size_(One::shared_size(layer.size_, layer.planes_)),
          own_size_(One::own_size(layer.size_, layer.planes_)),
          memory_(shared_size_ + threads * own_size_),
          pooled_(layer.size_.pool > 1 ? layer.size_.pooled() : 0) {}
    const R* run(const R* in, R* const* states, bool fresh) override {
      const Size& s = layer_.size_;
      Forward<R> f{};
      f.frames = in;
      if (!fresh) f.hidden = states[0], f.cell = states[1];
      if (s.pool > 1) f.pooled = pooled_.data();
      f.last_hidden = states[0], f.last_cell = states[1];
      on_team(threads_, [&](int rank, int members) {
        R* own = memory_.data() + shared_size_ + rank * own_size_;
        One one(s, layer_.planes_, f, layer_.packed_.data(), 0, memory_.data(), own, nullptr,
                band(s, rank, members), band(s, rank + 1, members));
        one.start();
        barrier_.wait(members);
        one.step(0);
      });
      return s.pool > 1 ? f.pooled : f.last_hidden;
    }

   private:
    const ConvLSTM& layer_;
    const int threads_;
    const size_t shared_size_, own_size_;
    Buffer<R> memory_, pooled_;
    Barrier barrier_;
  };

  const Size size_;
  const Planes<R> planes_;
  Buffer<R> packed_;
};

class Spiking final : public Layer {
 public:
  Spiking(const Description& d, double most)
      : Layer(d, 1, false),
        shape_(shape_of(d)),
        pool_(d.pool),
        most_(most),
        neuron_(d.neuron),
        weights_(shape_, d.weights[0], d.weights[1], d.weights[2]) {}
  std::unique_ptr<Worker> worker(int threads) const override { return std::make_unique<Own>(*this, threads); }

 private:
  static Shape shape_of(const Description& d) {
    const int64_t size[] = {d.H, d.W, d.C, d.D, d.K};
    return Shape(size, A::kChannels);
  }

  class Own final : public Worker {
   public:
    Own(const Spiking& layer, int threads)
        : layer_(layer),
          bands_(spiking_bands(1, layer.shape_, layer.pool_, threads)),
          team_(layer.shape_, layer.weights_, layer.most_, bands_.rows(layer.pool_), threads),
          spikes_(layer.pixels_out * layer.D) {}
    const R* run(const R* in, R* const* states, bool fresh) override {
      const R* start = fresh ? nullptr : states[0];
      spike(1, 1, layer_.shape_, layer_.pool_, layer_.neuron_, bands_, team_, in, start, spikes_.data(), states[0]);
      return spikes_.data();
    }

   private:
    const Spiking& layer_;
    const Bands bands_;
    Team<A, R> team_;
    Buffer<R> spikes_;
  };

  const Shape shape_;
  const int64_t pool_;
  const double most_;
  const Neuron neuron_;
  const Weights<A> weights_;
};

// Means over windows of `pool` x `pool` pixels, a rest left out; added up row by row, as in torch.
class AveragePool final : public Layer {
 public:
  explicit AveragePool(const Description& d) : Layer(d, 0, true), H_(d.H), W_(d.W), pool_(d.pool) {}
  std::unique_ptr<Worker> worker(int) const override { return std::make_unique<Own>(*this); }

 private:
  class Own final : public Worker {
   public:
    explicit Own(const AveragePool& layer) : layer_(layer), means_(layer.C * layer.pixels_out) {}
    const R* run(const R* in, R* const*, bool) override {
      const int64_t side = layer_.pool_, h = layer_.H_ / side, w = layer_.W_ / side;
      R* to = means_.data();
      for (int64_t c = 0; c < layer_.C; ++c)
        for (int64_t y = 0; y < h; ++y, to += w) {
          const R* rows = in + (c * layer_.H_ + y * side) * layer_.W_;
          if (side == 4)
            mean_row(rows, to, w, std::integral_constant<int64_t, 4>());
          else if (side == 2)
            mean_row(rows, to, w, std::integral_constant<int64_t, 2>());
          else
            mean_row(rows, to, w, side);
        }
      return means_.data();
    }

   private:
    template <class Side>
    void mean_row(const R* rows, R* to, int64_t w, Side side) const {
      for (int64_t x = 0; x < w; ++x) {
        R sum = 0;
        for (int64_t i = 0; i < side; ++i)
          for (int64_t j = 0; j < side; ++j) sum += rows[i * layer_.W_ + x * side + j];
        to[x] = sum / R(side * side);
      }
    }

    const AveragePool& layer_;
    Buffer<R> means_;
  };

  const int64_t H_, W_, pool_;
};

// Attention of the pixels, joined with what they were.
class Attention final : public Layer {
 public:
  explicit Attention(const Description& d)
      : Layer(d, 0, false), heads_(d.heads), Dk_(d.Dk), Dv_(d.Dv), join_(Join(d.join)), projects_(d.weights[3]) {
    const int64_t sizes[] = {Dk_ * C, Dk_ * C, Dv_ * C, projects_ ? C * Dv_ : 0};
    for (int i = 0; i < 4; ++i) weights_[i].assign(d.weights[i], d.weights[i] + sizes[i]);
  }
  std::unique_ptr<Worker> worker(int threads) const override { return std::make_unique<Own>(*this, threads); }

 private:
  // matrix (rows, columns) . vector
  static void multiply(const std::vector<R>& matrix, const R* vector, int64_t columns, R* to, int64_t rows) {
    const R* weight = matrix.data();
    for (int64_t row = 0; row < rows; ++row) {
      R sum = 0;
      for (int64_t column = 0; column < columns; ++column) sum += *weight++ * vector[column];
      to[row] = sum;
    }
  }

  class Own final : public Worker {
   public:
    Own(const Attention& layer, int threads)
        : layer_(layer),
          threads_(threads),
          dk_(int(layer.Dk_ / layer.heads_)),
          dv_(int(layer.Dv_ / layer.heads_)),
          attend_size_(attend_size<R>(int(layer.pixels), dk_, dv_)),
          queries_(layer.pixels * layer.Dk_),
          keys_(layer.pixels * layer.Dk_),
          values_(layer.pixels * layer.Dv_),
          said_(layer.pixels * layer.Dv_),
          joined_(layer.pixels * layer.D),
          heard_(Heard<R>::size(int(layer.pixels), dk_, dv_)),
          memory_(threads * attend_size_),
          one_(std::max(layer.Dk_, layer.Dv_)),
          places_(layer.pixels) {}
    const R* run(const R* in, R* const*, bool) override {
      project(in);
      for (int64_t head = 0; head < layer_.heads_; ++head)
        if (dk_ == 2 && dv_ == 2)
          attend_in<2, 2>(head);
        else
          attend_in<0, 0>(head);
      join(in);
      return joined_.data();
    }

   private:
    // Queries, keys and values (heads, pixels, channels); those of empty pixels are zeros.
    void project(const R* in) {
      const auto spread_out = [&](int64_t l, R* to, int d) {
        for (int64_t head = 0; head < layer_.heads_; ++head)
          std::copy_n(one_.data() + head * d, d, to + (head * layer_.pixels + l) * d);
      };
      for (int64_t l = 0; l < layer_.pixels; ++l, in += layer_.C) {
        const bool empty = is_silent(in, int(layer_.C));
        if (empty) std::fill_n(one_.data(), std::max(layer_.Dk_, layer_.Dv_), R(0));
        if (!empty) multiply(layer_.weights_[0], in, layer_.C, one_.data(), layer_.Dk_);
        spread_out(l, queries_.data(), dk_);
        if (!empty) multiply(layer_.weights_[1], in, layer_.C, one_.data(), layer_.Dk_);
        spread_out(l, keys_.data(), dk_);
        if (!empty) multiply(layer_.weights_[2], in, layer_.C, one_.data(), layer_.Dv_);
        spread_out(l, values_.data(), dv_);
      }
    }

    template <int DK, int DV>
    void attend_in(int64_t head) {
      const int64_t item = head * layer_.pixels;
      const R *q = queries_.data() + item * dk_, *k = keys_.data() + item * dk_, *v = values_.data() + item * dv_;
      const Voices<R> voices(int(layer_.pixels), dk_, dv_, q, k, v, places_.data());
      const Heard<R> heard(voices, k, v, heard_.data());
      on_team(threads_, [&](int rank, int members) {
        const auto part = [&](int member) { return int(int64_t(voices.count) * member / members); };
        attend<R, DK, DV>(voices, heard, q, R(1 / std::sqrt(double(dk_))), part(rank), part(rank + 1),
                          memory_.data() + rank * attend_size_, [&](int l, const R* said, R) {
                            std::copy_n(said, dv_, said_.data() + l * layer_.Dv_ + head * dv_);
                          });
      });
    }

    void join(const R* in) {
      const int64_t C = layer_.C, Dv = layer_.Dv_;
      const R* said = said_.data();
      R* to = joined_.data();
      for (int64_t l = 0; l < layer_.pixels; ++l, in += C, said += Dv, to += layer_.D)
        if (layer_.join_ == kAdd) {
          if (layer_.projects_)
            multiply(layer_.weights_[3], said, Dv, to, C);
          else
            std::copy_n(said, C, to);
          for (int64_t c = 0; c < C; ++c) to[c] += in[c];
        } else {
          if (layer_.join_ == kConcat) std::copy_n(in, C, to);
          std::copy_n(said, Dv, to + (layer_.join_ == kConcat ? C : 0));
        }
    }

    const Attention& layer_;
    const int threads_, dk_, dv_;  // channels of a head
    const size_t attend_size_;
    Buffer<R> queries_, keys_, values_, said_, joined_, heard_, memory_, one_;
    Buffer<int> places_;
  };

  const int64_t heads_, Dk_, Dv_;
  const Join join_;
  const bool projects_;
  std::vector<R> weights_[4];
};

// `votes`: outputs of each class, whose mean over the steps, times `scale`, is its logit; 0 where the features of the
// last layer are the output.
struct Network {
  std::vector<std::unique_ptr<Layer>> layers;
  const int64_t votes;
  const R scale;
  Network(const Description* descriptions, int count, double most, int64_t votes_, double scale_)
      : votes(votes_), scale(R(scale_)) {
    for (const Description* d = descriptions; d < descriptions + count; ++d)
      if (d->kind == kSpiking)
        layers.push_back(std::make_unique<Spiking>(*d, most));
      else if (d->kind == kAveragePool)
        layers.push_back(std::make_unique<AveragePool>(*d));
      else if (d->kind == kAttention)
        layers.push_back(std::make_unique<Attention>(*d));
      else if (d->K == 3)
        layers.push_back(std::make_unique<ConvLSTM<3>>(*d));
      else
        layers.push_back(std::make_unique<ConvLSTM<0>>(*d));
  }
};

// (rows, columns) to (columns, rows).
void turn(const R* from, R* to, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) to[column * rows + row] = *from++;
}

// What the network sees of counts: seen[count], of which there are `known`. Returns false where another number is.
bool look_up(const R* counts, int64_t number, const R* seen, int64_t known, R* to) {
  for (int64_t i = 0; i < number; i += kL) {
    const int some = int(std::min<int64_t>(kL, number - i));
    store<R>(to + i, spread<R>(seen[0]), some);
    for (uint32_t found = nonzero_lanes(load<R>(counts + i, some)); found; found &= found - 1) {
      const int64_t at = i + __builtin_ctz(found);
      if (!(counts[at] > 0 && counts[at] < R(known)) || R(int64_t(counts[at])) != counts[at]) return false;
      to[at] = seen[int64_t(counts[at])];
    }
  }
  return true;
}

class Runner {
 public:
  Runner(const Network& network, int threads)
      : network_(network), frame_(network.layers[0]->C * network.layers[0]->pixels) {
    bool planes = true;
    for (const auto& layer : network.layers) {
      workers_.push_back(layer->worker(threads));
      turned_.push_back(std::make_unique<Buffer<R>>(planes == layer->takes_planes ? 0 : layer->C * layer->pixels));
      planes = layer->gives_planes;
    }
  }

  // `frame` (C, H, W): as it is, or where there is `seen` as counts (null for zeros). `steps`: how many there have been
  // since the states were fresh, this one included. Returns false, with nothing done, where a count is not known.
  bool step(const R* frame, const R* seen, int64_t known, R* const* states, int64_t steps, R* out) {
    if (seen) {
      const Layer& first = *network_.layers[0];
      const int64_t number = first.C * first.pixels;
      if (!frame)
        std::fill_n(frame_.data(), number, seen[0]);
      else if (!look_up(frame, number, seen, known, frame_.data()))
        return false;
      frame = frame_.data();
    }
    const R* maps = frame;
    int64_t channels = network_.layers[0]->C, pixels = network_.layers[0]->pixels;
    bool planes = true;
    for (size_t i = 0; i < workers_.size(); ++i) {
      const Layer& layer = *network_.layers[i];
      if (planes != layer.takes_planes) {
        turn(maps, turned_[i]->data(), planes ? channels : pixels, planes ? pixels : channels);
        maps = turned_[i]->data();
      }
      maps = workers_[i]->run(maps, states, steps == 1);
      states += layer.states;
      channels = layer.D, pixels = layer.pixels_out, planes = layer.gives_planes;
    }
    if (network_.votes)
      vote(maps, channels, *states, steps, out);
    else if (planes)
      std::copy_n(maps, channels * pixels, out);
    else
      turn(maps, out, pixels, channels);
    return true;
  }

 private:
  void vote(const R* fired, int64_t outputs, R* total, int64_t steps, R* logits) const {
    for (int64_t k = 0; k < outputs / network_.votes; ++k) {
      R sum = 0;
      for (int64_t i = 0; i < network_.votes; ++i) sum += *fired++;
      const R share = sum / R(network_.votes);
      total[k] = steps == 1 ? share : total[k] + share;
      logits[k] = network_.scale * (total[k] / R(steps));
    }
  }

  const Network& network_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Buffer<R> frame_;                                 // as the network sees it
  std::vector<std::unique_ptr<Buffer<R>>> turned_;  // each layer's input, where it comes in the other order
};

template <class Make>
auto made(const Make& make) -> decltype(make()) {
  decltype(make()) result = nullptr;
  guarded([&] { result = make(); });
  return result;
}

}  // namespace

// Null where there is no memory.
EXPORT Network* network_new(const Description* layers, int count, double most, int64_t votes, double scale) {
  return made([&] { return new Network(layers, count, most, votes, scale); });
}

EXPORT void network_delete(Network* network) { delete network; }

// Null where there is no memory. The network has to live as long.
EXPORT Runner* runner_new(const Network* network, int threads) {
  return made([&] { return new Runner(*network, threads); });
}

EXPORT void runner_delete(Runner* runner) { delete runner; }

// 0; 1 where there is no thread to be had; 2, with nothing done, where a count is not known. States: hidden state and
// cell of a ConvLSTM, the potential of a spiking stage, for each layer that has some, and the votes so far.
EXPORT int runner_step(Runner* runner, const R* frame, const R* seen, int64_t known, R* const* states, int64_t steps,
                       R* out) {
  bool known_all = true;
  if (guarded([&] { known_all = runner->step(frame, seen, known, states, steps, out); })) return 1;
  return known_all ? 0 : 2;
}

// Takes `each` numbers of every tensor, from its first to its `last`, as samples (tensors, each), or else compares
// them; returns whether all are the same.
EXPORT int samples(int take, const R* const* tensors, const int64_t* last, int count, R* samples, int each) {
  for (int i = 0; i < count; ++i)
    for (int k = 0; k < each; ++k, ++samples) {
      const R* number = tensors[i] + last[i] * k / (each - 1);
      if (take)
        *samples = *number;
      else if (std::memcmp(number, samples, sizeof(R)))
        return 0;
    }
  return 1;
}
