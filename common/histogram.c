/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log-linear latency histogram.
 *
 * - values below 16 ns have a bucket each; above, each power of two is cut into 16 equal buckets
 * - histogram_percentile walks the buckets up to the wanted rank
 *
 * Values beyond the last bucket count there; sum and maximum stay exact.
 */
#include "common/histogram.h"

#include <assert.h>
#include <string.h>

enum { STEP_BITS = 4 };
_Static_assert(1 << STEP_BITS == HISTOGRAM_STEPS, "steps are a power of two");

static uint32_t bucket_index(uint64_t value_ns)
{
    if (value_ns < HISTOGRAM_STEPS)
        return (uint32_t)value_ns;
    uint32_t exponent = 63u - (uint32_t)__builtin_clzll(value_ns);
    assert(exponent >= STEP_BITS);
    uint32_t shift = exponent - STEP_BITS;
    uint32_t step = (uint32_t)(value_ns >> shift) & (HISTOGRAM_STEPS - 1);
    uint32_t index = (shift + 1) * HISTOGRAM_STEPS + step;
    return index < HISTOGRAM_BUCKETS ? index : HISTOGRAM_BUCKETS - 1;
}

/* The largest value that counts in this bucket. */
static uint64_t bucket_upper_ns(uint32_t index)
{
    assert(index < HISTOGRAM_BUCKETS);
    if (index == HISTOGRAM_BUCKETS - 1)
        return UINT64_MAX;
    if (index < HISTOGRAM_STEPS)
        return index;
    uint32_t shift = index / HISTOGRAM_STEPS - 1;
    uint64_t step = HISTOGRAM_STEPS + index % HISTOGRAM_STEPS;
    return ((step + 1) << shift) - 1;
}

void histogram_reset(struct histogram *h)
{
    assert(h != NULL);
    memset(h, 0, sizeof(*h));
}

void histogram_record(struct histogram *h, uint64_t value_ns)
{
    assert(h != NULL);
    uint32_t index = bucket_index(value_ns);
    assert(index < HISTOGRAM_BUCKETS);
    h->bucket[index]++;
    h->count++;
    h->sum_ns += value_ns;
    if (value_ns > h->max_ns)
        h->max_ns = value_ns;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    assert(into != NULL);
    assert(from != NULL);
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
}

void histogram_subtract(struct histogram *from, const struct histogram *earlier)
{
    assert(from != NULL);
    assert(earlier != NULL);
    assert(from->count >= earlier->count);
    uint64_t upper_ns = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        assert(from->bucket[i] >= earlier->bucket[i]);
        from->bucket[i] -= earlier->bucket[i];
        if (from->bucket[i] > 0)
            upper_ns = bucket_upper_ns(i);
    }
    from->count -= earlier->count;
    from->sum_ns -= earlier->sum_ns;
    /* The exact maximum of the interval is not known; its bucket is. */
    if (upper_ns < from->max_ns)
        from->max_ns = upper_ns;
}

uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    assert(h != NULL);
    assert(percent >= 0.0 && percent <= 100.0);
    if (h->count == 0)
        return 0;
    /* The smallest rank that has at least percent of the values at or below it. */
    double exact = percent / 100.0 * (double)h->count;
    uint64_t rank = exact < (double)h->count ? (uint64_t)exact : h->count;
    if ((double)rank < exact || rank == 0)
        rank++;
    if (rank > h->count)
        rank = h->count;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank) {
            uint64_t upper_ns = bucket_upper_ns(i);
            return upper_ns < h->max_ns ? upper_ns : h->max_ns;
        }
    }
    return h->max_ns;
}

uint64_t histogram_mean(const struct histogram *h)
{
    assert(h != NULL);
    assert(h->count > 0 || h->sum_ns == 0);
    assert(h != NULL);
    if (h->count == 0)
        return 0;
    return h->sum_ns / h->count;
}
