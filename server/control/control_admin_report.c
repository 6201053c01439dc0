/* SPDX-License-Identifier: Apache-2.0 */
/* control_admin_report: what admin requests read: status, nodes, volumes, shards, sessions.
 *
 * - everything is read off the map and the leader's watches at once, and made JSON
 * - long lists come in parts: at most ADMIN_LIST_MAX items, "more" says that there are others after "next"
 *
 * Failure: NULL and a sentence.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "server/control/control_admin.h"

static json_t *hex(const void *bytes, size_t count)
{
    char text[2 * 16 + 1];
    assert(count <= 16);
    for (size_t i = 0; i < count; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", ((const uint8_t *)bytes)[i]);
    text[2 * count] = '\0';
    return json_string(text);
}

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

struct control_health control_health_of(const struct map_volume *volume)
{
    assert(volume != NULL);
    struct control_health health = {0};
    assert(volume->shards != NULL);
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        const struct map_shard *shard = &volume->shards[i];
        uint32_t in_sync = map_in_sync_count(shard);
        bool up = shard->primary != 0 && in_sync >= volume->min_replicas && shard->active_epoch == shard->epoch;
        health.degraded += in_sync < volume->replicas || shard->primary == 0;
        health.unavailable += !up;
        health.headless += shard->primary == 0;
    }
    return health;
}

/* ---- nodes ---- */

struct node_count {
    uint32_t node;
    uint64_t members, in_sync, primaries;
};

static void count_node(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct node_count *count = arg;
    assert(count->node != 0);
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        const struct map_member *m = map_member_of(&volume->shards[i], count->node);
        count->members += m != NULL;
        count->in_sync += m && (m->flags & MAP_MEMBER_IN_SYNC);
        count->primaries += volume->shards[i].primary == count->node;
    }
}

static const char *node_state(const struct map_node *node)
{
    if (node->out)
        return "out";
    if (!node->up)
        return "down";
    return node->store_failed ? "failed" : "up";
}

static void add_watch(struct control *c, json_t *item, const struct map_node *node)
{
    assert(c != NULL);
    const struct control_watch *w = control_watch_get(c, node->id);
    uint64_t now = control_lived(c);
    if (!w)
        return;
    assert(w->node == node->id);
    (void)json_object_set_new(item, "applied_version", integer(w->applied));
    (void)json_object_set_new(item, "io_age_ms", integer(w->io_age_ns / 1000000));
    (void)json_object_set_new(item, "heard_ms_ago", integer((now - w->heard_ns) / 1000000));
    (void)json_object_set_new(item, "lease_ms",
                              integer(w->lease_until_ns > now ? (w->lease_until_ns - now) / 1000000 : 0));
    (void)json_object_set_new(item, "diverged", json_boolean(w->diverged));
    if (!w->reported)
        return;
    (void)json_object_set_new(item, "total_bytes", integer(w->report[REPORT_TOTAL_BYTES]));
    (void)json_object_set_new(item, "free_bytes", integer(w->report[REPORT_FREE_BYTES]));
    (void)json_object_set_new(item, "allocated_bytes", integer(w->report[REPORT_ALLOCATED_BYTES]));
    (void)json_object_set_new(item, "near_full", json_boolean(w->report[REPORT_SPACE] & 1));
    (void)json_object_set_new(item, "full", json_boolean((w->report[REPORT_SPACE] & 2) != 0));
    (void)json_object_set_new(item, "damaged_blocks", integer(w->report[REPORT_DAMAGED]));
    (void)json_object_set_new(item, "marks", integer(w->report[REPORT_MARKS]));
    (void)json_object_set_new(item, "suspect_regions", integer(w->report[REPORT_SUSPECT_REGIONS]));
    (void)json_object_set_new(item, "serving", integer(w->report[REPORT_SERVING]));
    (void)json_object_set_new(item, "parked", integer(w->report[REPORT_PARKED]));
    (void)json_object_set_new(item, "clients", integer(w->report[REPORT_CLIENTS]));
    (void)json_object_set_new(item, "syncs", integer(w->report[REPORT_SYNCS]));
    (void)json_object_set_new(item, "resync_bytes", integer(w->report[REPORT_RESYNC_BYTES]));
    (void)json_object_set_new(item, "shards_to_reap", integer(w->report[REPORT_REAPING]));
    (void)json_object_set_new(item, "records_removed", integer(w->report[REPORT_REAPED]));
}

struct list {
    struct control *c;
    json_t *items;
    uint64_t after;
    bool more;
    uint64_t next;
};

