/* Winograd's algorithm in vectors of LANES numbers: winograd.c says what it is. Who includes this names the instructions
   as TARGET, the two functions as CONVOLVE and WEIGHTS, and how many rows of the two products stay in registers. */

#include <stdlib.h>
#include "kernels.h"
#ifdef _OPENMP
#include <omp.h>
#endif

#define INLINE static inline __attribute__((always_inline)) TARGET
#define TILES 36  /* at once: a multiple of ROWS; what is kept of them fits into a core's cache */
#define PARTS 64  /* of the tiles, at most, each with a sum of its own for the weights */
#define ROOM (1L << 20) /* numbers of all these sums, at most, where there are eight parts or more: 4 MB */
#define PLACES 16 /* of a tile */

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Vector load(const float *from) { return *(const Vector *)from; }
INLINE void store(float *to, Vector value) { *(Vector *)to = value; }

/* Room for as many, a multiple of LANES, where no vector lies across two lines of the cache. */
static float *numbers(long count) { return aligned_alloc(sizeof(Vector), sizeof(float) * count); }

/* Of what all threads have between them. */
static float *own_part(float *scratch, long each) {
#ifdef _OPENMP
    return scratch + omp_get_thread_num() * each;
#else
    return scratch + 0 * each;
#endif
}

typedef struct {
    long images, height, width, in, out;
} Sizes;

/* The weights (out, 3, 3, in) of read channel r as (16, read, made): read is in and made is out, or turned the other
   way, with the taps turned round, too. */
static TARGET void transform_weights(const float *weights, float *to, long in, long out, int turned, long r) {
    long made = turned ? in : out, read = turned ? out : in;
    for (long m = 0; m < made; m++) {
        float g[3][3], t[4][3];
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                long tap = turned ? (r * 9 + (2 - i) * 3 + 2 - j) * in + m : (m * 9 + i * 3 + j) * in + r;
                g[i][j] = weights[tap];
            }
        for (int j = 0; j < 3; j++) {
            t[0][j] = g[0][j];
            t[1][j] = 0.5f * (g[0][j] + g[1][j] + g[2][j]);
            t[2][j] = 0.5f * (g[0][j] - g[1][j] + g[2][j]);
            t[3][j] = g[2][j];
        }
        for (int i = 0; i < 4; i++) {
            float *place = to + (4 * i * read + r) * made + m;
            place[0] = t[i][0];
            place[read * made] = 0.5f * (t[i][0] + t[i][1] + t[i][2]);
            place[2 * read * made] = 0.5f * (t[i][0] - t[i][1] + t[i][2]);
            place[3 * read * made] = t[i][2];
        }
    }
}

/* Where a tile is: the row and column of the first of its four outputs, and that pixel's number among all images'. */
typedef struct {
    long row, column, pixel;
} Tile;

INLINE Tile tile_at(Sizes s, long number) {
    long wide = s.width / 2, each = s.height / 2 * wide, within = number % each;
    long row = within / wide * 2, column = within % wide * 2;
    return (Tile){row, column, (number / each * s.height + row) * s.width + column};
}

/* The one after it: dividing for each takes as long as the transforms of a few channels. */
INLINE Tile next(Tile t, Sizes s) {
    t.column += 2, t.pixel += 2;
    if (t.column < s.width) return t;
    t.column = 0, t.row += 2, t.pixel += s.width;
    if (t.row == s.height) t.row = 0;
    return t;
}

/* B'dB of one tile: to[place][TILES][channels]. zeros stand for what lies outside the image. */
INLINE void transform_inside(const float *x, const float *zeros, float *to, Sizes s, long channels, Tile at,
                             const int inside) {
    const float *from[4][4];
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 4; j++) {
            long h = at.row - 1 + i, w = at.column - 1 + j;
            int is = inside || (h >= 0 && h < s.height && w >= 0 && w < s.width);
            from[i][j] = is ? x + (at.pixel + (i - 1) * s.width + j - 1) * channels : zeros;
        }
    for (long c = 0; c < channels; c += LANES) {
        Vector t[4][4];
        UNROLL for (int j = 0; j < 4; j++) {
            Vector d0 = load(from[0][j] + c), d1 = load(from[1][j] + c);
            Vector d2 = load(from[2][j] + c), d3 = load(from[3][j] + c);
            t[0][j] = d0 - d2;
            t[1][j] = d1 + d2;
            t[2][j] = d2 - d1;
            t[3][j] = d1 - d3;
        }
        UNROLL for (int i = 0; i < 4; i++) {
            float *place = to + 4 * i * TILES * channels + c;
            store(place, t[i][0] - t[i][2]);
            store(place + TILES * channels, t[i][1] + t[i][2]);
            store(place + 2 * TILES * channels, t[i][2] - t[i][1]);
            store(place + 3 * TILES * channels, t[i][1] - t[i][3]);
        }
    }
}

INLINE void transform_input(const float *x, const float *zeros, float *to, Sizes s, long channels, Tile at) {
    if (at.row > 0 && at.row + 2 < s.height && at.column > 0 && at.column + 2 < s.width)
        transform_inside(x, zeros, to, s, channels, at, 1);
    else transform_inside(x, zeros, to, s, channels, at, 0);
}

