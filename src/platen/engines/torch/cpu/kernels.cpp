// What a decoder layer computes, in float32: matmuls with bfloat16's weights, norms, rotations, attention.
//
// A token's numbers do not depend on what else is computed beside it: every sum runs over the same lanes in
// the same order. Letters in shapes as in decoder.py; all pointers are to contiguous memory but where a stride
// is given, counted in floats.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Numbers in a register, and those that sums are kept in beside what is added to them: a register more and
// sums go through memory at every step, which takes several times as long.
#ifdef __AVX512F__
constexpr int64_t LANES = 16, SUMS = 24;
#else
constexpr int64_t LANES = 8, SUMS = 12;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

inline Lanes load(const float* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline Lanes all(float value) { return value - Lanes{}; }  // x + 0 is not x where x is -0

inline float sum(Lanes lanes) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    Eight eights[LANES / 8];
    std::memcpy(eights, &lanes, sizeof eights);
    if (LANES > 8) eights[0] += eights[LANES / 8 - 1];
    Four four[2];
    std::memcpy(four, eights, sizeof four);
    four[0] += four[1];
    return (four[0][0] + four[0][2]) + (four[0][1] + four[0][3]);
}

inline float largest(Lanes lanes) {
    float most = lanes[0];
    for (int i = 1; i < LANES; ++i) most = lanes[i] > most ? lanes[i] : most;
    return most;
}

// e^x within 2 units in the last place for -87 <= x <= 88, as at -87 below and infinite from 88.4 on: 2^n times
// the polynomial of Cephes' expf.
inline Lanes exponential(Lanes x) {
    const Lanes least = all(-87.0f), most = all(89.0f), magic = all(12582912.0f);
    x = x < least ? least : x;
    x = x > most ? most : x;
    const Lanes n = (x * 1.44269504088896341f + magic) - magic;  // to the nearest integer
    const Lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Lanes y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    const Bits exponent = (__builtin_convertvector(n, Bits) + 127) << 23;
    Lanes power;
    std::memcpy(&power, &exponent, sizeof power);
    return y * power;
}

// cap * tanh(x / cap): near 0 by tanh's series, as the difference below would lose most of x there.
inline Lanes capped(Lanes x, float cap) {
    const Lanes y = x * (1 / cap), squared = y * y;
    Lanes series = all(62.0f / 2835);
    series = series * squared - 17.0f / 315;
    series = series * squared + 2.0f / 15;
    series = series * squared - 1.0f / 3;
    series = x + x * squared * series;
    const Lanes far = cap - 2 * cap / (exponential(y * 2.0f) + 1.0f);
    return squared < all(0.0625f) ? series : far;
}

constexpr int64_t LARGEST_HEAD = 256;

// RMSNorm of one head.
inline void normalise(const float* x, const float* gain, float eps, float* to, int64_t size) {
    Lanes squares = Lanes{};
    for (int64_t i = 0; i < size; i += LANES) squares += load(x + i) * load(x + i);
    const Lanes scale = all(1.0f / std::sqrt(sum(squares) / (float)size + eps));
    for (int64_t i = 0; i < size; i += LANES) store(to + i, load(x + i) * scale * load(gain + i));
}

// Turn the pairs (i, i + R/2) of a head's first R dimensions by their angles; the sines' first half is negative.
inline void turn(const float* x, const float* cos, const float* sin, float* to, int64_t size, int64_t R) {
    const int64_t half = R / 2;
    for (int64_t i = 0; i < half; ++i) {
        to[i] = x[i] * cos[i] + x[i + half] * sin[i];
        to[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half];
    }
    if (R < size) std::memcpy(to + R, x + R, (size - R) * sizeof(float));
}

// The same after RMSNorm, unless there is no gain.
inline void rotate(const float* x, const float* gain, float eps, const float* cos, const float* sin, float* to,
                   int64_t size, int64_t R) {
    float normal[LARGEST_HEAD];
    if (gain) normalise(x, gain, eps, normal, size);
    turn(gain ? normal : x, cos, sin, to, size, R);
}

