/* SPDX-License-Identifier: Apache-2.0 */
/* control_cluster: see the header.
 *
 * - messages from a core to its data thread are queued and handled apply_delay later, in order, like a mailbox
 * - the judge: when a data thread applies NODE_DOWN of another node's incarnation, that node's data thread, if it lives in that
 *   incarnation, holds no lease (R9, R10)
 */
#include "tests/unit/control/control_cluster.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

enum mail_kind { MAIL_REGISTERED, MAIL_SNAPSHOT, MAIL_ENTRY, MAIL_LEASE, MAIL_STATS };

struct fake_mail {
    struct fake_mail *next;
    enum mail_kind kind;
    uint64_t a, b;
    size_t len;
    uint8_t bytes[];
};

static struct fake_data *data_of(struct bridge_to_data *b)
{
    return (struct fake_data *)(void *)b;
}

/* ---- the fake data thread ---- */

static void judge(struct cluster *k, const struct map_entry *entry)
{
    if (!k->judged || entry->kind != MAP_ENTRY_NODE_DOWN || entry->node > k->count)
        return;
    k->judgements++;
    struct cluster_node *n = &k->nodes[entry->node];
    if (n->up && n->data.incarnation == entry->incarnation)
        assert_false(cluster_has_lease(k, entry->node)); /* R10 */
}

static void take_mail(struct fake_data *d, struct fake_mail *m)
{
    struct map_entry entry;
    struct map_result result;
    switch (m->kind) {
    case MAIL_REGISTERED:
        assert_true(map_version(d->map) > 0);
        d->incarnation = m->a;
        d->registrations++;
        d->lease_until_ns = 0;
        break;
    case MAIL_SNAPSHOT:
        assert_int_equal(map_restore(d->map, m->bytes, m->len), 0);
        assert_int_equal(map_version(d->map), m->a);
        d->snapshots++;
        break;
    case MAIL_ENTRY:
        if (map_entry_decode(m->bytes, m->len, &entry) == 0) {
            judge(d->node->cluster, &entry);
            map_entry_free(&entry);
        }
        map_apply(d->map, m->a, m->bytes, m->len, &result);
        d->entries++;
        break;
    case MAIL_LEASE:
        d->lease_until_ns = m->a;
        d->lease_version = m->b;
        break;
    case MAIL_STATS: d->stats_requests++; break;
    }
}

static void act_later(struct fake_data *d);

static void apply_run(struct world_event *event)
{
    struct fake_data *d = (struct fake_data *)(void *)((char *)event - offsetof(struct fake_data, apply));
    uint64_t before = map_version(d->map);
    while (d->first && !d->frozen) {
        struct fake_mail *m = d->first;
        d->first = m->next;
        if (!d->first)
            d->last = NULL;
        take_mail(d, m);
        free(m);
    }
    if (map_version(d->map) == before || !d->node->control)
        return;
    uint64_t hash = map_version(d->map) % 64 == 0 ? map_hash(d->map) : 0;
    struct bridge_to_control *b = control_bridge(d->node->control);
    b->ops->applied(b, map_version(d->map), hash);
    act_later(d);
}

static void post(struct bridge_to_data *b, enum mail_kind kind, uint64_t v1, uint64_t v2, const void *bytes, size_t len)
{
    struct fake_data *d = data_of(b);
    struct cluster *k = d->node->cluster;
    struct fake_mail *m = calloc(1, sizeof *m + len);
    assert_non_null(m);
    m->kind = kind;
    m->a = v1;
    m->b = v2;
    m->len = len;
    if (len > 0)
        memcpy(m->bytes, bytes, len);
    if (d->last)
        d->last->next = m;
    else
        d->first = m;
    d->last = m;
    if (!world_scheduled(&d->apply))
        world_schedule(k->world, &d->apply, d->node->world_node, k->apply_delay_ns, apply_run);
}