/* A'mA of one tile, with what is added to it, into the image. */
INLINE void transform_output(const float *from, const float *add, float *y, Sizes s, long channels, Tile at) {
    long offset = at.pixel * channels;
    for (long c = 0; c < channels; c += LANES) {
        Vector t[2][4];
        UNROLL for (int j = 0; j < 4; j++) {
            const float *place = from + j * TILES * channels + c;
            Vector m0 = load(place), m1 = load(place + 4 * TILES * channels), m2 = load(place + 8 * TILES * channels),
                   m3 = load(place + 12 * TILES * channels);
            t[0][j] = m0 + m1 + m2;
            t[1][j] = m1 - m2 - m3;
        }
        UNROLL for (int i = 0; i < 2; i++) {
            long left = offset + i * s.width * channels + c, right = left + channels;
            Vector a = t[i][0] + t[i][1] + t[i][2], b = t[i][1] - t[i][2] - t[i][3];
            if (add) a += load(add + left), b += load(add + right);
            store(y + left, a);
            store(y + right, b);
        }
    }
}

/* A dy A' of one tile, the adjoint of the above: to[place][TILES][channels]. */
INLINE void transform_gradient(const float *dy, float *to, Sizes s, long channels, Tile at) {
    const float *corner = dy + at.pixel * channels;
    for (long c = 0; c < channels; c += LANES) {
        Vector t[4][2];
        UNROLL for (int j = 0; j < 2; j++) {
            Vector upper = load(corner + j * channels + c), lower = load(corner + (s.width + j) * channels + c);
            t[0][j] = upper;
            t[1][j] = upper + lower;
            t[2][j] = upper - lower;
            t[3][j] = -lower;
        }
        UNROLL for (int i = 0; i < 4; i++) {
            float *place = to + 4 * i * TILES * channels + c;
            store(place, t[i][0]);
            store(place + TILES * channels, t[i][0] + t[i][1]);
            store(place + 2 * TILES * channels, t[i][0] - t[i][1]);
            store(place + 3 * TILES * channels, -t[i][1]);
        }
    }
}

/* ROWS rows and `vectors` vectors of columns of the product of a (rows, inner) and b (inner, columns). */
INLINE void multiply(const float *a, const float *b, float *to, long inner, long columns, const int vectors) {
    Vector sums[ROWS][2], right[2];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = (Vector){0};
    for (long i = 0; i < inner; i++) {
        UNROLL for (int v = 0; v < vectors; v++) right[v] = load(b + i * columns + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] += right[v] * a[r * inner + i];
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < vectors; v++) store(to + r * columns + v * LANES, sums[r][v]);
}

/* As one function with the above, the AVX2 form of this takes a sixth longer.
   Adds to ADDED_ROWS rows and `vectors` vectors of columns the product of the transposed a (inner, rows) and b. */
INLINE void multiply_add(const float *a, const float *b, float *to, long inner, long rows, long columns,
                         const int vectors) {
    Vector sums[ADDED_ROWS][2], right[2];
    UNROLL for (int r = 0; r < ADDED_ROWS; r++)
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = load(to + r * columns + v * LANES);
    for (long i = 0; i < inner; i++) {
        UNROLL for (int v = 0; v < vectors; v++) right[v] = load(b + i * columns + v * LANES);
        UNROLL for (int r = 0; r < ADDED_ROWS; r++)
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] += right[v] * a[i * rows + r];
    }
    UNROLL for (int r = 0; r < ADDED_ROWS; r++)
        UNROLL for (int v = 0; v < vectors; v++) store(to + r * columns + v * LANES, sums[r][v]);
}

static TARGET void convolve_tiles(const float *x, const float *weights, const float *add, float *y, float *scratch,
                                Sizes s, long read, long made, long first, long count) {
    float *zeros = scratch, *a = zeros + read, *m = a + PLACES * TILES * read;
    Tile at = tile_at(s, first);
    for (long t = 0; t < count; t++, at = next(at, s)) transform_input(x, zeros, a + t * read, s, read, at);
    for (int p = 0; p < PLACES; p++) {
        const float *from = a + p * TILES * read, *by = weights + p * read * made;
        float *to = m + p * TILES * made;
        long c = 0;
        for (; c + 2 * LANES <= made; c += 2 * LANES)
            for (long t = 0; t < count; t += ROWS) multiply(from + t * read, by + c, to + t * made + c, read, made, 2);
        if (c < made)
            for (long t = 0; t < count; t += ROWS) multiply(from + t * read, by + c, to + t * made + c, read, made, 1);
    }
    at = tile_at(s, first);
    for (long t = 0; t < count; t++, at = next(at, s)) transform_output(m + t * made, add, y, s, made, at);
}

