// Decoding's attention: one query per row against the keys of that row, the first of which other rows may read too.
#pragma once
#include <vector>

#include "softmax.h"
#include "threads.h"

namespace {

constexpr long KEYS = 256;       // keys per unit of work
constexpr long KEYS_AHEAD = 32;  // keys that are fetched before their turn

// Keys and values that a row reads before its slot's, (layers, 2, kv_heads, length, dim). Filled in by __init__.py.
struct Prefix {
    const void* numbers;
    int64_t length;
};

// A head's keys, or values, from some position on: `split` more of the prefix, then the row's own.
template <class T> struct Run {
    const T *shared, *own;
    long split, dim, stride;
    const T* operator[](long key) const { return key < split ? shared + key * dim : own + (key - split) * stride; }
};

// out[h][d..] = sum over keys of p[h][key] * value[key][d..], for HEADS heads and WIDE vectors, a lone one of which may
// be cut by the end. Never by scalars: of a loop of those the compiler makes several, which do not all round alike.
template <class T, int HEADS, int WIDE>
void weigh_tile(const float* p, const Run<T>& values, long d, long count, float* out) {
    Floats sums[HEADS][WIDE] = {};
    long left = WIDE > 1 ? LANES : values.dim - d;
    for (long key = 0; key < count; key++) {
        Floats value[WIDE];
        for (int i = 0; i < WIDE; i++) value[i] = load_floats(values[key] + d + i * LANES, left);
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < WIDE; i++)
                sums[h][i] = multiply_add(value[i], Floats{} + p[h * KEYS + key], sums[h][i]);
    }
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < WIDE; i++) store_rounded(out + h * values.dim + d + i * LANES, sums[h][i], left);
}

template <class T, int HEADS>
void weigh_heads(const float* p, const Run<T>& values, long count, float* out) {
    long d = 0, dim = values.dim;
    for (; d + 4 * LANES <= dim; d += 4 * LANES) weigh_tile<T, HEADS, 4>(p, values, d, count, out);
    for (; d < dim; d += LANES) weigh_tile<T, HEADS, 1>(p, values, d, count, out);
}

// Attention of a group's heads over up to KEYS keys, not yet divided: out (group, dim), and of each head the largest
// score and the sum of exp(score - largest).
template <class T>
void attend_part(const T* q, long group, long dim, const Run<T>& keys, const Run<T>& values, long count, float scale,
                 float* out, float* largest, float* total, float* scores) {
    for (long key = 0; key < count; key += TILE_WEIGHTS) {
        Numbers<T> w;
        for (long i = 0; i < TILE_WEIGHTS; i++) w.rows[i] = keys[std::min(key + i, count - 1)];
        dot_rows(q, dim, group, w, dim, scores + key, KEYS, keys[key + KEYS_AHEAD]);
    }
    for (long h = 0; h < group; h++) {
        float* score = scores + h * KEYS;
        long padded = (count + LANES - 1) / LANES * LANES;
        for (long i = 0; i < count; i++) score[i] *= scale;
        std::fill(score + count, score + padded, -INFINITY);
        largest[h] = largest_of(score, padded);
        total[h] = exp_all(score, padded, largest[h]);
    }
    for (long h = 0; h < group;) {
        const float* p = scores + h * KEYS;
        float* to = out + h * dim;
        if (group - h >= 4) {
            weigh_heads<T, 4>(p, values, count, to), h += 4;
        } else if (group - h == 3) {
            weigh_heads<T, 3>(p, values, count, to), h += 3;
        } else if (group - h == 2) {
            weigh_heads<T, 2>(p, values, count, to), h += 2;
        } else {
            weigh_heads<T, 1>(p, values, count, to), h += 1;
        }
    }
}

// A layer of a cache: a row's own key lies at keys + row * row_stride + kv_head * head_stride + place * stride.
struct Slots {
    void *keys, *values;
    int64_t row_stride, head_stride, stride, capacity;
    const int64_t *places;   // of each row: where its new token goes
    const int64_t *lengths;  // and how many are read, those of its prefix and the new one too
};

// One query per row. q, out (rows, heads, dim).
template <class T>
void attend(const T* q, long rows, long heads, long kv_heads, long dim, const Slots& slots, const Prefix* prefixes,
            long layer, float scale, T* out, int threads) {
    long group = heads / kv_heads, pairs = rows * kv_heads;
    std::vector<long> first(pairs + 1, 0);  // parts before each (row, kv head)
    for (long pair = 0; pair < pairs; pair++)
        first[pair + 1] = first[pair] + (slots.lengths[pair / kv_heads] + KEYS - 1) / KEYS;
    long parts = first[pairs], size = group * (dim + 2), longest = 0;
    struct Part {
        long row, head, from;
    };
    std::vector<Part> order;  // what is shared by all rows in turn, while it is in the processor's cache
    order.reserve(parts);
    for (long row = 0; row < rows; row++) longest = std::max<long>(longest, prefixes[row].length);
    for (long head = 0; head < kv_heads; head++)
        for (long from = 0; from < longest; from += KEYS)
            for (long row = 0; row < rows; row++)
                if (from < prefixes[row].length) order.push_back({row, head, from});
    for (long row = 0; row < rows; row++)
        for (long head = 0; head < kv_heads; head++)
            for (long from = (prefixes[row].length + KEYS - 1) / KEYS * KEYS; from < slots.lengths[row]; from += KEYS)
                order.push_back({row, head, from});
    static thread_local std::vector<float> kept;  // of each part: sums (group, dim), largest (group), total (group)
    if ((long)kept.size() < parts * size) kept.resize(parts * size);
    float* results = kept.data();
    helpers.run(parts, threads, [&](long unit) {
        static thread_local std::vector<float> scores;
        if ((long)scores.size() < group * KEYS) scores.resize(group * KEYS);
        auto [row, head, from] = order[unit];
        const Prefix& prefix = prefixes[row];
        long split = std::max<long>(0, prefix.length - from);
        auto run = [&, row = row, head = head, from = from](const void* own, long which) {
            long shared = (((layer * 2 + which) * kv_heads + head) * prefix.length + from) * dim;
            long at = row * slots.row_stride + head * slots.head_stride + (from + split - prefix.length) * slots.stride;
            return Run<T>{(const T*)prefix.numbers + shared, (const T*)own + at, split, dim, slots.stride};
        };
        float* result = results + (first[row * kv_heads + head] + from / KEYS) * size;
        attend_part(q + (row * heads + head * group) * dim, group, dim, run(slots.keys, 0), run(slots.values, 1),
                    std::min<long>(KEYS, slots.lengths[row] - from), scale, result, result + group * dim,
                    result + group * dim + group, scores.data());
    });
    std::vector<float> sums(dim);
    for (long pair = 0; pair < pairs; pair++) {
        const float* results_of = results + first[pair] * size;
        long count = first[pair + 1] - first[pair];
        for (long h = 0; h < group; h++) {
            float top = -INFINITY, total = 0;
            for (long part = 0; part < count; part++) top = std::max(top, results_of[part * size + group * dim + h]);
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (long part = 0; part < count; part++) {
                const float* result = results_of + part * size;
                float weight = std::exp(result[group * dim + h] - top);
                total += weight * result[group * dim + group + h];
                for (long d = 0; d < dim; d++) sums[d] += weight * result[h * dim + d];
            }
            for (long d = 0; d < dim; d++) out[(pair * group + h) * dim + d] = narrow<T>(sums[d] / total);
        }
    }
}

}  // namespace
