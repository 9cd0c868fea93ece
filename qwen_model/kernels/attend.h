// Decoding's attention: one query per row against the keys of that row.
#pragma once
#include <vector>

#include "softmax.h"
#include "threads.h"

namespace {

constexpr long KEYS = 256;       // keys per unit of work
constexpr long KEYS_AHEAD = 32;  // keys that are fetched before their turn

// out[h][d] += sum over keys of p[h][key] * value[key][d], for HEADS heads and WIDE vectors of d.
template <class T, int HEADS, int WIDE>
void weigh_tile(const float* p, const T* values, long stride, long count, float* out, long dim) {
    Floats sums[HEADS][WIDE] = {};
    for (long key = 0; key < count; key++) {
        Floats value[WIDE];
        for (int i = 0; i < WIDE; i++) value[i] = load_floats(values + key * stride + i * LANES);
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < WIDE; i++)
                sums[h][i] = multiply_add(value[i], Floats{} + p[h * KEYS + key], sums[h][i]);
    }
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < WIDE; i++) store_floats(out + h * dim + i * LANES, sums[h][i]);
}

template <class T, int HEADS>
void weigh_heads(const float* p, const T* values, long stride, long count, float* out, long dim) {
    long d = 0;
    for (; d + 4 * LANES <= dim; d += 4 * LANES) weigh_tile<T, HEADS, 4>(p, values + d, stride, count, out + d, dim);
    for (; d + LANES <= dim; d += LANES) weigh_tile<T, HEADS, 1>(p, values + d, stride, count, out + d, dim);
    for (; d < dim; d++)
        for (int h = 0; h < HEADS; h++) {
            float sum = 0;
            for (long key = 0; key < count; key++) sum += p[h * KEYS + key] * widen(values[key * stride + d]);
            out[h * dim + d] = sum;
        }
}

// Attention of a group's heads over up to KEYS keys, not yet divided: out (group, dim), and of each head the largest
// score and the sum of exp(score - largest).
template <class T>
void attend_part(const T* q, long group, long dim, const T* keys, const T* values, long stride, long count, float scale,
                 float* out, float* largest, float* total, float* scores) {
    for (long key = 0; key < count; key += TILE_WEIGHTS) {
        Numbers<T> w;
        for (long i = 0; i < TILE_WEIGHTS; i++) w.rows[i] = keys + std::min(key + i, count - 1) * stride;
        dot_rows(q, dim, group, w, dim, scores + key, KEYS, w.rows[0] + KEYS_AHEAD * stride);
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
            weigh_heads<T, 4>(p, values, stride, count, to, dim), h += 4;
        } else if (group - h == 3) {
            weigh_heads<T, 3>(p, values, stride, count, to, dim), h += 3;
        } else if (group - h == 2) {
            weigh_heads<T, 2>(p, values, stride, count, to, dim), h += 2;
        } else {
            weigh_heads<T, 1>(p, values, stride, count, to, dim), h += 1;
        }
    }
}

// One query per row. q, out (rows, heads, dim); key at keys + row * row_stride + kv_head * head_stride + i * stride.
template <class T>
void attend(const T* q, long rows, long heads, long kv_heads, long dim, const T* keys, const T* values, long row_stride,
            long head_stride, long stride, const int64_t* lengths, float scale, T* out, int threads) {
    long group = heads / kv_heads, pairs = rows * kv_heads;
    std::vector<long> first(pairs + 1, 0);  // parts before each (row, kv head)
    for (long pair = 0; pair < pairs; pair++)
        first[pair + 1] = first[pair] + (lengths[pair / kv_heads] + KEYS - 1) / KEYS;
    long parts = first[pairs], size = group * (dim + 2);
    static thread_local std::vector<float> kept;  // of each part: sums (group, dim), largest (group), total (group)
    if ((long)kept.size() < parts * size) kept.resize(parts * size);
    float* results = kept.data();
    helpers.run(parts, threads, [&](long part) {
        static thread_local std::vector<float> scores;
        if ((long)scores.size() < group * KEYS) scores.resize(group * KEYS);
        long pair = std::upper_bound(first.begin(), first.end(), part) - first.begin() - 1;
        long row = pair / kv_heads, head = pair % kv_heads, from = (part - first[pair]) * KEYS;
        long at = row * row_stride + head * head_stride + from * stride;
        float* result = results + part * size;
        attend_part(q + (row * heads + head * group) * dim, group, dim, keys + at, values + at, stride,
                    std::min<long>(KEYS, lengths[row] - from), scale, result, result + group * dim,
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
