/* What the bf16 kernels share: the processor's own conversions, 16 values at a time. BF16 is defined where the compiler
   knows them; whether the processor does is asked when the program runs. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 10
#define BF16
#include <immintrin.h>
#include <stdint.h>

#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512bf16,prefer-vector-width=512")))
#define INLINE static inline __attribute__((always_inline)) AVX512

typedef uint16_t Half;

INLINE __m512 widened(const Half *from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

INLINE void store_rounded(Half *to, __m512 values) { /* to nearest, ties to even */
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

#endif