static void to_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    assert_int_equal(cluster_id, 77);
    assert_int_equal(node, data_of(b)->node->id);
    post(b, MAIL_REGISTERED, incarnation, 0, NULL, 0);
}

static void to_snapshot(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    post(b, MAIL_SNAPSHOT, version, 0, bytes, len);
}

static void to_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    post(b, MAIL_ENTRY, version, 0, bytes, len);
}

static void to_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t version)
{
    post(b, MAIL_LEASE, until_ns, version, NULL, 0);
}

static void to_stats(struct bridge_to_data *b)
{
    post(b, MAIL_STATS, 0, 0, NULL, 0);
}

static void to_stop(struct bridge_to_data *b)
{
    (void)b;
}

static const struct bridge_to_data_ops data_ops = {to_registered, to_snapshot, to_entry, to_lease, to_stats, to_stop};

static void alive_run(struct world_event *event)
{
    struct fake_data *d = (struct fake_data *)(void *)((char *)event - offsetof(struct fake_data, alive));
    struct cluster_node *n = d->node;
    if (n->control && !d->mute) {
        struct bridge_to_control *b = control_bridge(n->control);
        b->ops->alive(b, d->io_age_ns);
    }
    world_schedule(n->cluster->world, event, n->world_node, ENV_MS(200), alive_run);
}

/* ---- the fake primary: activates, adds ---- */

struct work {
    struct fake_data *d;
    struct map_entry entry;
    struct map_active actives[64];
    bool add;
};

static void find_work(void *arg, const struct map_volume *volume)
{
    struct work *w = arg;
    uint32_t self = w->d->node->id;
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        const struct map_shard *s = &volume->shards[i];
        if (s->primary != self)
            continue;
        if (s->active_epoch != s->epoch && map_in_sync_count(s) >= volume->min_replicas && w->entry.active_count < 64)
            w->actives[w->entry.active_count++] = (struct map_active){volume->id, i, s->epoch};
        for (uint32_t m = 0; m < s->member_count && !w->add; m++) {
            const struct map_node *node = map_node_by_id(w->d->map, s->members[m].node);
            if ((s->members[m].flags & MAP_MEMBER_IN_SYNC) || !node || !node->up || node->store_failed)
                continue;
            w->add = true;
            w->entry.volume = volume->id;
            w->entry.shard = i;
            w->entry.epoch = s->epoch;
            w->entry.node = s->members[m].node;
            w->entry.incarnation = node->incarnation;
            w->entry.instance = s->members[m].instance;
        }
    }
}

static void acted(struct bridge_propose *req, const struct map_result *result)
{
    struct fake_data *d = req->owner;
    (void)result;
    d->busy = false;
    act_later(d);
}

static void act_run(struct world_event *event)
{
    struct fake_data *d = (struct fake_data *)(void *)((char *)event - offsetof(struct fake_data, act));
    struct work w = {.d = d};
    uint8_t bytes[4096];
    if (!d->node->control || d->busy || d->frozen || d->incarnation == 0)
        return;
    map_each_volume(d->map, find_work, &w);
    if (w.entry.active_count > 0) {
        w.entry.kind = MAP_ENTRY_EPOCH_ACTIVE;
        w.entry.node = d->node->id;
        w.entry.incarnation = d->incarnation;
        w.entry.actives = w.actives;
    } else if (w.add) {
        w.entry.kind = MAP_ENTRY_MEMBER_ADD;
    } else {
        return;
    }
    int len = map_entry_encode(&w.entry, bytes, sizeof bytes);
    assert_true(len > 0);
    d->busy = true;
    d->propose = (struct bridge_propose){.cb = acted, .owner = d};
    struct bridge_to_control *b = control_bridge(d->node->control);
    b->ops->propose(b, &d->propose, bytes, (size_t)len);
}

static void act_later(struct fake_data *d)
{
    if (d->node->cluster->primaries_act && !world_scheduled(&d->act))
        world_schedule(d->node->cluster->world, &d->act, d->node->world_node, ENV_MS(5), act_run);
}

