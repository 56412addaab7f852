/* The kernels of compute.h for aarch64 with dotprod and i8mm. */
#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif
#define LANES_NEON
#define LANES_I8MM
#define NAME "i8mm"
#include "compute.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
