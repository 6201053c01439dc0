/* SPDX-License-Identifier: Apache-2.0 */
/* control_admin_snap: admin requests about snapshots and clones.
 *
 * - `snapshot-create` proposes SNAPSHOT_OPEN and is answered when the map says that the snapshot is complete (R20), or that it was
 *   given up: nothing is acknowledged before
 * - a snapshot that is not complete after SNAP_PATIENCE_NS is given up by the leader, whoever asked for it
 * - everything else is one entry
 *
 * Failure: a sentence that says which shard did not answer; the head's new generation stays, which costs nothing.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "admin"
#include "common/log.h"
#include "server/control/control_admin.h"

#define SNAP_PATIENCE_NS ENV_MS(8000)  /* less than a relayed request waits */
#define GROUP_PATIENCE_NS ENV_MS(2000) /* answers to writes may wait for it (server/gateway/snap.c) */
#define ABORT_PATIENCE_NS ENV_MS(1000) /* for the entry that gives it up to be applied */

/* ---- arguments ---- */

static int complain(char sentence[ADMIN_SENTENCE_MAX], int rc, const char *what)
{
    assert(rc < 0);
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "%s", what);
    return rc;
}

static int get_text(json_t *request, const char *key, char ret[MAP_NAME_MAX], char *sentence)
{
    const char *text = json_string_value(json_object_get(request, key));
    assert(ret != NULL);
    if (!text || !text[0]) {
        (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "%s is missing", key);
        return -EINVAL;
    }
    if (strlen(text) >= MAP_NAME_MAX)
        return complain(sentence, -EINVAL, "the name is too long: at most 63 characters");
    memset(ret, 0, MAP_NAME_MAX);
    memcpy(ret, text, strlen(text));
    return 0;
}

static const struct map_volume *get_volume(struct control *c, const char *name, char *sentence)
{
    const struct map_volume *volume = name ? map_volume_by_name(c->map, name) : NULL;
    if (!volume)
        (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "there is no volume named %.64s", name ? name : "(none given)");
    return volume;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int control_change_snapshot_create(struct control *c, json_t *request, struct map_entry *entry,
                                   struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    json_t *names = json_object_get(request, "volumes");
    uint64_t *volumes = (uint64_t *)(uintptr_t)entry->volumes; /* room for MAP_GROUP_MAX: control_admin.c */
    assert(volumes != NULL);
    (void)weights;
    entry->kind = MAP_ENTRY_SNAPSHOT_OPEN;
    int rc = get_text(request, "snapshot", entry->snapshot, sentence);
    if (rc < 0)
        return rc;
    if (json_array_size(names) == 0 || json_array_size(names) > MAP_GROUP_MAX)
        return complain(sentence, -EINVAL, "volumes must be a list of 1 to 64 names");
    for (size_t i = 0; i < json_array_size(names); i++) {
        const struct map_volume *volume = get_volume(c, json_string_value(json_array_get(names, i)), sentence);
        if (!volume)
            return -ENOENT;
        volumes[i] = volume->id;
    }
    entry->volume_count = (uint32_t)json_array_size(names);
    qsort(volumes, entry->volume_count, sizeof *volumes, by_id);
    for (uint32_t i = 1; i < entry->volume_count; i++) {
        if (volumes[i] == volumes[i - 1])
            return complain(sentence, -EINVAL, "a volume is named twice");
    }
    json_int_t created = json_integer_value(json_object_get(request, "created_ms"));
    entry->created_ms = created > 0 ? (uint64_t)created : 0;
    return 0;
}

/* Volume and snapshot, both known. */
static int get_snapshot(struct control *c, json_t *request, struct map_entry *entry, char *sentence)
{
    const struct map_volume *volume = get_volume(c, json_string_value(json_object_get(request, "name")), sentence);
    assert(entry->volume == 0);
    if (!volume)
        return -ENOENT;
    int rc = get_text(request, "snapshot", entry->snapshot, sentence);
    if (rc < 0)
        return rc;
    entry->volume = volume->id;
    if (map_snap_by_name(volume, entry->snapshot))
        return 0;
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "volume %.63s has no snapshot named %.63s", volume->name,
                   entry->snapshot);
    return -ENOENT;
}

int control_change_snapshot_delete(struct control *c, json_t *request, struct map_entry *entry,
                                   struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    entry->kind = MAP_ENTRY_SNAPSHOT_DELETE;
    return get_snapshot(c, request, entry, sentence);
}

int control_change_volume_rollback(struct control *c, json_t *request, struct map_entry *entry,
                                   struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    entry->kind = MAP_ENTRY_VOLUME_ROLLBACK;
    return get_snapshot(c, request, entry, sentence);
}

