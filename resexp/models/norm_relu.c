/* relu(batch_norm(x) + add) in training, and its gradient: channels last, seen as a matrix (rows, channels), of float32
   here and of bf16 in norm_relu_bf16.c. Statistics are float32.

   torch runs these as three operations forward and three backward, and each reads and writes the whole activation. Here
   each direction takes two passes: one for the sums over the batch, one to write the result. Rows are cut into chunks
   that stay in the cache; the chunks' sums are added in their order, so that the result does not depend on the number
   of threads. norm_relu.py calls this, and says when. */

#include <math.h>
#include <stdlib.h>
#include "kernels.h"
#include "norm_relu.h"

#define CHUNK 16384 /* values */
#define INLINE static inline __attribute__((always_inline))
#define LANES _Pragma("omp simd") for (int j = 0; j < W; j++)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED static __attribute__((noinline, target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define VECTORISED static __attribute__((noinline))
#endif

/* A NaN stays one, as in torch: a loss that is not finite must be seen. */
INLINE float relu(float value) { return value < 0 ? 0 : value; }
INLINE float masked(float gradient, float output) { return output <= 0 ? 0 : gradient; }

/* Mean, and sum of squared deviations from it, of W channels. */
INLINE void moments(const Job *job, long start, long count, long c, int W, float *mean, float *square) {
    const float *x = (const float *)job->x + start * job->channels + c;
    float sum[16] = {0}, deviations[16] = {0};
    for (long r = 0; r < count; r++) LANES sum[j] += x[r * job->channels + j];
    LANES sum[j] /= count;
    for (long r = 0; r < count; r++) LANES {
        float d = x[r * job->channels + j] - sum[j];
        deviations[j] += d * d;
    }
    LANES mean[c + j] = sum[j], square[c + j] = deviations[j];
}

INLINE void apply(const Job *job, long start, long count, long c, int W, int joins) {
    float scale[16], shift[16];
    const float *x = job->x, *add = job->add;
    float *out = job->out;
    LANES scale[j] = job->scale[c + j], shift[j] = job->shift[c + j];
    for (long i = start * job->channels + c; count--; i += job->channels) LANES
        out[i + j] = relu(x[i + j] * scale[j] + shift[j] + (joins ? add[i + j] : 0));
}

/* Sums of dz and of dz * (x - mean), where dz is dy behind the ReLU's mask. With an addition dz is its gradient too. */
INLINE void gradient_sums(const Job *job, long start, long count, long c, int W, int joins, float *first,
                          float *second) {
    float mean[16], scale[16], shift[16], one[16] = {0}, two[16] = {0};
    const float *xs = job->x, *y = job->y, *dy = job->dy;
    float *dzs = job->dz;
    LANES mean[j] = job->mean[c + j], scale[j] = job->scale[c + j], shift[j] = job->shift[c + j];
    for (long i = start * job->channels + c; count--; i += job->channels) LANES {
        float x = xs[i + j];
        float dz = masked(dy[i + j], joins ? y[i + j] : x * scale[j] + shift[j]);
        if (joins) dzs[i + j] = dz;
        one[j] += dz;
        two[j] += dz * (x - mean[j]);
    }
    LANES first[c + j] = one[j], second[c + j] = two[j];
}

INLINE void gradient(const Job *job, long start, long count, long c, int W, int joins) {
    float mean[16], scale[16], shift[16], offset[16], slope[16];
    const float *xs = job->x, *dy = job->dy, *dzs = job->dz;
    float *out = job->out;
    LANES mean[j] = job->mean[c + j], scale[j] = job->scale[c + j], shift[j] = job->shift[c + j];
    LANES offset[j] = job->offset[c + j], slope[j] = job->slope[c + j];
    for (long i = start * job->channels + c; count--; i += job->channels) LANES {
        float x = xs[i + j];
        float dz = joins ? dzs[i + j] : masked(dy[i + j], x * scale[j] + shift[j]);
        out[i + j] = scale[j] * (dz - offset[j] - (x - mean[j]) * slope[j]);
    }
}

/* One chunk in blocks of 16 channels, or of 8; CALL sees c and the constant W. */
#define BLOCKS(CALL)                                                                          \
    if (job->channels % 16 == 0) { enum { W = 16 }; for (long c = 0; c < job->channels; c += W) CALL; } \
    else { enum { W = 8 }; for (long c = 0; c < job->channels; c += W) CALL; }

VECTORISED void chunk_moments(const Job *job, long start, long count, float *mean, float *square) {
    BLOCKS(moments(job, start, count, c, W, mean, square))
}

VECTORISED void chunk_apply(const Job *job, long start, long count) {
    if (job->add) { BLOCKS(apply(job, start, count, c, W, 1)) } else { BLOCKS(apply(job, start, count, c, W, 0)) }
}

