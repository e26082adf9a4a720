/* 3x3 convolution in bf16 by AMX, which multiplies whole tiles of up to 16 rows of 64 bytes: the same three results from
   the same arguments as conv3x3_bf16.c, for processors that have it. A product of tiles takes 16 rows of pairs of bf16
   times 16 columns of pairs, and adds to 16 x 16 float32.

   Rows of a tile lie a fixed distance apart, so that tiles of pixels are read from the image itself: the three taps of
   a row of the kernel are neighbours in memory. Only a border of zeros has to be added, so each image is copied once,
   into a buffer that stays in the cache. At stride 2 the gradient of the output is spread out with zeros between, and
   the rest is a convolution of stride 1: four times the products, which are cheap here. conv3x3.py calls this. */

#define _GNU_SOURCE /* syscall */
#include <stdlib.h>
#include <string.h>
#include "conv3x3_bf16.h"
#include "kernels.h"

#if defined(BF16) && defined(__linux__) && !defined(NO_AMX) /* setup.py, where the assembler knows no tiles */
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM: a process asks the system whether it may use tiles, */
#define TILE_DATA 18      /* whose registers are large */
#define RUNS 4            /* runs of pixels whose sums are in tiles at once */
#define TILES 6           /* of the weights' gradient at once */
#define GROUP 16384       /* values of the images that are laid out at once for it */
#define TILE_SUMS 256     /* float32 of a tile */

/* The "memory" is what a tile is read from or written to: the compiler must not keep it in registers. */
#define LOAD(tile, from, step) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((long)(step)) : "memory")
#define STORE(tile, to, step) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((long)(step)) : "memory")
#define ZERO(tile) __asm__ volatile("tilezero %tmm" #tile)
#define ADD_PRODUCT(sum, first, second) __asm__ volatile("tdpbf16ps %tmm" #second ", %tmm" #first ", %tmm" #sum)

typedef struct {
    unsigned char palette, start, unused[14];
    unsigned short bytes[16]; /* of a row of each tile */
    unsigned char rows[16];
} Tiles;

static void shape_tiles(const Tiles *tiles) { __asm__ volatile("ldtilecfg %0" : : "m"(*tiles)); }
static void release_tiles(void) { __asm__ volatile("tilerelease"); }

/* Whether this processor can run these kernels, and the system lets it. */
int amx_supported(void) {
    static _Atomic int known = -1; /* asking takes microseconds on a virtual machine */
    if (known < 0) {
        unsigned a, b, c, d = 0;
        __get_cpuid_count(7, 0, &a, &b, &c, &d);
        int has_bf16 = d >> 22 & 1, has_tiles = d >> 24 & 1;
        known = bf16_supported() && has_bf16 && has_tiles && !syscall(SYS_arch_prctl, PERMISSION, TILE_DATA);
    }
    return known;
}

/* An image into the middle of one with a border of zeros; apart: the step there from one of its pixels to the next. */
static void pad(const Half *x, Half *padded, long height, long width, long channels, long apart) {
    long line = (width * apart + 2) * channels;
    for (long h = 0; h < height; h++) {
        Half *to = padded + (1 + h * apart) * line + channels;
        if (apart == 1) memcpy(to, x + h * width * channels, width * channels * sizeof(Half));
        else for (long w = 0; w < width; w++)
            memcpy(to + w * apart * channels, x + (h * width + w) * channels, channels * sizeof(Half));
    }
}

/* Tiles 0 to 3: sums of the runs; 4 and 5: 32 and 16 numbers of each pixel; 6 and 7: the weights for 32 and for 16. */
static Tiles of_output(int pixels) {
    Tiles tiles = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        tiles.rows[t] = t < 6 ? pixels : t == 6 ? 16 : 8;
        tiles.bytes[t] = t == 5 ? 32 : 64;
    }
    return tiles;
}

