/* The kernels of compute.h for any processor. */
#define LANES_SCALAR
#define NAME "scalar"
#include "compute.h"
