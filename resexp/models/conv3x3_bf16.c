/* 3x3 convolution of stride 1 with zero padding in bf16, as many channels out as in, channels last: output, gradient of
   the input, gradient of the weights. Products of bf16 are exact in float32, and all sums are float32.

   The processor multiplies two pairs of bf16 and adds both products to a float32 in one instruction, for 16 lanes. So
   numbers are taken in pairs: of input channels for the output, of neighbouring pixels for the weights' gradient. As in
   conv3x3.c the lanes are output channels, and a block of sums stays in registers. conv3x3.py calls this, and says
   when. It needs AVX-512 with its bf16 extension. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512bf16,prefer-vector-width=512")))
#define INLINE static inline __attribute__((always_inline)) AVX512
#define UNROLL _Pragma("GCC unroll 16")
#define RUN 8      /* pixels whose sums are in registers together, in a row */
#define SUMS 16    /* vectors of sums in registers */
#define PARTS 16   /* of a batch, whose weight gradients are added in order: the sum does not depend on the threads */
#define GROUP 32768 /* values of the images whose pairs are laid out at once; they fit into the cache */

typedef uint16_t Half;

int conv3x3_bf16_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512bf16");
}

/* sum + first * second, summed over pairs, in each of 16 lanes. */
INLINE __m512 add_products(__m512 sum, __m512i first, __m512i second) {
    return _mm512_dpbf16_ps(sum, (__m512bh)first, (__m512bh)second);
}

/* Two neighbouring bf16, in all lanes. */
INLINE __m512i spread(const Half *pair) {
    int both;
    memcpy(&both, pair, 4);
    return _mm512_set1_epi32(both);
}

static Half rounded(float value) { /* to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* One tap on a run: pixels from first to last, each with its input pixel, which lies one pixel's channels apart. */
INLINE void tap(__m512 *sums, const Half *x, const Half *weights, long channels, int vectors, int pixels, int first,
                int last) {
    for (long in = 0; in < channels; in += 2) {
        __m512i weight[2];
        UNROLL for (int v = 0; v < vectors; v++)
            weight[v] = _mm512_loadu_si512(weights + in * channels + v * 32);
        UNROLL for (int p = 0; p < pixels; p++) if (p >= first && p < last) {
            __m512i input = spread(x + p * channels + in);
            UNROLL for (int v = 0; v < vectors; v++)
                sums[p * vectors + v] = add_products(sums[p * vectors + v], weight[v], input);
        }
    }
}

INLINE __m512 widened(const Half *from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

/* 16 or 32 output channels of a run of row h from column w on. left, right: it begins, it ends the row. */
INLINE void run(const Half *x, const Half *add, Half *y, const Half *weights, long height, long width, long channels, long h, long w,
                int vectors, int pixels, int left, int right) {
    __m512 sums[SUMS];
    long first = (h * width + w) * channels;
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++)
            sums[p * vectors + v] = add ? widened(add + first + p * channels + v * 16) : _mm512_setzero_ps();
    for (long row = h > 0 ? -1 : 0; row <= (h + 1 < height ? 1 : 0); row++) {
        const Half *centre = x + ((h + row) * width + w) * channels;
        const Half *taps = weights + (row + 1) * 3 * channels * channels;
        tap(sums, centre - channels, taps, channels, vectors, pixels, left, pixels);
        tap(sums, centre, taps + channels * channels, channels, vectors, pixels, 0, pixels);
        tap(sums, centre + channels, taps + 2 * channels * channels, channels, vectors, pixels, 0, pixels - right);
    }
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++)
            _mm256_storeu_si256((__m256i *)(y + first + p * channels + v * 16),
                                (__m256i)_mm512_cvtneps_pbh(sums[p * vectors + v]));
}

