/* A digest at the speed of memory: 128 bits over eight lanes of multiply and rotate, each byte in one of them. It finds
 * damage and equal blocks; who may send blocks at all is the link's affair, which is authenticated. */
#include "lanes.h"
#include "llm.h"

enum { LANES = 8 };
#define PRIME 0x9fb21c651e98df25ull

static uint64_t stir(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    return h ^ h >> 32;
}

void block_digest(const uint8_t *data, size_t n, uint64_t out[2])
{
    uint64_t lane[LANES], at = 0;
    for (int i = 0; i < LANES; i++)
        lane[i] = stir((uint64_t)i + 1 + n);
    for (; at + 8 * LANES <= n; at += 8 * LANES)
        for (int i = 0; i < LANES; i++) {
            uint64_t v = lane[i] ^ load_u64(data + at + 8 * (size_t)i);
            lane[i] = (v << 29 | v >> 35) * PRIME;
        }
    for (int i = 0; at < n; at += 8, i++)
        lane[i] = stir(lane[i] ^ load_u64(data + at));
    out[0] = out[1] = n;
    for (int i = 0; i < LANES; i++) {
        out[0] = stir(out[0] * PRIME + lane[i]);
        out[1] = stir(out[1] + lane[LANES - 1 - i] * PRIME);
    }
}
