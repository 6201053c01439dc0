/* SPDX-License-Identifier: Apache-2.0 */
/* scenario: workload and fault rates of a simulation, from a file of `key = value` lines (tests/sim/scenarios).
 *
 * Concept: numbers for rates; and steps for what is placed by hand (faults_script.c says which actions there are).
 * Threading: a value. Errors: -errno of the file, -EINVAL for a line that is not understood (told on stderr).
 * Ownership: copies everything.
 */
#ifndef ASHLAR_TESTS_SIM_SCENARIO_H
#define ASHLAR_TESTS_SIM_SCENARIO_H

#include <stdbool.h>
#include <stdint.h>

#define SCENARIO_STEPS_MAX 64u

/* A fault placed by hand: `at = MS ACTION ...`, or `on = "TEXT" [COUNT] ACTION ...` when a log line has TEXT for the COUNT-th time;
 * `then = MS ACTION ...`: so long after the step above was done; `next = "TEXT" [COUNT] ACTION ...`: `on`, counted from there. */
struct scenario_step {
    uint64_t at_ms;
    char text[64]; /* "": at_ms counts */
    bool follows;  /* only when the step before it is done; at_ms counts from there */
    uint32_t count;
    char action[24];
    char args[4][16];
};

struct scenario {
    /* cluster */
    uint64_t nodes, volumes, replicas, min_replicas, shards, shard_mib, drive_mib, sync_chunks, out_after_ms, drift_ppm;
    uint64_t flush_ahead_kib; /* of some of the nodes, half on average; 0: of none */
    uint64_t volume_kib;      /* size of the first volume, a fourth of it for the others; 0: shards * shard_mib */
    uint64_t wire;            /* 1: through client core, links and gateways instead of straight to the primary */
    uint64_t control;         /* 1: the shipped control plane instead of its stand-in */
    /* workload */
    uint64_t clients_qd, hot_blocks, hot_percent, read_percent, flush_percent, zero_percent, fua_percent, piece_percent;
    uint64_t write_max_kib, big_permille, op_gap_us, failover_per_min, serial_overlaps, guest_crash_per_min;
    /* operators (control = 1, wire = 1): how many, how often, what they rather do */
    uint64_t operators, operator_gap_ms, volumes_max, snaps_max, size_max_kib;
    uint64_t snapshot_weight, group_weight, snapdelete_weight, clone_weight, rollback_weight, flatten_weight;
    uint64_t create_weight, delete_weight, grow_weight, shrink_weight, migrate_weight, detach_weight;
    /* how long: faults, then how long at most until all is well again */
    uint64_t safety_ms, linger_ms, liveness_ms; /* linger: the workload goes on for so long after the last fault */
    /* faults a minute (of virtual time, of the whole cluster) */
    uint64_t crash_per_min, power_per_min, power_all_per_min, crash_pair_per_min, crash_loop_per_min, pause_per_min;
    uint64_t cut_per_min, isolate_per_min, reset_per_min, slow_drive_per_min, drive_eio_per_min, rot_per_min;
    uint64_t clean_stop_per_min, slow_link_per_min, clock_jump_per_min, dropped_write_per_min, power_trash;
    uint64_t restart_min_ms, restart_max_ms, fault_max_ms, net_tail_permille;
    /* placed by hand */
    struct scenario_step steps[SCENARIO_STEPS_MAX];
    uint64_t step_count; /* after all numbers */
};

int scenario_load(const char *path, struct scenario *ret_scenario);

#endif
