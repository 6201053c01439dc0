/* SPDX-License-Identifier: Apache-2.0 */
/* drive_sim: the simulated side of the drive seam: a volatile write cache, crashes and faults, all from one seed.
 *
 * Concept: a disk outlives its handles. Writes land in the cache, a flush makes those completed before it was submitted
 *   stable. Power loss keeps, drops or trashes each unflushed 512-byte sector; a dead process loses only what was in flight
 *   (each sector of it may or may not have landed).
 * Threading: the world's. Completions come through the env after seeded delays, never from inside submit.
 * Errors: as injected. Ownership: the disk is the caller's; a handle is freed by drive_close or drive_sim_crash.
 */
#ifndef ASHLAR_TESTS_SIM_DRIVE_SIM_H
#define ASHLAR_TESTS_SIM_DRIVE_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"
#include "server/store/drive.h"

#define DRIVE_SIM_SECTOR 512u
#define DRIVE_SIM_FILL 0xeeu /* every byte of a new disk: what lay there before */
#define DRIVE_SIM_TRASH 0xdb /* what a trashed sector is filled with */

enum drive_sim_crash { DRIVE_SIM_PROCESS, DRIVE_SIM_POWER };

/* May be changed at any time; zero: no fault. */
struct drive_sim_faults {
    uint64_t fail_nth;            /* the n-th operation from now on fails with fail_rc (counts down to 0) */
    int fail_rc;                  /* default -EIO */
    bool fail_only_reads;         /* fail_nth counts reads only */
    uint32_t drop_write_permille; /* acknowledged, but never stored */
    uint32_t drop_writes;         /* so do the next ones (counts down to 0) */
    uint32_t slow_permille;       /* takes slow_ns instead */
    uint64_t slow_ns;
    uint64_t slow_flush_ns; /* what every flush takes, not 0 */
    bool hung;              /* nothing completes until it is cleared (completes on the next operation or kick) */
    bool power_keeps_all;   /* power loss loses nothing: for tests that need it exact */
    bool power_drops_all;
    bool power_trashes_none; /* an unflushed sector is old or new after power loss, never garbage */
};

struct drive_sim_stats {
    uint64_t reads, writes, flushes, failed;
    uint64_t bytes_written;
};

struct drive_sim_disk;
struct drive_sim_disk *drive_sim_disk_create(uint64_t bytes, uint64_t seed);
void drive_sim_disk_destroy(struct drive_sim_disk *disk); /* accepts NULL; an open handle is freed too */
int drive_sim_open(struct drive_sim_disk *disk, struct env *env, struct drive **ret_drive); /* -EBUSY: open (R1) */
void drive_sim_crash(struct drive_sim_disk *disk, enum drive_sim_crash kind); /* the handle is gone after it */
struct drive_sim_faults *drive_sim_faults(struct drive_sim_disk *disk);
struct drive_sim_stats *drive_sim_stats(struct drive_sim_disk *disk);
void drive_sim_set_file(struct drive_sim_disk *disk, bool is_file); /* of later handles */
void drive_sim_kick(struct drive_sim_disk *disk);                   /* after hung was cleared */
/* What the disk holds now, cache included. */
void drive_sim_peek(struct drive_sim_disk *disk, uint64_t offset, void *ret_data, uint64_t length);
/* Durable, behind everybody's back: formatting. */
void drive_sim_poke(struct drive_sim_disk *disk, uint64_t offset, const void *data, uint64_t length);
void drive_sim_flip(struct drive_sim_disk *disk, uint64_t offset, uint8_t mask); /* bit rot, cache and stable */
/* Called when an operation is submitted (done false) and when it completed (done true). */
void drive_sim_trace(struct drive_sim_disk *disk,
                     void (*trace)(void *arg, enum drive_op op, uint64_t offset, uint32_t length, bool done),
                     void *arg);

#endif