inline int64_t in_lanes(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// Softmax of the first `count` of `full` scores, in place, but for the division: returns what to divide by.
inline float weigh(float* scores, int64_t count, int64_t full) {
    for (int64_t s = count; s < full; ++s) scores[s] = -INFINITY;
    Lanes most = load(scores);
    for (int64_t s = LANES; s < full; s += LANES) {
        const Lanes next = load(scores + s);
        most = next > most ? next : most;
    }
    const Lanes top = all(largest(most));
    Lanes total = Lanes{};
    for (int64_t s = 0; s < full; s += LANES) {
        const Lanes weights = exponential(load(scores + s) - top);
        total += weights;  // those behind the end add e^-87 each: nothing beside the largest, which is 1
        store(scores + s, weights);
    }
    return sum(total);
}

// How scores become weights: score * scale, then cap * tanh of it over cap unless cap is 0; of the keys before a
// query's limit only the last `window` count.
struct Scoring {
    float scale, cap;
    int64_t window;
    int64_t first(int64_t limit) const { return limit > window ? limit - window : 0; }
};

// `rows` queries (rows, D) attend to the keys and values (S, D) of their head: the first limits[r] of them.
template <int D>
void attend_rows(const float* queries, const float* keys, const float* values, const int64_t* limits, int64_t rows,
          float* const* out, std::vector<float>& scratch, const Scoring& scoring) {
    constexpr int PARTS = D / LANES;
    int64_t span = 0, begin = limits[0];
    for (int64_t r = 0; r < rows; ++r) {
        span = limits[r] > span ? limits[r] : span;
        const int64_t first = scoring.first(limits[r]);
        begin = first < begin ? first : begin;
    }
    begin = begin / LANES * LANES;  // so that each key stays in its lane, wherever others begin
    const int64_t width = in_lanes(span) - begin;
    if ((int64_t)scratch.size() < rows * (width + 1)) scratch.resize(rows * (width + 1));
    float *scores = scratch.data(), *totals = scores + rows * width;
    for (int64_t s = begin; s < span; ++s) {
        Lanes key[PARTS];
        for (int p = 0; p < PARTS; ++p) key[p] = load(keys + s * D + p * LANES);
        for (int64_t r = 0; r < rows; ++r) {
            Lanes product = key[0] * load(queries + r * D);
            for (int p = 1; p < PARTS; ++p) product += key[p] * load(queries + r * D + p * LANES);
            scores[r * width + s - begin] = sum(product) * scoring.scale;
        }
    }
    constexpr int64_t BLOCK = 64;  // values that stay in the first cache for all rows
    for (int64_t r = 0; r < rows; ++r) {
        float* own = scores + r * width;
        const int64_t count = limits[r] - begin, first = scoring.first(limits[r]) - begin;
        if (scoring.cap != 0)
            for (int64_t s = 0; s < in_lanes(count); s += LANES) store(own + s, capped(load(own + s), scoring.cap));
        for (int64_t s = 0; s < first; ++s) own[s] = -INFINITY;
        totals[r] = weigh(own, count, in_lanes(count));
        std::memset(out[r], 0, D * sizeof(float));
    }
    for (int64_t block = begin; block < span; block += BLOCK) {
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t end = limits[r] < block + BLOCK ? limits[r] : block + BLOCK;
            Lanes sums[PARTS];
            for (int p = 0; p < PARTS; ++p) sums[p] = load(out[r] + p * LANES);
            for (int64_t s = block; s < end; ++s) {
                const Lanes weight = all(scores[r * width + s - begin]);
                for (int p = 0; p < PARTS; ++p) sums[p] += weight * load(values + s * D + p * LANES);
            }
            for (int p = 0; p < PARTS; ++p) store(out[r] + p * LANES, sums[p]);
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        const Lanes share = all(1.0f / totals[r]);
        for (int p = 0; p < PARTS; ++p) store(out[r] + p * LANES, load(out[r] + p * LANES) * share);
    }
}

// Rows of a matrix of floats.
struct Floats {
    const float* from;
    int64_t stride;
    template <int P>
    void row(int64_t i, Lanes (&to)[P]) const {
        for (int p = 0; p < P; ++p) to[p] = load(from + i * stride + p * LANES);
    }
};

constexpr int64_t PANEL = 32, WORDS = PANEL / 2;  // outputs that lie together in a packed weight
constexpr int WHOLE = PANEL / LANES;

// Rows of a panel in bfloat16: a word holds number i below and number i + 16 above. Taken whole, or where two
// registers hold only half of it, the upper or the lower half.
struct Halves {
    const uint32_t* from;
    bool upper = false;

    template <int P>
    void row(int64_t i, Lanes (&to)[P]) const {
        const uint32_t* words = from + i * WORDS;
        for (int p = 0; p < P; ++p) {
            const bool is_high = P == WHOLE ? p >= P / 2 : upper;
            to[p] = floats(words + (P == WHOLE ? p % (P / 2) : p) * LANES, is_high);
        }
    }
    static Lanes floats(const uint32_t* words, bool is_high) {
        Bits bits;
        std::memcpy(&bits, words, sizeof bits);
        bits = is_high ? bits & (Bits{} + (int32_t)0xffff0000u) : bits << 16;
        Lanes lanes;
        std::memcpy(&lanes, &bits, sizeof lanes);
        return lanes;
    }
};

// Add to sums (R, P lanes) the product of a (R, n), whose rows have a stride, and b (n, P lanes).
template <int R, int P, class Matrix>
inline void multiply(const float* a, int64_t a_stride, const Matrix& b, int64_t n, Lanes (&sums)[R][P]) {
    for (int64_t i = 0; i < n; ++i) {
        Lanes row[P];
        b.row(i, row);
        for (int r = 0; r < R; ++r) {
            const Lanes factor = all(a[r * a_stride + i]);
            for (int p = 0; p < P; ++p) sums[r][p] += factor * row[p];
        }
    }
}

constexpr int64_t KEYS = 4 * LANES;  // that are transposed together

// R queries (R, D) one after the other attend to the first limit, limit + 1, ... keys. `turned` has
// the keys in blocks (D, KEYS); `scores` has room for R rows of all keys in whole blocks.
template <int D, int R>
void attend_block(const float* queries, const float* turned, const float* values, int64_t limit, float* out,
          int64_t out_stride, float* scores, const Scoring& scoring) {
    constexpr int P = KEYS / LANES, PARTS = D / LANES % 4 == 0 ? 4 : D / LANES % 3 == 0 ? 3 : D / LANES;
    const int64_t span = limit + R - 1, begin = scoring.first(limit) / KEYS * KEYS;
    const int64_t width = (span - begin + KEYS - 1) / KEYS * KEYS;
    const Lanes scale = all(scoring.scale);
    for (int64_t s = begin; s < span; s += KEYS) {
        Lanes sums[R][P] = {};
        multiply(queries, D, Floats{turned + s * D, KEYS}, D, sums);
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) {
                const Lanes score = sums[r][p] * scale;
                store(scores + r * width + s - begin + p * LANES,
                      scoring.cap != 0 ? capped(score, scoring.cap) : score);
            }
    }
    float totals[R];
    for (int r = 0; r < R; ++r) {
        float* own = scores + r * width;
        for (int64_t s = begin; s < scoring.first(limit + r); ++s) own[s - begin] = -INFINITY;
        totals[r] = weigh(own, limit + r - begin, in_lanes(span) - begin);
    }
    for (int64_t d = 0; d < D; d += PARTS * LANES) {
        Lanes sums[R][PARTS] = {};
        multiply(scores, width, Floats{values + begin * D + d, D}, span - begin, sums);
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < PARTS; ++p)
                store(out + r * out_stride + d + p * LANES, sums[r][p] / totals[r]);
    }
}

