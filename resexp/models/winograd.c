/* 3x3 convolution of stride 1 with zero padding, float32, channels last, by Winograd's F(2x2, 3x3) (Lavin & Gray 2016).

   Two by two outputs of a channel take 16 multiplications in place of 36. A tile is the 4x4 numbers of a channel that
   they read. d -> B'dB goes before the products, m -> A'mA after them; the weights' g -> GgG' is done once for all:

       B' = 1  0 -1  0     A' = 1  1  1  0     G = 1    0    0
            0  1  1  0          0  1 -1 -1         1/2  1/2  1/2
            0 -1  1  0                             1/2 -1/2  1/2
            0  1  0 -1                             0    0    1

   For each of the 16 places of a tile the products are a matrix product over the channels, of a few dozen tiles at
   once, so that all of it stays in the cache. The gradient of the input is the same convolution with the weights turned
   round, that of the weights the adjoint: G'(sum of B'dB times A dy A')G. conv3x3.py calls this, and says when. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#define SIZES long images, long height, long width, long in, long out
int winograd_avx2(const float *x, const float *weights, const float *add, float *y, SIZES, int turned, int threads);
int winograd_avx512(const float *x, const float *weights, const float *add, float *y, SIZES, int turned, int threads);
int winograd_weights_avx2(const float *x, const float *dy, float *dweights, SIZES, int threads);
int winograd_weights_avx512(const float *x, const float *dy, float *dweights, SIZES, int threads);

/* Numbers in a vector of this processor; 0: it has no such vectors. */
int winograd_lanes(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

static int is_wide(long in, long out) { return winograd_lanes() == 16 && in % 16 == 0 && out % 16 == 0; }

/* y (images, height, width, out) from x (images, height, width, in), plus add where it is not null; turned: from the
   gradient of the output that of the input. Height and width are even, in and out multiples of 8. 1: no memory. */
int winograd(const float *x, const float *weights, const float *add, float *y, SIZES, int turned, int threads) {
    return (is_wide(in, out) ? winograd_avx512 : winograd_avx2)(x, weights, add, y, images, height, width, in, out,
                                                                   turned, threads);
}

/* The gradient of the weights (out, 3, 3, in) from x and the gradient of the output. */
int winograd_weights(const float *x, const float *dy, float *dweights, SIZES, int threads) {
    return (is_wide(in, out) ? winograd_weights_avx512 : winograd_weights_avx2)(x, dy, dweights, images, height,
                                                                                   width, in, out, threads);
}

#else

int winograd_lanes(void) { return 0; }

#endif
