/* Many independent steps on many devices: two best, one of them at random. */

#include "schedule.h"

#include <math.h>

/* Each step goes to one of the two of its candidates on which it ends first, drawn at random: whoever decides from the
   same view of the queues would else send all to one (herding; Mitzenmacher, IEEE TPDS 11(1), 2000). `candidates` and
   `seconds` are (steps, each), a candidate below 0 is none; `free_at` (devices) is when each is free, and is carried on;
   `chosen` (steps) gets the device, -1 for none. Returns how many steps have one. */
int64_t sched_fleet(const int *candidates, const double *seconds, double *free_at, int *chosen, int64_t steps, int each,
                    int devices, uint64_t seed)
{
    int64_t placed = 0;
    for (int64_t i = 0; i < steps; i++) {
        const int *of = candidates + i * each;
        const double *takes = seconds + i * each;
        int best = -1, second = -1;
        double first_end = INFINITY, second_end = INFINITY;
        for (int x = 0; x < each; x++) {
            if (of[x] < 0 || of[x] >= devices || !(takes[x] < INFINITY))
                continue;
            double end = free_at[of[x]] + takes[x];
            if (end < first_end) {
                second = best;
                second_end = first_end;
                best = x;
                first_end = end;
            } else if (end < second_end) {
                second = x;
                second_end = end;
            }
        }
        if (best < 0) {
            chosen[i] = -1;
            continue;
        }
        uint64_t z = seed + (uint64_t)i * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        if (second >= 0 && ((z ^ z >> 31) & 1)) {
            best = second;
            first_end = second_end;
        }
        free_at[of[best]] = first_end;
        chosen[i] = of[best];
        placed++;
    }
    return placed;
}
