// Decoding on the CPU: few rows of x against all weights, once per token. Plain pointers in, no headers of torch.
//
// A result never depends on the rows beside it or on the number of threads: every output element is one chain of
// multiply-adds over k in ascending order, in vector lanes, closed by one fixed tree of additions; work is cut at
// places that depend on the sizes of that element alone.
//
// Numbers are float or bfloat16; sums are float32. Matrices are row-major; weights (outputs, inputs) as in nn.Linear.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <vector>

#include "dot.h"

namespace {

constexpr long MAX_ROWS = 64 ;    // rows of x; also MAX_ROWS in __init__.py
constexpr long KEYS = 256;        // keys per unit of attention work
constexpr long KEYS_AHEAD = 32;   // keys that are fetched before their turn
constexpr uint32_t RUN = 32;      // units that a thread takes at once, at most
constexpr int SPINS = 5000;       // pauses until an idle helper sleeps, about 0.1 ms
constexpr long CHOICES = 4096;    // logits per unit of work

// Threads that help where they can. Whoever is running takes the next unit of work, and the caller waits only for units
// that were begun: on a busy machine a helper that gets no core costs nothing, where an OpenMP team waits at every
// barrier for its last member. Helpers sleep soon after the last call, so torch's own threads find the cores free.
class Helpers {
  public:
    template <class Work> void run(long units, int threads, const Work& work) {
        std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        if (threads <= 1 || units <= 1 || !alone.owns_lock()) {
            for (long unit = 0; unit < units; unit++) work(unit);
            return;
        }
        for (; started_ < threads - 1; started_++) std::thread(&Helpers::help, this, started_).detach();
        call_ = [](const void* of, long unit) { (*static_cast<const Work*>(of))(unit); };
        work_ = &work, units_ = units, wanted_ = threads - 1, done_ = 0;
        uint32_t turn = turn_ + 1;
        open_ = uint64_t(turn) << 32 | uint32_t(units);
        turn_ = turn;
        if (asleep_) turn_.notify_all();
        while (take()) {
        }
        for (int spins = 0; done_ < units; spins++) rest(spins);
    }
    void forked() { started_ = 0; }  // a child process has no helpers yet

  private:
    std::mutex busy_;
    int started_ = 0;
    alignas(64) std::atomic<uint64_t> open_{0};  // turn << 32 | units not taken: a stale turn can take nothing
    alignas(64) std::atomic<long> done_{0};
    alignas(64) std::atomic<uint32_t> turn_{0};
    std::atomic<int> asleep_{0}, wanted_{0};
    std::atomic<long> units_{0};
    std::atomic<const void*> work_{nullptr};
    std::atomic<void (*)(const void*, long)> call_{nullptr};

