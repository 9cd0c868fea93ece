// Vectors of floats, and dot products of few rows of x with rows of weights.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, TILE_ROWS = 6;  // 6 x 4 sums, 4 weights and 1 x: 29 of 32 registers
#elif defined(__AVX2__)
constexpr int BYTES = 32, TILE_ROWS = 2;
#elif defined(__aarch64__)
constexpr int BYTES = 16, TILE_ROWS = 6;
#else
constexpr int BYTES = 16, TILE_ROWS = 2;
#endif
constexpr int LANES = BYTES / 4;
constexpr int TILE_WEIGHTS = 4;   // rows of weights whose sums are closed together
constexpr int BLOCK = 16;         // rows of weights per unit of parallel work
constexpr long CODE_ROWS = std::min(4, TILE_ROWS);  // rows of x for which expanding codes beats reading numbers
constexpr long READ_AHEAD = 16384;  // bytes of weights that are fetched before their turn

typedef float Floats __attribute__((vector_size(BYTES)));
typedef int32_t Ints __attribute__((vector_size(BYTES)));
typedef uint32_t Words __attribute__((vector_size(BYTES)));
typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));
typedef int8_t Bytes __attribute__((vector_size(BYTES / 4)));

struct bf16 {
    uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(bf16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
template <class T> T narrow(float value);
template <> inline float narrow<float>(float value) { return value; }
template <> inline bf16 narrow<bf16>(float value) {  // to nearest, ties to even, as torch does
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return {uint16_t(value != value ? 0x7fc0 : rounded)};
}

inline Floats load_floats(const float* at) {
    Floats out;
    memcpy(&out, at, sizeof out);
    return out;
}
inline Floats load_floats(const bf16* at) {
    Halves halves;
    memcpy(&halves, at, sizeof halves);
    Words words = __builtin_convertvector(halves, Words) << 16;
    return (Floats)words;
}
inline void store_floats(float* at, Floats value) { memcpy(at, &value, sizeof value); }
inline Floats load_floats(const int8_t* at) {
#if defined(__AVX512F__)  // of bytes gcc 12 converts one at a time
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at)));
#elif defined(__AVX2__)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(at)));
#else
    Bytes bytes;
    memcpy(&bytes, at, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}
template <class T> Floats rounded(Floats value);
template <> inline Floats rounded<float>(Floats value) { return value; }
template <> inline Floats rounded<bf16>(Floats value) {  // as narrow does
    Words bits = (Words)value, nan = (Words)(value != value);
    return (Floats)(((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000 & ~nan) | (nan & 0x7fc00000));
}
inline void store_rounded(float* at, Floats value) { store_floats(at, value); }
inline void store_rounded(bf16* at, Floats value) {
    Halves halves = __builtin_convertvector((Words)rounded<bf16>(value) >> 16, Halves);
    memcpy(at, &halves, sizeof halves);
}
// The same of the first `count` numbers, where there are fewer than LANES.
template <class T> inline Floats load_floats(const T* at, long count) {
    if (count >= LANES) return load_floats(at);
    T padded[LANES] = {};
    memcpy(padded, at, count * sizeof(T));
    return load_floats(padded);
}
template <class T> inline void store_rounded(T* at, Floats value, long count) {
    if (count >= LANES) return store_rounded(at, value);
    T padded[LANES];
    store_rounded(padded, value);
    memcpy(at, padded, count * sizeof(T));
}
inline Floats multiply_add(Floats a, Floats b, Floats sum) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#else
    return sum + a * b;
#endif
}

// What a dot product reads at a time: `step` numbers, summed into LANES floats. `take` rounds what `floats` gives, LANES
// at a time.
template <class T> struct Dot {
    typedef Floats Vector;
    static constexpr long step = LANES;
    static Vector load(const T* at) { return load_floats(at); }
    template <class Source> static Vector take(const Source& floats) { return rounded<T>(floats(0)); }
    static Floats add(Vector a, Vector b, Floats sum) { return multiply_add(a, b, sum); }
};
#if defined(__AVX512BF16__)
template <> struct Dot<bf16> {
    typedef __m512bh Vector;
    static constexpr long step = 32;
    static Vector load(const bf16* at) { return (__m512bh)_mm512_loadu_si512(at); }
    template <class Source> static Vector take(const Source& floats) {
        return _mm512_cvtne2ps_pbh((__m512)floats(LANES), (__m512)floats(0));
    }
    static Floats add(Vector a, Vector b, Floats sum) { return (Floats)_mm512_dpbf16_ps((__m512)sum, a, b); }
};
#endif
template <class T> inline typename Dot<T>::Vector load_part(const T* at, long count) {  // zeros behind `count`
    T padded[Dot<T>::step] = {};
    memcpy(padded, at, count * sizeof(T));
    return Dot<T>::load(padded);
}