VECTORISED void chunk_gradient_sums(const Job *job, long start, long count, float *first, float *second) {
    if (job->dz) { BLOCKS(gradient_sums(job, start, count, c, W, 1, first, second)) }
    else { BLOCKS(gradient_sums(job, start, count, c, W, 0, first, second)) }
}

VECTORISED void chunk_gradient(const Job *job, long start, long count) {
    if (job->dz) { BLOCKS(gradient(job, start, count, c, W, 1)) } else { BLOCKS(gradient(job, start, count, c, W, 0)) }
}

static const Chunks FLOAT = {chunk_moments, chunk_apply, chunk_gradient_sums, chunk_gradient};

/* Of the functions' arguments: kernels.py takes no library of another version, which a checkout may still have. */
int kernels_version(void) { return 6; }

/* Whether these kernels share their work among threads. */
int kernels_parallel(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

static long chunk_rows(long channels) { return channels < CHUNK ? CHUNK / channels : 1; }

/* half: what is as large as the activation is bf16; else float32.
   batch, kept for the gradient: mean, 1 / standard deviation, scale, shift, each (channels,). 0, or 1 without memory. */
int norm_relu_forward(const void *x, const void *add, void *y, int half, long rows, long channels,
                      const float *weight, const float *bias, float eps, float momentum, float *running_mean,
                      float *running_var, float *batch, int threads) {
    const Chunks *chunk = half ? &norm_relu_bf16 : &FLOAT;
    float *mean = batch, *invstd = mean + channels, *scale = invstd + channels, *shift = scale + channels;
    long step = chunk_rows(channels), chunks = (rows + step - 1) / step;
    float *means = malloc(sizeof(float) * 2 * chunks * channels), *squares = means + chunks * channels;
    if (!means) return 1;
    Job job = {.channels = channels, .x = x, .add = add, .out = y, .scale = scale, .shift = shift};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long k = 0; k < chunks; k++)
        chunk->moments(&job, k * step, least(step, rows - k * step), means + k * channels, squares + k * channels);
    for (long c = 0; c < channels; c++) {
        double centre = 0, square = 0;
        for (long k = 0; k < chunks; k++) centre += least(step, rows - k * step) * (double)means[k * channels + c];
        centre /= rows;
        for (long k = 0; k < chunks; k++) {
            double away = means[k * channels + c] - centre;
            square += squares[k * channels + c] + least(step, rows - k * step) * away * away;
        }
        mean[c] = centre;
        invstd[c] = 1 / sqrt(square / rows + eps);
        scale[c] = weight[c] * invstd[c];
        shift[c] = bias[c] - mean[c] * scale[c];
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_var[c] += momentum * ((float)(square / (rows - 1)) - running_var[c]);
    }
    free(means);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long k = 0; k < chunks; k++) chunk->apply(&job, k * step, least(step, rows - k * step));
    return 0;
}

/* With the scale and shift of each channel, as in evaluation. */
void norm_relu_apply(const void *x, const void *add, void *y, int half, long rows, long channels, const float *scale,
                     const float *shift, int threads) {
    const Chunks *chunk = half ? &norm_relu_bf16 : &FLOAT;
    long step = chunk_rows(channels), chunks = (rows + step - 1) / step;
    Job job = {.channels = channels, .x = x, .add = add, .out = y, .scale = scale, .shift = shift};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long k = 0; k < chunks; k++) chunk->apply(&job, k * step, least(step, rows - k * step));
}

/* dz: where the addition's gradient goes, or NULL without an addition; then y is not read. 0, or 1 without memory. */
int norm_relu_backward(const void *dy, const void *y, const void *x, void *dx, void *dz, int half, long rows,
                       long channels, const float *batch, float *dweight, float *dbias, int threads) {
    const Chunks *chunk = half ? &norm_relu_bf16 : &FLOAT;
    const float *mean = batch, *invstd = mean + channels, *scale = invstd + channels, *shift = scale + channels;
    long step = chunk_rows(channels), chunks = (rows + step - 1) / step;
    float *offset = malloc(sizeof(float) * 2 * (chunks + 1) * channels), *slope = offset + channels;
    float *firsts = slope + channels, *seconds = firsts + chunks * channels;
    if (!offset) return 1;
    Job job = {.channels = channels, .x = x, .y = y, .dy = dy, .out = dx, .dz = dz,
               .mean = mean, .scale = scale, .shift = shift, .offset = offset, .slope = slope};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long k = 0; k < chunks; k++)
        chunk->gradient_sums(&job, k * step, least(step, rows - k * step), firsts + k * channels, seconds + k * channels);
    for (long c = 0; c < channels; c++) {
        double first = 0, second = 0;
        for (long k = 0; k < chunks; k++) first += firsts[k * channels + c], second += seconds[k * channels + c];
        dbias[c] = first;
        dweight[c] = second * invstd[c];
        offset[c] = first / rows;
        slope[c] = second / rows * invstd[c] * invstd[c];
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long k = 0; k < chunks; k++) chunk->gradient(&job, k * step, least(step, rows - k * step));
    free(offset);
    return 0;
}
