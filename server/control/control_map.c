/* SPDX-License-Identifier: Apache-2.0 */
/* control_map: the map replica of a core, and those who follow it: the data thread and subscribers.
 *
 * - control_map_entry applies and keeps the bytes of the newest CONTROL_KEPT_ENTRIES entries
 * - control_map_feed gives each follower the entries from where it is; one that is behind the kept ones gets a snapshot first
 * - at each CONTROL_HASH_EVERY-th version the hash is noted, to be compared with others' (R23)
 *
 * Failure: a subscriber's link that is full goes on when it is writable again; out of memory for a kept entry drops all
 * kept ones: followers then get a snapshot.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static struct control_kept *kept_at(struct control *c, uint64_t version)
{
    assert(version >= c->kept_first);
    assert(version <= map_version(c->map));
    return &c->kept[version % CONTROL_KEPT_ENTRIES];
}

static void kept_drop_oldest(struct control *c)
{
    assert(c != NULL);
    struct control_kept *kept = kept_at(c, c->kept_first);
    assert(c->kept_bytes >= kept->len);
    c->kept_bytes -= kept->len;
    free(kept->bytes);
    *kept = (struct control_kept){0};
    c->kept_first++;
}

static void kept_clear(struct control *c)
{
    assert(c != NULL);
    while (c->kept_first <= map_version(c->map))
        kept_drop_oldest(c);
    assert(c->kept_bytes == 0);
    c->kept_first = map_version(c->map) + 1;
}

void control_map_entry(struct control *c, uint64_t version, const void *bytes, size_t len)
{
    assert(c != NULL);
    struct map_entry entry;
    struct map_result result;
    assert(version == map_version(c->map) + 1);
    while (c->kept_first < version &&
           (version - c->kept_first >= CONTROL_KEPT_ENTRIES || c->kept_bytes > CONTROL_KEPT_BYTES))
        kept_drop_oldest(c);
    map_apply(c->map, version, bytes, len, &result);
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy) {
        if (len > 0)
            memcpy(copy, bytes, len);
        c->kept[version % CONTROL_KEPT_ENTRIES] = (struct control_kept){copy, len};
        c->kept_bytes += len;
    } else {
        c->kept[version % CONTROL_KEPT_ENTRIES] = (struct control_kept){0};
        kept_clear(c);
    }
    if (version % CONTROL_HASH_EVERY == 0) {
        uint64_t slot = version / CONTROL_HASH_EVERY % CONTROL_HASHES_KEPT;
        c->hashes[slot].version = version;
        c->hashes[slot].hash = map_hash(c->map);
    }
    if (result.rc == 0 && map_entry_decode(bytes, len, &entry) == 0) {
        if (entry.kind == MAP_ENTRY_SESSION_OPEN || entry.kind == MAP_ENTRY_VOLUME_RESIZE)
            c->awaited_version = version;
        map_entry_free(&entry);
    }
}

int control_map_replace(struct control *c, const void *bytes, size_t len)
{
    assert(c != NULL);
    kept_clear(c);
    int rc = map_restore(c->map, bytes, len);
    c->kept_first = map_version(c->map) + 1;
    c->awaited_version = map_version(c->map); /* whatever it holds is new to the data thread */
    if (rc == 0 && c->data_started && c->data_version > map_version(c->map))
        return -ESTALE; /* a map never goes back */
    if (rc == 0)
        c->data_started = false; /* the data thread gets the snapshot, too */
    assert(rc <= 0);
    return rc;
}

bool control_map_hash_at(const struct control *c, uint64_t version, uint64_t *ret_hash)
{
    assert(c != NULL);
    uint64_t slot = version / CONTROL_HASH_EVERY % CONTROL_HASHES_KEPT;
    if (version == 0 || c->hashes[slot].version != version)
        return false;
    assert(version % CONTROL_HASH_EVERY == 0);
    *ret_hash = c->hashes[slot].hash;
    return true;
}

