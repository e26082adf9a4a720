/* 3x3 convolution with zero padding in bf16, of stride 1 or 2, channels last: output, gradient of the input, gradient of
   the weights. Products of bf16 are exact in float32, and all sums are float32.

   The processor multiplies two pairs of bf16 and adds both products to a float32 in one instruction, for 16 lanes. So
   numbers are taken in pairs: of input channels for the output, of neighbouring pixels for the weights' gradient. As in
   conv3x3.c the lanes are output channels, and a block of sums stays in registers. conv3x3.py calls this, and says
   when. It needs AVX-512 with its bf16 extension. */

#include <stdlib.h>
#include <string.h>
#include "conv3x3_bf16.h"
#include "kernels.h"

#ifdef BF16
#define SUMS 16     /* vectors of sums in registers */
#define PARTS 16    /* of a batch, at most, whose weight gradients are added */
#define ROOM (1L << 24) /* sums of all parts, at most, where there are four parts or more: 64 MB */
#define RUN_OF_SUMS 4096 /* added up at a time, while they are in the cache */
#define GROUP 32768 /* values of the images whose pairs are laid out at once; they fit into the cache */

int bf16_supported(void) {
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

/* One tap on a run: pixels from first to last of it, each with its input pixel, which lie step values apart from x on. */
INLINE void tap(__m512 *sums, const Half *x, const Half *weights, long in, long out, long step, int vectors, int pixels,
                int first, int last) {
    for (long c = 0; c < in; c += 2) {
        __m512i weight[2];
        UNROLL for (int v = 0; v < vectors; v++) weight[v] = _mm512_loadu_si512(weights + c * out + v * 32);
        UNROLL for (int p = 0; p < pixels; p++) if (p >= first && p < last) {
            __m512i input = spread(x + p * step + c);
            UNROLL for (int v = 0; v < vectors; v++)
                sums[p * vectors + v] = add_products(sums[p * vectors + v], weight[v], input);
        }
    }
}

/* The sums of a run begin with what the result is added to; its pixels lie step values apart. */
INLINE void begin(__m512 *sums, const Half *add, long step, int vectors, int pixels) {
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++)
            sums[p * vectors + v] = add ? widened(add + p * step + v * 16) : _mm512_setzero_ps();
}

INLINE void end(const __m512 *sums, Half *y, long step, int vectors, int pixels) {
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++)
            store_rounded(y + p * step + v * 16, sums[p * vectors + v]);
}

/* 16 or 32 output channels of a run of row h from column w on. left, right: it begins, it ends the row. */
INLINE void run(const Half *x, const Half *add, Half *y, const Half *weights, const Shape s, long h, long w, int vectors,
                int pixels, int left, int right) {
    __m512 sums[SUMS];
    long place = (h * s.width + w) * s.out, width = s.width * s.stride, height = s.height * s.stride;
    begin(sums, add ? add + place : add, s.out, vectors, pixels);
    for (long row = -1; row <= 1; row++) {
        long from = h * s.stride + row;
        if (from < 0 || from >= height) continue;
        const Half *centre = x + (from * width + w * s.stride) * s.in;
        const Half *taps = weights + (row + 1) * 3 * s.in * s.out;
        long step = s.stride * s.in, next = s.in * s.out;
        int last = pixels - (right && s.stride == 1);
        tap(sums, centre - s.in, taps, s.in, s.out, step, vectors, pixels, left, pixels);
        tap(sums, centre, taps + next, s.in, s.out, step, vectors, pixels, 0, pixels);
        tap(sums, centre + s.in, taps + 2 * next, s.in, s.out, step, vectors, pixels, 0, last);
    }
    end(sums, y + place, s.out, vectors, pixels);
}

INLINE void rows(const Half *x, const Half *add, Half *y, const Half *weights, const Shape s, int vectors, int pixels) {
    for (long h = 0; h < s.height; h++) {
        if (s.width == pixels) {
            run(x, add, y, weights, s, h, 0, vectors, pixels, 1, 1);
            continue;
        }
        run(x, add, y, weights, s, h, 0, vectors, pixels, 1, 0);
        for (long w = pixels; w < s.width - pixels; w += pixels)
            run(x, add, y, weights, s, h, w, vectors, pixels, 0, 0);
        run(x, add, y, weights, s, h, s.width - pixels, vectors, pixels, 0, 1);
    }
}

static __attribute__((noinline)) AVX512 void image(const Half *x, const Half *add, Half *y, const Half *weights,
                                                   const Shape s) {
    if (s.in == 16 && s.out == 16 && s.stride == 1) { /* constants make it a tenth faster */
        Shape small = {1, s.height, s.width, 16, 16, 1};
        if (s.width % 16 == 0) rows(x, add, y, weights, small, 1, 16);
        else rows(x, add, y, weights, small, 1, 8);
        return;
    }
    for (long c = 0; c + 32 <= s.out; c += 32) rows(x, add ? add + c : add, y + c, weights + c * 2, s, 2, 8);
    if (s.out % 32) {
        long c = s.out - 16;
        rows(x, add ? add + c : add, y + c, weights + c * 2, s, 1, 8);
    }
}

