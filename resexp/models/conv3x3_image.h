/* One image for CHANNELS channels, in runs of PIXELS pixels; included by conv3x3.c once for each pair. */

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(word) JOIN(word, CHANNELS, PIXELS)

typedef float NAME(Vector) __attribute__((vector_size(4 * CHANNELS), aligned(4), may_alias));

/* One tap: pixels from first to last of the run, each with its input pixel, which lies PIXELS apart from x on. */
INLINE void NAME(tap)(NAME(Vector) sums[PIXELS], const float *x, const float *weights, int first, int last) {
    for (int in = 0; in < CHANNELS; in++) {
        NAME(Vector) weight = *(const NAME(Vector) *)(weights + in * CHANNELS);
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++)
            if (p >= first && p < last) sums[p] += weight * x[p * CHANNELS + in];
    }
}

/* A run of row h from column w on. left, right: it begins, it ends the row, so that a tap falls on the zero padding. */
INLINE void NAME(run)(const float *x, float *y, const float *weights, long height, long width, long h, long w, int left,
                      int right) {
    NAME(Vector) sums[PIXELS];
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) sums[p] = (NAME(Vector)){0};
    for (long row = h > 0 ? -1 : 0; row <= (h + 1 < height ? 1 : 0); row++) {
        const float *centre = x + ((h + row) * width + w) * CHANNELS;
        const float *taps = weights + (row + 1) * 3 * CHANNELS * CHANNELS;
        NAME(tap)(sums, centre - CHANNELS, taps, left, PIXELS);
        NAME(tap)(sums, centre, taps + CHANNELS * CHANNELS, 0, PIXELS);
        NAME(tap)(sums, centre + CHANNELS, taps + 2 * CHANNELS * CHANNELS, 0, PIXELS - right);
    }
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) *(NAME(Vector) *)(y + (h * width + w + p) * CHANNELS) = sums[p];
}

static __attribute__((noinline)) AVX512 void NAME(image)(const float *x, float *y, const float *weights, long height,
                                                         long width) {
    for (long h = 0; h < height; h++) {
        if (width == PIXELS) {
            NAME(run)(x, y, weights, height, width, h, 0, 1, 1);
            continue;
        }
        NAME(run)(x, y, weights, height, width, h, 0, 1, 0);
        for (long w = PIXELS; w < width - PIXELS; w += PIXELS) NAME(run)(x, y, weights, height, width, h, w, 0, 0);
        NAME(run)(x, y, weights, height, width, h, width - PIXELS, 0, 1);
    }
}

#undef JOIN_
#undef JOIN
#undef NAME