inline void close_sums(const Floats* sums, float* out) {  // four vectors to four floats
#if defined(__AVX512F__)
    __m512 a = (__m512)sums[0], b = (__m512)sums[1], c = (__m512)sums[2], d = (__m512)sums[3];
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d even = _mm512_unpacklo_pd((__m512d)ab, (__m512d)cd), odd = _mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
    __m512 all = _mm512_add_ps((__m512)even, (__m512)odd);
    __m256 high = (__m256)_mm512_extractf64x4_pd((__m512d)all, 1);
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), high);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
    for (int n = 0; n < TILE_WEIGHTS; n++) {
        float lanes[LANES];
        store_floats(lanes, sums[n]);
        for (int half = LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
        out[n] = lanes[0];
    }
#endif
}

// A matrix of weights: its numbers, or what they were dequantised from, which is less to read.
struct Weight {
    const void* numbers;         // (n, size)
    const int8_t* codes;         // (n, size), or null: number = code * scale - min, rounded to the numbers' type
    const float *scales, *mins;  // (n, size / group); mins may be null
    int64_t group;               // a power of two from 16 on; size is in whole groups, and in whole steps of Dot
};

// TILE_WEIGHTS rows, of which one that does not exist is computed from the last one and not used.
template <class T> struct Numbers {
    const T* rows[TILE_WEIGHTS];
    static constexpr long step_bytes = Dot<T>::step * sizeof(T);
    typename Dot<T>::Vector load(int n, long k) const { return Dot<T>::load(rows[n] + k); }
    typename Dot<T>::Vector load(int n, long k, long count) const { return load_part(rows[n] + k, count); }
};
template <class T, bool MINS> struct Codes {
    const int8_t* rows[TILE_WEIGHTS];
    const float *scales[TILE_WEIGHTS], *mins[TILE_WEIGHTS];
    int shift;  // the group's logarithm
    static constexpr long step_bytes = Dot<T>::step;

    typename Dot<T>::Vector load(int n, long k) const {
        return Dot<T>::take([=, this](long i) {
            Floats value = load_floats(rows[n] + k + i) * scales[n][(k + i) >> shift];
            return MINS ? value - mins[n][(k + i) >> shift] : value;
        });
    }
    typename Dot<T>::Vector load(int n, long k, long) const { return load(n, k); }  // there are no part steps
};

// out[m][n] = x[m] . w[n] for ROWS rows of x and four of weights. What is needed soon begins at `ahead`; of it `fetches`
// times as much is fetched as one row of weights has.
template <class T, int ROWS, class Source>
void dot_tile(const T* x, long x_stride, const Source& w, long size, float* out, long out_stride, const char* ahead,
              int fetches) {
    typedef Dot<T> D;
    Floats sums[ROWS][TILE_WEIGHTS] = {};
    typename D::Vector weights[TILE_WEIGHTS];
    auto add = [&](const auto& load) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; m++) {
            typename D::Vector row = load(x + m * x_stride);
#pragma GCC unroll 8
            for (int n = 0; n < TILE_WEIGHTS; n++) sums[m][n] = D::add(weights[n], row, sums[m][n]);
        }
    };
    if (ROWS == 1) fetches = TILE_WEIGHTS;  // no other tile shares the fetching: a loop that unrolls
    long k = 0;
    for (; k + D::step <= size; k += D::step) {
#pragma GCC unroll 8
        for (int n = 0; n < TILE_WEIGHTS; n++) weights[n] = w.load(n, k);
        for (int i = 0; i < fetches; i++, ahead += Source::step_bytes) __builtin_prefetch(ahead, 0, 2);
        add([=](const T* row) { return D::load(row + k); });
    }
    if (k < size) {
#pragma GCC unroll 8
        for (int n = 0; n < TILE_WEIGHTS; n++) weights[n] = w.load(n, k, size - k);
        add([=](const T* row) { return load_part(row + k, size - k); });
    }
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; m++) close_sums(sums[m], out + m * out_stride);
}

