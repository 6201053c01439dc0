/* SPDX-License-Identifier: Apache-2.0 */
/* settings: the table of ashlard's configuration, and what must hold between its entries.
 *
 *   - settings_load fills in the defaults, reads the file, applies the flags, then checks the whole
 * Failure modes: the first problem ends the loading, in one line that says what is wrong, where, and what would be right.
 */
#include "server/daemon/settings.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)

#define AT(field) offsetof(struct settings, field)
#define TEXT(section, key, field, standard, help)                                                              \
    {                                                                                                          \
        section, key, CONFIG_STRING, AT(field), sizeof(((struct settings *)NULL)->field), standard, 0, 0, help \
    }
#define NUMBER(section, key, type, field, standard, min, max, help) \
    {                                                               \
        section, key, type, AT(field), 0, standard, min, max, help  \
    }

static const struct config_item items[] = {
    TEXT("cluster", "name", cluster_name, NULL, "name of the cluster, the same on all nodes"),
    NUMBER("cluster", "shard_bytes", CONFIG_BYTES, shard_bytes, "1G", 16 * MIB, GIB, "span of a new volume's shards"),
    NUMBER("cluster", "node_timeout", CONFIG_MS, node_timeout_ms, "1200ms", 200, 600000,
           "a node silent for so long is down"),
    NUMBER("cluster", "lease", CONFIG_MS, lease_ms, "900ms", 100, 600000,
           "how long a primary serves after a heartbeat; below node_timeout"),
    NUMBER("cluster", "heartbeat", CONFIG_MS, heartbeat_ms, "200ms", 20, 60000, "pause between heartbeats"),
    NUMBER("cluster", "out_after", CONFIG_MS, out_after_ms, "10min", 1000, 0,
           "a node down for so long gets its replicas replaced"),
    NUMBER("cluster", "elect_grace", CONFIG_MS, elect_grace_ms, "10s", 0, 3600000,
           "wait for better copies after a restart of all members"),
    NUMBER("cluster", "io_stall", CONFIG_MS, io_stall_ms, "10s", 1000, 3600000,
           "a node whose oldest I/O is older has failed"),
    NUMBER("node", "id", CONFIG_U32, node, NULL, 1, 256, "number of this node, as its store was formatted"),
    TEXT("node", "data", data, "127.0.0.1:7100", "HOST:PORT of the data listener"),
    TEXT("node", "control", control, "127.0.0.1:7101", "HOST:PORT of the control listener"),
    TEXT("node", "raft", raft, "", "HOST:PORT a voter listens on; empty: as in voter[]"),
    TEXT("node", "advertise", advertise, "", "host or address that others reach this node by, if it listens on all"),
    TEXT("node", "transport", transport_name, "auto",
         "links between daemons: auto (RDMA where both ends have it, else TCP), rdma or tcp"),
    NUMBER("node", "rdma_spin_us", CONFIG_U32, rdma_spin_us, "0", 0, 1000,
           "look for RDMA completions this long before sleeping; 0: sleep at once"),
    NUMBER("node", "rdma_links", CONFIG_U32, rdma_links, "16", 2, 256,
           "links that get RDMA receive buffers, two for each other node"),
    TEXT("node", "rundir", rundir, "", "directory for data.sock and control.sock; empty: no unix sockets"),
    TEXT("node", "host", host, "", "failure domain: the machine; empty: its host name"),
    TEXT("node", "rack", rack, "", "failure domain: the rack"),
    TEXT("store", "path", store, NULL, "directory made by `ashlard store format`"),
    NUMBER("store", "scrub", CONFIG_BYTES, scrub_bytes_per_s, "2M", 0, 0, "bytes scrubbed each second; 0: no scrub"),
    NUMBER("store", "scrub_rest", CONFIG_MS, scrub_rest_ms, "24h", 1000, 0, "pause between two scrub passes"),
    NUMBER("store", "prewrite", CONFIG_BYTES, prewrite_bytes_per_s, "64M", 0, 0,
           "bytes of a new file store zeroed each second, an eighth while guests write; 0: none"),
    NUMBER("store", "flush_ahead", CONFIG_BYTES, flush_ahead_bytes, "2M", 0, 0,
           "bytes written before the drive is flushed unasked, so that flushes stay short; 0: never"),
    NUMBER("store", "flush_ahead_span", CONFIG_MS, flush_ahead_span_ms, "80ms", 0, 60000,
           "who writes as much in less than this is left alone until somebody flushes; 0: nobody is"),
    NUMBER("store", "sums_cache", CONFIG_BYTES, sums_cache_bytes, "32M", MIB, 0, "memory for checksum records"),
    NUMBER("store", "kv_cache", CONFIG_BYTES, kv_cache_bytes, "16M", MIB, 0, "memory for RocksDB's block cache"),
    NUMBER("store", "near_full", CONFIG_U32, near_full_percent, "85", 1, 99, "percent used that is announced"),
    NUMBER("store", "active_set", CONFIG_U32, active_set_max, "4096", 16, 65536, "16 MiB regions marked dirty at once"),
    NUMBER("replica", "drop_after", CONFIG_MS, drop_after_ms, "1s", 10, 600000,
           "a member unreachable for so long is reported"),
    NUMBER("replica", "sync_rate", CONFIG_BYTES, sync_bytes_per_s, "0", 0, 0, "bytes copied each second; 0: no limit"),
    NUMBER("replica", "sync_shards", CONFIG_U32, sync_shards_max, "2", 1, 64, "shards copied at once"),
    NUMBER("replica", "sync_chunks", CONFIG_U32, sync_chunks_max, "4", 1, 64, "chunks of a shard copied at once"),
    NUMBER("memory", "buffers", CONFIG_BYTES, buffer_bytes, "96M", 16 * MIB, 0, "memory for data in flight"),
    TEXT("log", "level", log_level_name, "info", "error, warn, info, debug or trace"),
    TEXT("log", "file", log_file, "", "file to append to; empty: standard error"),
};
#define ITEM_COUNT (sizeof(items) / sizeof(items[0]))
/* A file may serve clients, too. */
static const char *const ignored_sections[] = {"client", NULL};

