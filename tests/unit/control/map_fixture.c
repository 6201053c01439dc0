/* SPDX-License-Identifier: Apache-2.0 */
/* map_fixture: see the header. The invariants are read off the public face of the map, not its own asserts. */
#include "tests/unit/control/map_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_node(void *arg, const struct map_node *node)
{
    struct map_fixture *f = arg;
    assert_ptr_equal(map_node_by_id(f->map, node->id), node);
    f->node_events++;
}

static void on_volume(void *arg, const struct map_volume *volume)
{
    struct map_fixture *f = arg;
    assert_ptr_equal(map_volume_by_id(f->map, volume->id), volume);
    f->volume_events++;
}

static void on_removed(void *arg, uint64_t volume)
{
    struct map_fixture *f = arg;
    assert_non_null(map_volume_by_id(f->map, volume));
    f->removed_events++;
}

static void on_shard(void *arg, const struct map_volume *volume, const struct map_shard *shard)
{
    struct map_fixture *f = arg;
    assert_ptr_equal(&volume->shards[shard->index], shard);
    f->shard_events++;
}

static void on_reset(void *arg)
{
    struct map_fixture *f = arg;
    f->reset_events++;
}

void map_fixture_init(struct map_fixture *f)
{
    memset(f, 0, sizeof *f);
    f->map = map_create();
    map_set_observer(f->map, &(struct map_observer){on_node, on_volume, on_removed, on_shard, on_reset, f, NULL});
}

void map_fixture_close(struct map_fixture *f)
{
    map_destroy(f->map);
    free(f->before);
    memset(f, 0, sizeof *f);
}

static void check_against(const struct map_shard *old, const struct map_shard *now)
{
    assert_true(now->epoch >= old->epoch);
    assert_true(now->active_epoch >= old->active_epoch);
    assert_true(now->loss_number >= old->loss_number);
    bool same_sync = now->primary == old->primary;
    for (uint32_t i = 0; i < now->member_count; i++) {
        const struct map_member *m = &now->members[i];
        const struct map_member *was = map_member_of(old, m->node);
        uint32_t in_sync = m->flags & MAP_MEMBER_IN_SYNC;
        if (!was) {
            assert_false(in_sync); /* R17: attached, synced, only then added */
            continue;
        }
        same_sync = same_sync && in_sync == (was->flags & MAP_MEMBER_IN_SYNC);
        same_sync = same_sync && (!in_sync || m->incarnation == was->incarnation);
        if (m->instance != was->instance)
            assert_true(m->instance > was->instance); /* R3 */
        if (!(m->flags & MAP_MEMBER_ELIGIBLE) || (was->flags & MAP_MEMBER_ELIGIBLE))
            continue;
        assert_true(in_sync); /* eligible comes only by activation (R12) */
        assert_true(now->active_epoch == now->epoch && old->active_epoch < old->epoch);
    }
    if (!same_sync)
        assert_true(now->epoch > old->epoch); /* every change of in_sync or primary has its own epoch */
}

static void check_shard(const struct map *map, const struct map_volume *v, const struct map_shard *s)
{
    assert_true(s->member_count >= 1 && s->member_count <= MAP_MEMBERS_MAX);
    assert_true(map_in_sync_count(s) >= 1);
    assert_true(s->active_epoch <= s->epoch);
    bool active = s->active_epoch == s->epoch;
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct map_member *m = &s->members[i];
        assert_non_null(map_node_by_id(map, m->node));
        assert_true(m->e_r <= s->epoch);
        if (active)
            assert_int_equal((m->flags & MAP_MEMBER_IN_SYNC) != 0, (m->flags & MAP_MEMBER_ELIGIBLE) != 0);
        for (uint32_t j = 0; j < i; j++) {
            assert_int_not_equal(s->members[j].node, m->node);
            assert_int_not_equal(s->members[j].instance, m->instance);
        }
    }
    if (s->primary == 0) {
        for (uint32_t i = 0; i < s->member_count; i++) /* nobody who could serve was passed over */
            assert_false((s->members[i].flags & MAP_MEMBER_IN_SYNC) && map_member_live(map, &s->members[i]));
        return;
    }
    const struct map_member *primary = map_member_of(s, s->primary);
    assert_non_null(primary);
    assert_true(primary->flags & MAP_MEMBER_IN_SYNC); /* I3 */
    assert_true(map_member_live(map, primary));
    assert_int_equal(v->id, s->volume);
}

static void check_volume(void *arg, const struct map_volume *v)
{
    struct map_fixture *f = arg;
    assert_int_equal(v->shard_count, (v->size + v->shard_bytes - 1) / v->shard_bytes);
    for (uint32_t i = 0; i < v->shard_count; i++)
        check_shard(f->map, v, &v->shards[i]);
}

struct compare {
    const struct map *old;
};

static void compare_volume(void *arg, const struct map_volume *v)
{
    struct compare *compare = arg;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        const struct map_shard *old = map_shard_at(compare->old, v->id, i);
        if (old)
            check_against(old, &v->shards[i]);
    }
    const struct map_volume *old_volume = map_volume_by_id(compare->old, v->id);
    if (old_volume)
        assert_true(v->session.number >= old_volume->session.number);
}

