/* What the two kernels of the 3x3 convolution in bf16 share: conv3x3_bf16.c has it, conv3x3_amx.c takes it. */

#include "bf16.h"

#ifdef BF16

/* A convolution as its output sees it: height and width are the output's. */
typedef struct {
    long images, height, width, in, out, stride;
} Shape;

int bf16_supported(void); /* whether this processor can run these kernels */

/* Memory of zeros that begins with a cache line, for free(); NULL without. */
void *zeros(long bytes);

/* (3, 3, pairs of from, to, 2), from float32 (out, 3, 3, in) as torch keeps them, for free(); NULL without memory.
   turned: from the output's channels to the input's; then, at stride 1, with the taps in reverse, which makes the
   gradient of the input a convolution. */
Half *pack(const float *weights, Shape s, int turned);

/* Parts of a batch whose weight gradients are added in order: no sum depends on the threads. */
long weight_parts(Shape s);

/* Adds all parts of (parts, count) to the first, in order. */
void add_parts(float *sums, long count, long parts, int threads);

#endif
