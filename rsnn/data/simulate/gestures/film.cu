// Clips before a simulated event camera: film.py, draw.py and ../pixels.py as one kernel. A thread is a pixel, which
// goes through all frames of its clip: what it sees, and the events that it sends. The structures are filled in
// film_cupy.py.
//
// Letters: x, y are pixels right and down. Operations are in the order of the Python code, so that results differ by
// rounding alone; only noise falls differently.
//
// No header is included, so that any compiler of CUDA can build it, and so can a C++ compiler that is told what
// __global__, threadIdx and the like are.

constexpr int kSide = 128, kPixels = kSide * kSide, kMargin = 14, kLayerSide = kSide + 2 * kMargin;
constexpr int kLayer = kLayerSide * kLayerSide;
constexpr int kStillEvery = 4;  // frames between two drawings of what stands still
constexpr int kLimbAcross = 24, kLimbAlong = 48, kHandAcross = 40, kHandAlong = 56;
constexpr int kLimb = kLimbAcross * kLimbAlong, kHand = kHandAcross * kHandAlong;
constexpr float kHandBehind = static_cast<float>(-0.12 * (kHandAlong - 1) / (1.05 + 0.12));  // texels before the wrist
constexpr int kTilesAcross = kSide / 16, kTiles = kTilesAcross * (kSide / 8);
constexpr int kThreads = 128;  // of a block: 16 x 8 pixels, a warp has 8 x 4
constexpr int kBlocks = 8;     // that should fit into a multiprocessor
constexpr double kTicks = 64;  // a microsecond

// Places in a clip's images, which are floats.
constexpr int kLight = 0, kBackground = kLight + kPixels;
constexpr int kLayers = kBackground + kLayer;  // opacity and intensity of the torso and of the head
constexpr int kLimbs = kLayers + 4 * kLayer;   // upper arm and forearm of the right and of the left arm
constexpr int kHands = kLimbs + 4 * kLimb;     // opacity and intensity of the right and of the left hand
constexpr int kArrays = kHands + 4 * kHand;    // of the pixels, see below
constexpr int kPositive = kArrays, kNegative = kPositive + kPixels, kLeak = kNegative + kPixels;
constexpr int kExcess = kLeak + kPixels, kNoiseInterval = kExcess + kPixels;
constexpr int kNoiseLost = kNoiseInterval + kPixels, kNoiseOn = kNoiseLost + kPixels;
constexpr int kImages = kNoiseOn + kPixels;  // of a clip

struct alignas(16) Box {
    int left, top, right, bottom;  // the outermost pixels that a part may touch
};
struct alignas(16) Limb {
    Box box;
    float x, y, along_x, along_y;  // its begin and direction
    float length, per_length, radius, growth;
};
struct alignas(16) Hand {
    Box box;
    float x, y, along_x, along_y;  // its wrist; texels a pixel, along the hand and across
    float across_x, across_y, unused[2];
};
struct alignas(16) Shadow {
    Box box;
    float x, y, dx, dy;  // from where to where
    float along_x, along_y, slope, most;
};
struct alignas(16) Shift {
    int place;  // of the layer's pixel that is seen in the first one, and the part of the next ones in it
    float right, down;
    int unused;
};
struct alignas(16) Frame {
    Limb limbs[2][2];
    Hand hands[2];
    Shadow shadows[2];
    Shift shifts[3];  // of background, torso, head
    int time_us;
    float lamp, gain, base;  // the low-pass: k (0.9 I + 0.1)
    int first;               // the arm that is drawn first
    int unused[3];
};
static_assert(sizeof(Frame) == 464, "film_cupy.py expects it");

struct Clip {
    double pause_us;  // refractory period
    unsigned long long seed;
    int frames, first;  // number, and the first one's place in the table
    int slow;           // bit s: arm s belongs to the still picture
    int low_pass;
    float shadow, edge, log_eps;  // depth of shadows, 1 / width of an edge
    int unused;
};
static_assert(sizeof(Clip) == 48, "film_cupy.py expects it");

