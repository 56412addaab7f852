/* The kernels of compute.h for aarch64 with dotprod. */
#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define LANES_NEON
#define LANES_DOTPROD
#define NAME "dotprod"
#include "compute.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