int control_change_volume_clone(struct control *c, json_t *request, struct map_entry *entry, struct map_weight *weights,
                                char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    entry->kind = MAP_ENTRY_VOLUME_CLONE;
    int rc = get_snapshot(c, request, entry, sentence);
    if (rc == 0)
        rc = get_text(request, "to", entry->to_name, sentence);
    json_int_t home = json_integer_value(json_object_get(request, "home"));
    entry->home = home > 0 && home <= MAP_NODES_MAX ? (uint32_t)home : 0;
    return rc;
}

int control_change_volume_flatten(struct control *c, json_t *request, struct map_entry *entry,
                                  struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    const struct map_volume *volume = get_volume(c, json_string_value(json_object_get(request, "name")), sentence);
    (void)weights;
    assert(entry->volume == 0);
    entry->kind = MAP_ENTRY_VOLUME_FLATTEN;
    if (!volume)
        return -ENOENT;
    entry->volume = volume->id;
    return 0;
}

/* ---- reading ---- */

static json_t *snap_json(const struct map_snap *snap)
{
    static const char *const states[] = {"", "opening", "complete", "deleting"};
    assert(snap->state <= MAP_SNAP_HELD);
    return json_pack("{s:s,s:I,s:s,s:I,s:I,s:I,s:I}", "name", snap->name, "generation", (json_int_t)snap->generation,
                     "state", states[snap->state], "size", (json_int_t)snap->size, "created_ms",
                     (json_int_t)snap->created_ms, "group", (json_int_t)snap->group, "clones",
                     (json_int_t)snap->holders);
}

json_t *control_report_snapshots(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    const struct map_volume *volume = get_volume(c, json_string_value(json_object_get(request, "name")), sentence);
    if (!volume)
        return NULL;
    json_int_t after = json_integer_value(json_object_get(request, "after"));
    json_t *snaps = json_array();
    uint32_t next = 0;
    bool more = false;
    for (uint32_t i = 0; i < volume->snap_count && !more; i++) {
        const struct map_snap *snap = &volume->snaps[i];
        if ((json_int_t)snap->generation <= after)
            continue;
        more = json_array_size(snaps) >= ADMIN_LIST_MAX;
        if (more)
            break;
        next = snap->generation;
        (void)json_array_append_new(snaps, snap_json(snap));
    }
    assert(json_array_size(snaps) <= ADMIN_LIST_MAX);
    return json_pack("{s:o,s:b,s:I,s:I}", "snapshots", snaps, "more", more, "next", (json_int_t)next, "head",
                     (json_int_t)volume->generation);
}

/* ---- waiting until a snapshot is complete ---- */

struct control_snap_wait {
    struct list_node node_link;
    uint64_t group;
    uint64_t started_ns;
    char name[MAP_NAME_MAX];
    control_admin_cb cb;
    void *arg;
    bool given_up;                     /* asked for; a seal may still come first */
    char sentence[ADMIN_SENTENCE_MAX]; /* why */
};

struct group_look {
    uint64_t group;
    const struct map_volume *opening;
    uint32_t complete, count;
};

static void look_at(void *arg, const struct map_volume *volume)
{
    struct group_look *look = arg;
    for (uint32_t i = volume->snap_count; i > 0; i--) {
        const struct map_snap *snap = &volume->snaps[i - 1];
        if (snap->group != look->group)
            continue;
        look->count++;
        if (snap->state == MAP_SNAP_OPENING)
            look->opening = volume;
        else
            look->complete++;
        return;
    }
}

static void wait_end(struct control *c, struct control_snap_wait *wait, int rc, const char *sentence)
{
    json_t *answer = NULL;
    assert(c != NULL);
    if (rc == 0)
        answer = json_pack("{s:s,s:I,s:I,s:I}", "snapshot", wait->name, "group", (json_int_t)wait->group, "map_version",
                           (json_int_t)map_version(c->map), "took_us",
                           (json_int_t)((control_now(c) - wait->started_ns) / 1000));
    list_remove(&wait->node_link);
    control_admin_answer(wait->cb, wait->arg, answer, rc, sentence);
    free(wait);
}

/* What holds the snapshot up, as far as the map tells. */
static void explain_unsealed(const struct map_volume *volume, char sentence[ADMIN_SENTENCE_MAX])
{
    const struct map_snap *opening = map_snap_opening(volume);
    assert(opening != NULL);
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        const struct map_shard *shard = &volume->shards[i];
        if (shard->sealed >= opening->generation)
            continue;
        (void)snprintf(
            sentence, ADMIN_SENTENCE_MAX,
            "given up: shard %u of volume %.63s %s; nothing was changed, try again when it serves", i, volume->name,
            shard->primary == 0 || shard->active_epoch != shard->epoch ? "is not served at the moment"
                                                                       : "has writes under way that do not end");
        return;
    }
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "given up: another volume of the group is not served");
}