static int fail(char error[CONFIG_ERROR_MAX], int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(char error[CONFIG_ERROR_MAX], int rc, const char *format, ...)
{
    va_list args;
    assert(rc < 0);
    va_start(args, format);
    (void)vsnprintf(error, CONFIG_ERROR_MAX, format, args);
    va_end(args);
    assert(error[0] != '\0');
    return rc;
}

int settings_split_address(const char *address, size_t *ret_host_bytes, uint16_t *ret_port)
{
    assert(address && ret_host_bytes);
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || strlen(colon + 1) == 0 || strlen(colon + 1) > 5)
        return -EINVAL;
    if (strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return -EINVAL;
    unsigned long port = strtoul(colon + 1, NULL, 10);
    bool six = memchr(address, ':', (size_t)(colon - address)) != NULL;
    if (port == 0 || port > UINT16_MAX || (six && (address[0] != '[' || colon[-1] != ']')))
        return -EINVAL;
    *ret_host_bytes = (size_t)(colon - address);
    *ret_port = (uint16_t)port;
    assert(*ret_host_bytes > 0);
    return 0;
}

int settings_advertised(const struct settings *settings, const char *listened, char *ret_address, size_t capacity)
{
    size_t host_bytes;
    uint16_t port;
    assert(settings && capacity > 0);
    int n, rc = settings_split_address(listened, &host_bytes, &port);
    if (rc < 0)
        return rc;
    if (settings->advertise[0])
        n = snprintf(ret_address, capacity, "tcp:%s:%u", settings->advertise, (unsigned)port);
    else
        n = snprintf(ret_address, capacity, "tcp:%s", listened);
    return n < 0 || (size_t)n >= capacity ? -ENAMETOOLONG : 0;
}

uint64_t settings_cluster_id(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    assert(name && name[0]);
    for (const char *at = name; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 0x100000001b3u;
    return hash ? hash : 1;
}

const struct settings_voter *settings_own_voter(const struct settings *settings)
{
    assert(settings->voter_count <= SETTINGS_VOTERS_MAX);
    for (uint32_t i = 0; i < settings->voter_count; i++) {
        if (settings->voters[i].id == settings->node)
            return &settings->voters[i];
    }
    return NULL;
}

/* "1@127.0.0.1:7102,127.0.0.1:7101": id, where it listens for Raft, where for control. */
static int parse_voter(const char *text, struct settings_voter *ret_voter)
{
    struct settings_voter voter = {0};
    size_t host_bytes;
    uint16_t port;
    char *end;
    unsigned long id = strtoul(text, &end, 10);
    if (end == text || *end != '@' || id == 0 || id > 256)
        return -EINVAL;
    const char *raft = end + 1;
    const char *comma = strchr(raft, ',');
    if (!comma || (size_t)(comma - raft) >= sizeof(voter.raft))
        return -EINVAL;
    const char *control = comma + 1 + strspn(comma + 1, " ");
    if (strlen(control) >= sizeof(voter.control))
        return -ENAMETOOLONG;
    voter.id = (uint32_t)id;
    memcpy(voter.raft, raft, (size_t)(comma - raft));
    memcpy(voter.control, control, strlen(control));
    assert(voter.raft[sizeof(voter.raft) - 1] == '\0');
    if (settings_split_address(voter.raft, &host_bytes, &port) < 0 ||
        settings_split_address(voter.control, &host_bytes, &port) < 0)
        return -EINVAL;
    *ret_voter = voter;
    return 0;
}

static int take_list(void *arg, const char *section, const char *key, const char *value)
{
    struct settings *settings = arg;
    struct settings_voter voter;
    assert(section && key && value);
    assert(settings->voter_count <= SETTINGS_VOTERS_MAX);
    if (strcmp(section, "cluster") != 0 || strcmp(key, "voter[]") != 0)
        return -ENOENT;
    int rc = parse_voter(value, &voter);
    if (rc < 0)
        return rc;
    if (settings->voter_count == SETTINGS_VOTERS_MAX)
        return -E2BIG;
    settings->voters[settings->voter_count++] = voter;
    return 0;
}

static int check_voters(const struct settings *settings, char error[CONFIG_ERROR_MAX])
{
    uint32_t count = settings->voter_count;
    if (count != 1 && count != 3 && count != 5)
        return fail(error, -EINVAL,
                    "cluster.voter[]: %u voters; give 1, 3 or 5 of them, one a line, as ID@RAFT,CONTROL", count);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (settings->voters[i].id == settings->voters[j].id)
                return fail(error, -EINVAL, "cluster.voter[]: node %u is named twice; a node is one voter",
                            settings->voters[i].id);
        }
    }
    assert(count <= SETTINGS_VOTERS_MAX);
    return 0;
}