/* ---- nodes ---- */

static void on_fatal(void *arg, int rc, const char *sentence)
{
    struct cluster_node *n = arg;
    assert_non_null(sentence);
    n->fatals++;
    n->fatal_rc = rc;
}

static void on_deposed(void *arg)
{
    struct cluster_node *n = arg;
    n->deposed++;
}

static void on_persist(void *arg, uint64_t version, const void *bytes, size_t len)
{
    struct cluster_node *n = arg;
    free(n->saved);
    n->saved = malloc(len);
    assert_non_null(n->saved);
    memcpy(n->saved, bytes, len);
    n->saved_len = len;
    n->saved_version = version;
}

static void address(uint32_t id, char *text, size_t size)
{
    (void)snprintf(text, size, "sim:%u:7001", id - 1);
}

static void fill_self(struct map_node *self, uint32_t id, uint8_t stop)
{
    memset(self, 0, sizeof *self);
    self->store_uuid[0] = (uint8_t)id;
    self->stop = stop;
    self->capacity_bytes = 1ull << 40;
    address(id, self->control_address, sizeof self->control_address);
    (void)snprintf(self->data_address, sizeof self->data_address, "sim:%u:7000", id - 1);
    (void)snprintf(self->host, sizeof self->host, "host%u", id);
}

void cluster_start(struct cluster *k, uint32_t id, uint8_t stop)
{
    struct cluster_node *n = &k->nodes[id];
    char listen[MAP_ADDRESS_MAX];
    if (!world_node_up(k->world, n->world_node))
        world_node_start(k->world, n->world_node);
    n->up = true;
    n->env = world_env_create(k->world, n->world_node);
    assert_int_equal(transport_sim_create(k->net, n->world_node, n->env, n->bufs, &n->transport), 0);
    memset(&n->data, 0, sizeof n->data);
    n->data.node = n;
    n->data.bridge.ops = &data_ops;
    n->data.map = map_create();
    struct control_config config = k->times;
    config.env = n->env;
    config.transport = n->transport;
    config.log = n->log;
    config.data = &n->data.bridge;
    config.hooks = (struct control_hooks){.persist = on_persist, .fatal = on_fatal};
    if (n->stay_deposed)
        config.hooks.deposed = on_deposed;
    config.arg = n;
    config.cluster_id = 77;
    config.node = id;
    fill_self(&config.self, id, stop);
    config.voter_count = k->voters;
    for (uint32_t v = 0; v < k->voters; v++) {
        config.voters[v].node = v + 1;
        address(v + 1, config.voters[v].address, sizeof config.voters[v].address);
    }
    address(id, listen, sizeof listen);
    config.listen[0] = listen;
    config.listen_count = 1;
    config.saved_map = n->saved;
    config.saved_map_len = n->saved_len;
    assert_int_equal(control_create(&config, &n->control), 0);
    assert_int_equal(control_start(n->control), 0);
    if (n->log)
        sim_log_join(k->log, id, n->control, 0);
    world_schedule(k->world, &n->data.alive, n->world_node, ENV_MS(1), alive_run);
}

static void take_apart(struct cluster *k, struct cluster_node *n)
{
    world_cancel(k->world, &n->data.alive);
    world_cancel(k->world, &n->data.apply);
    world_cancel(k->world, &n->data.act);
    if (n->log)
        sim_log_join(k->log, n->id, NULL, 0);
    transport_sim_destroy(n->transport);
    control_destroy(n->control);
    n->control = NULL;
    while (n->data.first) {
        struct fake_mail *m = n->data.first;
        n->data.first = m->next;
        free(m);
    }
    map_destroy(n->data.map);
    n->data.map = NULL;
    n->up = false;
}

void cluster_crash(struct cluster *k, uint32_t id, enum world_crash kind)
{
    struct cluster_node *n = &k->nodes[id];
    assert_true(n->up);
    world_node_crash(k->world, n->world_node, kind);
    take_apart(k, n);
}

