/* The kernels of compute.h for aarch64. */
#if defined(__aarch64__)
#define LANES_NEON
#define NAME "neon"
#include "compute.h"
#endif
