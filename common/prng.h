/* SPDX-License-Identifier: Apache-2.0 */
/* prng: xoshiro256** seeded through splitmix64 (Blackman and Vigna, public domain): the generator behind env_random
 * and the simulator. Not for secrets. Threading: the holder's. Errors: none. Ownership: plain values. */
#ifndef ASHLAR_COMMON_PRNG_H
#define ASHLAR_COMMON_PRNG_H

#include <assert.h>
#include <stdint.h>

struct prng {
    uint64_t s[4];
};

static inline uint64_t prng_splitmix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline void prng_seed(struct prng *prng, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        prng->s[i] = prng_splitmix(&seed);
    assert(prng->s[0] | prng->s[1] | prng->s[2] | prng->s[3]);
}

static inline uint64_t prng_rotl(uint64_t x, unsigned k)
{
    return (x << k) | (x >> (64 - k));
}

static inline uint64_t prng_next(struct prng *prng)
{
    uint64_t *s = prng->s;
    uint64_t result = prng_rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = prng_rotl(s[3], 45);
    return result;
}

/* 0 .. bound - 1; the bias of the modulo is below 2^-32 for bounds below 2^32. */
static inline uint64_t prng_below(struct prng *prng, uint64_t bound)
{
    assert(bound > 0);
    return prng_next(prng) % bound;
}

#endif
