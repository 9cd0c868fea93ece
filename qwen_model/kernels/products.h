// Few rows of x against whole matrices of weights.
#pragma once
#include "softmax.h"
#include "threads.h"

namespace {

constexpr long MAX_ROWS = 64;  // rows of x; also MAX_ROWS in __init__.py

// One of the matrices that multiply the same x, and what happens to the product.
struct Product {
    Weight weight;
    const void *bias, *add;  // (n) or null; (rows, n) or null, added to the rounded product
    void* out;               // (rows, n); may be `add`
    int64_t n;
};

template <class T> void linear(const T* x, long rows, long size, const Product* products, long count, int threads) {
    long blocks = 0;
    for (long p = 0; p < count; p++) blocks += (products[p].n + BLOCK - 1) / BLOCK;
    helpers.run(blocks, threads, [=](long block) {
        const Product* part = products;
        for (long own; block >= (own = (part->n + BLOCK - 1) / BLOCK); part++) block -= own;
        long first = block * BLOCK, n = part->n, width = std::min<long>(BLOCK, n - first);
        const T *bias = (const T*)part->bias, *add = (const T*)part->add;
        alignas(64) float sums[MAX_ROWS][BLOCK];
        dot_block(x, rows, size, part->weight, first, width, sums);
        for (long m = 0; m < rows; m++)
            for (long i = 0; i < width; i += LANES) {
                Floats sum = load_floats(sums[m] + i);
                if (bias) sum += load_floats(bias + first + i, width - i);
                if (add) sum = rounded<T>(sum) + load_floats(add + m * n + first + i, width - i);
                store_rounded((T*)part->out + m * n + first + i, sum, width - i);
            }
    });
}

// silu(gate) * up, rounded where torch rounds: after silu, and by whoever stores it.
template <class T> inline Floats gated(Floats gate, Floats up) {
    return rounded<T>(gate / (exp_floats(-gate) + 1.0f)) * up;
}

// Of gate and up: out = silu(x gate^T) * (x up^T); each product is rounded first.
template <class T>
void swiglu(const T* x, long rows, long size, const Weight* weights, T* out, long n, int threads) {
    helpers.run((n + BLOCK - 1) / BLOCK, threads, [=](long block) {
        long first = block * BLOCK, width = std::min<long>(BLOCK, n - first);
        alignas(64) float gates[MAX_ROWS][BLOCK], ups[MAX_ROWS][BLOCK];
        dot_block(x, rows, size, weights[0], first, width, gates);
        dot_block(x, rows, size, weights[1], first, width, ups);
        for (long m = 0; m < rows; m++)
            for (long i = 0; i < width; i += LANES) {
                Floats gate = rounded<T>(load_floats(gates[m] + i)), up = rounded<T>(load_floats(ups[m] + i));
                store_rounded(out + m * n + first + i, gated<T>(gate, up), width - i);
            }
    });
}

}  // namespace
