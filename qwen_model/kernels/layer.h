// What stands between the products of a layer, and a whole layer of the decoder for one new token per row.
#pragma once
#include <vector>

#include "attend.h"
#include "products.h"

namespace {

constexpr long GATES = 4096;  // numbers per unit of work

template <class T> void rms_norm(const T* x, long rows, long size, const T* weight, float eps, T* out, int threads) {
    spread(rows, rows > MAX_ROWS ? threads : 1, [=](long m) {
        const T* row = x + m * size;
        Floats squares = {};
        for (long k = 0; k < size; k += LANES) {
            Floats value = load_floats(row + k, size - k);
            squares = multiply_add(value, value, squares);
        }
        float factor = 1.0f / std::sqrt(sum_of(squares) / size + eps);
        for (long k = 0; k < size; k += LANES) {
            Floats value = rounded<T>(load_floats(row + k, size - k) * factor);
            store_rounded(out + m * size + k, value * load_floats(weight + k, size - k), size - k);
        }
    });
}

// Of projections computed already: gate = silu(gate) * up.
template <class T> void gated(T* gate, const T* up, long count, int threads) {
    spread((count + GATES - 1) / GATES, threads, [=](long block) {
        long end = std::min(count, (block + 1) * GATES);
        for (long at = block * GATES; at < end; at += LANES) {
            Floats value = gated<T>(load_floats(gate + at, end - at), load_floats(up + at, end - at));
            store_rounded(gate + at, value, end - at);
        }
    });
}

template <class T> void rotate(const T* x, const float* cos, const float* sin, long dim, T* out) {
    long half = dim / 2;
    for (long i = 0; i < half; i += LANES) {
        long count = half - i;
        Floats low = load_floats(x + i, count), high = load_floats(x + half + i, count);
        Floats turned = high * load_floats(cos + half + i, count) + low * load_floats(sin + half + i, count);
        store_rounded(out + i, low * load_floats(cos + i, count) - high * load_floats(sin + i, count), count);
        store_rounded(out + half + i, turned, count);
    }
}

// Turn x (tokens, heads, dim); token i by row i % turns of cos and sin (turns, dim).
template <class T>
void turn(const T* x, long tokens, long heads, long dim, const float* cos, const float* sin, long turns, T* out,
          int threads) {
    spread(tokens, tokens > MAX_ROWS ? threads : 1, [=](long token) {
        long row = token % turns * dim;
        for (long head = token * heads; head < (token + 1) * heads; head++)
            rotate(x + head * dim, cos + row, sin + row, dim, out + head * dim);
    });
}

// The weights of a layer. These structs are filled in by __init__.py: the order is the agreement.
struct Layer {
    Weight query, key, value, output, gate, up, down;
    const void *query_bias, *key_bias, *value_bias, *output_bias;  // or null
    const void *input_norm, *middle_norm;
    int64_t hidden, inner, heads, kv_heads, dim;
};

// How the rows' tokens are turned, (rows, dim) each; queries may be scaled besides.
struct Turns {
    const float *query_cos, *query_sin, *key_cos, *key_sin;
};

// Turn q (heads, dim) in place; put k (turned) and v (kv_heads, dim) into the cache.
template <class T>
void rotate_store(T* q, T* k, const T* v, long row, const Layer& of, const Turns& turns, const Slots& slots) {
    long dim = of.dim, from = row * dim;
    for (long head = 0; head < of.heads; head++)
        rotate(q + head * dim, turns.query_cos + from, turns.query_sin + from, dim, q + head * dim);
    for (long head = 0; head < of.kv_heads; head++) {
        long to = row * slots.row_stride + head * slots.head_stride + slots.places[row] * slots.stride;
        rotate(k + head * dim, turns.key_cos + from, turns.key_sin + from, dim, (T*)slots.keys + to);
        std::copy(v + head * dim, v + (head + 1) * dim, (T*)slots.values + to);
    }
}

// x (rows, hidden) through the layer `index`, in place.
template <class T>
void layer(T* x, long rows, const Layer& of, const Turns& turns, const Slots& slots, const Prefix* prefixes, long index,
           float eps, float scale, int threads) {
    long hidden = of.hidden, queries = of.heads * of.dim, keys = of.kv_heads * of.dim;
    static thread_local std::vector<T> kept;
    size_t wanted = rows * (hidden + 2 * queries + 2 * keys + of.inner);
    if (kept.size() < wanted) kept.resize(wanted);
    T *normed = kept.data(), *q = normed + rows * hidden, *k = q + rows * queries, *v = k + rows * keys;
    T *read = v + rows * keys, *inner = read + rows * queries;
    rms_norm(x, rows, hidden, (const T*)of.input_norm, eps, normed, 1);
    const Product projections[] = {{of.query, of.query_bias, nullptr, q, queries},
                                   {of.key, of.key_bias, nullptr, k, keys},
                                   {of.value, of.value_bias, nullptr, v, keys}};
    linear(normed, rows, hidden, projections, 3, threads);
    for (long row = 0; row < rows; row++)
        rotate_store(q + row * queries, k + row * keys, v + row * keys, row, of, turns, slots);
    attend(q, rows, of.heads, of.kv_heads, of.dim, slots, prefixes, index, scale, read, threads);
    const Product output = {of.output, of.output_bias, x, x, hidden};
    linear(read, rows, queries, &output, 1, threads);
    rms_norm(x, rows, hidden, (const T*)of.middle_norm, eps, normed, 1);
    const Weight weights[] = {of.gate, of.up};
    swiglu(normed, rows, hidden, weights, inner, of.inner, threads);
    const Product down = {of.down, nullptr, x, x, hidden};
    linear(inner, rows, of.inner, &down, 1, threads);
}

inline bool within(const Slots& slots, const Prefix* prefixes, long rows) {
    for (long row = 0; row < rows; row++) {
        int64_t place = slots.places[row], own = slots.lengths[row] - prefixes[row].length;
        if (place < 0 || place >= slots.capacity || own < 1 || own > slots.capacity) return false;
    }
    return true;
}

// x (rows, hidden) through `count` layers, in place. False, and nothing done, if a place or a length is outside a cache.
template <class T>
bool layers(T* x, long rows, const Layer* of, const Turns* turns, const Slots* slots, const Prefix* prefixes,
            long count, float eps, float scale, int threads) {
    for (long i = 0; i < count; i++)
        if (!within(slots[i], prefixes, rows)) return false;
    for (long i = 0; i < count; i++) layer(x, rows, of[i], turns[i], slots[i], prefixes, i, eps, scale, threads);
    return true;
}

}  // namespace