/* The gradient of the input at stride 2. An even row of it was seen by the middle tap of one row of the output, an odd
   one by the last tap of the row above and the first of the row below it; columns likewise. */
INLINE void spread_rows(const Half *dy, const Half *add, Half *dx, const Half *weights, const Shape s, int vectors,
                        int pixels) {
    for (long h = 0; h < 2 * s.height; h++)
        for (int odd = 0; odd < 2; odd++)
            for (long w = 0; w < s.width; w += pixels) {
                __m512 sums[SUMS];
                long place = (h * 2 * s.width + 2 * w + odd) * s.in;
                begin(sums, add ? add + place : add, 2 * s.in, vectors, pixels);
                for (int down = 0; down <= h % 2; down++) {
                    long from = h / 2 + down;
                    if (from == s.height) continue;
                    const Half *taps = weights + (h % 2 ? 2 - 2 * down : 1) * 3 * s.in * s.out;
                    const Half *row = dy + (from * s.width + w) * s.out;
                    long next = s.in * s.out;
                    if (odd) {
                        int last = pixels - (w + pixels == s.width);
                        tap(sums, row, taps + 2 * next, s.out, s.in, s.out, vectors, pixels, 0, pixels);
                        tap(sums, row + s.out, taps, s.out, s.in, s.out, vectors, pixels, 0, last);
                    } else tap(sums, row, taps + next, s.out, s.in, s.out, vectors, pixels, 0, pixels);
                }
                end(sums, dx + place, 2 * s.in, vectors, pixels);
            }
}

static __attribute__((noinline)) AVX512 void spread_image(const Half *dy, const Half *add, Half *dx,
                                                          const Half *weights, const Shape s) {
    for (long c = 0; c + 32 <= s.in; c += 32) spread_rows(dy, add ? add + c : add, dx + c, weights + c * 2, s, 2, 8);
    if (s.in % 32) {
        long c = s.in - 16;
        spread_rows(dy, add ? add + c : add, dx + c, weights + c * 2, s, 1, 8);
    }
}

void *zeros(long bytes) {
    long lines = (bytes + 63) / 64;
    void *memory = aligned_alloc(64, lines * 64);
    return memory ? memset(memory, 0, lines * 64) : memory;
}

Half *pack(const float *weights, Shape s, int turned) {
    Half *packed = zeros(9 * s.in * s.out * sizeof(Half));
    for (long out = 0; packed && out < s.out; out++)
        for (long t = 0; t < 9; t++)
            for (long in = 0; in < s.in; in++) {
                Half weight = rounded(weights[(out * 9 + t) * s.in + in]);
                long at = turned && s.stride == 1 ? 8 - t : t;
                long from = turned ? out : in, to = turned ? in : out, count = turned ? s.in : s.out;
                packed[at * s.in * s.out + from / 2 * 2 * count + to * 2 + from % 2] = weight;
            }
    return packed;
}

/* y from x, both bf16 (images, rows, columns, channels); height and width, a multiple of 8, are those of the output;
   in and out multiples of 16. turned: x is the gradient of the output, and y that of the input. add: what y is added
   to, or NULL. 0, or 1 without memory. */
int conv3x3_bf16(const Half *x, const float *weights, const Half *add, Half *y, long images, long height, long width,
                 long in, long out, int stride, int turned, int threads) {
    Shape s = {images, height, width, in, out, stride};
    Half *packed = pack(weights, s, turned);
    if (!packed) return 1;
    long inner = height * width * out, outer = height * width * stride * stride * in;
    long size_x = turned ? inner : outer, size_y = turned ? outer : inner;
    Shape back = {images, height, width, out, in, 1};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long n = 0; n < images; n++) {
        const Half *from = x + n * size_x, *plus = add ? add + n * size_y : add;
        if (turned && stride == 2) spread_image(from, plus, y + n * size_y, packed, s);
        else image(from, plus, y + n * size_y, packed, turned ? back : s);
    }
    free(packed);
    return 0;
}

/* Pairs of pixels of a row that lie step apart, from start on, (count, channels, 2); zero where the row has none. */
INLINE void pair_pixels(const Half *row, Half *pairs, long width, long channels, long count, long start, long step) {
    for (long j = 0; j < count; j++)
        for (long c = 0; c < channels; c += 16) {
            long first = start + 2 * step * j, second = first + step;
            const Half *one = first < 0 ? NULL : row + first * channels + c;
            const Half *two = second >= width ? NULL : row + second * channels + c;
            _mm512_storeu_si512(pairs + (j * channels + c) * 2, paired(one, two));
        }
}

