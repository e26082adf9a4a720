/* Winograd's algorithm in vectors of sixteen numbers. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#define TARGET __attribute__((target("avx512f,avx512vl,fma,prefer-vector-width=512")))
#define LANES 16
#define ROWS 12 /* times two vectors, in 32 registers */
#define ADDED_ROWS 8
#define CONVOLVE winograd_avx512
#define WEIGHTS winograd_weights_avx512
#include "winograd.h"

#endif
