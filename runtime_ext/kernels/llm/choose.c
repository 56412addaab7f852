/* Which kernels run here. */
#include "llm.h"

#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

static int runs_here(const struct Kernels *k)
{
    if (k == &kernels_scalar)
        return 1;
#if defined(__x86_64__)
    if (k == &kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
    if (k == &kernels_neon)
        return 1;
#if defined(__linux__)
    enum { ASIMDDP = 1 << 20, I8MM = 1 << 13 }; /* of AT_HWCAP and of AT_HWCAP2 */
    int dotprod = (getauxval(AT_HWCAP) & ASIMDDP) != 0;
    return k == &kernels_dotprod ? dotprod : dotprod && (getauxval(AT_HWCAP2) & I8MM) != 0;
#else
    return 0;
#endif
#else
    return 0;
#endif
}

const struct Kernels *llm_kernels(const char *name)
{
    static const struct Kernels *const best_first[] = {
#if defined(__x86_64__)
        &kernels_avx512, &kernels_avx2,
#elif defined(__aarch64__)
        &kernels_i8mm, &kernels_dotprod, &kernels_neon,
#endif
        &kernels_scalar,
    };
    for (size_t i = 0; i < sizeof best_first / sizeof *best_first; i++)
        if ((name == NULL || strcmp(name, best_first[i]->name) == 0) && runs_here(best_first[i]))
            return best_first[i];
    return NULL;
}
