/* SPDX-License-Identifier: Apache-2.0 */
/* control_admin_change: JSON of a change to the entry that makes it, with every argument checked.
 *
 * - get_* read one argument each; what is missing or wrong leaves a sentence
 * - control_change_explain says why the map refused
 *
 * Failure: -EINVAL, -ENOENT with a sentence.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/control/control_admin.h"

static int fail(char sentence[ADMIN_SENTENCE_MAX], const char *format, const char *what)
{
    assert(sentence != NULL);
    assert(format != NULL);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, format, what);
#pragma GCC diagnostic pop
    return -EINVAL;
}

static int get_name(json_t *request, char ret_name[MAP_NAME_MAX], char *sentence)
{
    assert(request != NULL);
    const char *name = json_string_value(json_object_get(request, "name"));
    assert(sentence != NULL);
    if (!name || !name[0])
        return fail(sentence, "%s is missing: which volume?", "name");
    if (strlen(name) >= MAP_NAME_MAX)
        return fail(sentence, "the name is too long: at most 63 characters%s", "");
    memcpy(ret_name, name, strlen(name) + 1);
    return 0;
}

/* A whole number of at most max; absent: the default, or an error if that is -1. */
static int get_number(json_t *request, const char *key, uint64_t max, int64_t absent, uint64_t *ret, char *sentence)
{
    assert(request != NULL);
    json_t *value = json_object_get(request, key);
    assert(ret != NULL);
    if (!value || json_is_null(value)) {
        if (absent < 0)
            return fail(sentence, "%s is missing", key);
        *ret = (uint64_t)absent;
        return 0;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > max) {
        (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "%s must be a whole number from 0 to %" PRIu64, key, max);
        return -EINVAL;
    }
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

static bool get_flag(json_t *request, const char *key)
{
    assert(request != NULL);
    assert(key != NULL);
    return json_is_true(json_object_get(request, key));
}

static int get_known_volume(struct control *c, json_t *request, struct map_entry *entry, char *sentence)
{
    assert(c != NULL);
    int rc = get_name(request, entry->name, sentence);
    assert(rc <= 0);
    if (rc < 0)
        return rc;
    if (map_volume_by_name(c->map, entry->name))
        return 0;
    (void)fail(sentence, "there is no volume named %s", entry->name);
    return -ENOENT;
}

static int get_known_node(struct control *c, json_t *request, const char *key, uint32_t *ret_node, char *sentence)
{
    assert(c != NULL);
    uint64_t node;
    assert(ret_node != NULL);
    int rc = get_number(request, key, UINT32_MAX - 1, -1, &node, sentence);
    if (rc < 0)
        return rc;
    if (!map_node_by_id(c->map, (uint32_t)node)) {
        (void)fail(sentence, "there is no such %s", key);
        return -ENOENT;
    }
    *ret_node = (uint32_t)node;
    return 0;
}

/* Free space as the heartbeats tell: placement follows it. */
static void fill_weights(struct control *c, struct map_entry *entry, struct map_weight *weights)
{
    assert(c != NULL);
    assert(c->watch_count <= MAP_NODES_MAX);
    entry->weights = weights;
    entry->weight_count = 0;
    for (uint32_t i = 0; i < c->watch_count; i++) {
        if (c->watches[i].reported)
            weights[entry->weight_count++] =
                (struct map_weight){c->watches[i].node, c->watches[i].report[REPORT_FREE_BYTES]};
    }
}

static int get_size(json_t *request, uint64_t *ret_size, char *sentence)
{
    assert(request != NULL);
    int rc = get_number(request, "size", INT64_MAX, -1, ret_size, sentence);
    assert(rc <= 0);
    if (rc == 0 && (*ret_size == 0 || *ret_size % 4096 != 0))
        rc = fail(sentence, "the %s must be a multiple of 4096 bytes, and not 0", "size");
    return rc;
}

int control_change_volume_create(struct control *c, json_t *request, struct map_entry *entry,
                                 struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    uint64_t replicas = 0, min_replicas = 0, home = 0;
    entry->kind = MAP_ENTRY_VOLUME_CREATE;
    int rc = get_name(request, entry->name, sentence);
    if (rc == 0)
        rc = get_size(request, &entry->size, sentence);
    if (rc == 0)
        rc = get_number(request, "replicas", MAP_REPLICAS_MAX, 3, &replicas, sentence);
    if (rc == 0 && replicas < 1)
        rc = fail(sentence, "%s must be 1 to 5", "replicas");
    if (rc == 0)
        rc =
            get_number(request, "min_replicas", MAP_REPLICAS_MAX, (int64_t)(replicas + 1) / 2, &min_replicas, sentence);
    if (rc == 0 && (min_replicas < 1 || min_replicas > replicas))
        rc = fail(sentence, "%s must be at least 1 and at most the number of replicas", "min_replicas");
    if (rc == 0)
        rc = get_number(request, "home", UINT32_MAX - 1, 0, &home, sentence);
    if (rc == 0)
        rc = get_number(request, "shard_bytes", MAP_SHARD_BYTES_DEFAULT, (int64_t)c->config.shard_bytes,
                        &entry->shard_bytes, sentence);
    if (rc == 0 && !map_name_valid(entry->name))
        rc = fail(sentence, "'%.63s': a name has letters, digits, '.', '_' and '-' and starts with a letter or digit",
                  entry->name);
    if (rc < 0)
        return rc;
    if (home != 0 && !map_node_by_id(c->map, (uint32_t)home)) {
        (void)fail(sentence, "there is no such node: %s", "home must be the id of a node of the cluster");
        return -ENOENT;
    }
    entry->replicas = (uint32_t)replicas;
    entry->min_replicas = (uint32_t)min_replicas;
    entry->home = (uint32_t)home;
    fill_weights(c, entry, weights);
    assert(entry->min_replicas >= 1);
    return 0;
}

int control_change_volume_delete(struct control *c, json_t *request, struct map_entry *entry,
                                 struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    assert(entry->volume == 0);
    entry->kind = MAP_ENTRY_VOLUME_DELETE;
    entry->flags = get_flag(request, "force") ? MAP_FORCE : 0;
    return get_known_volume(c, request, entry, sentence);
}

int control_change_volume_resize(struct control *c, json_t *request, struct map_entry *entry,
                                 struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    entry->kind = MAP_ENTRY_VOLUME_RESIZE;
    entry->flags = get_flag(request, "force") ? MAP_FORCE : 0;
    int rc = get_known_volume(c, request, entry, sentence);
    if (rc == 0)
        rc = get_size(request, &entry->size, sentence);
    if (rc == 0)
        fill_weights(c, entry, weights);
    assert(rc <= 0);
    return rc;
}

int control_change_volume_set(struct control *c, json_t *request, struct map_entry *entry, struct map_weight *weights,
                              char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    uint64_t replicas = 0, min_replicas = 0, home = 0;
    (void)weights;
    entry->kind = MAP_ENTRY_VOLUME_SET;
    int rc = get_known_volume(c, request, entry, sentence);
    if (rc == 0)
        rc = get_number(request, "replicas", MAP_REPLICAS_MAX, 0, &replicas, sentence);
    if (rc == 0)
        rc = get_number(request, "min_replicas", MAP_REPLICAS_MAX, 0, &min_replicas, sentence);
    if (rc == 0)
        rc = get_number(request, "home", UINT32_MAX - 1, 0, &home, sentence);
    if (rc < 0)
        return rc;
    const struct map_volume *volume = map_volume_by_name(c->map, entry->name);
    assert(volume != NULL);
    uint64_t new_replicas = replicas ? replicas : volume->replicas;
    if ((min_replicas ? min_replicas : volume->min_replicas) > new_replicas)
        return fail(sentence, "%s can't be more than replicas: set both", "min_replicas");
    entry->replicas = (uint32_t)replicas;
    entry->min_replicas = (uint32_t)min_replicas;
    if (json_is_integer(json_object_get(request, "home"))) {
        entry->home = (uint32_t)home;
        entry->flags = MAP_SET_HOME;
    }
    return 0;
}

int control_change_session_close(struct control *c, json_t *request, struct map_entry *entry,
                                 struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    assert(entry->session == 0);
    entry->kind = MAP_ENTRY_SESSION_CLOSE;
    entry->flags = MAP_SESSION_FORCE;
    return get_known_volume(c, request, entry, sentence);
}

int control_change_force_promote(struct control *c, json_t *request, struct map_entry *entry,
                                 struct map_weight *weights, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    uint64_t shard = UINT32_MAX;
    (void)weights;
    entry->kind = MAP_ENTRY_FORCE_PROMOTE;
    int rc = get_known_volume(c, request, entry, sentence);
    if (rc == 0)
        rc = get_known_node(c, request, "node", &entry->node, sentence);
    if (rc == 0 && json_object_get(request, "shard"))
        rc = get_number(request, "shard", MAP_SHARDS_MAX, -1, &shard, sentence);
    if (rc == 0 && !get_flag(request, "confirm"))
        rc = fail(sentence, "writes that only other members have are lost for good: %s says that this is meant",
                  "\"confirm\": true");
    entry->shard = (uint32_t)shard;
    entry->flags = get_flag(request, "force") ? MAP_FORCE : 0;
    assert(rc <= 0);
    return rc;
}

static int change_node(struct control *c, json_t *request, struct map_entry *entry, enum map_entry_kind kind,
                       char *sentence)
{
    assert(c != NULL);
    entry->kind = kind;
    int rc = get_known_node(c, request, "node", &entry->node, sentence);
    assert(rc <= 0);
    if (rc == 0)
        entry->incarnation = map_node_by_id(c->map, entry->node)->incarnation;
    return rc;
}

int control_change_node_out(struct control *c, json_t *request, struct map_entry *entry, struct map_weight *weights,
                            char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    assert(entry->node == 0);
    entry->flags = MAP_FORCE; /* the operator drains it, up or not */
    return change_node(c, request, entry, MAP_ENTRY_NODE_OUT, sentence);
}

int control_change_node_remove(struct control *c, json_t *request, struct map_entry *entry, struct map_weight *weights,
                               char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)weights;
    assert(entry->node == 0);
    return change_node(c, request, entry, MAP_ENTRY_NODE_REMOVE, sentence);
}

