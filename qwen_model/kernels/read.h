// Reading's attention: many queries against the keys before them. Neither scores nor masks of the whole are ever held.
//
// Sums run over blocks of keys, each a product of outer form: a number (or pair) of the left times a vector of the right.
#pragma once
#include <vector>

#include "softmax.h"
#include "threads.h"

namespace {

constexpr long QUERIES = 48;    // tokens per unit of work
constexpr long KEY_BLOCK = 64;  // keys whose scores are held at once
constexpr int WIDEST = 4;       // vectors of sums beside each other

// What the products multiply: a float, or where the processor can, two bfloat16 that follow each other in the sum.
template <class T> struct Outer {
    typedef float Unit;
    typedef float Weight;  // a share of the softmax
    static constexpr long depth = 1;
    static Unit pair(const T* first, long) { return widen(*first); }
    static void put(Weight* at, Floats shares) { store_floats(at, shares); }
    static Floats load(const Unit* at) { return load_floats(at); }
    static Floats add(Unit left, Floats right, Floats sum) { return multiply_add(Floats{} + left, right, sum); }
};
#if defined(__AVX512BF16__)
template <> struct Outer<bf16> {
    typedef uint32_t Unit;
    typedef bf16 Weight;
    static constexpr long depth = 2;
    static Unit pair(const bf16* first, long stride) { return first[0].bits | uint32_t(first[stride].bits) << 16; }
    static void put(Weight* at, Floats shares) {  // what is too small for a normal number becomes 0
        __m256bh rounded = _mm512_cvtneps_pbh((__m512)shares);
        memcpy(at, &rounded, sizeof rounded);
    }
    static __m512bh load(const Unit* at) { return (__m512bh)_mm512_loadu_si512(at); }
    static Floats add(Unit left, __m512bh right, Floats sum) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(left), right);
    }
};
#endif

