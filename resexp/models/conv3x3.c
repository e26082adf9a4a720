/* 3x3 convolution of stride 1 with zero padding, 8 or 16 channels in and out, float32, channels last.

   With so few channels a general library spends as much on bringing numbers to the arithmetic units as on using them.
   Here all output channels of a pixel are one vector, and a run of pixels of one row stays in registers while the nine
   taps are added. The gradient of the input is the same convolution with the weights turned round. conv3x3.py calls
   this, and says when. It needs AVX-512. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#define AVX512 __attribute__((target("avx512f,avx512vl,fma,prefer-vector-width=512")))
#define INLINE static inline __attribute__((always_inline)) AVX512

#define CHANNELS 16
#define PIXELS 16
#include "conv3x3_image.h"
#undef PIXELS
#define PIXELS 8
#include "conv3x3_image.h"
#undef CHANNELS
#define CHANNELS 8
#include "conv3x3_image.h"
#undef PIXELS
#define PIXELS 16
#include "conv3x3_image.h"

typedef void (*Image)(const float *x, float *y, const float *weights, long height, long width);

static Image choose(long channels, long width) {
    if (channels == 16) return width % 16 == 0 ? image_16_16 : image_16_8;
    return width % 16 == 0 ? image_8_16 : image_8_8;
}

int conv3x3_supported(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"); }

/* y from x (images, height, width, channels), width a multiple of 8. weights: (out, 3, 3, in) as torch keeps them.
   turned: x is the gradient of the output, and y that of the input. */
void conv3x3(const float *x, const float *weights, float *y, long images, long height, long width, long channels,
             int turned, int threads) {
    float packed[9 * 16 * 16]; /* (3, 3, channels of x, channels of y) */
    for (long out = 0; out < channels; out++)
        for (long tap = 0; tap < 9; tap++)
            for (long in = 0; in < channels; in++) {
                float weight = weights[(out * 9 + tap) * channels + in];
                if (turned) packed[((8 - tap) * channels + out) * channels + in] = weight;
                else packed[(tap * channels + in) * channels + out] = weight;
            }
    Image image = choose(channels, width);
    long size = height * width * channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long n = 0; n < images; n++) image(x + n * size, y + n * size, packed, height, width);
}

#else

int conv3x3_supported(void) { return 0; }

#endif
