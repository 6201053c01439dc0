/* SPDX-License-Identifier: Apache-2.0 */
/* map_fixture: a map to which a test applies entries; after each one the invariants are checked against the state before.
 * Threading: the test's. Errors: a broken invariant fails the test. Ownership: init/close by the test. */
#ifndef ASHLAR_TESTS_MAP_FIXTURE_H
#define ASHLAR_TESTS_MAP_FIXTURE_H

#include "server/control/map.h"

struct map_fixture {
    struct map *map;
    void *before; /* snapshot before the last entry, when checks are on */
    size_t before_len;
    bool unchecked; /* speed tests */
    uint32_t shard_events, node_events, volume_events, removed_events, reset_events;
};

void map_fixture_init(struct map_fixture *f);
void map_fixture_close(struct map_fixture *f);
struct map_result map_fixture_apply(struct map_fixture *f, const struct map_entry *entry);
/* Same bytes to a second map, which must then be equal. */
void map_fixture_check(struct map_fixture *f);

/* Each returns the result's rc unless said otherwise. */
uint64_t map_fixture_register(struct map_fixture *f, uint32_t node, uint8_t stop); /* incarnation */
struct map_entry map_fixture_node_entry(uint32_t node, uint8_t stop);
int map_fixture_node(struct map_fixture *f, enum map_entry_kind kind, uint32_t node); /* with its incarnation */
uint64_t map_fixture_volume(struct map_fixture *f, const char *name, uint32_t shards, uint32_t replicas,
                            uint32_t min_replicas, uint32_t home); /* id */
int map_fixture_drop(struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t node);
int map_fixture_add(struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t node);
int map_fixture_activate(struct map_fixture *f, uint64_t volume, uint32_t shard);
int map_fixture_elect(struct map_fixture *f);
const struct map_shard *map_fixture_shard(const struct map_fixture *f, uint64_t volume, uint32_t shard);
bool map_fixture_in_sync(const struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t node);
uint64_t map_fixture_incarnation(const struct map_fixture *f, uint32_t node);

#endif
