/* What norm_relu.c asks of a kind of numbers: four passes over a chunk of rows. */

typedef struct {
    long channels;
    const void *x, *add, *y, *dy;      /* float32 or bf16, as out and dz */
    void *out, *dz;                    /* out: y forward, dx backward */
    const float *mean, *scale, *shift; /* y = relu(x * scale + shift + add) */
    const float *offset, *slope;       /* dx = scale * (dz - offset - (x - mean) * slope) */
} Job;

typedef struct {
    void (*moments)(const Job *job, long start, long count, float *mean, float *square);
    void (*apply)(const Job *job, long start, long count);
    void (*gradient_sums)(const Job *job, long start, long count, float *first, float *second);
    void (*gradient)(const Job *job, long start, long count);
} Chunks;

extern const Chunks norm_relu_bf16; /* of multiples of 16 channels, where bf16_supported() */