    static void rest(int spins) {
        if (spins % 256 == 255) return std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    bool take() {
        uint64_t open = open_;
        while (uint32_t(open)) {
            auto call = call_.load();
            const void* work = work_;
            // runs of units, shorter towards the end: what is fetched ahead is mostly one's own
            uint32_t count = std::clamp<uint32_t>(uint32_t(open) / (2 * wanted_ + 2), 1, RUN);
            long unit = units_ - uint32_t(open);
            if (!open_.compare_exchange_weak(open, open - count)) continue;  // else what was read belongs to this turn
            for (uint32_t i = 0; i < count; i++) call(work, unit + i);
            done_ += count;
            return true;
        }
        return false;
    }
    void help(int index) {
        for (uint32_t seen = 0;; seen = turn_) {
            while (index < wanted_ && take()) {
            }
            for (int spins = 0; turn_ == seen && spins < SPINS; spins++) rest(spins);
            if (turn_ != seen) continue;
            asleep_++;
            turn_.wait(seen);
            asleep_--;
        }
    }
};
Helpers& helpers = *new Helpers;  // never destroyed: its threads may still sleep when the process ends

// Work between torch's products of many rows: by torch's own threads, which are awake then and would fight with helpers.
template <class Work> void spread(long units, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long unit = 0; unit < units; unit++) work(unit);
}

inline float largest_of(const float* values, long count) {  // `count` in whole vectors; NaNs are passed over
    Floats most = Floats{} - INFINITY;
    for (long i = 0; i < count; i += LANES) {
        Floats value = load_floats(values + i);
        most = value > most ? value : most;
    }
    float top = most[0];
    for (int i = 1; i < LANES; i++) top = std::max(top, most[i]);
    return top;
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
    float total = 0;
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total;
}

// One of the matrices that multiply the same x, and what happens to the product.
struct Product {
    Weight weight;
    const void *bias, *add;  // (n) or null; (rows, n) or null, added to the rounded product
    void* out;               // (rows, n)
    int64_t n;
};

// One row of a block, rounded to T. Loops over whole blocks, so that they become vector code.
template <class T> struct Row {
    T at[BLOCK];
    explicit Row(const float* from) {
        for (int i = 0; i < BLOCK; i++) at[i] = narrow<T>(from[i]);
    }
    Row(const T* from, long width) : at{} { memcpy(at, from, width * sizeof(T)); }
    void wide(float* to) const {
        for (int i = 0; i < BLOCK; i++) to[i] = widen(at[i]);
    }
};

template <class T> void linear(const T* x, long rows, long size, const Product* products, long count, int threads) {
    long blocks = 0;
    for (long p = 0; p < count; p++) blocks += (products[p].n + BLOCK - 1) / BLOCK;
    helpers.run(blocks, threads, [=](long block) {
        const Product* part = products;
        for (long own; block >= (own = (part->n + BLOCK - 1) / BLOCK); part++) block -= own;
        long first = block * BLOCK, n = part->n, width = std::min<long>(BLOCK, n - first);
        const T *bias = (const T*)part->bias, *add = (const T*)part->add;
        alignas(64) float sums[MAX_ROWS][BLOCK], other[BLOCK];
        dot_block(x, rows, size, part->weight, first, width, sums);
        for (long m = 0; m < rows; m++) {
            if (bias) {
                Row<T>(bias + first, width).wide(other);
                for (int i = 0; i < BLOCK; i++) sums[m][i] += other[i];
            }
            if (add) {
                Row<T>(sums[m]).wide(sums[m]);
                Row<T>(add + m * n + first, width).wide(other);
                for (int i = 0; i < BLOCK; i++) sums[m][i] += other[i];
            }
            memcpy((T*)part->out + m * n + first, Row<T>(sums[m]).at, width * sizeof(T));
        }
    });
}

template <class T> void activate(float* gate, const float* up) {  // gate = silu(gate) * up over a block
    for (int i = 0; i < BLOCK; i += LANES) {
        Floats value = load_floats(gate + i);
        store_floats(gate + i, value / (exp_floats(-value) + 1.0f));
    }
    Row<T>(gate).wide(gate);
    for (int i = 0; i < BLOCK; i++) gate[i] *= up[i];
}

// Of gate and up: out = silu(x gate^T) * (x up^T), rounded where torch rounds: after each product, after silu, and last.
template <class T>
void swiglu(const T* x, long rows, long size, const Weight* weights, T* out, long n, int threads) {
    helpers.run((n + BLOCK - 1) / BLOCK, threads, [=](long block) {
        long first = block * BLOCK, width = std::min<long>(BLOCK, n - first);
        alignas(64) float gates[MAX_ROWS][BLOCK], ups[MAX_ROWS][BLOCK];
        dot_block(x, rows, size, weights[0], first, width, gates);
        dot_block(x, rows, size, weights[1], first, width, ups);
        for (long m = 0; m < rows; m++) {
            float *g = gates[m], *u = ups[m];
            Row<T>(g).wide(g);
            Row<T>(u).wide(u);
            activate<T>(g, u);
            memcpy(out + m * n + first, Row<T>(g).at, width * sizeof(T));
        }
    });
}

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
        w.size = dim, w.ahead = w.rows[0] + KEYS_AHEAD * stride;
        dot_rows(q, dim, group, w, dim, scores + key, KEYS);
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

template <class T> void rms_norm(const T* x, long rows, long size, const T* weight, float eps, T* out, int threads) {
    spread(rows, rows > MAX_ROWS ? threads : 1, [=](long m) {
        const T* row = x + m * size;
        Floats squares = {};
        long k = 0;
        for (; k + LANES <= size; k += LANES) {
            Floats value = load_floats(row + k);
            squares = multiply_add(value, value, squares);
        }
        float sum = 0;
        for (int i = 0; i < LANES; i++) sum += squares[i];
        for (; k < size; k++) sum += widen(row[k]) * widen(row[k]);
        float factor = 1.0f / std::sqrt(sum / size + eps);
        for (k = 0; k < size; k++)
            out[m * size + k] = narrow<T>(widen(narrow<T>(widen(row[k]) * factor)) * widen(weight[k]));
    });
}

// Of projections computed already: gate = silu(gate) * up, rounded as in swiglu.
template <class T> void gated(T* gate, const T* up, long count, int threads) {
    spread((count + CHOICES - 1) / CHOICES, threads, [=](long block) {
        long end = std::min(count, (block + 1) * CHOICES);
        for (long at = block * CHOICES; at < end; at += BLOCK) {
            long width = std::min<long>(BLOCK, end - at);
            alignas(64) float g[BLOCK], u[BLOCK];
            Row<T>(gate + at, width).wide(g);
            Row<T>(up + at, width).wide(u);
            activate<T>(g, u);
            memcpy(gate + at, Row<T>(g).at, width * sizeof(T));
        }
    });
}

template <class T> void rotate(const T* x, const float* cos, const float* sin, long dim, T* out) {
    long half = dim / 2;
    for (long i = 0; i < half; i++) {
        float low = widen(x[i]), high = widen(x[i + half]);
        out[i] = narrow<T>(low * cos[i] - high * sin[i]);
        out[i + half] = narrow<T>(high * cos[i + half] + low * sin[i + half]);
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

struct Turns {
    const float *query_cos, *query_sin, *key_cos, *key_sin;  // (rows, dim) each; queries may be scaled besides
};

// Turn q (rows, heads, dim) in place; put k (turned) and v (rows, kv_heads, dim) into the cache at each row's place.
template <class T>
void rotate_store(T* q, const T* k, const T* v, long rows, long heads, long kv_heads, long dim, const Turns& turns,
                  T* keys, T* values, long row_stride, long head_stride, long stride, const int64_t* places,
                  int threads) {
    helpers.run(rows, rows * heads * dim > 50000 ? threads : 1, [=](long row) {
        const float *query_cos = turns.query_cos + row * dim, *query_sin = turns.query_sin + row * dim;
        const float *key_cos = turns.key_cos + row * dim, *key_sin = turns.key_sin + row * dim;
        std::vector<T> turned(dim);
        for (long head = 0; head < heads; head++) {
            T* at = q + (row * heads + head) * dim;
            rotate(at, query_cos, query_sin, dim, turned.data());
            std::copy(turned.begin(), turned.end(), at);
        }
        for (long head = 0; head < kv_heads; head++) {
            long from = (row * kv_heads + head) * dim;
            long to = row * row_stride + head * head_stride + places[row] * stride;
            rotate(k + from, key_cos, key_sin, dim, keys + to);
            std::copy(v + from, v + from + dim, values + to);
        }
    });
}

inline bool within(const int64_t* values, long count, int64_t low, int64_t high) {
    return std::all_of(values, values + count, [=](int64_t value) { return low <= value && value <= high; });
}

}  // namespace

#define KERNELS(T, NAME)                                                                                               \
    void linear_##NAME(const T* x, long rows, long size, const Product* products, long count, int threads) {           \
        linear(x, rows, size, products, count, threads);                                                               \
    }                                                                                                                  \
    void swiglu_##NAME(const T* x, long rows, long size, const Weight* weights, T* out, long n, int threads) {         \
        swiglu(x, rows, size, weights, out, n, threads);                                                               \
    }                                                                                                                  \
    int attend_##NAME(const T* q, long rows, long heads, long kv_heads, long dim, const T* keys, const T* values,      \
                      long row_stride, long head_stride, long stride, long capacity, const int64_t* lengths,           \
                      float scale, T* out, int threads) {                                                              \
        if (!within(lengths, rows, 1, capacity)) return 1;                                                             \
        attend(q, rows, heads, kv_heads, dim, keys, values, row_stride, head_stride, stride, lengths, scale, out,      \
               threads);                                                                                               \
        return 0;                                                                                                      \
    }                                                                                                                  \
    void choose_##NAME(const T* logits, long rows, long n, int64_t* chosen, float* logprobs, int threads) {            \
        choose(logits, rows, n, chosen, logprobs, threads);                                                            \
    }                                                                                                                  \
    void rms_norm_##NAME(const T* x, long rows, long size, const T* weight, float eps, T* out, int threads) {          \
        rms_norm(x, rows, size, weight, eps, out, threads);                                                            \
    }                                                                                                                  \
    void gated_##NAME(T* gate, const T* up, long count, int threads) { gated(gate, up, count, threads); }              \
    void turn_##NAME(const T* x, long tokens, long heads, long dim, const float* cos, const float* sin, long turns,    \
                     T* out, int threads) {                                                                            \
        turn(x, tokens, heads, dim, cos, sin, turns, out, threads);                                                    \
    }                                                                                                                  \
    int rotate_store_##NAME(T* q, const T* k, const T* v, long rows, long heads, long kv_heads, long dim,              \
                            const Turns* turns, T* keys, T* values, long row_stride, long head_stride, long stride,    \
                            const int64_t* places, long capacity, int threads) {                                       \
        if (!within(places, rows, 0, capacity - 1)) return 1;                                                          \
        rotate_store(q, k, v, rows, heads, kv_heads, dim, *turns, keys, values, row_stride, head_stride, stride,       \
                     places, threads);                                                                                 \
        return 0;                                                                                                      \
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
