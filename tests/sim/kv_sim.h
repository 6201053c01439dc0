/* SPDX-License-Identifier: Apache-2.0 */
/* kv_sim: the simulated side of the kv seam: a sorted map with the crash rules of a write-ahead log, from one seed.
 *
 * Concept: a base outlives its handles. Requests are served in order after seeded delays. An unsynced batch survives the
 *   death of the process; power loss keeps a prefix of the unsynced batches, of seeded length. In-flight requests of a
 *   crash: a prefix of them took effect.
 * Threading: the world's. Errors: as injected; after a failed write every write fails (sticky, as the real side).
 * Ownership: the base is the caller's; a handle is freed by kv_close or kv_sim_crash.
 */
#ifndef ASHLAR_TESTS_SIM_KV_SIM_H
#define ASHLAR_TESTS_SIM_KV_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"
#include "server/store/kv.h"

enum kv_sim_crash { KV_SIM_PROCESS, KV_SIM_POWER };

struct kv_sim_faults {
    uint64_t fail_nth; /* the n-th request from now on fails with -EIO (counts down to 0) */
    uint32_t slow_permille;
    uint64_t slow_ns;
    bool power_keeps_all; /* power loss keeps every unsynced batch */
    bool power_drops_all; /* ... or none */
};

struct kv_sim_stats {
    uint64_t writes, syncs, gets, scans, failed;
};

struct kv_sim_base;
struct kv_sim_base *kv_sim_base_create(uint64_t seed);
void kv_sim_base_destroy(struct kv_sim_base *base); /* accepts NULL; an open handle is freed too */
int kv_sim_open(struct kv_sim_base *base, struct env *env, struct kv **ret_kv); /* -EBUSY: open */
void kv_sim_crash(struct kv_sim_base *base, enum kv_sim_crash kind);            /* the handle is gone after it */
struct kv_sim_faults *kv_sim_faults(struct kv_sim_base *base);
struct kv_sim_stats *kv_sim_stats(struct kv_sim_base *base);
/* Direct access for tests: walks pairs in key order from (and including) key; returns false at the end. */
bool kv_sim_next(struct kv_sim_base *base, uint8_t key[KV_KEY_MAX], uint32_t *key_len, bool inclusive,
                 const uint8_t **ret_value, uint32_t *ret_value_len);
void kv_sim_put(struct kv_sim_base *base, const void *key, uint32_t key_len, const void *value,
                uint32_t value_len); /* durable, behind everybody's back; value NULL: delete */
/* Called when a write is submitted (done false) and when it took effect (done true). */
void kv_sim_trace(struct kv_sim_base *base,
                  void (*trace)(void *arg, const struct kv_batch *batch, bool sync, bool done), void *arg);

#endif
