/* SPDX-License-Identifier: Apache-2.0 */
/* settings: what the configuration file and the flags of ashlard say (deploy/ashlard.conf.example).
 *
 * Concept: one struct, filled by defaults, file and flags, then checked as a whole.
 * Threading: written at start, read-only afterwards, by every thread.
 * Errors: -errno and one line "FILE:LINE: what; what to do".
 * Ownership: everything is copied into the struct.
 */
#ifndef ASHLAR_SERVER_DAEMON_SETTINGS_H
#define ASHLAR_SERVER_DAEMON_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/log.h"
#include "server/replica/peers_transport.h"

#define SETTINGS_VOTERS_MAX 5u
#define SETTINGS_ADDRESS_MAX 96u
#define SETTINGS_PATH_MAX 512u
#define SETTINGS_NAME_MAX 64u
#define SETTINGS_LABEL_MAX 32u

struct settings_voter {
    uint32_t id;
    char raft[SETTINGS_ADDRESS_MAX];    /* HOST:PORT */
    char control[SETTINGS_ADDRESS_MAX]; /* HOST:PORT */
};

struct settings {
    /* [cluster] the same on every node */
    char cluster_name[SETTINGS_NAME_MAX];
    uint64_t cluster_id; /* settings_cluster_id of the name */
    uint64_t shard_bytes;
    uint64_t node_timeout_ms, lease_ms, heartbeat_ms, out_after_ms, elect_grace_ms, io_stall_ms;
    uint32_t voter_count;
    struct settings_voter voters[SETTINGS_VOTERS_MAX];
    /* [node] */
    uint32_t node;
    char data[SETTINGS_ADDRESS_MAX], control[SETTINGS_ADDRESS_MAX], raft[SETTINGS_ADDRESS_MAX]; /* HOST:PORT */
    char advertise[SETTINGS_ADDRESS_MAX]; /* host that others reach us by; empty: as listened on */
    char transport_name[8];
    enum peers_transport transport; /* of links between daemons */
    uint32_t rdma_spin_us, rdma_links;
    char rundir[SETTINGS_PATH_MAX]; /* of data.sock and control.sock; empty: none */
    char host[SETTINGS_LABEL_MAX], rack[SETTINGS_LABEL_MAX];
    /* [store] */
    char store[SETTINGS_PATH_MAX];
    uint64_t scrub_rest_ms;       /* between two scrub passes */
    uint64_t flush_ahead_span_ms; /* writing as much must take so long */
    uint64_t scrub_bytes_per_s, prewrite_bytes_per_s, flush_ahead_bytes, sums_cache_bytes, kv_cache_bytes;
    uint32_t near_full_percent, active_set_max;
    /* [replica] */
    uint64_t drop_after_ms, sync_bytes_per_s;
    uint32_t sync_shards_max, sync_chunks_max;
    /* [memory] */
    uint64_t buffer_bytes;
    /* [log] */
    char log_level_name[16];
    enum log_level log_level;
    char log_file[SETTINGS_PATH_MAX];
};

/* path may be NULL (flags only). assignments: "section.key=value", later ones win. */
int settings_load(struct settings *settings, const char *path, const char *const *assignments, size_t assignment_count,
                  char error[CONFIG_ERROR_MAX]);
uint64_t settings_cluster_id(const char *name); /* never 0 */
/* This node among the voters; NULL: it is none. */
const struct settings_voter *settings_own_voter(const struct settings *settings);
void settings_print_help(void *stream /* FILE * */);

/* "HOST:PORT", "[HOST6]:PORT": where the port begins; -EINVAL. */
int settings_split_address(const char *address, size_t *ret_host_bytes, uint16_t *ret_port);
/* "tcp:" and the address by which others reach the one we listen on. */
int settings_advertised(const struct settings *settings, const char *listened, char *ret_address, size_t capacity);

#endif