// All of a row's queries (H, T, D), token t of which attends to the first start + t + 1 of the keys.
template <int D>
void attend_sequence(const float* queries, const float* keys, const float* values, int64_t head_stride,
              int64_t start, float* out, int64_t T, int64_t H, int64_t K, const Scoring& scoring) {
    constexpr int R = LANES > 8 ? 4 : SUMS / 4;
    const int64_t before = scoring.first(start + 1) / KEYS;  // blocks that no query attends to
    const int64_t blocks = (start + T + KEYS - 1) / KEYS - before, pieces = (T + R - 1) / R;
    std::vector<float> turned(K * blocks * D * KEYS);
#pragma omp parallel
    {
        std::vector<float> scores(R * blocks * KEYS);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < K * blocks; ++block) {
            const int64_t first = (before + block % blocks) * KEYS;
            const int64_t count = start + T - first < KEYS ? start + T - first : KEYS;
            const float* from = keys + block / blocks * head_stride + first * D;
            for (int64_t s = 0; s < count; ++s)
                for (int64_t d = 0; d < D; ++d) turned[(block * D + d) * KEYS + s] = from[s * D + d];
        }
        // The last attend to the most keys.
#pragma omp for schedule(dynamic, 4)
        for (int64_t task = H * pieces - 1; task >= 0; --task) {
            const int64_t h = task % H, k = h / (H / K), t = task / H * R;
            const float* q = queries + (h * T + t) * D;
            const float* turned_keys = turned.data() + (k * blocks - before) * D * KEYS;
            for (int64_t r = t; r < T && r < t + R; r += T - t < R ? 1 : R) {
                auto work = T - t < R ? attend_block<D, 1> : attend_block<D, R>;  // the prompt's last few one by one
                work(q + (r - t) * D, turned_keys, values + k * head_stride, start + r + 1,
                     out + (r * H + h) * D, H * D, scores.data(), scoring);
            }
        }
    }
}