void map_fixture_check(struct map_fixture *f)
{
    map_each_volume(f->map, check_volume, f);
    if (f->before) {
        struct compare compare = {map_create()};
        assert_int_equal(map_restore((struct map *)(uintptr_t)compare.old, f->before, f->before_len), 0);
        map_each_volume(f->map, compare_volume, &compare);
        map_destroy((struct map *)(uintptr_t)compare.old);
    }
}

struct map_result map_fixture_apply(struct map_fixture *f, const struct map_entry *entry)
{
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX);
    struct map_result result = {.rc = 1};
    assert_non_null(bytes);
    int len = map_entry_encode(entry, bytes, MAP_ENTRY_BYTES_MAX);
    assert_true(len > 0);
    free(f->before);
    f->before = NULL;
    if (!f->unchecked)
        assert_int_equal(map_snapshot(f->map, &f->before, &f->before_len), 0);
    map_apply(f->map, map_version(f->map) + 1, bytes, (size_t)len, &result);
    free(bytes);
    assert_true(result.rc <= 0);
    if (!f->unchecked)
        map_fixture_check(f);
    return result;
}

struct map_entry map_fixture_node_entry(uint32_t node, uint8_t stop)
{
    struct map_entry e = {.kind = MAP_ENTRY_NODE_REGISTER, .node = node};
    e.node_info.stop = stop;
    e.node_info.store_uuid[0] = (uint8_t)node;
    e.node_info.capacity_bytes = 1ull << 40;
    (void)snprintf(e.node_info.data_address, sizeof e.node_info.data_address, "tcp:10.0.0.%u:7000", node);
    (void)snprintf(e.node_info.control_address, sizeof e.node_info.control_address, "tcp:10.0.0.%u:7001", node);
    (void)snprintf(e.node_info.host, sizeof e.node_info.host, "host%u", node);
    return e;
}

uint64_t map_fixture_register(struct map_fixture *f, uint32_t node, uint8_t stop)
{
    struct map_entry e = map_fixture_node_entry(node, stop);
    struct map_result r = map_fixture_apply(f, &e);
    assert_int_equal(r.rc, 0);
    return r.value;
}

uint64_t map_fixture_incarnation(const struct map_fixture *f, uint32_t node)
{
    const struct map_node *n = map_node_by_id(f->map, node);
    assert_non_null(n);
    return n->incarnation;
}

int map_fixture_node(struct map_fixture *f, enum map_entry_kind kind, uint32_t node)
{
    struct map_entry e = {.kind = kind, .node = node, .incarnation = map_fixture_incarnation(f, node)};
    return map_fixture_apply(f, &e).rc;
}

uint64_t map_fixture_volume(struct map_fixture *f, const char *name, uint32_t shards, uint32_t replicas,
                            uint32_t min_replicas, uint32_t home)
{
    struct map_entry e = {
        .kind = MAP_ENTRY_VOLUME_CREATE, .replicas = replicas, .min_replicas = min_replicas, .home = home};
    (void)snprintf(e.name, sizeof e.name, "%s", name);
    e.size = (uint64_t)shards * MAP_SHARD_BYTES_DEFAULT;
    struct map_result r = map_fixture_apply(f, &e);
    assert_int_equal(r.rc, 0);
    return r.value;
}

static struct map_entry shard_entry(const struct map_fixture *f, enum map_entry_kind kind, uint64_t volume,
                                    uint32_t shard, uint32_t node)
{
    const struct map_shard *s = map_fixture_shard(f, volume, shard);
    struct map_entry e = {.kind = kind, .volume = volume, .shard = shard, .epoch = s->epoch, .node = node};
    const struct map_member *m = map_member_of(s, node);
    e.incarnation = map_fixture_incarnation(f, node);
    e.instance = m ? m->instance : 0;
    return e;
}

int map_fixture_drop(struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t node)
{
    struct map_entry e = shard_entry(f, MAP_ENTRY_MEMBER_DROP, volume, shard, node);
    return map_fixture_apply(f, &e).rc;
}

int map_fixture_add(struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t node)
{
    struct map_entry e = shard_entry(f, MAP_ENTRY_MEMBER_ADD, volume, shard, node);
    return map_fixture_apply(f, &e).rc;
}

int map_fixture_activate(struct map_fixture *f, uint64_t volume, uint32_t shard)
{
    const struct map_shard *s = map_fixture_shard(f, volume, shard);
    struct map_active active = {volume, shard, s->epoch};
    struct map_entry e = {.kind = MAP_ENTRY_EPOCH_ACTIVE, .node = s->primary, .actives = &active, .active_count = 1};
    const struct map_node *primary = map_node_by_id(f->map, s->primary);
    e.incarnation = primary ? primary->incarnation : 0;
    return map_fixture_apply(f, &e).rc;
}

int map_fixture_elect(struct map_fixture *f)
{
    struct map_entry e = {.kind = MAP_ENTRY_ELECT, .shard = UINT32_MAX};
    return map_fixture_apply(f, &e).rc;
}

const struct map_shard *map_fixture_shard(const struct map_fixture *f, uint64_t volume, uint32_t shard)
{
    const struct map_shard *s = map_shard_at(f->map, volume, shard);
    assert_non_null(s);
    return s;
}

bool map_fixture_in_sync(const struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t node)
{
    const struct map_member *m = map_member_of(map_fixture_shard(f, volume, shard), node);
    return m && (m->flags & MAP_MEMBER_IN_SYNC);
}