// The same for any number of rows, in tiles as equal as can be, which share the fetching of four rows from `ahead` on.
template <class T>
void dot_rows(const T* x, long x_stride, long rows, const Numbers<T>& w, long size, float* out, long out_stride,
              const void* ahead) {
    typedef Numbers<T> N;
    static constexpr decltype(&dot_tile<T, 1, N>) tile_of[] = {dot_tile<T, 1, N>, dot_tile<T, 2, N>, dot_tile<T, 3, N>,
                                                              dot_tile<T, 4, N>, dot_tile<T, 5, N>, dot_tile<T, 6, N>};
    long tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (long tile = 0, m = 0; tile < tiles; tile++) {
        long count = (rows - m + tiles - tile - 1) / (tiles - tile);
        long fetched = TILE_WEIGHTS * tile / tiles, fetches = TILE_WEIGHTS * (tile + 1) / tiles - fetched;
        tile_of[count - 1](x + m * x_stride, x_stride, w, size, out + m * out_stride, out_stride,
                           (const char*)ahead + fetched * size * (long)sizeof(T), fetches);
        m += count;
    }
}

// Up to CODE_ROWS rows of x with the rows of weights that `row_of` names, read as codes.
template <class T, bool MINS, class Rows>
void dot_codes(const T* x, long rows, const Weight& weight, long size, const Rows& row_of, long ahead, float* out,
               long out_stride) {
    typedef Codes<T, MINS> C;
    static constexpr decltype(&dot_tile<T, 1, C>) tile_of[] = {dot_tile<T, 1, C>, dot_tile<T, 2, C>, dot_tile<T, 3, C>,
                                                              dot_tile<T, 4, C>};
    C w;
    w.shift = __builtin_ctzl(weight.group);
    long groups = size >> w.shift;
    for (long i = 0; i < TILE_WEIGHTS; i++) {
        w.rows[i] = weight.codes + row_of(i) * size;
        w.scales[i] = weight.scales + row_of(i) * groups;
        if (MINS) w.mins[i] = weight.mins + row_of(i) * groups;
    }
    for (long i = 0; i < TILE_WEIGHTS * groups; i += 16) {  // a cache line holds 16 of them
        __builtin_prefetch(w.scales[0] + ahead * groups + i, 0, 2);
        if (MINS) __builtin_prefetch(w.mins[0] + ahead * groups + i, 0, 2);
    }
    tile_of[rows - 1](x, size, w, size, out, out_stride, (const char*)(w.rows[0] + ahead * size), TILE_WEIGHTS);
}

// The numbers of a row that its codes stand for.
template <class T> void expand(const Weight& weight, long row, long size, T* to) {
    int shift = __builtin_ctzl(weight.group);
    const int8_t* codes = weight.codes + row * size;
    const float* scales = weight.scales + row * (size >> shift);
    const float* mins = weight.mins ? weight.mins + row * (size >> shift) : nullptr;
    for (long k = 0; k < size; k += LANES) {
        Floats value = load_floats(codes + k) * scales[k >> shift];
        store_rounded(to + k, mins ? value - mins[k >> shift] : value);
    }
}

// Rows `first`.. of one weight, BLOCK at most (the rest is zero), against all of x. More than CODE_ROWS of x meet numbers:
// float's are expanded from the codes, once for all of them; bfloat16's are in memory (ALONE in codes.py).
template <class T>
void dot_block(const T* x, long rows, long size, const Weight& weight, long first, long count, float out[][BLOCK]) {
    if (count < BLOCK) std::fill(out[0], out[rows], 0.0f);
    bool direct = weight.codes && rows <= CODE_ROWS, coded = direct || (weight.codes && sizeof(T) == sizeof(float));
    static thread_local std::vector<T> expanded;
    if (coded && !direct && (long)expanded.size() < TILE_WEIGHTS * size) expanded.resize(TILE_WEIGHTS * size);
    long bytes = size * (coded ? 1 : (long)sizeof(T));  // of a row
    long ahead = TILE_WEIGHTS * std::max<long>(1, READ_AHEAD / (TILE_WEIGHTS * bytes));
    for (long n = 0; n < count; n += TILE_WEIGHTS) {
        auto row_of = [=](long i) { return first + std::min(n + i, count - 1); };
        if (direct) {
            auto dot = weight.mins ? dot_codes<T, true, decltype(row_of)> : dot_codes<T, false, decltype(row_of)>;
            dot(x, rows, weight, size, row_of, ahead, &out[0][n], BLOCK);
            continue;
        }
        Numbers<T> w;
        for (long i = 0; i < TILE_WEIGHTS; i++) {
            w.rows[i] = coded ? &expanded[i * size] : (const T*)weight.numbers + row_of(i) * size;
            if (coded) expand(weight, row_of(i), size, &expanded[i * size]);
        }
        const char* read = coded ? (const char*)weight.codes : (const char*)weight.numbers;
        dot_rows(x, size, rows, w, size, &out[0][n], BLOCK, read + (row_of(0) + ahead) * bytes);
    }
}

}  // namespace
