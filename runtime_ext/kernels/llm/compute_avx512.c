/* The kernels of compute.h for x86-64 with AVX512. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define LANES_AVX512
#define NAME "avx512"
#include "compute.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