/* Adds to the sums of SUMS / vectors input channels and 16 or 32 output channels of one tap, over lines of pairs. */
INLINE void weight_block(const Half *x, const Half *dy, float *sums, long pairs, long lines, const long *line_x,
                         const long *line_dy, long in, long out, int vectors) {
    __m512 block[SUMS];
    int ins = SUMS / vectors;
    UNROLL for (int i = 0; i < ins; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            block[i * vectors + v] = _mm512_loadu_ps(sums + i * out + v * 16);
    for (long l = 0; l < lines; l++) {
        const Half *a = x + line_x[l], *b = dy + line_dy[l];
        for (long j = 0; j < pairs; j++, a += 2 * in, b += 2 * out) {
            __m512i outputs[2];
            UNROLL for (int v = 0; v < vectors; v++) outputs[v] = _mm512_loadu_si512(b + v * 32);
            UNROLL for (int i = 0; i < ins; i++) {
                __m512i input = spread(a + i * 2);
                UNROLL for (int v = 0; v < vectors; v++)
                    block[i * vectors + v] = add_products(block[i * vectors + v], outputs[v], input);
            }
        }
    }
    UNROLL for (int i = 0; i < ins; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(sums + i * out + v * 16, block[i * vectors + v]);
}

/* Adds the weights' gradient of some images to sums, (3, 3, in, out). room: for their pairs, once for each column of
   taps and once for the output's. */
static __attribute__((noinline)) AVX512 void weight_sums(const Half *x, const Half *dy, float *sums, const Shape s,
                                                         Half *room, long *places) {
    long height = s.height * s.stride, width = s.width * s.stride, pairs = s.width / 2;
    long row_x = s.width * s.in, row_dy = s.width * s.out, columns = s.images * height * row_x;
    Half *outputs = room + 3 * columns;
    for (long l = 0; l < s.images * height; l++)
        for (int k = 0; k < 3; k++)
            pair_pixels(x + l * width * s.in, room + k * columns + l * row_x, width, s.in, pairs, k - 1, s.stride);
    for (long l = 0; l < s.images * s.height; l++)
        pair_pixels(dy + l * row_dy, outputs + l * row_dy, s.width, s.out, pairs, 0, 1);
    long *line_x = places, *line_dy = places + s.images * s.height;
    for (int t = 0; t < 9; t++) {
        long lines = 0;
        for (long n = 0; n < s.images; n++)
            for (long h = 0; h < s.height; h++) {
                long from = h * s.stride + t / 3 - 1;
                if (from < 0 || from >= height) continue;
                line_x[lines] = (n * height + from) * row_x;
                line_dy[lines++] = (n * s.height + h) * row_dy;
            }
        const Half *inputs = room + t % 3 * columns;
        float *of_tap = sums + t * s.in * s.out;
        if (s.in == 16 && s.out == 16) {
            weight_block(inputs, outputs, of_tap, pairs, lines, line_x, line_dy, 16, 16, 1);
            continue;
        }
        for (long i = 0; i < s.in; i += SUMS / 2)
            for (long o = 0; o + 32 <= s.out; o += 32)
                weight_block(inputs + i * 2, outputs + o * 2, of_tap + i * s.out + o, pairs, lines, line_x, line_dy,
                             s.in, s.out, 2);
        for (long i = 0; s.out % 32 && i < s.in; i += SUMS)
            weight_block(inputs + i * 2, outputs + (s.out - 16) * 2, of_tap + i * s.out + s.out - 16, pairs, lines,
                         line_x, line_dy, s.in, s.out, 1);
    }
}

long weight_parts(Shape s) {
    long square = 9 * s.in * s.out, fitting = ROOM / square < 4 ? 4 : ROOM / square;
    return least(least(PARTS, s.images), fitting);
}

void add_parts(float *sums, long count, long parts, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long first = 0; first < count; first += RUN_OF_SUMS)
        for (long k = 1; k < parts; k++)
            for (long i = first; i < least(count, first + RUN_OF_SUMS); i++) sums[i] += sums[k * count + i];
}

/* The gradient of the weights, float32 (out, 3, 3, in), from x and the gradient of the output. 0, or 1 without memory. */
int conv3x3_bf16_weights(const Half *x, const Half *dy, float *dweights, long images, long height, long width, long in,
                         long out, int stride, int threads) {
    Shape all = {images, height, width, in, out, stride};
    long size_x = height * width * stride * stride * in, size_dy = height * width * out, square = 9 * in * out;
    long parts = weight_parts(all);
    long together = size_x < GROUP ? GROUP / size_x : 1, part = (images + parts - 1) / parts;
    int failed = 0;
    float *sums = calloc(parts * square, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed)
    for (long k = 0; k < parts; k++) {
        Half *room = malloc(together * (3 * size_x / stride + size_dy) * sizeof(Half));
        long *places = malloc(2 * together * height * sizeof(long)), last = least(images, (k + 1) * part);
        if (room && places)
            for (long n = k * part; n < last; n += together) {
                Shape some = {least(together, last - n), height, width, in, out, stride};
                weight_sums(x + n * size_x, dy + n * size_dy, sums + k * square, some, room, places);
            }
        else failed = 1;
        free(room);
        free(places);
    }
    add_parts(sums, square, parts, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long t = 0; t < 9; t++)
        for (long o = 0; o < out; o++)
            for (long i = 0; i < in; i++) dweights[(o * 9 + t) * in + i] = sums[(t * in + i) * out + o];
    free(sums);
    return failed;
}

#else

int bf16_supported(void) { return 0; }

#endif