static void feed_data(struct control *c)
{
    struct bridge_to_data *data = c->config.data;
    if (map_version(c->map) == 0)
        return;
    if (!c->data_started || c->data_version + 1 < c->kept_first) {
        void *bytes;
        size_t len;
        if (map_snapshot(c->map, &bytes, &len) < 0)
            return;
        data->ops->map_snapshot(data, map_version(c->map), bytes, len);
        free(bytes);
        c->data_started = true;
        c->data_version = map_version(c->map);
    }
    while (c->data_version < map_version(c->map)) {
        const struct control_kept *kept = kept_at(c, c->data_version + 1);
        c->data_version++;
        data->ops->map_entry(data, c->data_version, kept->bytes, kept->len);
    }
    assert(c->data_version == map_version(c->map));
}

static bool pump_snapshot(struct control_conn *conn)
{
    assert(conn != NULL);
    struct control *c = conn->control;
    while (conn->snapshot_sent < conn->snapshot_len) {
        size_t piece = conn->snapshot_len - conn->snapshot_sent;
        piece = piece < CONTROL_PIECE_BYTES ? piece : CONTROL_PIECE_BYTES;
        struct wire_header header = {.opcode = WIRE_CTL_MAP_SNAPSHOT, .map_version = conn->snapshot_version};
        header.offset = conn->snapshot_sent;
        header.length = conn->snapshot_len;
        header.body_len = (uint32_t)piece;
        if (control_conn_send(conn, &header, conn->snapshot + conn->snapshot_sent) < 0)
            return false;
        conn->snapshot_sent += piece;
    }
    assert(conn->snapshot_version <= map_version(c->map));
    free(conn->snapshot);
    conn->snapshot = NULL;
    conn->next_version = conn->snapshot_version + 1;
    return true;
}

void control_map_pump(struct control_conn *conn)
{
    assert(conn != NULL);
    struct control *c = conn->control;
    assert(conn->subscribed);
    for (;;) {
        if (conn->snapshot && !pump_snapshot(conn))
            return;
        if (conn->next_version > map_version(c->map))
            return;
        if (conn->next_version < c->kept_first) {
            void *bytes;
            if (map_snapshot(c->map, &bytes, &conn->snapshot_len) < 0)
                return;
            conn->snapshot = bytes;
            conn->snapshot_sent = 0;
            conn->snapshot_version = map_version(c->map);
            continue;
        }
        const struct control_kept *kept = kept_at(c, conn->next_version);
        struct wire_header header = {.opcode = WIRE_CTL_MAP_ENTRY, .aux = conn->next_version};
        header.map_version = conn->next_version;
        header.body_len = (uint32_t)kept->len;
        if (control_conn_send(conn, &header, kept->bytes) < 0)
            return;
        conn->next_version++;
    }
}

void control_map_feed(struct control *c)
{
    assert(c != NULL);
    uint64_t cluster = map_cluster_id(c->map);
    assert(c->config.cluster_id != 0);
    if (cluster != 0 && cluster != c->config.cluster_id) {
        control_fail(c, -EINVAL,
                     "the map belongs to another cluster: check the cluster's name and the voters' directories");
        return;
    }
    feed_data(c);
    list_for_each_safe(node, tmp, &c->conns)
    {
        struct control_conn *conn = list_entry(node, struct control_conn, node_link);
        if (conn->subscribed && !conn->doomed)
            control_map_pump(conn);
    }
}

void control_map_persist(struct control *c)
{
    uint64_t now = control_now(c);
    if (!c->config.hooks.persist || map_version(c->map) == c->persisted_version || now < c->persist_after_ns)
        return;
    void *bytes;
    size_t len;
    c->persist_after_ns = now + c->config.persist_ns;
    if (map_snapshot(c->map, &bytes, &len) < 0)
        return;
    assert(len > 0);
    c->config.hooks.persist(c->config.arg, map_version(c->map), bytes, len);
    c->persisted_version = map_version(c->map);
    free(bytes);
}

void control_map_close(struct control *c)
{
    assert(c != NULL);
    if (c->map)
        kept_clear(c);
    free(c->piece_bytes);
    c->piece_bytes = NULL;
    assert(c->kept_bytes == 0);
}
