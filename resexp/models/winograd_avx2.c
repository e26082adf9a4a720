/* Winograd's algorithm in vectors of eight numbers. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 6 /* times two vectors, in 16 registers */
#define ADDED_ROWS 4
#define CONVOLVE winograd_avx2
#define WEIGHTS winograd_weights_avx2
#include "winograd.h"

#endif
