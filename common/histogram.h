/* SPDX-License-Identifier: Apache-2.0 */
/* histogram: log-linear latency histogram (16 linear steps per power of two: error <= 6.25 %), mergeable.
 *
 * Concept: fixed 44 x 16 counters; a record is one increment. Values are nanoseconds.
 * Threading: owned by one thread; copy to hand over. Errors: none. Ownership: embedded by the caller.
 */
#ifndef ASHLAR_COMMON_HISTOGRAM_H
#define ASHLAR_COMMON_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 16
#define HISTOGRAM_BUCKETS (44 * HISTOGRAM_STEPS) /* up to 2^47 ns (39 hours); larger values count in the last bucket */

struct histogram {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_reset(struct histogram *h);
void histogram_record(struct histogram *h, uint64_t value_ns);
void histogram_merge(struct histogram *into, const struct histogram *from);
void histogram_subtract(struct histogram *from,
                        const struct histogram *earlier); /* interval = now - earlier; its max_ns: upper edge */
uint64_t histogram_percentile(const struct histogram *h,
                              double percent); /* upper edge of the bucket, at most max_ns; 0 if empty */
uint64_t histogram_mean(const struct histogram *h);

#endif