#define EACH_RUN(DO) \
    { DO(0) if (runs > 1) DO(1) if (runs > 2) DO(2) if (runs > 3) DO(3) }
#define CLEAR(r) ZERO(r);
#define ADD_32(r) { LOAD(4, places[r] + line * row + k, step); ADD_PRODUCT(r, 4, 6); }
#define ADD_16(r) { LOAD(5, places[r] + line * row + k, step); ADD_PRODUCT(r, 5, 7); }
#define KEEP(r) STORE(r, sums + r * TILE_SUMS, 64);

/* 16 output channels of up to RUNS runs of pixels, which begin at places of a padded image with line values in a row.
   step: bytes from the input of a pixel to that of the next. */
static void add_runs(const Half *const *places, int runs, const Half *weights, float *sums, long line, long in, long out,
                     long step) {
    EACH_RUN(CLEAR)
    for (long row = 0; row < 3; row++) {
        long k = 0;
        for (; k + 32 <= 3 * in; k += 32, weights += 32 * out) {
            LOAD(6, weights, out * 4);
            EACH_RUN(ADD_32)
        }
        if (k < 3 * in) {
            LOAD(7, weights, out * 4);
            EACH_RUN(ADD_16)
            weights += 16 * out;
        }
    }
    EACH_RUN(KEEP)
}

/* height, width: the output's. */
static AVX512 void convolve_padded(const Half *padded, const Half *add, Half *y, const Half *weights, const Shape s,
                                   int pixels) {
    float sums[RUNS * TILE_SUMS] __attribute__((aligned(64)));
    long line = (s.width * s.stride + 2) * s.in, in_row = s.width / pixels, all = s.height * in_row;
    for (long first = 0; first < all; first += RUNS) {
        const Half *places[RUNS];
        int runs = least(RUNS, all - first);
        for (int r = 0; r < runs; r++) {
            long h = (first + r) / in_row, w = (first + r) % in_row * pixels;
            places[r] = padded + h * s.stride * line + w * s.stride * s.in;
        }
        for (long c = 0; c < s.out; c += 16) {
            add_runs(places, runs, weights + c * 2, sums, line, s.in, s.out, s.stride * s.in * 2);
            for (int r = 0; r < runs; r++)
                for (int p = 0; p < pixels; p++) {
                    long to = ((first + r) * pixels + p) * s.out + c;
                    __m512 sum = _mm512_load_ps(sums + r * TILE_SUMS + p * 16);
                    if (add) sum += widened(add + to);
                    store_rounded(y + to, sum);
                }
        }
    }
}

/* As conv3x3_bf16. */
int conv3x3_amx(const Half *x, const float *weights, const Half *add, Half *y, long images, long height, long width,
                long in, long out, int stride, int turned, int threads) {
    long apart = turned ? stride : 1;
    /* The convolution that is really computed. */
    Shape s = {images, height * apart, width * apart, turned ? out : in, turned ? in : out, turned ? 1 : stride};
    Shape given = {images, height, width, in, out, 1}; /* of stride 1, so that pack turns the taps round */
    long size_y = s.height * s.width * s.out, rows = s.height * s.stride, columns = s.width * s.stride;
    long size_x = rows * columns / apart / apart * s.in;
    int pixels = 16, failed = 0;
    while (s.width % pixels) pixels--;
    Tiles tiles = of_output(pixels);
    Half *packed = pack(weights, given, turned);
    if (!packed) return 1;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Half *padded = zeros((rows + 2) * (columns + 2) * s.in * sizeof(Half));
        failed = !padded;
        shape_tiles(&tiles);
#pragma omp for schedule(static)
        for (long n = 0; n < images; n++) {
            if (failed) continue;
            pad(x + n * size_x, padded, rows / apart, columns / apart, s.in, apart);
            convolve_padded(padded, add ? add + n * size_y : add, y + n * size_y, packed, s, pixels);
        }
        release_tiles();
        free(padded);
    }
    free(packed);
    return failed;
}