static void add_node(void *arg, const struct map_node *node)
{
    assert(node != NULL);
    static const char *const stops[] = {"clean", "same-boot", "rebooted", "empty"};
    struct list *list = arg;
    struct node_count count = {.node = node->id};
    assert(node->stop <= MAP_STOP_EMPTY);
    map_each_volume(list->c->map, count_node, &count);
    json_t *item = json_pack("{s:I,s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:s}", "id", (json_int_t)node->id, "state",
                             node_state(node), "incarnation", (json_int_t)node->incarnation, "stop", stops[node->stop],
                             "data_address", node->data_address, "unix_address", node->unix_address, "control_address",
                             node->control_address, "host", node->host, "rack", node->rack);
    (void)json_object_set_new(item, "capacity_bytes", integer(node->capacity_bytes));
    (void)json_object_set_new(item, "members", integer(count.members));
    (void)json_object_set_new(item, "in_sync", integer(count.in_sync));
    (void)json_object_set_new(item, "primaries", integer(count.primaries));
    add_watch(list->c, item, node);
    (void)json_array_append_new(list->items, item);
}

json_t *control_report_nodes(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    struct list list = {.c = c, .items = json_array()};
    (void)request;
    assert(sentence != NULL);
    map_each_node(c->map, add_node, &list);
    return json_pack("{s:o}", "nodes", list.items);
}

/* ---- status ---- */

struct totals {
    uint64_t volumes, degraded_volumes, unavailable_volumes, shards, degraded, unavailable, headless, sessions;
};

static void add_totals(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct totals *t = arg;
    struct control_health health = control_health_of(volume);
    assert(health.headless <= health.unavailable);
    if (volume->deleting)
        return;
    t->volumes++;
    t->degraded_volumes += health.degraded > 0;
    t->unavailable_volumes += health.unavailable > 0;
    t->shards += volume->shard_count;
    t->degraded += health.degraded;
    t->unavailable += health.unavailable;
    t->headless += health.headless;
    t->sessions += volume->session.open;
}

json_t *control_report_status(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    struct totals t = {0};
    uint64_t cluster = map_cluster_id(c->map);
    uint8_t cluster_bytes[8];
    assert(c->leading);
    for (int i = 0; i < 8; i++)
        cluster_bytes[i] = (uint8_t)(cluster >> (8 * (7 - i)));
    map_each_volume(c->map, add_totals, &t);
    json_t *nodes = control_report_nodes(c, request, sentence), *voters = json_array();
    for (uint32_t i = 0; i < c->config.voter_count; i++)
        (void)json_array_append_new(voters, integer(c->config.voters[i].node));
    json_t *answer = json_pack("{s:o,s:I,s:I,s:I,s:o,s:o}", "cluster_id", hex(cluster_bytes, 8), "leader",
                               (json_int_t)c->config.node, "term", (json_int_t)c->term, "map_version",
                               (json_int_t)map_version(c->map), "voters", voters, "nodes",
                               json_incref(json_object_get(nodes, "nodes")));
    json_decref(nodes);
    (void)json_object_set_new(answer, "volumes",
                              json_pack("{s:I,s:I,s:I}", "total", (json_int_t)t.volumes, "degraded",
                                        (json_int_t)t.degraded_volumes, "unavailable",
                                        (json_int_t)t.unavailable_volumes));
    (void)json_object_set_new(answer, "shards",
                              json_pack("{s:I,s:I,s:I,s:I}", "total", (json_int_t)t.shards, "degraded",
                                        (json_int_t)t.degraded, "unavailable", (json_int_t)t.unavailable,
                                        "without_primary", (json_int_t)t.headless));
    (void)json_object_set_new(answer, "sessions", integer(t.sessions));
    return answer;
}

/* ---- volumes ---- */

static json_t *session_json(const struct map_volume *volume)
{
    assert(volume != NULL);
    const struct map_session *s = &volume->session;
    assert(volume->id != 0);
    return json_pack("{s:b,s:I,s:I,s:b,s:o}", "open", s->open, "number", (json_int_t)s->number, "gateway",
                     (json_int_t)s->gateway, "read_only", s->read_only, "attachment",
                     hex(s->attachment, sizeof s->attachment));
}

/* What a volume reads through, and how many snapshots it has. */
static json_t *volume_json(const struct map *map, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct control_health health = control_health_of(volume);
    const char *state = health.unavailable ? "unavailable" : health.degraded ? "degraded" : "healthy";
    assert(volume->name[0] != '\0');
    json_t *answer = json_pack(
        "{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:I,s:I,s:o}", "name", volume->name, "id", (json_int_t)volume->id,
        "size", (json_int_t)volume->size, "shard_bytes", (json_int_t)volume->shard_bytes, "shard_count",
        (json_int_t)volume->shard_count, "replicas", (json_int_t)volume->replicas, "min_replicas",
        (json_int_t)volume->min_replicas, "home", (json_int_t)volume->home, "generation",
        (json_int_t)volume->generation, "state", state, "degraded_shards", (json_int_t)health.degraded,
        "unavailable_shards", (json_int_t)health.unavailable, "session", session_json(volume));
    (void)json_object_set_new(answer, "snapshots", integer(volume->snap_count));
    if (volume->base.volume == 0)
        return answer;
    const struct map_volume *parent = map_volume_by_id(map, volume->base.volume);
    const struct map_snap *snap = parent ? map_snap_by_generation(parent, volume->base.generation) : NULL;
    (void)json_object_set_new(answer, "parent",
                              json_pack("{s:s,s:s,s:I,s:b}", "volume", parent ? parent->name : "", "snapshot",
                                        snap ? snap->name : "", "generation", (json_int_t)volume->base.generation,
                                        "flattening", volume->flattening));
    return answer;
}