// P lanes of outputs from `first` on, of R rows of x (R, I); beyond the last output nothing is written.
template <int R, int P, class Matrix>
void some_outputs(const float* x, const Matrix& weight, const float* added, float* out, int64_t first,
                  int64_t I, int64_t O) {
    Lanes sums[R][P] = {};
    multiply(x, I, weight, I, sums);
    for (int r = 0; r < R; ++r) {
        const int64_t at = r * O + first;
        if (first + P * LANES <= O) {
            for (int p = 0; p < P; ++p) {
                const int64_t to = at + p * LANES;
                store(out + to, added ? load(added + to) + sums[r][p] : sums[r][p]);
            }
        } else {
            for (int64_t o = 0; o < O - first; ++o) {
                const float sum = sums[r][o / LANES][o % LANES];
                out[at + o] = added ? added[at + o] + sum : sum;
            }
        }
    }
}

// The same for any number of rows: in turns of R, and what is left in one of fewer.
template <int R, int P, class Matrix>
void outputs(const float* x, const Matrix& weight, const float* added, float* out, int64_t first, int64_t rows,
             int64_t I, int64_t O) {
    for (; rows >= R; rows -= R) {
        some_outputs<R, P>(x, weight, added, out, first, I, O);
        x += R * I;
        out += R * O;
        if (added) added += R * O;
    }
    if constexpr (R > 1)
        if (rows) outputs<R - 1, P>(x, weight, added, out, first, rows, I, O);
}

}  // namespace