INLINE void rows(const Half *x, const Half *add, Half *y, const Half *weights, long height, long width, long channels, int vectors,
                 int pixels) {
    for (long h = 0; h < height; h++) {
        if (width == pixels) {
            run(x, add, y, weights, height, width, channels, h, 0, vectors, pixels, 1, 1);
            continue;
        }
        run(x, add, y, weights, height, width, channels, h, 0, vectors, pixels, 1, 0);
        for (long w = pixels; w < width - pixels; w += pixels)
            run(x, add, y, weights, height, width, channels, h, w, vectors, pixels, 0, 0);
        run(x, add, y, weights, height, width, channels, h, width - pixels, vectors, pixels, 0, 1);
    }
}

static __attribute__((noinline)) AVX512 void image(const Half *x, const Half *add, Half *y, const Half *weights,
                                                   long height, long width, long channels) {
    if (channels == 16) {
        if (width % 16 == 0) rows(x, add, y, weights, height, width, 16, 1, 16);
        else rows(x, add, y, weights, height, width, 16, 1, 8);
        return;
    }
    for (long out = 0; out < channels; out += 32)
        rows(x, add ? add + out : add, y + out, weights + out * 2, height, width, channels, 2, RUN);
}

/* y from x, both bf16 (images, height, width, channels); width a multiple of 8, channels 16 or a multiple of 32.
   weights: float32 (out, 3, 3, in) as torch keeps them. turned: x is the gradient of the output, and y that of the
   input. add: what y is added to, or NULL. 0, or 1 without memory. */
int conv3x3_bf16(const Half *x, const float *weights, const Half *add, Half *y, long images, long height, long width, long channels,
                 int turned, int threads) {
    Half *packed = malloc(9 * channels * channels * sizeof(Half)); /* (3, 3, pairs of channels of x, channels of y, 2) */
    if (!packed) return 1;
    for (long out = 0; out < channels; out++)
        for (long t = 0; t < 9; t++)
            for (long in = 0; in < channels; in++) {
                Half weight = rounded(weights[(out * 9 + t) * channels + in]);
                long from = turned ? out : in, to = turned ? in : out, at = turned ? 8 - t : t;
                packed[((at * channels + from / 2 * 2) * channels) + to * 2 + from % 2] = weight;
            }
    long size = height * width * channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long n = 0; n < images; n++)
        image(x + n * size, add ? add + n * size : add, y + n * size, packed, height, width, channels);
    free(packed);
    return 0;
}

/* Pairs of neighbouring pixels, (pairs, channels, 2), of a row; from an odd start the ends are paired with zero. */
INLINE void pair_pixels(const Half *row, Half *pairs, long width, long channels, int odd) {
    for (long j = 0; j < width / 2 + odd; j++)
        for (long c = 0; c < channels; c += 16) {
            long first = 2 * j - odd, second = first + 1;
            __m256i zero = _mm256_setzero_si256();
            __m256i one = first < 0 ? zero : _mm256_loadu_si256((const __m256i *)(row + first * channels + c));
            __m256i two = second >= width ? zero : _mm256_loadu_si256((const __m256i *)(row + second * channels + c));
            __m512i low = _mm512_cvtepu16_epi32(one), high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(two), 16);
            _mm512_storeu_si512(pairs + (j * channels + c) * 2, _mm512_or_si512(low, high));
        }
}

