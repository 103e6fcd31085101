// llama.cpp's matmuls with q8_0 weights, for x86 with AVX-512 VNNI, and bfloat16 ones, with AVX-512 BF16: up to three
// times as fast as its own.
//
// llama.cpp (ggml) calls `llamafile_sgemm` from each of its threads for C = A'B where A are weights and B a step's
// tokens, and computes in another way where that answers false. A library that is loaded before llama.cpp's, for all
// to see, is asked first. What is of other types goes on to llama.cpp's own function.
//
// Sixteen rows of weights are laid out so that one register holds four bytes of each: four int8 or two bfloat16.
// An instruction multiplies these with four bytes of a token and adds them up, row by row. A token's results do not
// depend on the others, however many: each is summed in the order of the numbers (but that of a token alone).

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

// The beginning of ggml's own structure: which thread this is, of how many.
struct ggml_compute_params {
    int ith, nth;
};

namespace {

constexpr int FLOAT32 = 0, Q8_0 = 8, BFLOAT16 = 30;  // ggml_type
constexpr int64_t NUMBERS = 32;                      // in a block
constexpr int64_t ROWS = 16;                         // of weights at a time: float32s of a register
constexpr int64_t TOKENS = 8;                        // at a time: their sums fill half of the registers
constexpr int64_t WEIGHTS_BYTES = 192 * 1024;        // laid out at a time: what the second-level cache has room for

inline __m512i broadcast(const void* bytes) {
    int32_t four;
    std::memcpy(&four, bytes, sizeof four);
    return _mm512_set1_epi32(four);
}

inline __m128i sixteen(const char* bytes) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)); }

// Four times four registers of four bytes: in each quarter, out[i] gets the i-th of v[0] to v[3].
inline void turn(const __m512i v[4], __m512i out[4]) {
    const __m512i low = _mm512_unpacklo_epi32(v[0], v[1]), low2 = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i high = _mm512_unpackhi_epi32(v[0], v[1]), high2 = _mm512_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm512_unpacklo_epi64(low, low2);
    out[1] = _mm512_unpackhi_epi64(low, low2);
    out[2] = _mm512_unpacklo_epi64(high, high2);
    out[3] = _mm512_unpackhi_epi64(high, high2);
}

// Sixteen bytes each of ROWS rows, `stride` bytes apart, to four registers of four bytes of each.
inline void lay_out(const char* rows, int64_t stride, __m512i out[4]) {
    __m512i v[4];  // v[r] has the rows r, 4 + r, 8 + r and 12 + r
    for (int64_t r = 0; r < 4; ++r) {
        const char* row = rows + r * stride;
        v[r] = _mm512_castsi128_si512(sixteen(row));
        v[r] = _mm512_inserti32x4(v[r], sixteen(row + 4 * stride), 1);
        v[r] = _mm512_inserti32x4(v[r], sixteen(row + 8 * stride), 2);
        v[r] = _mm512_inserti32x4(v[r], sixteen(row + 12 * stride), 3);
    }
    turn(v, out);
}

// Blocks of int8 with a float16 scale. The instruction takes unsigned times signed numbers: weights get 128 added,
// and sums begin at -128 times the sum of the token's numbers.
struct Q8 {
    struct Block {
        uint16_t scale;
        int8_t numbers[NUMBERS];
    };
    struct Weights {  // a block each of ROWS rows
        __m512i numbers[8];
        __m512 scales;
    };
    struct Token {
        float scale;
        int32_t start;
        int8_t numbers[NUMBERS];
    };

    static __m512i plus_128(__m512i numbers) { return _mm512_xor_si512(numbers, _mm512_set1_epi8(-128)); }