template <typename Number>
__device__ __forceinline__ Number smaller(Number a, Number b) {
    return b < a ? b : a;
}
template <typename Number>
__device__ __forceinline__ Number larger(Number a, Number b) {
    return a < b ? b : a;
}
__device__ __forceinline__ float magnitude(float x) { return x < 0 ? -x : x; }

__device__ __forceinline__ bool holds(const Box& box, int x, int y) {
    return x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;
}

// The images of a pixel's clip, and the pixel.
struct View {
    const float* __restrict__ images;
    int x, y;
    float edge;
};

// Bilinear, as scene.shifted.
__device__ __forceinline__ float shifted(const View& view, int layer, const Shift& shift) {
    const float* const from = view.images + layer + shift.place + view.y * kLayerSide + view.x;
    const float left = 1 - shift.right, up = 1 - shift.down;
    const float above = from[0] * left + from[1] * shift.right;
    const float below = from[kLayerSide] * left + from[kLayerSide + 1] * shift.right;
    return above * up + below * shift.down;
}

// As draw.draw_limb.
__device__ __forceinline__ void draw_limb(float& image, const View& view, const Limb& limb, int texture) {
    if (!holds(limb.box, view.x, view.y)) return;
    const float x = view.x - limb.x, y = view.y - limb.y;
    float along = x * limb.along_x + y * limb.along_y, across = y * limb.along_x - x * limb.along_y;
    const float beyond = along - larger(smaller(along, limb.length), 0.0f);
    along = (along - beyond) * limb.per_length;
    const float radius = along * limb.growth + limb.radius;
    const float opacity = (radius - sqrtf(beyond * beyond + across * across)) * view.edge + 0.5f;
    if (!(opacity > 0)) return;
    across = larger(smaller(across / radius, 1.0f), -1.0f);
    const int row = static_cast<int>((across + 1) * ((kLimbAcross - 1) / 2.0f));
    const int column = static_cast<int>(along * (kLimbAlong - 1));
    image += (view.images[texture + row * kLimbAlong + column] - image) * smaller(opacity, 1.0f);
}

// As draw.draw_hand.
__device__ __forceinline__ void draw_hand(float& image, const View& view, const Hand& hand, int sprite) {
    if (!holds(hand.box, view.x, view.y)) return;
    const float x = view.x - hand.x, y = view.y - hand.y;
    float along = (x * hand.along_x + y * hand.along_y) - kHandBehind;
    float across = (x * hand.across_x + y * hand.across_y) + (kHandAcross - 1) / 2.0f;
    along = larger(smaller(along, kHandAlong - 1.0f), 0.0f);
    across = larger(smaller(across, kHandAcross - 1.0f), 0.0f);
    const int texel = sprite + static_cast<int>(across) * kHandAlong + static_cast<int>(along);
    const float opacity = view.images[texel];
    if (opacity > 0) image += (view.images[texel + kHand] - image) * opacity;
}

// As draw.draw_shadow.
__device__ __forceinline__ void draw_shadow(float& image, const View& view, const Shadow& shadow, float depth) {
    if (!holds(shadow.box, view.x, view.y)) return;
    const float x = view.x - shadow.x, y = view.y - shadow.y;
    const float place = larger(smaller(x * shadow.along_x + y * shadow.along_y, 1.0f), 0.0f);
    const float right = x - place * shadow.dx, down = y - place * shadow.dy;
    const float dark = sqrtf(right * right + down * down) * shadow.slope + shadow.most;
    image *= 1 - larger(smaller(dark, depth), 0.0f);
}

