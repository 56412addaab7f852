/* The kernels of compute.h for x86-64 with AVX2. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LANES_AVX2
#define NAME "avx2"
#include "compute.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