void cluster_init(struct cluster *k, uint64_t seed, uint32_t count, uint32_t voters)
{
    memset(k, 0, sizeof *k);
    log_init(getenv("ASHLAR_TEST_LOG") ? LOG_DEBUG : LOG_ERROR, NULL);
    k->world = world_create(seed);
    k->net = sim_net_create(k->world, &(struct sim_net_config){0});
    k->log = sim_log_create(k->world, voters);
    k->count = count;
    k->voters = voters;
    k->apply_delay_ns = 300000;
    k->times.elect_grace_ns = ENV_MS(3000);
    for (uint32_t id = 1; id <= count; id++) {
        struct cluster_node *n = &k->nodes[id];
        *n = (struct cluster_node){.cluster = k, .id = id, .world_node = world_node_add(k->world)};
        n->bufs = buf_pool_create(8u << 20);
        n->log = id <= voters ? sim_log_of(k->log, id) : NULL;
        cluster_start(k, id, MAP_STOP_CLEAN);
    }
    sim_log_lead(k->log, 1, false);
    cluster_await(k, cluster_all_registered, 0, 10000);
}

static void stopped(void *arg)
{
    bool *done = arg;
    *done = true;
}

static bool no_links(struct cluster *k, uint64_t id)
{
    return stream_transport_live(k->nodes[id].transport) == 0;
}

/* Goal: a core stops in order, too, with nothing left: links, listeners, proposals. */
static void stop_node(struct cluster *k, struct cluster_node *n)
{
    bool done = false;
    if (n->log)
        sim_log_join(k->log, n->id, NULL, 0);
    control_stop(n->control, stopped, &done);
    for (int i = 0; i < 1000 && !done; i++)
        world_run(k->world, ENV_MS(1));
    assert_true(done);
    cluster_await(k, no_links, n->id, 5000);
    world_cancel(k->world, &n->data.alive);
    world_node_crash(k->world, n->world_node, WORLD_CRASH_PROCESS);
    take_apart(k, n);
}

void cluster_close(struct cluster *k)
{
    k->judged = false;
    for (uint32_t id = 1; id <= k->count; id++) {
        if (k->nodes[id].up)
            stop_node(k, &k->nodes[id]);
    }
    for (uint32_t id = 1; id <= k->count; id++) {
        buf_pool_destroy(k->nodes[id].bufs);
        free(k->nodes[id].saved);
    }
    sim_log_destroy(k->log);
    sim_net_destroy(k->net);
    world_destroy(k->world);
    memset(k, 0, sizeof *k);
}

/* ---- waiting and looking ---- */

void cluster_run_ms(struct cluster *k, uint64_t ms)
{
    world_run(k->world, ENV_MS(ms));
}

void cluster_await(struct cluster *k, bool (*done)(struct cluster *k, uint64_t arg), uint64_t arg, uint64_t limit_ms)
{
    for (uint64_t ms = 0; ms <= limit_ms; ms++) {
        if (done(k, arg))
            return;
        world_run(k->world, ENV_MS(1));
    }
    fail_msg("nothing came of it in %llu ms", (unsigned long long)limit_ms);
}

bool cluster_all_registered(struct cluster *k, uint64_t arg)
{
    (void)arg;
    for (uint32_t id = 1; id <= k->count; id++) {
        struct cluster_node *n = &k->nodes[id];
        if (n->up && (control_incarnation(n->control) == 0 || n->data.incarnation != control_incarnation(n->control)))
            return false;
        if (n->up && map_version(n->data.map) != sim_log_length(k->log))
            return false;
    }
    return true;
}

const struct map *cluster_map(struct cluster *k)
{
    const struct cluster_node *n = &k->nodes[sim_log_leader(k->log)];
    assert_true(n->up);
    return control_map(n->control);
}

bool cluster_is_down(struct cluster *k, uint64_t node)
{
    const struct map_node *n = map_node_by_id(cluster_map(k), (uint32_t)node);
    return n && !n->up;
}

