/* What the two kernels of the 3x3 convolution in bf16 share; the functions are in conv3x3_bf16.c. */

#include "bf16.h"

#ifdef BF16
#define OURS __attribute__((visibility("hidden"))) /* no other library's function of that name takes its place */

/* A convolution as its output sees it: height and width are the output's. */
typedef struct {
    long images, height, width, in, out, stride;
} Shape;

int bf16_supported(void); /* whether this processor can run these kernels */

/* Memory of zeros that begins with a cache line, for free(); NULL without. */
OURS void *zeros(long bytes);

/* (3, 3, pairs of from, to, 2), from float32 (out, 3, 3, in) as torch keeps them, for free(); NULL without memory.
   turned: from the output's channels to the input's; then, at stride 1, with the taps in reverse, which makes the
   gradient of the input a convolution. */
OURS Half *pack(const float *weights, Shape s, int turned);

/* Parts of a batch whose weight gradients are added in order: no sum depends on the threads. */
OURS long weight_parts(Shape s);

/* Adds all parts of (parts, count) to the first, in order. */
OURS void add_parts(float *sums, long count, long parts, int threads);

/* 16 channels of two pixels, in pairs; NULL for a pixel of zeros. */
INLINE __m512i paired(const Half *first, const Half *second) {
    __m256i zero = _mm256_setzero_si256(), one = first ? _mm256_loadu_si256((const __m256i *)first) : zero;
    __m256i two = second ? _mm256_loadu_si256((const __m256i *)second) : zero;
    __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(two), 16);
    return _mm512_or_si512(_mm512_cvtepu16_epi32(one), high);
}

#endif