    static void take(const char* rows, int64_t stride, Weights& out) {
        const char* numbers = rows + offsetof(Block, numbers);
        lay_out(numbers, stride, out.numbers);
        lay_out(numbers + 16, stride, out.numbers + 4);
        for (__m512i& four : out.numbers) four = plus_128(four);
        const auto scale = [&](int64_t r) {
            int16_t bits;
            std::memcpy(&bits, rows + r * stride, sizeof bits);
            return bits;
        };
        out.scales = _mm512_cvtph_ps(_mm256_setr_epi16(
            scale(0), scale(1), scale(2), scale(3), scale(4), scale(5), scale(6), scale(7), scale(8), scale(9),
            scale(10), scale(11), scale(12), scale(13), scale(14), scale(15)));
    }

    static void take(const Block& block, Token& out) {
        const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.numbers));
        const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(-128), numbers);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        out.start = -_mm_cvtsi128_si32(sum);
        out.scale = _cvtsh_ss(block.scale);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.numbers), numbers);
    }

    template <int N>
    static void multiply(const Weights& weights, const Token* tokens, __m512 (&sums)[N]) {
        __m512i whole[N];
        for (int j = 0; j < N; ++j) whole[j] = _mm512_set1_epi32(tokens[j].start);
        for (int four = 0; four < 8; ++four)
            for (int j = 0; j < N; ++j)
                whole[j] = _mm512_dpbusd_epi32(whole[j], weights.numbers[four], broadcast(tokens[j].numbers + 4 * four));
        for (int j = 0; j < N; ++j) {
            const __m512 scales = _mm512_mul_ps(weights.scales, _mm512_set1_ps(tokens[j].scale));
            sums[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[j]), scales, sums[j]);
        }
    }
};

#ifdef __AVX512BF16__
// bfloat16, which has no blocks of its own.
struct Bf16 {
    struct Block {
        uint16_t numbers[NUMBERS];
    };
    struct Weights {
        __m512i numbers[16];
    };
    using Token = Block;

    // Whole lines are read, as those of sixteen rows often do not fit into the first-level cache together.
    static void take(const char* rows, int64_t stride, Weights& out) {
        __m512i fours[4][4];  // fours[g][e] has the numbers e, 4 + e, 8 + e and 12 + e, in twos, of four rows
        for (int64_t g = 0; g < 4; ++g) {
            __m512i v[4];
            for (int64_t r = 0; r < 4; ++r) v[r] = _mm512_loadu_si512(rows + (4 * g + r) * stride);
            turn(v, fours[g]);
        }
        for (int e = 0; e < 4; ++e) {
            const __m512i low = _mm512_shuffle_i32x4(fours[0][e], fours[1][e], 0x44);
            const __m512i high = _mm512_shuffle_i32x4(fours[0][e], fours[1][e], 0xee);
            const __m512i low2 = _mm512_shuffle_i32x4(fours[2][e], fours[3][e], 0x44);
            const __m512i high2 = _mm512_shuffle_i32x4(fours[2][e], fours[3][e], 0xee);
            out.numbers[e] = _mm512_shuffle_i32x4(low, low2, 0x88);
            out.numbers[4 + e] = _mm512_shuffle_i32x4(low, low2, 0xdd);
            out.numbers[8 + e] = _mm512_shuffle_i32x4(high, high2, 0x88);
            out.numbers[12 + e] = _mm512_shuffle_i32x4(high, high2, 0xdd);
        }
    }

    static void take(const Block& block, Token& out) { out = block; }

    template <int N>
    static void multiply(const Weights& weights, const Token* tokens, __m512 (&sums)[N]) {
        for (int two = 0; two < 16; ++two)
            for (int j = 0; j < N; ++j)
                sums[j] = _mm512_dpbf16_ps(sums[j], (__m512bh)weights.numbers[two],
                                           (__m512bh)broadcast(tokens[j].numbers + 2 * two));
    }
};
#endif

// The dot products of ROWS rows with N tokens, whose blocks alternate, to those rows that are `written`; added to what is
// there but for the `first`.
template <class Type, int N>
void multiply(const typename Type::Weights* weights, const typename Type::Token* tokens, int64_t count, bool first,
              float* out, int64_t stride, __mmask16 written) {
    __m512 sums[N];
    for (int j = 0; j < N; ++j) sums[j] = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(written, out + j * stride);
    for (int64_t b = 0; b < count; ++b, ++weights, tokens += N) Type::multiply(*weights, tokens, sums);
    for (int j = 0; j < N; ++j) _mm512_mask_storeu_ps(out + j * stride, written, sums[j]);
}