static TARGET void add_gradient(const float *x, const float *dy, float *sums, float *scratch, Sizes s, long first,
                              long count) {
    float *zeros = scratch, *a = zeros + s.in, *b = a + PLACES * TILES * s.in;
    Tile at = tile_at(s, first);
    for (long t = 0; t < count; t++, at = next(at, s)) {
        transform_input(x, zeros, a + t * s.in, s, s.in, at);
        transform_gradient(dy, b + t * s.out, s, s.out, at);
    }
    for (int p = 0; p < PLACES; p++)
        for (long o = 0; o < s.out; o += ADDED_ROWS) {
            const float *from = b + p * TILES * s.out + o, *by = a + p * TILES * s.in;
            float *to = sums + (p * s.out + o) * s.in;
            long c = 0;
            for (; c + 2 * LANES <= s.in; c += 2 * LANES) multiply_add(from, by + c, to + c, count, s.out, s.in, 2);
            if (c < s.in) multiply_add(from, by + c, to + c, count, s.out, s.in, 1);
        }
}

/* G'sG: the sums (16, out, in) as weights (out, 3, 3, in). */
static TARGET void transform_sums(const float *sums, float *weights, long in, long out) {
    for (long o = 0; o < out; o++)
        for (long c = 0; c < in; c += LANES) {
            Vector t[3][4];
            for (int j = 0; j < 4; j++) {
                const float *place = sums + (j * out + o) * in + c;
                Vector s0 = load(place), s1 = load(place + 4 * out * in), s2 = load(place + 8 * out * in),
                       s3 = load(place + 12 * out * in);
                t[0][j] = s0 + 0.5f * (s1 + s2);
                t[1][j] = 0.5f * (s1 - s2);
                t[2][j] = 0.5f * (s1 + s2) + s3;
            }
            for (int i = 0; i < 3; i++) {
                float *taps = weights + (o * 3 + i) * 3 * in + c;
                store(taps, t[i][0] + 0.5f * (t[i][1] + t[i][2]));
                store(taps + in, 0.5f * (t[i][1] - t[i][2]));
                store(taps + 2 * in, 0.5f * (t[i][1] + t[i][2]) + t[i][3]);
            }
        }
}

/* y (images, height, width, out) from x (images, height, width, in), plus add where it is not null; turned: from the
   gradient of the output that of the input. Height and width are even, in and out multiples of 8. 1: no memory. */
TARGET int CONVOLVE(const float *x, const float *weights, const float *add, float *y, long images, long height, long width,
             long in, long out, int turned, int threads) {
    Sizes s = {images, height, width, in, out};
    long read = turned ? out : in, made = turned ? in : out, tiles = images * (height / 2) * (width / 2);
    long each = read + PLACES * TILES * (read + made);
    float *transformed = numbers(PLACES * in * out), *scratch = numbers(threads * each);
    int failed = !transformed || !scratch;
    if (!failed) {
#pragma omp parallel num_threads(threads)
        {
            float *own = own_part(scratch, each);
            for (long c = 0; c < read; c++) own[c] = 0;
#pragma omp for schedule(static)
            for (long r = 0; r < read; r++) transform_weights(weights, transformed, in, out, turned, r);
#pragma omp for schedule(static)
            for (long first = 0; first < tiles; first += TILES)
                convolve_tiles(x, transformed, add, y, own, s, read, made, first, least(TILES, tiles - first));
        }
    }
    free(transformed);
    free(scratch);
    return failed;
}

/* By the sizes alone, so that no sum depends on the number of threads. */
static long count_parts(long tiles, long weights) {
    long room = ROOM / weights < 8 ? 8 : ROOM / weights, filled = tiles / (4 * TILES);
    return filled < 1 ? 1 : least(PARTS, least(room, filled));
}

/* The gradient of the weights (out, 3, 3, in) from x and the gradient of the output. */
TARGET int WEIGHTS(const float *x, const float *dy, float *dweights, long images, long height, long width, long in,
                     long out, int threads) {
    Sizes s = {images, height, width, in, out};
    long tiles = images * (height / 2) * (width / 2), weights = 9 * in * out, count = count_parts(tiles, weights);
    long part = (tiles + count - 1) / count;
    long each = in + PLACES * TILES * (in + out) + PLACES * in * out;
    float *parts = numbers(count * weights), *scratch = numbers(threads * each);
    int failed = !parts || !scratch;
    if (!failed) {
#pragma omp parallel num_threads(threads)
        {
            float *own = own_part(scratch, each);
            float *sums = own + in + PLACES * TILES * (in + out);
#pragma omp for schedule(static)
            for (long p = 0; p < count; p++) {
                long last = least((p + 1) * part, tiles);
                for (long c = 0; c < in; c++) own[c] = 0;
                for (long i = 0; i < PLACES * in * out; i++) sums[i] = 0;
                for (long first = p * part; first < last; first += TILES)
                    add_gradient(x, dy, sums, own, s, first, least(TILES, last - first));
                transform_sums(sums, parts + p * weights, in, out);
            }
#pragma omp for schedule(static)
            for (long i = 0; i < weights; i += LANES) { /* weights are a multiple of LANES */
                Vector sum = {0};
                for (long p = 0; p < count; p++) sum += load(parts + p * weights + i);
                store(dweights + i, sum);
            }
        }
    }
    free(parts);
    free(scratch);
    return failed;
}
