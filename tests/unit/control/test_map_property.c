/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random histories of a map.
 *
 * - two maps get the same entries, one of them goes through snapshot and restore now and then: their hashes stay equal
 * - after every entry the invariants hold (map_fixture.c)
 * - a model of the data says who holds how much: each active write reaches every in_sync member, a reboot takes a
 *   member back to what was flushed, an add copies from the primary. A primary then never lacks an acknowledged write unless
 *   the loss number says so (R13), and never an acknowledged flush (I2), forced promotions aside.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/control/map_fixture.h"

#define NODES 6u
#define VOLUMES 5u
#define SHARDS 3u

static uint64_t rng;

static uint32_t pick(uint32_t bound)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 11) % bound;
}

struct copy { /* what one node holds of a shard */
    uint64_t written, durable;
};

struct shard_model {
    struct copy copies[NODES + 1];
    uint64_t acked, flushed;
    uint64_t loss_number;
    uint64_t volume; /* id: another one starts anew */
};

struct history {
    struct map_fixture a, b;
    struct shard_model models[VOLUMES][SHARDS];
};

static struct shard_model *model_of(struct history *h, const struct map_shard *s)
{
    struct shard_model *m = &h->models[s->volume % VOLUMES][s->index];
    if (m->volume != s->volume) {
        memset(m, 0, sizeof *m);
        m->volume = s->volume;
    }
    return m;
}

/* Goal: I1, I2, I3 as data would see them. A primary that may serve holds what was acknowledged. */
static void check_primary(struct history *h, const struct map_shard *s)
{
    struct shard_model *m = model_of(h, s);
    if (s->primary == 0)
        return;
    const struct copy *primary = &m->copies[s->primary];
    if (s->loss_number > m->loss_number) {
        assert_true(primary->written >= m->flushed); /* I2 */
        m->loss_number = s->loss_number;
        if (primary->written < m->acked)
            m->acked = primary->written;
    }
    assert_true(primary->written >= m->acked);
}

struct walk {
    struct history *h;
    uint32_t node;
    uint8_t stop;
};

static void lose_copies(void *arg, const struct map_volume *v)
{
    struct walk *walk = arg;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        struct copy *copy = &model_of(walk->h, &v->shards[i])->copies[walk->node];
        if (walk->stop == MAP_STOP_REBOOTED && pick(2) == 0)
            copy->written = copy->durable < copy->written ? copy->durable : copy->written;
        if (walk->stop == MAP_STOP_EMPTY)
            copy->written = copy->durable = 0;
    }
}

static void check_primaries(void *arg, const struct map_volume *v)
{
    for (uint32_t i = 0; i < v->shard_count; i++)
        check_primary(arg, &v->shards[i]);
}

static struct map_result apply(struct history *h, const struct map_entry *e)
{
    struct map_result ra = map_fixture_apply(&h->a, e), rb = map_fixture_apply(&h->b, e);
    assert_int_equal(ra.rc, rb.rc);
    assert_int_equal(ra.value, rb.value);
    if (pick(16) == 0) { /* b as a node that just got a snapshot */
        void *bytes;
        size_t len;
        assert_int_equal(map_snapshot(h->b.map, &bytes, &len), 0);
        map_destroy(h->b.map);
        h->b.map = map_create();
        map_set_observer(h->b.map, NULL);
        assert_int_equal(map_restore(h->b.map, bytes, len), 0);
        free(bytes);
    }
    assert_true(map_hash(h->a.map) == map_hash(h->b.map));
    return ra;
}

static const struct map_shard *any_shard(struct history *h)
{
    uint64_t ids[VOLUMES] = {0};
    uint32_t count = 0;
    for (uint64_t id = 1; id < 4000 && count < VOLUMES; id++) {
        if (map_volume_by_id(h->a.map, id))
            ids[count++] = id;
    }
    if (count == 0)
        return NULL;
    const struct map_volume *v = map_volume_by_id(h->a.map, ids[pick(count)]);
    return &v->shards[pick(v->shard_count)];
}