static bool list_room(struct list *list, uint64_t id)
{
    assert(list != NULL);
    assert(list->items != NULL);
    if (id <= list->after || list->more)
        return false;
    if (json_array_size(list->items) >= ADMIN_LIST_MAX) {
        list->more = true;
        return false;
    }
    list->next = id;
    return true;
}

static json_t *list_end(struct list *list, const char *name)
{
    assert(list != NULL);
    assert(name != NULL);
    return json_pack("{s:o,s:b,s:I}", name, list->items, "more", list->more, "next", (json_int_t)list->next);
}

static void add_volume(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct list *list = arg;
    if (!volume->deleting && list_room(list, volume->id))
        (void)json_array_append_new(list->items, volume_json(list->c->map, volume));
    assert(json_array_size(list->items) <= ADMIN_LIST_MAX);
}

json_t *control_report_volumes(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    struct list list = {.c = c, .items = json_array()};
    assert(sentence != NULL);
    list.after = (uint64_t)json_integer_value(json_object_get(request, "after"));
    map_each_volume(c->map, add_volume, &list);
    return list_end(&list, "volumes");
}

static json_t *shard_json(const struct control *c, const struct map_shard *shard)
{
    assert(c != NULL);
    json_t *members = json_array();
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        const struct map_member *m = &shard->members[i];
        (void)json_array_append_new(
            members, json_pack("{s:I,s:b,s:b,s:b,s:b,s:I,s:I}", "node", (json_int_t)m->node, "in_sync",
                               (m->flags & MAP_MEMBER_IN_SYNC) != 0, "eligible", (m->flags & MAP_MEMBER_ELIGIBLE) != 0,
                               "leaving", (m->flags & MAP_MEMBER_LEAVING) != 0, "live", map_member_live(c->map, m),
                               "e_r", (json_int_t)m->e_r, "instance", (json_int_t)m->instance));
    }
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:o}", "index", (json_int_t)shard->index, "primary",
                     (json_int_t)shard->primary, "epoch", (json_int_t)shard->epoch, "active_epoch",
                     (json_int_t)shard->active_epoch, "loss_number", (json_int_t)shard->loss_number, "members",
                     members);
}

/* "from": the first shard to list. "troubled": true: only those that are not healthy. */
json_t *control_report_volume(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    const char *name = json_string_value(json_object_get(request, "name"));
    const struct map_volume *volume = name ? map_volume_by_name(c->map, name) : NULL;
    if (!volume) {
        (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "there is no volume named %.64s", name ? name : "(none given)");
        return NULL;
    }
    json_int_t from = json_integer_value(json_object_get(request, "from"));
    bool troubled = json_is_true(json_object_get(request, "troubled"));
    uint32_t i = from > 0 && from < MAP_SHARDS_MAX ? (uint32_t)from : 0;
    json_t *shards = json_array();
    for (; i < volume->shard_count && json_array_size(shards) < ADMIN_LIST_MAX; i++) {
        const struct map_shard *shard = &volume->shards[i];
        bool healthy =
            shard->primary != 0 && map_in_sync_count(shard) >= volume->replicas && shard->active_epoch == shard->epoch;
        if (!troubled || !healthy)
            (void)json_array_append_new(shards, shard_json(c, shard));
    }
    assert(i <= volume->shard_count);
    return json_pack("{s:o,s:o,s:b,s:I}", "volume", volume_json(c->map, volume), "shards", shards, "more",
                     i < volume->shard_count, "next", (json_int_t)i);
}

static void add_session(void *arg, const struct map_volume *volume)
{
    struct list *list = arg;
    assert(list->items != NULL);
    if (!volume->session.open || !list_room(list, volume->id))
        return;
    json_t *item = session_json(volume);
    (void)json_object_set_new(item, "name", json_string(volume->name));
    (void)json_array_append_new(list->items, item);
}

json_t *control_report_sessions(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    struct list list = {.c = c, .items = json_array()};
    assert(sentence != NULL);
    list.after = (uint64_t)json_integer_value(json_object_get(request, "after"));
    map_each_volume(c->map, add_session, &list);
    return list_end(&list, "sessions");
}
