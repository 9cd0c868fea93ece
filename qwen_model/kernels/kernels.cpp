// The work of a decoder on the CPU that torch does slowly. Plain pointers in, no headers of torch.
//
// A result never depends on the rows beside it or on the number of threads: every output element is one chain of
// multiply-adds over k in ascending order, in vector lanes, closed by one fixed tree of additions; work is cut at
// places that depend on the sizes of that element alone.
//
// Numbers are float or bfloat16; sums are float32. Matrices are row-major; weights (outputs, inputs) as in nn.Linear.
#include <pthread.h>

#include "layer.h"
#include "read.h"

namespace {

constexpr long CHOICES = 4096;  // logits per unit of work

// Of each row (n): where its largest value is (the first of equals; a NaN counts as largest) and the log of its share,
// value - log(sum of exp).
template <class T> void choose(const T* logits, long rows, long n, int64_t* chosen, float* logprobs, int threads) {
    long parts = (n + CHOICES - 1) / CHOICES;
    std::vector<float> largest(rows * parts), total(rows * parts);
    helpers.run(rows * parts, threads, [&](long part) {
        const T* from = logits + part / parts * n + part % parts * CHOICES;
        alignas(64) float values[CHOICES];
        long count = std::min(CHOICES, n - part % parts * CHOICES);
        for (long i = 0; i < count; i++) values[i] = widen(from[i]);
        long padded = (count + LANES - 1) / LANES * LANES;
        std::fill(values + count, values + padded, -INFINITY);
        largest[part] = largest_of(values, padded);
        total[part] = exp_all(values, padded, largest[part]);
    });
    for (long row = 0; row < rows; row++) {
        const float *tops = &largest[row * parts], *totals = &total[row * parts];
        const T* from = logits + row * n;
        float top = *std::max_element(tops, tops + parts), sum = 0;
        for (long part = 0; part < parts; part++) sum += totals[part] ? totals[part] * std::exp(tops[part] - top) : 0;
        long at = std::max_element(tops, tops + parts) - tops;
        auto is_largest = [top](T value) { return widen(value) == top; };
        auto is_nan = [](T value) { return std::isnan(widen(value)); };
        const T* found = std::isnan(sum) ? std::find_if(from, from + n, is_nan) : from + n;
        if (found == from + n) found = std::find_if(from + at * CHOICES, from + n, is_largest);
        chosen[row] = found - from;
        logprobs[row] = -std::log(sum);
    }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                               \
    void linear_##NAME(const T* x, long rows, long size, const Product* product, int threads) {                        \
        linear(x, rows, size, product, 1, threads);                                                                    \
    }                                                                                                                  \
    void swiglu_##NAME(const T* x, long rows, long size, const Weight* weights, T* out, long n, int threads) {         \
        swiglu(x, rows, size, weights, out, n, threads);                                                               \
    }                                                                                                                  \
    bool layers_##NAME(T* x, long rows, const Layer* of, const Turns* turns, const Slots* slots,                       \
                       const Prefix* prefixes, long count, float eps, float scale, int threads) {                      \
        return layers(x, rows, of, turns, slots, prefixes, count, eps, scale, threads);                                \
    }                                                                                                                  \
    void read_##NAME(const Reading* of, float scale, int threads) { read<T>(*of, scale, threads); }                    \
    void choose_##NAME(const T* logits, long rows, long n, int64_t* chosen, float* logprobs, int threads) {            \
        choose(logits, rows, n, chosen, logprobs, threads);                                                            \
    }                                                                                                                  \
    void expand_##NAME(const Weight* weight, long first, long count, long size, T* out, int threads) {                 \
        spread(count, threads, [=](long row) { expand(*weight, first + row, size, out + row * size); });               \
    }                                                                                                                  \
    void rms_norm_##NAME(const T* x, long rows, long size, const T* weight, float eps, T* out, int threads) {          \
        rms_norm(x, rows, size, weight, eps, out, threads);                                                            \
    }                                                                                                                  \
    void gated_##NAME(T* gate, const T* up, long count, int threads) { gated(gate, up, count, threads); }              \
    void turn_##NAME(const T* x, long tokens, long heads, long dim, const float* cos, const float* sin, long turns,    \
                     T* out, int threads) {                                                                            \
        turn(x, tokens, heads, dim, cos, sin, turns, out, threads);                                                    \
    }

__attribute__((constructor)) static void watch_forks() {
    pthread_atfork(nullptr, nullptr, [] { helpers.forked(); });
}

extern "C" {
KERNELS(float, float32)
KERNELS(bf16, bfloat16)

const char* instruction_set() {
#if defined(__AVX512BF16__)
    return "AVX-512 with bfloat16 dot products";
#elif defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "portable vectors";
#endif
}
}