static bool all_in_sync_live(struct history *h, const struct map_shard *s)
{
    for (uint32_t i = 0; i < s->member_count; i++) {
        if ((s->members[i].flags & MAP_MEMBER_IN_SYNC) && !map_member_live(h->a.map, &s->members[i]))
            return false;
    }
    return true;
}

/* The replicas' part: activation brings the in_sync members to the primary's content; then writes and flushes. */
static void step_io(struct history *h)
{
    const struct map_shard *s = any_shard(h);
    if (!s || s->primary == 0 || !all_in_sync_live(h, s))
        return;
    struct shard_model *m = model_of(h, s);
    if (s->active_epoch != s->epoch) {
        struct map_active active = {s->volume, s->index, s->epoch};
        struct map_entry e = {
            .kind = MAP_ENTRY_EPOCH_ACTIVE, .node = s->primary, .actives = &active, .active_count = 1};
        e.incarnation = map_node_by_id(h->a.map, s->primary)->incarnation;
        int rc = apply(h, &e).rc;
        s = map_shard_at(h->a.map, active.volume, active.shard);
        bool enough = map_in_sync_count(s) >= map_volume_by_id(h->a.map, s->volume)->min_replicas;
        assert_int_equal(rc, enough ? 0 : -ESTALE);
        if (rc < 0)
            return;
    }
    bool flush = pick(3) == 0;
    m->acked++;
    for (uint32_t i = 0; i < s->member_count; i++) {
        struct copy *copy = &m->copies[s->members[i].node];
        if (!(s->members[i].flags & MAP_MEMBER_IN_SYNC))
            continue;
        copy->written = m->acked;
        if (flush)
            copy->durable = m->acked;
    }
    if (flush)
        m->flushed = m->acked;
}

static void step_node(struct history *h)
{
    uint32_t node = 1 + pick(NODES);
    const struct map_node *n = map_node_by_id(h->a.map, node);
    if (n && n->up && pick(3) > 0) {
        struct map_entry e = {.kind = pick(6) ? MAP_ENTRY_NODE_DOWN : MAP_ENTRY_STORE_FAILED, .node = node};
        e.incarnation = n->incarnation - (pick(10) == 0);
        (void)apply(h, &e);
        return;
    }
    if (pick(12) == 0 && n) {
        struct map_entry e = {.kind = pick(2) ? MAP_ENTRY_NODE_OUT : MAP_ENTRY_NODE_REMOVE, .node = node};
        e.incarnation = n->incarnation;
        (void)apply(h, &e);
        return;
    }
    uint8_t stop = (uint8_t)(pick(40) == 0 ? MAP_STOP_EMPTY : pick(3));
    struct walk walk = {h, node, stop};
    map_each_volume(h->a.map, lose_copies, &walk);
    struct map_entry e = map_fixture_node_entry(node, stop);
    assert_int_equal(apply(h, &e).rc, 0);
}

static void step_volume(struct history *h)
{
    const struct map_shard *s = any_shard(h);
    struct map_entry e = {.volume = s ? s->volume : 1, .flags = pick(2)};
    switch (pick(6)) {
    case 0:
    case 1:
        e = (struct map_entry){.kind = MAP_ENTRY_VOLUME_CREATE, .replicas = 1 + pick(3), .home = pick(NODES + 1)};
        e.min_replicas = 1 + pick(e.replicas);
        e.size = (1 + pick(SHARDS)) * MAP_SHARD_BYTES_DEFAULT - 4096ull * pick(3);
        (void)snprintf(e.name, sizeof e.name, "v%u", pick(4)); /* at most 4: VOLUMES ids in a row stay apart */
        break;
    case 2:
        e.kind = pick(4) == 0 ? MAP_ENTRY_VOLUME_DELETE : MAP_ENTRY_SESSION_CLOSE;
        e.session = pick(4);
        break;
    case 3:
        e.kind = MAP_ENTRY_SESSION_OPEN;
        e.node = 1 + pick(NODES);
        e.incarnation = map_node_by_id(h->a.map, e.node) ? map_node_by_id(h->a.map, e.node)->incarnation : 1;
        e.attachment[0] = (uint8_t)pick(3);
        break;
    case 4:
        e.kind = MAP_ENTRY_VOLUME_SET;
        e.min_replicas = pick(3);
        e.replicas = pick(4);
        break;
    default:
        e.kind = MAP_ENTRY_VOLUME_RESIZE;
        e.size = (1 + pick(SHARDS)) * MAP_SHARD_BYTES_DEFAULT;
        e.flags = 0; /* a shrink would make the model's shards start anew */
        break;
    }
    (void)apply(h, &e);
}