extern "C" {

// x (rows, I) times the transpose of a weight (O, I) in bfloat16, plus `added` (rows, O) unless that is null.
// The weight is (O / 32 rounded up, I, 16) words, see Halves.
void matmul(const float* x, const uint32_t* weight, const float* added, float* out, int64_t rows, int64_t I,
             int64_t O) {
    const int64_t panels = (O + PANEL - 1) / PANEL;
    if (rows <= 16) {
        constexpr int FEW = LANES > 8 ? 8 : 6, ALONE = SUMS / WHOLE;
#pragma omp parallel for schedule(static)
        for (int64_t panel = 0; panel < panels; ++panel) {
            const uint32_t* from = weight + panel * I * WORDS;
            const int64_t first = panel * PANEL;
            if (WHOLE == 2 || rows <= ALONE) {
                outputs<(WHOLE == 2 ? FEW : ALONE), WHOLE>(x, Halves{from}, added, out, first, rows, I, O);
                continue;
            }
            outputs<FEW, 2>(x, Halves{from, false}, added, out, first, rows, I, O);
            if (first + PANEL / 2 < O)
                outputs<FEW, 2>(x, Halves{from, true}, added, out, first + PANEL / 2, rows, I, O);
        }
        return;
    }
    constexpr int64_t TILE = 2 * LANES, TILES = PANEL / TILE, TURN = 96;
    const int64_t tiles = (O + TILE - 1) / TILE, turns = (rows + TURN - 1) / TURN;
#pragma omp parallel
    {
        std::vector<float> floats(I * TILE);  // a tile's weights, turned into floats once for many rows
        int64_t have = -1;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tiles * turns; ++task) {
            const int64_t tile = task / turns, row = task % turns * TURN;
            if (tile != have) {
                const Halves halves{weight + tile / TILES * I * WORDS, tile % TILES > 0};
                for (int64_t i = 0; i < I; ++i) {
                    Lanes both[2];
                    halves.row(i, both);
                    store(floats.data() + i * TILE, both[0]);
                    store(floats.data() + i * TILE + LANES, both[1]);
                }
                have = tile;
            }
            const int64_t count = rows - row < TURN ? rows - row : TURN;
            outputs<SUMS / 2, 2>(x + row * I, Floats{floats.data(), TILE}, added ? added + row * O : added,
                                 out + row * O, tile * TILE, count, I, O);
        }
    }
}

// RMSNorm of x (rows, size), with a gain for each feature.
void rms_norm(const float* x, const float* gain, float eps, float* out, int64_t rows, int64_t size) {
#pragma omp parallel for schedule(static) if (rows * size > 16384)
    for (int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * size;
        Lanes squares = Lanes{};
        for (int64_t i = 0; i < size; i += LANES) squares += load(from + i) * load(from + i);
        const Lanes scale = all(1.0f / std::sqrt(sum(squares) / (float)size + eps));
        for (int64_t i = 0; i < size; i += LANES)
            store(out + row * size + i, load(from + i) * scale * load(gain + i));
    }
}

// silu(gate) * up of gate_up (rows, 2 * size), gate first; or gelu(gate) * up, by the formula with tanh.
void gated(const float* gate_up, float* out, int64_t rows, int64_t size, int64_t gelu) {
#pragma omp parallel for schedule(static) if (rows * size > 8192)
    for (int64_t row = 0; row < rows; ++row) {
        const float* gate = gate_up + row * 2 * size;
        const float* up = gate + size;
        for (int64_t i = 0; i < size; i += LANES) {
            const Lanes x = load(gate + i);
            // (1 + tanh(z)) / 2 is the logistic function of 2z
            const Lanes z = gelu ? x * (1.0f + x * x * 0.044715f) * 1.5957691216f : x;
            store(out + row * size + i, x / (1.0f + exponential(-z)) * load(up + i));
        }
    }
}