/* Adds to the sums of SUMS / vectors input channels, from in on, and 16 or 32 output channels, of one tap. */
INLINE void weight_block(const Half *x, const Half *dy, float *sums, long pairs, long stride_x, long lines,
                         const long *line_x, const long *line_dy, long channels, int vectors) {
    __m512 block[SUMS];
    int ins = SUMS / vectors;
    UNROLL for (int i = 0; i < ins; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            block[i * vectors + v] = _mm512_loadu_ps(sums + i * channels + v * 16);
    for (long l = 0; l < lines; l++) {
        const Half *a = x + line_x[l], *b = dy + line_dy[l];
        for (long j = 0; j < pairs; j++, a += stride_x, b += stride_x) {
            __m512i out[2];
            UNROLL for (int v = 0; v < vectors; v++) out[v] = _mm512_loadu_si512(b + v * 32);
            UNROLL for (int i = 0; i < ins; i++) {
                __m512i input = spread(a + i * 2);
                UNROLL for (int v = 0; v < vectors; v++)
                    block[i * vectors + v] = add_products(block[i * vectors + v], out[v], input);
            }
        }
    }
    UNROLL for (int i = 0; i < ins; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(sums + i * channels + v * 16, block[i * vectors + v]);
}

/* Adds the weights' gradient of some images to sums, (3, 3, in, out). room: for their pairs. */
static __attribute__((noinline)) AVX512 void weight_sums(const Half *x, const Half *dy, float *sums, long images,
                                                         long height, long width, long channels, Half *room,
                                                         long *places) {
    long row = width * channels, odd_row = row + 2 * channels, count = images * height, pairs = width / 2;
    Half *even = room, *odd = even + count * row, *out = odd + count * odd_row;
    for (long l = 0; l < count; l++) {
        pair_pixels(x + l * row, even + l * row, width, channels, 0);
        pair_pixels(x + l * row, odd + l * odd_row, width, channels, 1);
        pair_pixels(dy + l * row, out + l * row, width, channels, 0);
    }
    long *line_x = places, *line_dy = places + count;
    for (int t = 0; t < 9; t++) {
        int down = t / 3 - 1, right = t % 3 - 1;
        const Half *inputs = right ? odd + (right > 0 ? 2 * channels : 0) : even;
        long lines = 0;
        for (long n = 0; n < images; n++)
            for (long h = down < 0 ? 1 : 0; h < height - (down > 0); h++, lines++) {
                line_x[lines] = (n * height + h + down) * (right ? odd_row : row);
                line_dy[lines] = (n * height + h) * row;
            }
        float *of_tap = sums + t * channels * channels;
        if (channels == 16) {
            weight_block(inputs, out, of_tap, pairs, 32, lines, line_x, line_dy, 16, 1);
            continue;
        }
        for (long in = 0; in < channels; in += SUMS / 2)
            for (long o = 0; o < channels; o += 32)
                weight_block(inputs + in * 2, out + o * 2, of_tap + in * channels + o, pairs, 2 * channels, lines,
                             line_x, line_dy, channels, 2);
    }
}

static long least(long a, long b) { return a < b ? a : b; }

/* The gradient of the weights, float32 (out, 3, 3, in), from x and the gradient of the output. 0, or 1 without memory. */
int conv3x3_bf16_weights(const Half *x, const Half *dy, float *dweights, long images, long height, long width,
                         long channels, int threads) {
    long size = height * width * channels, square = 9 * channels * channels, failed = 0;
    long together = size < GROUP ? GROUP / size : 1, part = (images + PARTS - 1) / PARTS;
    float *sums = calloc(PARTS * square, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed)
    for (long k = 0; k < PARTS; k++) {
        long rows = together * height;
        Half *room = malloc(rows * (3 * width + 2) * channels * sizeof(Half));
        long *places = malloc(2 * rows * sizeof(long));
        if (room && places)
            for (long n = k * part; n < least(images, (k + 1) * part); n += together)
                weight_sums(x + n * size, dy + n * size, sums + k * square,
                            least(together, least(images, (k + 1) * part) - n), height, width, channels, room, places);
        else failed = 1;
        free(room);
        free(places);
    }
    for (long k = 1; k < PARTS; k++)
        for (long i = 0; i < square; i++) sums[i] += sums[k * square + i];
    for (long t = 0; t < 9; t++)
        for (long out = 0; out < channels; out++)
            for (long in = 0; in < channels; in++)
                dweights[(out * 9 + t) * channels + in] = sums[(t * channels + in) * channels + out];
    free(sums);
    return failed;
}

#else

int conv3x3_bf16_supported(void) { return 0; }

#endif