static void member_added(struct history *h, uint64_t volume, uint32_t index, uint32_t node)
{
    const struct map_shard *s = map_shard_at(h->a.map, volume, index);
    struct shard_model *m = model_of(h, s);
    m->copies[node].written = m->copies[node].durable =
        m->copies[s->primary].written; /* R17: flushed before it joined */
}

static void step_member(struct history *h)
{
    static const enum map_entry_kind kinds[] = {MAP_ENTRY_MEMBER_DROP,   MAP_ENTRY_MEMBER_ADD,
                                                MAP_ENTRY_MEMBER_ADD,    MAP_ENTRY_MEMBER_ATTACH,
                                                MAP_ENTRY_MEMBER_DETACH, MAP_ENTRY_PRIMARY_MOVE};
    const struct map_shard *s = any_shard(h);
    if (!s)
        return;
    struct map_entry e = {.kind = kinds[pick(6)], .volume = s->volume, .shard = s->index, .node = 1 + pick(NODES)};
    const struct map_member *m = map_member_of(s, e.node);
    const struct map_node *n = map_node_by_id(h->a.map, e.node);
    bool source_ok = s->primary != 0;
    if (e.kind == MAP_ENTRY_MEMBER_ADD && !source_ok)
        return; /* nobody who would propose it */
    e.epoch = s->epoch - (pick(10) == 0);
    e.instance = m ? m->instance : 0;
    e.incarnation = n ? n->incarnation : 0;
    e.to_node = e.kind == MAP_ENTRY_MEMBER_ATTACH && pick(2) ? 0 : 1 + pick(NODES);
    if (apply(h, &e).rc == 0 && e.kind == MAP_ENTRY_MEMBER_ADD)
        member_added(h, e.volume, e.shard, e.node);
}

static void step(struct history *h)
{
    uint32_t what = pick(100);
    if (what < 40) {
        step_io(h);
    } else if (what < 62) {
        step_node(h);
    } else if (what < 70) {
        step_volume(h);
    } else if (what < 94) {
        step_member(h);
    } else {
        struct map_entry e = {.kind = MAP_ENTRY_ELECT, .shard = UINT32_MAX};
        (void)apply(h, &e);
    }
    map_each_volume(h->a.map, check_primaries, h);
}

static void run_history(uint64_t seed, uint32_t steps)
{
    struct history h;
    memset(&h, 0, sizeof h);
    rng = seed * 0x9e3779b97f4a7c15ull + 1;
    map_fixture_init(&h.a);
    map_fixture_init(&h.b);
    h.b.unchecked = true; /* it equals a, which is checked */
    for (uint32_t n = 1; n <= NODES; n++) {
        struct map_entry e = map_fixture_node_entry(n, MAP_STOP_CLEAN);
        (void)apply(&h, &e);
    }
    for (uint32_t i = 0; i < steps; i++)
        step(&h);
    map_fixture_close(&h.a);
    map_fixture_close(&h.b);
}

static void random_histories_keep_maps_equal_and_data_safe(void **state)
{
    (void)state;
    const char *seed_text = getenv("ASHLAR_SEED");
    uint64_t first = seed_text ? strtoull(seed_text, NULL, 10) : 1;
    for (uint64_t seed = first; seed < first + (seed_text ? 1 : 40); seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        run_history(seed, 400);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories_keep_maps_equal_and_data_safe),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