static int check_addresses(const struct settings *settings, char error[CONFIG_ERROR_MAX])
{
    const struct {
        const char *key, *value;
    } addresses[] = {{"data", settings->data}, {"control", settings->control}, {"raft", settings->raft}};
    assert(sizeof(addresses) / sizeof(addresses[0]) == 3);
    for (size_t i = 0; i < 3; i++) {
        size_t host_bytes;
        uint16_t port;
        if (i == 2 && addresses[i].value[0] == '\0')
            continue;
        if (settings_split_address(addresses[i].value, &host_bytes, &port) < 0)
            return fail(error, -EINVAL, "node.%s: '%s' is no address; give HOST:PORT", addresses[i].key,
                        addresses[i].value);
        for (size_t j = 0; j < i; j++) {
            if (strcmp(addresses[i].value, addresses[j].value) == 0)
                return fail(error, -EINVAL, "node.%s: %s is node.%s, too; give each its own port", addresses[i].key,
                            addresses[i].value, addresses[j].key);
        }
    }
    return 0;
}

static int check_transport(struct settings *settings, char error[CONFIG_ERROR_MAX])
{
    static const char *const names[] = {"auto", "rdma", "tcp"};
    static const enum peers_transport values[] = {PEERS_TRANSPORT_AUTO, PEERS_TRANSPORT_RDMA, PEERS_TRANSPORT_TCP};
    assert(settings->transport_name[sizeof(settings->transport_name) - 1] == '\0');
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(settings->transport_name, names[i]) == 0) {
            settings->transport = values[i];
            return 0;
        }
    }
    return fail(error, -EINVAL, "node.transport: '%s' is no transport; give auto, rdma or tcp",
                settings->transport_name);
}