// Draws those arms whose bits in `which` are set, the nearer one later.
__device__ __forceinline__ void draw_arms(float& image, const View& view, const Frame& frame, int which) {
    for (int turn = 0; turn < 2; ++turn) {
        const int side = turn ^ frame.first;
        if (which >> side & 1) {
            for (int part = 0; part < 2; ++part)
                draw_limb(image, view, frame.limbs[side][part], kLimbs + (2 * side + part) * kLimb);
            draw_hand(image, view, frame.hands[side], kHands + 2 * side * kHand);
        }
    }
}

// What stands still, as Film draws it for one frame.
__device__ __forceinline__ float still(const View& view, const Frame& frame, int slow) {
    float image = shifted(view, kBackground, frame.shifts[0]);
#pragma unroll
    for (int layer = 0; layer < 2; ++layer) {
        const Shift shift = frame.shifts[1 + layer];
        const int at = kLayers + 2 * layer * kLayer;
        image += (shifted(view, at + kLayer, shift) - image) * shifted(view, at, shift);
    }
    if (slow) draw_arms(image, view, frame, slow);
    return image;
}

// Random numbers of a pixel that depend on nothing but the clip's seed, the pixel and their own number: Philox4x32-10
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). They lie between 0 and 1, both excluded.
struct Chances {
    float of[4];
};
__device__ Chances chances(unsigned long long seed, unsigned pixel, unsigned number) {
    unsigned c[4] = {number, pixel, 0, 0}, key[2] = {static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xd2511f53ull * c[0], b = 0xcd9e8d57ull * c[2];
        c[0] = static_cast<unsigned>(b >> 32) ^ c[1] ^ key[0];
        c[1] = static_cast<unsigned>(b);
        c[2] = static_cast<unsigned>(a >> 32) ^ c[3] ^ key[1];
        c[3] = static_cast<unsigned>(a);
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    Chances result;
    for (int i = 0; i < 4; ++i) result.of[i] = (static_cast<float>(c[i] >> 9) + 0.5f) * (1.0f / (1 << 23));
    return result;
}

// Where events go: as long as there is room, and they are counted in any case.
struct Sink {
    unsigned long long* __restrict__ events;
    unsigned long long* __restrict__ number;
    unsigned long long room, clip, pixel;
};
__device__ __forceinline__ void send(const Sink& sink, double time_us, bool on) {
#ifdef __CUDACC__
    // One lane asks for all that send at the same time.
    const unsigned together = __activemask();
    const int leader = __ffs(together) - 1, lane = threadIdx.x % 32;
    unsigned long long at = 0;
    if (lane == leader) at = atomicAdd(sink.number, static_cast<unsigned long long>(__popc(together)));
    at = __shfl_sync(together, at, leader) + __popc(together & ((1u << lane) - 1));
#else
    const unsigned long long at = (*sink.number)++;
#endif
    if (at < sink.room) {
        const unsigned long long ticks = static_cast<unsigned long long>(time_us * kTicks);
        sink.events[at] = sink.clip << 47 | ticks << 15 | sink.pixel << 1 | (on ? 1u : 0u);
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    film(const Clip* __restrict__ clips, const Frame* __restrict__ frames, const float* __restrict__ images,
         unsigned long long* __restrict__ events, unsigned long long* __restrict__ number, long long room,
         float* __restrict__ shown) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = blockIdx.x % kTiles;
    const int index = blockIdx.x / kTiles;
    const Clip clip = clips[index];
    View view;
    view.images = images + static_cast<long long>(index) * kImages;
    view.x = tile % kTilesAcross * 16 + warp % 2 * 8 + lane % 8;
    view.y = tile / kTilesAcross * 8 + warp / 2 * 4 + lane / 8;
    view.edge = clip.edge;
    const int pixel = view.y * kSide + view.x;
    const Frame* const table = frames + clip.first;
    const float* const array = view.images + pixel;
    const float light = array[kLight], positive = array[kPositive], negative = array[kNegative], leak = array[kLeak];
    Sink sink;
    sink.events = events;
    sink.number = number;
    sink.room = static_cast<unsigned long long>(room);
    sink.clip = static_cast<unsigned>(index);
    sink.pixel = static_cast<unsigned>(pixel);

    // See DVSPixels.
    float excess = array[kExcess], level = 0;
    double release_us = -1;                        // end of the refractory period; below zero there is none
    int start_us = table[0].time_us;
    unsigned noise = 0;                            // events of noise so far
    double noise_us = start_us - static_cast<double>(logf(chances(clip.seed, pixel, 0).of[0]) * array[kNoiseInterval]);

    float after = still(view, table[0], clip.slow), step = 0, picture = 0;
    for (int f = 0; f < clip.frames; ++f) {
        const Frame& frame = table[f];
        if (f % kStillEvery == 0) {
            const float before = after;
            after = still(view, table[smaller(f + kStillEvery, clip.frames - 1)], clip.slow);
            step = (after - before) / kStillEvery;
            picture = before;
        } else {
            picture += step;
        }
        float image = picture;
        if (clip.shadow > 0)
            for (int side = 0; side < 2; ++side)
                if (!(clip.slow >> side & 1)) draw_shadow(image, view, frame.shadows[side], clip.shadow);
        draw_arms(image, view, frame, 3 & ~clip.slow);
        image = image * light * frame.lamp;
        if (shown) shown[static_cast<long long>(clip.first + f) * kPixels + pixel] = image;

        const float target = logf(image + clip.log_eps);
        if (f == 0) {
            level = target;
            continue;
        }
        const int span_us = frame.time_us - start_us;
        const double span = span_us;
        float change = target - level;
        if (clip.low_pass) {
            const float share = image * frame.gain + frame.base;
            change = change * share / (share + 1);
        }
        level += change;
        change += leak * static_cast<float>(span_us);
        excess += change;
        if (release_us >= 0) {
            const double held = (release_us - start_us) / span;
            excess = held < 1 ? static_cast<float>(change * (1 - held)) : 0.0f;
            if (held < 1) release_us = -1;
        }

        const bool up = excess >= positive, fires = up || excess <= -negative;
        if (fires) {
            const double distance = magnitude(excess), threshold = up ? positive : negative;
            const double rate = larger(static_cast<double>(up ? change : -change), 1e-9), pause = clip.pause_us / span;
            double left = smaller(larger((distance - threshold) / rate, 0.0), 1.0);
            const double first = 1 - left, highest = threshold * 0.999999;
            double period = threshold / rate, rest;
            int count;
            if (pause > 0) {
                period += pause;
                left = left / period + (1 + 1e-9);
                count = static_cast<int>(left);
                const double end = (count - 1) * period + first + pause;
                rest = smaller(rate * (1 - end), highest);
                if (end >= 1) {
                    rest = 0;
                    release_us = start_us + end * span;
                }
            } else {
                count = static_cast<int>(larger(distance / threshold + 1e-6, 1.0));
                rest = smaller(distance - count * threshold, highest);
            }
            excess = static_cast<float>(up ? rest : -rest);
#pragma unroll 1
            for (int i = 0; i < count; ++i) send(sink, smaller(first + i * period, 1.0) * span + start_us, up);
        }

        const bool busy = fires || release_us >= 0;
        double last_us = -1e300;  // the noise before, of this interval
        while (noise_us < frame.time_us) {
            const Chances chance = chances(clip.seed, pixel, ++noise);
            const bool late = noise_us - last_us >= clip.pause_us;
            if (!busy && late && chance.of[1] >= image * array[kNoiseLost]) {
                const double end = (noise_us + clip.pause_us - start_us) / span;
                excess = end < 1 ? static_cast<float>(change * (1 - end)) : 0.0f;
                if (end >= 1) release_us = noise_us + clip.pause_us;
                send(sink, noise_us, chance.of[2] < array[kNoiseOn]);
            }
            last_us = noise_us;
            noise_us -= static_cast<double>(logf(chance.of[0]) * array[kNoiseInterval]);
        }
        start_us = frame.time_us;
    }
}