bool cluster_is_up(struct cluster *k, uint64_t node)
{
    const struct map_node *n = map_node_by_id(cluster_map(k), (uint32_t)node);
    return n && n->up;
}

uint64_t cluster_now_ms(struct cluster *k)
{
    return world_now_ns(k->world) / 1000000;
}

bool cluster_has_lease(struct cluster *k, uint32_t id)
{
    struct cluster_node *n = &k->nodes[id];
    if (!n->up || n->data.lease_until_ns == 0 || map_version(n->data.map) < n->data.lease_version)
        return false;
    return env_now_ns(n->env) < n->data.lease_until_ns;
}

/* ---- requests ---- */

static void propose_done(struct bridge_propose *req, const struct map_result *result)
{
    struct cluster_request *r = req->owner;
    r->done++;
    r->result = *result;
    r->rc = result->rc;
    r->done_ms = cluster_now_ms(r->cluster);
}

void cluster_propose(struct cluster *k, uint32_t id, const struct map_entry *entry, struct cluster_request *request)
{
    uint8_t bytes[8192];
    struct bridge_to_control *b = control_bridge(k->nodes[id].control);
    int len = map_entry_encode(entry, bytes, sizeof bytes);
    assert_true(len > 0);
    memset(request, 0, sizeof *request);
    request->cluster = k;
    request->propose.cb = propose_done;
    request->propose.owner = request;
    b->ops->propose(b, &request->propose, bytes, (size_t)len);
    assert_int_equal(request->done, 0);
}

static void attach_done(struct bridge_attach *req, int rc)
{
    struct cluster_request *r = req->owner;
    r->done++;
    r->rc = rc;
    r->done_ms = cluster_now_ms(r->cluster);
}

void cluster_attach(struct cluster *k, uint32_t id, const char *volume, uint8_t attachment, uint32_t flags,
                    struct cluster_request *request)
{
    struct bridge_to_control *b = control_bridge(k->nodes[id].control);
    memset(request, 0, sizeof *request);
    request->cluster = k;
    (void)snprintf(request->attach.volume_name, sizeof request->attach.volume_name, "%s", volume);
    request->attach.attachment[0] = attachment;
    request->attach.flags = flags;
    request->attach.cb = attach_done;
    request->attach.owner = request;
    b->ops->attach(b, &request->attach);
    assert_int_equal(request->done, 0);
}

static bool request_done(struct cluster *k, uint64_t arg)
{
    (void)k;
    return ((const struct cluster_request *)(uintptr_t)arg)->done > 0;
}

void cluster_finish(struct cluster *k, struct cluster_request *request, uint64_t limit_ms)
{
    cluster_await(k, request_done, (uint64_t)(uintptr_t)request, limit_ms);
    assert_int_equal(request->done, 1);
}

uint64_t cluster_volume(struct cluster *k, const char *name, uint32_t shards, uint32_t replicas, uint32_t min_replicas,
                        uint32_t home)
{
    struct map_entry e = {
        .kind = MAP_ENTRY_VOLUME_CREATE, .replicas = replicas, .min_replicas = min_replicas, .home = home};
    struct cluster_request request;
    (void)snprintf(e.name, sizeof e.name, "%s", name);
    e.size = shards * MAP_SHARD_BYTES_DEFAULT;
    cluster_propose(k, 1, &e, &request);
    cluster_finish(k, &request, 5000);
    assert_int_equal(request.rc, 0);
    return request.result.value;
}

static void admin_done(void *arg, const char *json, size_t len)
{
    char **text = arg;
    assert_null(*text);
    *text = strndup(json, len);
}

char *cluster_admin(struct cluster *k, uint32_t id, const char *json)
{
    char *text = NULL;
    control_admin(k->nodes[id].control, json, strlen(json), admin_done, &text);
    for (int i = 0; i < 20000 && !text; i++)
        world_run(k->world, ENV_MS(1));
    assert_non_null(text);
    return text;
}