// c (TILE_ROWS, WIDE vectors) = c * factors + a b; without factors c begins from 0. a (TILE_ROWS, steps) units.
template <class T, int WIDE, class Unit = typename Outer<T>::Unit>
void outer_tile(const Unit* a, long a_stride, const Unit* b, long b_stride, long steps, float* c, long c_stride,
                const float* factors) {
    typedef Outer<T> O;
    Floats sums[TILE_ROWS][WIDE];
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 8
        for (int i = 0; i < WIDE; i++)
            sums[m][i] = factors ? load_floats(c + m * c_stride + i * LANES) * factors[m] : Floats{};
    for (long k = 0; k < steps; k++) {
        decltype(O::load(b)) right[WIDE];
#pragma GCC unroll 8
        for (int i = 0; i < WIDE; i++) right[i] = O::load(b + k * b_stride + i * LANES);
#pragma GCC unroll 8
        for (int m = 0; m < TILE_ROWS; m++) {
            Unit left = a[m * a_stride + k];
#pragma GCC unroll 8
            for (int i = 0; i < WIDE; i++) sums[m][i] = O::add(left, right[i], sums[m][i]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 8
        for (int i = 0; i < WIDE; i++) store_floats(c + m * c_stride + i * LANES, sums[m][i]);
}

// The same for any number of vectors.
template <class T, class Unit = typename Outer<T>::Unit>
void outer(const Unit* a, long a_stride, const Unit* b, long b_stride, long steps, float* c, long c_stride,
           long vectors, const float* factors) {
    static constexpr decltype(&outer_tile<T, 1>) tile_of[] = {outer_tile<T, 1>, outer_tile<T, 2>, outer_tile<T, 3>,
                                                             outer_tile<T, 4>};
    for (long i = 0; i < vectors; i += WIDEST) {
        long wide = std::min<long>(WIDEST, vectors - i);
        tile_of[wide - 1](a, a_stride, b + i * LANES, b_stride, steps, c + i * LANES, c_stride, factors);
    }
}

// A tensor (rows, heads, tokens, dim); numbers of a token lie side by side.
struct Tokens {
    const void* numbers;
    int64_t row, head, token;  // strides
    template <class T> const T* at(long r, long h, long t) const {
        return (const T*)numbers + r * row + h * head + t * token;
    }
};

// Query t stands at key offset + t; it reads the keys up to itself, of which only the last `window`, or those that
// the mask (rows, queries, keys) allows.
struct Reach {
    int64_t offset, window;
    const bool* mask;           // or null
    int64_t mask_row, mask_query;  // strides
};

struct Reading {
    Tokens q, k, v, out;
    Reach reach;
    int64_t rows, heads, kv_heads, queries, keys, dim;
};

// One block of queries of all heads that share a key-value head.
template <class T> class Unit {
    typedef Outer<T> O;
    typedef typename O::Unit Number;
    static constexpr long D = O::depth;

  public:
    Unit(const Reading& of, float scale) : of_(of), scale_(scale) {}

    void run(long row, long kv_head, long first) {
        row_ = row, first_ = first, count_ = std::min(QUERIES, of_.queries - first);
        group_ = of_.heads / of_.kv_heads, steps_ = (of_.dim + D - 1) / D;
        vectors_ = (of_.dim + LANES - 1) / LANES, width_ = vectors_ * LANES;
        long lines = group_ * QUERIES;
        q_.assign(lines * steps_, 0), sums_.assign(lines * width_, 0.0f);
        largest_.assign(lines, -INFINITY), total_.assign(lines * LANES, 0.0f);
        k_.resize(steps_ * KEY_BLOCK), v_.assign(KEY_BLOCK / D * width_, 0);
        for (long h = 0; h < group_; h++)
            for (long t = 0; t < count_; t++)
                pack(of_.q.at<T>(row, kv_head * group_ + h, first + t), 1, of_.dim, &q_[(h * QUERIES + t) * steps_], 1);
        long begin = lowest(first) / KEY_BLOCK * KEY_BLOCK, end = highest(first + count_ - 1);
        for (long key = begin; key < end; key += KEY_BLOCK) {
            long keys = std::min(KEY_BLOCK, end - key);
            bool packed = false;
            for (long t = 0; t < count_; t += TILE_ROWS) {
                Part part = of_.reach.mask ? masked(t, key, keys) : banded(t, key, keys);
                if (part.begin >= part.end) continue;
                if (!packed) pack_keys(kv_head, key, keys), packed = true;
                for (long h = 0; h < group_; h++) tile(h * QUERIES + t, t, key, part);
            }
        }
        for (long h = 0; h < group_; h++)
            for (long t = 0; t < count_; t++) {
                long line = h * QUERIES + t;
                float total = sum_of(load_floats(&total_[line * LANES]));
                float factor = total == 0 ? 0 : 1 / total;  // who may read nothing gets 0
                T* to = const_cast<T*>(of_.out.at<T>(row, kv_head * group_ + h, first + t));
                for (long d = 0; d < of_.dim; d += LANES)
                    store_rounded(to + d, load_floats(&sums_[line * width_ + d]) * factor, of_.dim - d);
            }
    }

  private:
    const Reading& of_;
    float scale_;
    long row_, first_, count_, group_, steps_, vectors_, width_;
    std::vector<Number> q_, k_, v_;                  // (lines, steps), (steps, KEY_BLOCK), (KEY_BLOCK / D, width)
    std::vector<float> sums_, largest_, total_;      // (lines, width), (lines), (lines, LANES)
    alignas(64) float scores_[TILE_ROWS * KEY_BLOCK];
    alignas(64) typename O::Weight shares_[TILE_ROWS * KEY_BLOCK];

    // The keys of a block that a tile of queries reads, and whether each of its queries reads all of them.
    struct Part {
        long begin, end;  // in the block; begin is the first of a vector
        bool all;
    };

    long lowest(long query) const {
        return of_.reach.mask ? 0 : std::max<long>(0, of_.reach.offset + query - of_.reach.window + 1);
    }
    long highest(long query) const {
        return of_.reach.mask ? of_.keys : std::min<long>(of_.keys, of_.reach.offset + query + 1);
    }
    const bool* allowed(long query) const {
        return of_.reach.mask + row_ * of_.reach.mask_row + query * of_.reach.mask_query;
    }
    Part banded(long t, long key, long keys) const {
        long top = first_ + t, bottom = first_ + std::min(t + TILE_ROWS, count_) - 1;
        long begin = std::max<long>(0, lowest(top) - key) / LANES * LANES, end = std::min(keys, highest(bottom) - key);
        return {begin, end, lowest(bottom) <= key + begin && highest(top) >= key + end};
    }
    Part masked(long t, long key, long keys) const {
        long allowed_keys = 0, queries = std::min<long>(TILE_ROWS, count_ - t);
        for (long m = 0; m < queries; m++) {
            const bool* of = allowed(first_ + t + m) + key;
            for (long i = 0; i < keys; i++) allowed_keys += of[i];
        }
        return {0, allowed_keys ? keys : 0, allowed_keys == queries * keys};
    }

    // Numbers in the order of the sum, `stride` apart, as units that are `step` apart.
    static void pack(const T* from, long stride, long count, Number* to, long step) {
        long i = 0;
        for (; i + D <= count; i += D) to[i / D * step] = O::pair(from + i * stride, stride);
        if (i < count) {
            T last[2] = {from[i * stride], T{}};
            to[i / D * step] = O::pair(last, 1);
        }
    }
    void pack_keys(long kv_head, long key, long keys) {
        std::fill(k_.begin(), k_.end(), 0);
        for (long i = 0; i < keys; i++) pack(of_.k.at<T>(row_, kv_head, key + i), 1, of_.dim, &k_[i], KEY_BLOCK);
        const T* values = of_.v.at<T>(row_, kv_head, key);
        long i = 0;
        for (; i + D <= keys; i += D)
            for (long d = 0; d < of_.dim; d++)
                v_[i / D * width_ + d] = O::pair(values + i * of_.v.token + d, of_.v.token);
        for (; i < KEY_BLOCK; i += D)  // beyond the last: what no share weighs must still be a number
            for (long d = 0; d < of_.dim; d++)
                if (i < keys) pack(values + i * of_.v.token + d, of_.v.token, keys - i, &v_[i / D * width_ + d], 1);
                else v_[i / D * width_ + d] = 0;
    }

    void tile(long line, long t, long key, Part part) {
        long keys = part.end - part.begin, vectors = (keys + LANES - 1) / LANES, padded = vectors * LANES;
        float factors[TILE_ROWS];
        outer<T>(&q_[line * steps_], steps_, &k_[part.begin], KEY_BLOCK, steps_, scores_, KEY_BLOCK, vectors, nullptr);
        for (long m = 0; m < TILE_ROWS; m++) {
            float* score = scores_ + m * KEY_BLOCK;
            if (!part.all || padded > keys) hide(score, std::min(t + m, count_ - 1), key + part.begin, keys, padded);
            float before = largest_[line + m], top = std::max(before, largest_of(score, padded) * scale_);
            factors[m] = before == top ? 1.0f : std::exp(before - top);
            largest_[line + m] = top;
            float base = top == -INFINITY ? 0.0f : top;  // where nothing may be read all are 0, not NaN
            float* total = &total_[(line + m) * LANES];
            Floats sums = load_floats(total) * factors[m];
            for (long i = 0; i < padded; i += LANES) {
                Floats share = exp_floats(load_floats(score + i) * scale_ - base);
                sums += share;
                O::put(shares_ + m * KEY_BLOCK + i, share);
            }
            store_floats(total, sums);
        }
        outer<T>((const Number*)shares_, KEY_BLOCK / D, &v_[part.begin / D * width_], width_, padded / D,
                 &sums_[line * width_], width_, vectors_, factors);
    }
    void hide(float* score, long t, long key, long keys, long padded) const {
        long query = first_ + t;
        const bool* of = of_.reach.mask ? allowed(query) + key : nullptr;
        for (long i = 0; i < padded; i++) {
            bool reads = i < keys && (of ? of[i] : key + i >= lowest(query) && key + i < highest(query));
            score[i] = reads ? score[i] : -INFINITY;
        }
    }
};

template <class T> void read(const Reading& of, float scale, int threads) {
    long blocks = (of.queries + QUERIES - 1) / QUERIES, units = of.rows * of.kv_heads * blocks;
#pragma omp parallel num_threads(threads)
    {
        Unit<T> unit(of, scale);
#pragma omp for schedule(dynamic)
        for (long i = 0; i < units; i++) {  // the last blocks first: they read the most keys
            long pair = i % (of.rows * of.kv_heads), block = blocks - 1 - i / (of.rows * of.kv_heads);
            unit.run(pair / of.kv_heads, pair % of.kv_heads, block * QUERIES);
        }
    }
}

}  // namespace