static int check_times(const struct settings *settings, char error[CONFIG_ERROR_MAX])
{
    assert(settings->heartbeat_ms > 0);
    if (settings->lease_ms >= settings->node_timeout_ms)
        return fail(error, -EINVAL,
                    "cluster.lease: must be below cluster.node_timeout (R10); keep a quarter of it free");
    if (settings->heartbeat_ms * 2 >= settings->lease_ms)
        return fail(error, -EINVAL, "cluster.heartbeat: must be below half of cluster.lease");
    return 0;
}

static int check_shard_bytes(const struct settings *settings, char error[CONFIG_ERROR_MAX])
{
    assert(settings->shard_bytes > 0);
    if (settings->shard_bytes % (16 * MIB) != 0)
        return fail(error, -EINVAL, "cluster.shard_bytes: must be a multiple of 16M");
    return 0;
}

static int check_whole(struct settings *settings, char error[CONFIG_ERROR_MAX])
{
    int rc = config_check_required(items, ITEM_COUNT, settings, error);
    if (rc < 0)
        return rc;
    rc = log_level_parse(settings->log_level_name, &settings->log_level);
    if (rc < 0)
        return fail(error, -EINVAL, "log.level: '%s' is no level; give error, warn, info, debug or trace",
                    settings->log_level_name);
    rc = check_voters(settings, error);
    if (rc == 0)
        rc = check_addresses(settings, error);
    if (rc == 0)
        rc = check_transport(settings, error);
    if (rc == 0)
        rc = check_times(settings, error);
    if (rc == 0)
        rc = check_shard_bytes(settings, error);
    assert(rc <= 0);
    return rc;
}

static void complete(struct settings *settings)
{
    settings->cluster_id = settings_cluster_id(settings->cluster_name);
    if (!settings->host[0] && gethostname(settings->host, sizeof(settings->host) - 1) < 0)
        (void)snprintf(settings->host, sizeof(settings->host), "node%u", settings->node);
    const struct settings_voter *own = settings_own_voter(settings);
    if (own && !settings->raft[0])
        memcpy(settings->raft, own->raft, sizeof(settings->raft));
    assert(settings->cluster_id != 0);
    assert(settings->host[sizeof(settings->host) - 1] == '\0');
}

int settings_load(struct settings *settings, const char *path, const char *const *assignments, size_t assignment_count,
                  char error[CONFIG_ERROR_MAX])
{
    assert(settings && error);
    assert(ITEM_COUNT <= CONFIG_ITEMS_MAX);
    memset(settings, 0, sizeof(*settings));
    int rc = config_defaults(items, ITEM_COUNT, settings);
    assert(rc == 0);
    if (path)
        rc = config_read_file(path, items, ITEM_COUNT, settings, ignored_sections, take_list, settings, error);
    for (size_t i = 0; rc == 0 && i < assignment_count; i++)
        rc = config_set(items, ITEM_COUNT, settings, assignments[i], error);
    if (rc == 0)
        rc = check_whole(settings, error);
    if (rc == 0)
        complete(settings);
    return rc;
}

void settings_print_help(void *stream)
{
    assert(stream);
    config_print_help(items, ITEM_COUNT, stream);
}
