// Exponentials, and sums of them.
#pragma once
#include <cmath>

#include "dot.h"

namespace {

inline float largest_lane(Floats values) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)values);
#else
    float top = values[0];
    for (int i = 1; i < LANES; i++) top = std::max(top, values[i]);
    return top;
#endif
}
inline float sum_of(Floats values) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)values);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
#endif
}

inline float largest_of(const float* values, long count) {  // `count` in whole vectors; NaNs are passed over
    Floats most = Floats{} - INFINITY;
    for (long i = 0; i < count; i += LANES) {
        Floats value = load_floats(values + i);
        most = value > most ? value : most;
    }
    return largest_lane(most);
}

inline Floats exp_floats(Floats x) {  // within 2 units in the last place; 0 below -87.3, inf above 88.7; NaN stays
    const Floats zero = {}, low = zero - 87.3f, high = zero + 89.0f;
    Floats bounded = x < low ? low : x;
    bounded = bounded > high ? high : bounded;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    Floats whole = bounded * 1.44269504f + shift - shift;
    Floats r = bounded - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats y = zero + 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        y = y * r + c;
    y = y * r * r + r + 1.0f;
    Words power = (Words)(__builtin_convertvector(whole, Ints) + 127) << 23;
    y = y * (Floats)power;
    return x < low ? zero : y;
}

// values = exp(values - largest), and their sum; `count` in whole vectors.
inline float exp_all(float* values, long count, float largest) {
    float base = largest == -INFINITY ? 0.0f : largest;  // where nothing may be read all are 0, not NaN
    Floats sums = {};
    for (long i = 0; i < count; i += LANES) {
        Floats value = exp_floats(load_floats(values + i) - base);
        store_floats(values + i, value);
        sums += value;
    }
    return sum_of(sums);
}

}  // namespace
