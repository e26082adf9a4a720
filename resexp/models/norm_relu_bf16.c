/* The four passes of norm_relu.c for bf16, with AVX-512's own conversions: without them they cost more than they save. */

#include "bf16.h"
#include "norm_relu.h"

#ifdef BF16
#define PASS static __attribute__((noinline)) AVX512
#define WIDTH 16

typedef __m512 Vector; /* WIDTH float32 */

INLINE Vector load(const void *from, long i) { return widened((const Half *)from + i); }
INLINE void store(void *to, long i, Vector value) { store_rounded((Half *)to + i, value); }

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

const Chunks norm_relu_bf16 = {0};

#endif