/* True when it ended. */
static bool wait_check(struct control *c, struct control_snap_wait *wait)
{
    struct group_look look = {.group = wait->group};
    map_each_volume(c->map, look_at, &look);
    if (!look.opening && look.complete > 0) {
        wait_end(c, wait, 0, "");
        return true;
    }
    if (!look.opening) {
        if (wait->given_up)
            wait_end(c, wait, -ETIMEDOUT, wait->sentence);
        else
            wait_end(c, wait, -ECANCELED, "the snapshot was given up: not every shard of the volumes is served");
        return true;
    }
    uint64_t waited_ns = control_now(c) - wait->started_ns;
    uint64_t patience_ns = look.count > 1 ? GROUP_PATIENCE_NS : SNAP_PATIENCE_NS;
    if (waited_ns >= patience_ns && !wait->given_up) {
        explain_unsealed(look.opening, wait->sentence);
        wait->given_up = true;
        control_snap_abort(c, look.opening); /* the answer waits for what the map makes of it */
    }
    if (waited_ns < patience_ns + ABORT_PATIENCE_NS)
        return false;
    wait_end(c, wait, -EINPROGRESS, "not given up yet: look with snapshot ls whether the snapshot was made");
    return true;
}

void control_snap_wait(struct control *c, const char *name, const struct map_result *result, control_admin_cb cb,
                       void *arg)
{
    struct control_snap_wait *wait = calloc(1, sizeof *wait);
    assert(result->rc == 0);
    if (!wait) {
        control_admin_answer(cb, arg, NULL, -ENOMEM, "out of memory");
        return;
    }
    wait->group = result->value;
    wait->started_ns = control_now(c);
    wait->cb = cb;
    wait->arg = arg;
    (void)snprintf(wait->name, sizeof wait->name, "%s", name);
    list_push_back(&c->snap_waits, &wait->node_link);
    (void)wait_check(c, wait);
}

void control_snap_turn(struct control *c)
{
    assert(c != NULL);
    list_for_each_safe(node, tmp, &c->snap_waits)(void)
        wait_check(c, list_entry(node, struct control_snap_wait, node_link));
}

void control_snap_close(struct control *c)
{
    assert(c->stopping);
    while (!list_empty(&c->snap_waits))
        wait_end(c, list_entry(c->snap_waits.next, struct control_snap_wait, node_link), -EINPROGRESS,
                 "this node is stopping: look with snapshot ls whether the snapshot was made");
}

void control_snap_forget(struct control *c)
{
    struct list_node *node;
    assert(c != NULL);
    while ((node = list_pop_front(&c->snap_waits)) != NULL)
        free(list_entry(node, struct control_snap_wait, node_link));
}

/* ---- the leader gives up what does not get complete ---- */

void control_snap_abort(struct control *c, const struct map_volume *volume)
{
    const struct map_snap *opening = map_snap_opening(volume);
    assert(opening != NULL);
    struct map_entry entry = {
        .kind = MAP_ENTRY_SNAPSHOT_ABORT, .volume = volume->id, .generation = opening->generation};
    if (!c->leading || control_duty_propose(c, &entry) < 0)
        return;
    log_warn("snapshot=%s of volume=%s is given up: not every shard sealed it", opening->name, volume->name);
}

struct oldest {
    const struct map_volume *volume;
    uint64_t group;
};

static void find_oldest(void *arg, const struct map_volume *volume)
{
    struct oldest *oldest = arg;
    const struct map_snap *opening = map_snap_opening(volume);
    if (opening && (!oldest->volume || opening->group < oldest->group)) {
        oldest->volume = volume;
        oldest->group = opening->group;
    }
}

void control_snap_duty(struct control *c)
{
    struct oldest oldest = {0};
    assert(c->leading);
    map_each_volume(c->map, find_oldest, &oldest);
    uint64_t now = control_now(c);
    if (!oldest.volume || oldest.group != c->opening_group) {
        c->opening_group = oldest.group;
        c->opening_since_ns = now;
        return;
    }
    struct group_look look = {.group = oldest.group};
    map_each_volume(c->map, look_at, &look);
    if (now - c->opening_since_ns >= (look.count > 1 ? GROUP_PATIENCE_NS : SNAP_PATIENCE_NS) + ENV_MS(1000))
        control_snap_abort(c, oldest.volume);
}
