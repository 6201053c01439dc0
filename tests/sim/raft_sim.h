/* SPDX-License-Identifier: Apache-2.0 */
/* raft_sim: consensus (server/control/consensus.h) over C-raft's raft_io in a simulated world: disks, messages, time.
 *
 * Concept: a disk is what a voter keeps over its crashes: term, vote, log, snapshot, two markers. raft_sim_open makes the shipped
 *   consensus core over it, as consensus_uv.c does over files; raft_sim_net carries the messages between the voters of a world,
 *   cut by the cuts of sim_net. Voter ids are world nodes.
 * What a crash leaves: whatever was reported as written; of the writes in flight a random number, oldest first, whole; never a
 *   later one without an earlier one. Term and vote are durable when the call returns.
 * What links do: order within a direction; a cut stalls, and after a few seconds drops what was on its way; to a voter that is
 *   down the last few messages are kept and arrive, stale, at its next life; a reset drops everything on its way.
 * Threading: one thread. Errors: 0 / -errno. Ownership: disks and nets outlive the voters that use them.
 */
#ifndef ASHLAR_TESTS_SIM_RAFT_SIM_H
#define ASHLAR_TESTS_SIM_RAFT_SIM_H

#include "server/control/consensus.h"
#include "tests/sim/transport_sim.h"
#include "tests/sim/world.h"

/* ---- the disk ---- */

struct raft_sim_faults {                 /* zero: a quiet disk */
    uint64_t write_min_ns, write_max_ns; /* of each log write; 0, 0: 100..400 us */
    uint32_t slow_permille;              /* so many take up to slow_max_ns */
    uint64_t slow_max_ns;
    uint32_t error_per_million; /* log, term and vote writes that fail: the voter's process has to end */
    uint32_t stall_permille;    /* term and vote writes during which the node stands still, up to stall_max_ns */
    uint64_t stall_max_ns;
    void (*meta_written)(void *arg,
                         int node); /* a term or vote was written; may be NULL. Crash it from a later event */
    void *arg;
};

struct raft_sim_disk;
struct raft_sim_disk *raft_sim_disk_create(struct world *world, int node, const struct raft_sim_faults *faults);
void raft_sim_disk_destroy(struct raft_sim_disk *disk); /* no voter uses it; accepts NULL */
void raft_sim_disk_faults(struct raft_sim_disk *disk, const struct raft_sim_faults *faults);
void raft_sim_disk_full(struct raft_sim_disk *disk, bool full); /* log writes fail while it is */
void raft_sim_disk_wipe(struct raft_sim_disk *disk);            /* replaced by an empty one; no voter uses it */
bool raft_sim_disk_empty(const struct raft_sim_disk *disk);     /* never bootstrapped, or wiped */

struct raft_sim_disk_stats {
    uint64_t writes, slow, failed, lost, kept; /* lost, kept: in flight at a crash */
    uint64_t truncations, snapshots, installs;
    uint64_t installs_cut; /* failed or cancelled: libraft leaks 16 bytes for each */
    uint64_t term, first_index, last_index;
};
void raft_sim_disk_stats(const struct raft_sim_disk *disk, struct raft_sim_disk_stats *ret_stats);

/* ---- the network ---- */

struct raft_sim_net;
struct raft_sim_net *raft_sim_net_create(struct world *world, struct sim_net *net, uint32_t reset_per_million);
void raft_sim_net_destroy(struct raft_sim_net *net);                     /* accepts NULL */
void raft_sim_net_cut(struct raft_sim_net *net, int a, int b, bool cut); /* Raft's messages only, both ways */
void raft_sim_net_resets(struct raft_sim_net *net, uint32_t per_million);

struct raft_sim_net_stats {
    uint64_t sent, delivered, stalled, dropped, stale;
};
void raft_sim_net_stats(const struct raft_sim_net *net, struct raft_sim_net_stats *ret_stats);

/* ---- a voter ---- */

struct raft_sim;
struct raft_sim_config {
    struct world *world;
    struct raft_sim_net *net;
    struct raft_sim_disk *disk;
    struct env *env;                          /* of this life of the node */
    int node;                                 /* and voter id */
    const struct consensus_config *consensus; /* dir is ignored; may_bootstrap as in consensus.h */
};

/* -ENODATA: an empty disk and may_bootstrap is false. */
int raft_sim_open(const struct raft_sim_config *config, const struct consensus_callbacks *callbacks,
                  struct raft_sim **ret_raft);
int raft_sim_start(struct raft_sim *raft);
struct consensus *raft_sim_consensus(struct raft_sim *raft);
/* Orderly: it is gone when cb comes, from a later turn. */
void raft_sim_close(struct raft_sim *raft, consensus_close_fn cb, void *arg);
/* After the world's node crashed: gone on return. Proposals in flight are called back from inside, as unknown: the caller does
 * nothing with that. */
void raft_sim_crash(struct raft_sim *raft);

#endif