template <class Type>
constexpr decltype(&multiply<Type, 1>) MULTIPLY[TOKENS + 1] = {
    nullptr,           multiply<Type, 1>, multiply<Type, 2>, multiply<Type, 3>, multiply<Type, 4>,
    multiply<Type, 5>, multiply<Type, 6>, multiply<Type, 7>, multiply<Type, 8>,
};

// Memory of a thread's own, which grows to what is asked for.
class Scratch {
public:
    template <class T>
    T* of(int64_t count) {
        const size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
        if (bytes > size_) {
            memory_.reset(std::aligned_alloc(64, bytes));
            size_ = bytes;
        }
        return static_cast<T*>(memory_.get());
    }

private:
    std::unique_ptr<void, decltype(&std::free)> memory_{nullptr, &std::free};
    size_t size_ = 0;
};

// This thread's share of out (tokens, rows): the matmul of weights (rows, blocks) and token_blocks (tokens, blocks).
// Strides are from one row to the next, in bytes but for `out_stride`, in floats.
template <class Type>
void matmul(int64_t rows, int64_t tokens, int64_t blocks, const char* weights, int64_t weights_stride,
             const char* token_blocks, int64_t tokens_stride, float* out, int64_t out_stride, int64_t thread,
             int64_t threads) {
    using Block = typename Type::Block;
    thread_local Scratch weights_scratch, tokens_scratch;
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
    const int64_t begin = tiles * thread / threads, end = tiles * (thread + 1) / threads;
    if (begin == end) return;
    const int64_t chunk = std::min<int64_t>(blocks, WEIGHTS_BYTES / sizeof(typename Type::Weights));
    auto* w = weights_scratch.of<typename Type::Weights>(chunk);
    auto* t = tokens_scratch.of<typename Type::Token>(chunk * tokens);
    for (int64_t at = 0; at < blocks; at += chunk) {
        const int64_t size = std::min(chunk, blocks - at), skipped = at * sizeof(Block);
        for (int64_t j = 0; j < tokens; j += TOKENS) {
            const int64_t n = std::min(TOKENS, tokens - j);
            for (int64_t k = 0; k < n; ++k) {
                auto* from = reinterpret_cast<const Block*>(token_blocks + (j + k) * tokens_stride + skipped);
                for (int64_t b = 0; b < size; ++b) Type::take(from[b], t[j * size + b * n + k]);
            }
        }
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t row = std::min(ROWS * tile, rows - ROWS);  // the last may overlap the one before it
            const auto written = static_cast<__mmask16>(0xffff << (ROWS * tile - row));
            const char* from = weights + row * weights_stride + skipped;
            for (int64_t b = 0; b < size; ++b, from += sizeof(Block)) {
                for (int64_t r = ROWS; r < 2 * ROWS; ++r)  // the next rows are fetched meanwhile
                    _mm_prefetch(from + r * weights_stride, _MM_HINT_T1);
                Type::take(from, weights_stride, w[b]);
            }
            for (int64_t j = 0; j < tokens; j += TOKENS) {
                const int64_t n = std::min(TOKENS, tokens - j);
                MULTIPLY<Type>[n](w, t + j * size, size, at == 0, out + j * out_stride + row, out_stride,
                                  written);
            }
        }
    }
}

