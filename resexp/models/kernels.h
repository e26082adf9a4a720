/* What several kernels share. */

#define UNROLL _Pragma("GCC unroll 16")

static inline long least(long a, long b) { return a < b ? a : b; }