struct reason {
    enum map_entry_kind kind; /* 0: any */
    int rc;
    const char *sentence;
};

static const struct reason reasons[] = {
    {MAP_ENTRY_VOLUME_CREATE, -EEXIST, "a volume of that name exists"},
    {MAP_ENTRY_VOLUME_CREATE, -ENOSPC,
     "not enough nodes are up on distinct hosts for that many replicas, or the cluster has too many shards"},
    {MAP_ENTRY_VOLUME_CREATE, -EINVAL,
     "a name has letters, digits, '.', '_' and '-' and starts with a letter or digit; "
     "a size is a multiple of 4096; shards are multiples of 16 MiB up to 1 GiB"},
    {MAP_ENTRY_VOLUME_DELETE, -EBUSY, "the volume is attached: detach it, or use force"},
    {MAP_ENTRY_VOLUME_RESIZE, -EINVAL,
     "a smaller size cuts data off: it needs --shrink (force), and must be a multiple of the shard size"},
    {MAP_ENTRY_VOLUME_RESIZE, -EBUSY, "the volume is attached: it grows online, but shrinks only detached"},
    {MAP_ENTRY_VOLUME_RESIZE, -ENOTEMPTY, "a snapshot holds data behind the new end: delete it first"},
    {MAP_ENTRY_SNAPSHOT_OPEN, -EEXIST, "a snapshot of that name exists"},
    {MAP_ENTRY_SNAPSHOT_OPEN, -EBUSY, "another snapshot of the volume is being made: try again"},
    {MAP_ENTRY_SNAPSHOT_OPEN, -ENOSPC, "the volume has the most snapshots that it can have (4096)"},
    {MAP_ENTRY_SNAPSHOT_OPEN, -EINVAL,
     "a name has letters, digits, '.', '_' and '-' and starts with a letter or digit"},
    {MAP_ENTRY_SNAPSHOT_DELETE, -EBUSY, "the snapshot is not complete yet: try again"},
    {MAP_ENTRY_VOLUME_ROLLBACK, -EBUSY,
     "the volume is attached, or a snapshot, flatten or rollback of it is under way: detach it, try again"},
    {MAP_ENTRY_VOLUME_CLONE, -EEXIST, "a volume of that name exists"},
    {MAP_ENTRY_VOLUME_CLONE, -EINVAL, "a name has letters, digits, '.', '_' and '-' and starts with a letter or digit"},
    {MAP_ENTRY_VOLUME_CLONE, -EMLINK, "too many clones of clones (16): flatten one on the way"},
    {MAP_ENTRY_VOLUME_CLONE, -EHOSTDOWN, "there is no such home node"},
    {MAP_ENTRY_VOLUME_CLONE, -ENOSPC, "the cluster has too many volumes or shards"},
    {MAP_ENTRY_VOLUME_CLONE, -EAGAIN, "a shard of the snapshot has no copy at the moment: try again"},
    {MAP_ENTRY_VOLUME_FLATTEN, -EINVAL, "the volume is no clone: there is nothing to flatten"},
    {MAP_ENTRY_VOLUME_RESIZE, -ENOSPC,
     "not enough nodes are up for the new shards, or the cluster has too many shards"},
    {MAP_ENTRY_VOLUME_SET, -ENOENT, "there is no such volume, or no such home node"},
    {MAP_ENTRY_FORCE_PROMOTE, -EBUSY, "the shard has a primary: nothing needs to be forced"},
    {MAP_ENTRY_FORCE_PROMOTE, -EHOSTDOWN, "that node is down or its store failed: start it first"},
    {MAP_ENTRY_FORCE_PROMOTE, -ENOENT, "that node is no member of the shard"},
    {MAP_ENTRY_NODE_REMOVE, -EBUSY,
     "the node is up or still a member of shards: take it out, wait until it holds none, and stop it"},
    {0, -ENOENT, "there is no such thing any more"},
    {0, -ESTALE, "it changed meanwhile: look again"},
    {0, -ESHUTDOWN, "this node is stopping: ask another one"},
};

void control_change_explain(const struct map_entry *entry, int rc, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(rc < 0);
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (reasons[i].rc == rc && (reasons[i].kind == 0 || reasons[i].kind == entry->kind)) {
            (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "%s", reasons[i].sentence);
            return;
        }
    }
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "refused (error %d)", -rc);
    assert(sentence[0] != '\0');
}