// Split qkv (B, T, (H + 2K) * D): rotated queries to `queries` (B, H, T, D), rotated keys and values to their
// rows of a cache, (B, K, capacity, D), from each row's own start on. Angles are (T, R), for all rows (stride
// 0) or each row's own; R, the dimensions of a head that are rotated, may be 0. Where there are gains (D), heads
// of queries and keys are normalised first.
void rotate_and_keep(const float* qkv, const float* query_gain, const float* key_gain, float eps, const float* cos,
                     const float* sin, int64_t angle_stride, float* queries, float* keys, float* values,
                     int64_t row_stride, int64_t head_stride, const int64_t* starts, int64_t B, int64_t T, int64_t H,
                     int64_t K, int64_t D, int64_t R) {
#pragma omp parallel for schedule(static) if (B * T * (H + K) * D > 16384)
    for (int64_t token = 0; token < B * T; ++token) {
        const int64_t b = token / T, t = token % T;
        const float* from = qkv + token * (H + 2 * K) * D;
        const float *c = cos + b * angle_stride + t * R, *s = sin + b * angle_stride + t * R;
        for (int64_t h = 0; h < H; ++h)
            rotate(from + h * D, query_gain, eps, c, s, queries + ((b * H + h) * T + t) * D, D, R);
        const int64_t place = b * row_stride + (starts[b] + t) * D;
        for (int64_t k = 0; k < K; ++k) {
            rotate(from + (H + k) * D, key_gain, eps, c, s, keys + place + k * head_stride, D, R);
            std::memcpy(values + place + k * head_stride, from + (H + K + k) * D, D * sizeof(float));
        }
    }
}

// Of each row's queries (B, H, T, D) token t attends to its row's first starts[b] + t + 1 keys; out (B, T, H * D).
// D is one of kernels.py's HEAD_SIZES.
void attend(const float* queries, const float* keys, const float* values, int64_t row_stride,
            int64_t head_stride, const int64_t* starts, float* out, int64_t B, int64_t T, int64_t H,
            int64_t K, int64_t D, float scale, float cap, int64_t window) {
    const Scoring scoring{scale, cap, window};
    // All the queries of a key head in one go, unless that leaves threads without work: a query's numbers
    // are the same either way.
    const int64_t heads = H / K, together = B * K >= 8 ? heads * T : 1, groups = heads * T / together;
#pragma omp parallel
    {
        std::vector<float> scratch;
        std::vector<int64_t> limits(together);
        std::vector<float*> to(together);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < B * K * groups; ++task) {
            const int64_t b = task / (K * groups), k = task / groups % K, first = task % groups * together;
            for (int64_t r = 0; r < together; ++r) {
                const int64_t h = k * heads + (first + r) / T, t = (first + r) % T;
                limits[r] = starts[b] + t + 1;
                to[r] = out + ((b * T + t) * H + h) * D;
            }
            const float* q = queries + ((b * H + k * heads) * T + first) * D;
            const int64_t place = b * row_stride + k * head_stride;
            auto work = D == 16   ? attend_rows<16>
                        : D == 32 ? attend_rows<32>
                        : D == 64 ? attend_rows<64>
                        : D == 96 ? attend_rows<96>
                        : D == 128 ? attend_rows<128>
                                   : attend_rows<256>;
            work(q, keys + place, values + place, limits.data(), together, to.data(), scratch, scoring);
        }
    }
}

// The same for a row of many tokens, a prompt's: queries (H, T, D), keys and values (K, capacity, D).
void attend_prompt(const float* queries, const float* keys, const float* values, int64_t head_stride,
                   int64_t start, float* out, int64_t T, int64_t H, int64_t K, int64_t D, float scale, float cap,
                   int64_t window) {
    auto work = D == 16   ? attend_sequence<16>
                : D == 32 ? attend_sequence<32>
                : D == 64 ? attend_sequence<64>
                : D == 96 ? attend_sequence<96>
                : D == 128 ? attend_sequence<128>
                           : attend_sequence<256>;
    work(queries, keys, values, head_stride, start, out, T, H, K, Scoring{scale, cap, window});
}

}  // extern "C"