/* 16 x 16 numbers of 32 bits. */
INLINE void transpose(__m512i *rows) {
    __m512i half[16], quarter[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        half[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        half[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4)
        UNROLL for (int j = 0; j < 2; j++) {
            quarter[i + 2 * j] = _mm512_unpacklo_epi64(half[i + j], half[i + j + 2]);
            quarter[i + 2 * j + 1] = _mm512_unpackhi_epi64(half[i + j], half[i + j + 2]);
        }
    UNROLL for (int j = 0; j < 4; j++) {
        __m512i even = _mm512_shuffle_i32x4(quarter[j], quarter[4 + j], 0x88);
        __m512i odd = _mm512_shuffle_i32x4(quarter[j], quarter[4 + j], 0xdd);
        __m512i next_even = _mm512_shuffle_i32x4(quarter[8 + j], quarter[12 + j], 0x88);
        __m512i next_odd = _mm512_shuffle_i32x4(quarter[8 + j], quarter[12 + j], 0xdd);
        rows[j] = _mm512_shuffle_i32x4(even, next_even, 0x88);
        rows[4 + j] = _mm512_shuffle_i32x4(odd, next_odd, 0x88);
        rows[8 + j] = _mm512_shuffle_i32x4(even, next_even, 0xdd);
        rows[12 + j] = _mm512_shuffle_i32x4(odd, next_odd, 0xdd);
    }
}

/* Gradients of images (height / apart, width / apart, channels), spread out, in tiles of 16 channels by 32 pixels,
   (blocks of pixels, blocks of channels, 16, 32). The rows of an image are followed by two zeros each, and by a row of
   zeros. */
static AVX512 void into_tiles(const Half *dy, Half *tiles, const Shape s, long apart, long blocks) {
    const Half *end = dy + s.images * (s.height / apart) * (s.width / apart) * s.out;
    long h = 0, w = 0, pair = (apart == 1 ? 2 : 1) * s.out;
    for (long b = 0; b < blocks; b++) {
        const Half *pairs[16];
        for (int j = 0; j < 16; j++) {
            int inside = dy < end && w < s.width && h < s.height && (apart == 1 || h % 2 == 0);
            pairs[j] = inside ? dy : NULL;
            dy += inside ? pair : 0;
            if ((w += 2) > s.width) {
                w = 0;
                h = h < s.height ? h + 1 : 0;
            }
        }
        for (long o = 0; o < s.out; o += 16, tiles += 512) {
            __m512i rows[16];
            UNROLL for (int j = 0; j < 16; j++) {
                const Half *first = pairs[j] ? pairs[j] + o : NULL;
                rows[j] = paired(first, first && apart == 1 ? first + s.out : NULL);
            }
            transpose(rows);
            UNROLL for (int j = 0; j < 16; j++) _mm512_store_si512(tiles + j * 32, rows[j]);
        }
    }
}

/* An image in pairs of neighbours (pairs, channels, 2), between zeros that are there already. Rows follow each other as
   in the tiles. odd: pairs begin with a row's first pixel, and otherwise with the zero before it. */
static AVX512 void into_pairs(const Half *x, Half *pairs, long height, long width, long channels, int odd) {
    for (long h = 0; h < height; h++, x += width * channels, pairs += (width + 2) * channels)
        for (long w = odd ? 0 : -1; w < width; w += 2)
            for (long c = 0; c < channels; c += 16) {
                const Half *first = w < 0 ? NULL : x + w * channels + c;
                const Half *second = w + 1 == width ? NULL : x + (w + 1) * channels + c;
                _mm512_store_si512(pairs + (w + 1) / 2 * channels * 2 + c * 2, paired(first, second));
            }
}

#define EACH_TILE(DO) \
    { DO(0) DO(1) DO(2) if (count > 3) { DO(3) DO(4) DO(5) } }
#define BEGIN(t) LOAD(t, sums + t * 16, out_step);
#define ADD(t) { LOAD(7, places[t] + k * in, in * 4); ADD_PRODUCT(t, 6, 7); }
#define END(t) STORE(t, sums + t * 16, out_step);

/* Adds to 3 or 6 tiles of sums, of 16 output channels by 16 input channels of a tap, over blocks of 32 pixels. */
static void weight_tiles(const Half *const *places, int count, const Half *tiles, float *sums, long blocks, long in,
                         long out) {
    long out_step = 9 * in * sizeof(float);
    EACH_TILE(BEGIN)
    for (long k = 0; k < 32 * blocks; k += 32) {
        LOAD(6, tiles + k * out, 64);
        EACH_TILE(ADD)
    }
    EACH_TILE(END)
}

/* Adds the weights' gradient of some images to sums, (out, 3, 3, in). pairs: even and odd. */
static void add_weights(Half *const *pairs, const Half *tiles, float *sums, const Shape s, long blocks) {
    long each = s.in / 16, line = s.width + 2;
    for (long first = 0; first < 9 * each; first += TILES) {
        const Half *places[TILES];
        int count = least(TILES, 9 * each - first);
        for (int t = 0; t < count; t++) {
            long row = (first + t) / each / 3, column = (first + t) / each % 3;
            places[t] = pairs[column % 2] + (row * line + column) / 2 * s.in * 2 + (first + t) % each * 32;
        }
        for (long o = 0; o < s.out; o += 16)
            weight_tiles(places, count, tiles + o * 32, sums + o * 9 * s.in + first * 16, blocks, s.in, s.out);
    }
}

/* As conv3x3_bf16_weights. */
int conv3x3_amx_weights(const Half *x, const Half *dy, float *dweights, long images, long height, long width, long in,
                        long out, int stride, int threads) {
    Shape s = {images, height * stride, width * stride, in, out, 1};
    long size_x = s.height * s.width * in, size_dy = height * width * out, square = 9 * in * out;
    long parts = weight_parts(s), part = (images + parts - 1) / parts;
    long together = least(part, size_x < GROUP ? GROUP / size_x : 1), line = s.width + 2, next = (s.height + 1) * line;
    long most = (together * next + 31) / 32; /* blocks of pixels; next: pixels from one image to the next */
    int failed = 0;
    Tiles shapes = {.palette = 1};
    memset(shapes.rows, 16, 8);
    for (int t = 0; t < 8; t++) shapes.bytes[t] = 64;
    float *sums = zeros(parts * square * sizeof(float));
    if (!sums) return 1;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        long room = (most * 32 + 2 * line + 2) * in * sizeof(Half);
        Half *pairs[2] = {zeros(room), zeros(room)}, *tiles = zeros(most * 32 * out * sizeof(Half));
        failed = !pairs[0] || !pairs[1] || !tiles;
        shape_tiles(&shapes);
#pragma omp for schedule(static)
        for (long k = 0; k < parts; k++) {
            long last = least(images, (k + 1) * part);
            if (failed) continue;
            for (long n = k * part; n < last; n += together) {
                Shape some = {least(together, last - n), s.height, s.width, in, out, 1};
                long blocks = (some.images * next + 31) / 32;
                into_tiles(dy + n * size_dy, tiles, some, stride, blocks);
                for (long i = 0; i < some.images; i++)
                    for (int odd = 0; odd < 2; odd++)
                        into_pairs(x + (n + i) * size_x, pairs[odd] + (line + i * next) * in, s.height, s.width, in, odd);
                add_weights(pairs, tiles, sums + k * square, some, blocks);
            }
        }
        release_tiles();
        free(pairs[0]);
        free(pairs[1]);
        free(tiles);
    }
    add_parts(sums, square, parts, threads);
    memcpy(dweights, sums, square * sizeof(float));
    free(sums);
    return failed;
}

#else

int amx_supported(void) { return 0; }

#endif