// The same of one token, for which laying out weights would cost more than it saves. Two blocks of a row are summed at
// a time, and one row after the other: memory is read fastest in its order.
void matmul_of_one(int64_t rows, int64_t blocks, const char* weights, int64_t weights_stride,
                    const char* token_blocks, float* out, int64_t thread, int64_t threads) {
    struct Pair {
        __m512i numbers, start;
        __m512 scales;
    };
    thread_local Scratch scratch;
    const int64_t begin = rows * thread / threads, end = rows * (thread + 1) / threads, pairs = (blocks + 1) / 2;
    const auto half = [](const Q8::Block& block) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.numbers));
    };
    auto* token = scratch.of<Pair>(pairs);
    for (int64_t b = 0; b < 2 * pairs; ++b) {
        Pair& pair = token[b / 2];
        __m256i numbers = _mm256_setzero_si256();  // what a single last one is paired with
        float scale = 0;
        if (b < blocks) {
            const auto& block = reinterpret_cast<const Q8::Block*>(token_blocks)[b];
            numbers = half(block);
            scale = _cvtsh_ss(block.scale);
        }
        const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(-128), numbers);
        const __m256i start = _mm256_sub_epi32(_mm256_setzero_si256(), sums);  // of each lane by itself
        const __m256 scales = _mm256_set1_ps(scale);
        const int64_t at = 32 * (b % 2);
        std::memcpy(reinterpret_cast<char*>(&pair.numbers) + at, &numbers, 32);
        std::memcpy(reinterpret_cast<char*>(&pair.start) + at, &start, 32);
        std::memcpy(reinterpret_cast<char*>(&pair.scales) + at, &scales, 32);
    }
    for (int64_t row = begin; row < end; ++row) {
        const auto* block = reinterpret_cast<const Q8::Block*>(weights + row * weights_stride);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < pairs; ++i, block += 2) {
            const Q8::Block* second = block + (2 * i + 1 < blocks);
            const __m512i numbers = _mm512_inserti64x4(_mm512_castsi256_si512(half(*block)), half(*second), 1);
            const __m512i whole = _mm512_dpbusd_epi32(token[i].start, Q8::plus_128(numbers), token[i].numbers);
            const __m256i scales = _mm256_mask_set1_epi16(_mm256_set1_epi16(block->scale), 0xff00, second->scale);
            sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole),
                                  _mm512_mul_ps(_mm512_cvtph_ps(scales), token[i].scales), sum);
        }
        out[row] = _mm512_reduce_add_ps(sum);
    }
}

using Product = bool(const ggml_compute_params*, int64_t, int64_t, int64_t, const void*, int64_t, const void*,
                     int64_t, void*, int64_t, int, int, int);
Product* own_matmul = nullptr;

}  // namespace

extern "C" void set_own_matmul(Product* own) { own_matmul = own; }

// m rows of weights, n tokens, k blocks in each (bfloat16's blocks are single numbers); lda, ldb and ldc count blocks
// and floats from one row to the next.
extern "C" bool llamafile_sgemm(const ggml_compute_params* params, int64_t m, int64_t n, int64_t k, const void* A,
                                int64_t lda, const void* B, int64_t ldb, void* C, int64_t ldc, int a_type,
                                int b_type, int c_type) {
    const auto* weights = static_cast<const char*>(A);
    const auto* tokens = static_cast<const char*>(B);
    auto* out = static_cast<float*>(C);
    const bool enough = m >= ROWS * params->nth;  // for all threads: each lays out all tokens
    if (a_type == b_type && c_type == FLOAT32 && enough) {
        if (a_type == Q8_0) {
            constexpr int64_t size = sizeof(Q8::Block);
            if (n == 1)
                matmul_of_one(m, k, weights, lda * size, tokens, out, params->ith, params->nth);
            else
                matmul<Q8>(m, n, k, weights, lda * size, tokens, ldb * size, out, ldc, params->ith, params->nth);
            return true;
        }
#ifdef __AVX512BF16__
        if (a_type == BFLOAT16 && n >= TOKENS && k % NUMBERS == 0) {  // for fewer, to lay out weights takes longer
            matmul<Bf16>(m, n, k / NUMBERS, weights, lda * 2, tokens, ldb * 2, out, ldc, params->ith, params->nth);
            return true;
        }
#endif
    }
    return own_matmul && own_matmul(params, m, n, k, A, lda, B, ldb, C, ldc, a_type, b_type, c_type);
}
