/* The four passes of norm_relu.c for bf16, with AVX-512's own conversions: without them they cost more than they save. */

#include "norm_relu.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 10
#include <immintrin.h>
#include <stdint.h>

#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512bf16,prefer-vector-width=512")))
#define INLINE static inline __attribute__((always_inline)) AVX512
#define PASS static __attribute__((noinline)) AVX512
#define WIDTH 16

typedef __m512 Vector; /* WIDTH float32 */

int norm_relu_bf16_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512bf16");
}

INLINE Vector load(const void *from, long i) {
    __m256i half = _mm256_loadu_si256((const __m256i *)((const uint16_t *)from + i));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
}

INLINE void store(void *to, long i, Vector value) {
    _mm256_storeu_si256((__m256i *)((uint16_t *)to + i), (__m256i)_mm512_cvtneps_pbh(value));
}

INLINE Vector of(const float *values, long c) { return _mm512_loadu_ps(values + c); }

/* The gradient where the output is above 0, or not a number. */
INLINE Vector masked(Vector gradient, Vector output) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(output, _mm512_setzero_ps(), _CMP_NLE_UQ), gradient);
}

/* Blocks of WIDTH channels; i goes over the rows of one. */
#define EACH_BLOCK for (long c = 0; c < job->channels; c += WIDTH)
#define EACH_ROW \
    for (long i = start * job->channels + c, end = i + count * job->channels; i < end; i += job->channels)

PASS void moments(const Job *job, long start, long count, float *mean, float *square) {
    EACH_BLOCK {
        Vector sum = _mm512_setzero_ps(), deviations = _mm512_setzero_ps();
        EACH_ROW sum += load(job->x, i);
        sum /= _mm512_set1_ps(count);
        EACH_ROW {
            Vector d = load(job->x, i) - sum;
            deviations += d * d;
        }
        _mm512_storeu_ps(mean + c, sum);
        _mm512_storeu_ps(square + c, deviations);
    }
}

PASS void apply(const Job *job, long start, long count) {
    EACH_BLOCK {
        Vector scale = of(job->scale, c), shift = of(job->shift, c), zero = _mm512_setzero_ps();
        if (job->add) EACH_ROW
            store(job->out, i, _mm512_max_ps(zero, load(job->x, i) * scale + shift + load(job->add, i)));
        else EACH_ROW store(job->out, i, _mm512_max_ps(zero, load(job->x, i) * scale + shift)); /* keeps a NaN */
    }
}

PASS void gradient_sums(const Job *job, long start, long count, float *first, float *second) {
    EACH_BLOCK {
        Vector mean = of(job->mean, c), scale = of(job->scale, c), shift = of(job->shift, c);
        Vector one = _mm512_setzero_ps(), two = _mm512_setzero_ps();
        EACH_ROW {
            Vector x = load(job->x, i);
            Vector dz = masked(load(job->dy, i), job->dz ? load(job->y, i) : (Vector)(x * scale + shift));
            if (job->dz) store(job->dz, i, dz);
            one += dz;
            two += dz * (x - mean);
        }
        _mm512_storeu_ps(first + c, one);
        _mm512_storeu_ps(second + c, two);
    }
}

PASS void gradient(const Job *job, long start, long count) {
    EACH_BLOCK {
        Vector mean = of(job->mean, c), scale = of(job->scale, c), shift = of(job->shift, c);
        Vector offset = of(job->offset, c), slope = of(job->slope, c);
        EACH_ROW {
            Vector x = load(job->x, i);
            Vector dz = job->dz ? load(job->dz, i) : masked(load(job->dy, i), (Vector)(x * scale + shift));
            store(job->out, i, scale * (dz - offset - (x - mean) * slope));
        }
    }
}

const Chunks norm_relu_bf16 = {moments, apply, gradient_sums, gradient};

#else

int norm_relu_bf16_supported(void) { return 0; }
const Chunks norm_relu_bf16 = {0};

#endif
