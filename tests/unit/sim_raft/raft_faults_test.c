/* SPDX-License-Identifier: Apache-2.0 */
/* raft_faults: consensus alone over raft_sim: many entries, short logs, frequent changes of leaders.
 *
 * usage: raft_faults_test [FIRST_SEED COUNT [CASE]]: without arguments a few seeds. ASHLAR_SIM_TRACE=2 prints every message.
 *   - each voter keeps a running hash of what it applied; the first one to apply a version defines it
 *   - whoever leads is given proposals all the time, several in flight; a proposal that was reported as committed must be the
 *     entry that everybody has at that version
 *   - faults as in rig.c, denser; then all is healed, and every voter must reach the newest version
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "common/list.h"
#include "common/log.h"
#include "tests/sim/raft_sim.h"

#define LOG_MODULE "sim"
#define VOTERS_MAX 5
#define VERSIONS_MAX (1u << 17)
#define LEAKED_BYTES \
    64u /* libraft's 16, as malloc counts them, for each snapshot of a leader that could not be stored */

/* libraft loses an array of one buffer when a leader's snapshot is not stored; counted in raft_sim_disk_stats. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libraft.so\n";
}

static uint64_t first_seed = 1, seed_count = 40;

struct bench;

struct voter {
    struct bench *bench;
    int node;
    struct raft_sim_disk *disk;
    struct raft_sim *raft;
    bool voted; /* its disk was bootstrapped once */
    uint64_t version, hash;
    struct world_event work, start, end;
};

struct proposal {
    struct consensus_propose_req req;
    struct bench *bench;
    uint64_t value;
};

struct bench {
    struct world *world;
    struct sim_net *net;
    struct raft_sim_net *raft_net;
    int voters;
    struct voter v[VOTERS_MAX + 1];
    struct world_event fault, heal;
    bool faulty, working;
    bool wipes; /* crashes may cost a voter its disk, one voter at a time */
    uint64_t wiped;
    uint64_t next_value, newest;
    uint64_t *values, *hashes; /* by version, as first applied */
    uint64_t failures, acked, unknown, restarts, failed_logs;
    char first_failure[200];
    struct raft_sim_faults disk;
    unsigned snapshot_threshold;
};

static struct bench *logged;

static void hook(void *arg, enum log_level level, const char *module, const char *line)
{
    (void)arg;
    (void)level;
    if (logged && getenv("ASHLAR_SIM_TRACE"))
        fprintf(stderr, "%11.6f node %d: %s: %s\n", (double)world_now_ns(logged->world) / 1e9,
                world_running_node(logged->world), module, line);
}

__attribute__((format(printf, 2, 3))) static void broken(struct bench *b, const char *format, ...)
{
    va_list args;
    char text[200];
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (b->failures++ == 0)
        memcpy(b->first_failure, text, sizeof(text));
    log_error("FAILURE %s", text);
}

static uint64_t below(struct bench *b, uint64_t bound)
{
    return world_random_below(b->world, bound);
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * 0x9e3779b97f4a7c15u + (hash >> 29);
}

/* ---- the state machine ---- */

static void apply(void *arg, uint64_t version, const void *entry, size_t len)
{
    struct voter *v = arg;
    struct bench *b = v->bench;
    uint64_t value;
    assert_true(len >= sizeof(value) && version < VERSIONS_MAX);
    memcpy(&value, entry, sizeof(value));
    if (version != v->version + 1)
        broken(b, "voter %d applied %llu after %llu", v->node, (unsigned long long)version,
               (unsigned long long)v->version);
    v->version = version;
    v->hash = mix(v->hash, value);
    if (version == b->newest + 1) {
        b->newest = version;
        b->values[version] = value;
        b->hashes[version] = v->hash;
        world_trace(b->world, 300, version, value);
    } else if (version > b->newest || b->values[version] != value || b->hashes[version] != v->hash) {
        broken(b, "voter %d applied another entry as %llu", v->node, (unsigned long long)version);
    }
}

static int snapshot(void *arg, void **ret_bytes, size_t *ret_len)
{
    const struct voter *v = arg;
    uint64_t *state = calloc(2, sizeof(*state));
    assert_non_null(state);
    state[0] = v->version;
    state[1] = v->hash;
    *ret_bytes = state;
    *ret_len = 2 * sizeof(*state);
    return 0;
}

static int restore(void *arg, const void *bytes, size_t len, uint64_t version)
{
    struct voter *v = arg;
    uint64_t state[2];
    if (len != sizeof(state))
        return -EBADMSG;
    memcpy(state, bytes, sizeof(state));
    if (state[0] != version || version > v->bench->newest || state[1] != v->bench->hashes[version])
        broken(v->bench, "voter %d restored a snapshot of %llu that nobody can have made", v->node,
               (unsigned long long)version);
    v->version = version;
    v->hash = state[1];
    return 0;
}

/* ---- proposals ---- */

static void proposed(struct consensus_propose_req *req, int rc, uint64_t version)
{
    struct proposal *p = list_entry(req, struct proposal, req);
    struct bench *b = p->bench;
    b->acked += rc == 0;
    b->unknown += rc != 0;
    if (rc == 0 && (version > b->newest || b->values[version] != p->value))
        broken(b, "a proposal was reported as version %llu, which is something else", (unsigned long long)version);
    free(p);
}

static void work(struct world_event *event)
{
    struct voter *v = list_entry(event, struct voter, work);
    struct bench *b = v->bench;
    for (uint64_t n = 1 + below(b, 3); v->raft && n > 0; n--) {
        struct proposal *p = calloc(1, sizeof(*p));
        uint64_t bytes[8] = {++b->next_value};
        assert_non_null(p);
        p->bench = b;
        p->value = bytes[0];
        if (consensus_propose(raft_sim_consensus(v->raft), bytes, sizeof(bytes), &p->req, proposed) < 0) {
            free(p);
            break;
        }
    }
    if (v->raft && below(b, 400) == 0)
        (void)consensus_transfer(raft_sim_consensus(v->raft), 0);
    if (b->working)
        world_schedule(b->world, &v->work, v->node, 1 + below(b, ENV_MS(30)), work);
}

/* ---- lives ---- */

static void start(struct world_event *event);

static void crash(struct voter *v, enum world_crash kind)
{
    struct bench *b = v->bench;
    if (!v->raft)
        return;
    struct raft_sim *raft = v->raft;
    v->raft = NULL;
    b->restarts++;
    log_info("voter %d crashes kind=%d", v->node, kind);
    world_cancel(b->world, &v->work);
    world_cancel(b->world, &v->end);
    world_node_crash(b->world, v->node, kind);
    raft_sim_crash(raft);
    uint64_t soon_ns = below(b, 2) ? ENV_MS(30) : ENV_MS(1);
    world_schedule(b->world, &v->start, WORLD_NOBODY,
                   !b->faulty    ? ENV_MS(10)
                   : below(b, 2) ? below(b, ENV_MS(3000))
                                 : below(b, soon_ns),
                   start);
}

static void end_now(struct world_event *event)
{
    crash(list_entry(event, struct voter, end), WORLD_CRASH_PROCESS);
}

/* What must be durable is best tried right after it was written. */
static void meta_written(void *arg, int node)
{
    struct bench *b = arg;
    struct voter *v = &b->v[node];
    if (b->newest < 10) /* a cluster whose first leader dies in its first moments has to be made again: raft-notes */
        return;
    if (b->faulty && below(b, 12) == 0 && !world_scheduled(&v->end))
        world_schedule(b->world, &v->end, WORLD_NOBODY, 1 + below(b, ENV_MS(1) / 2), end_now);
}

static void failed(void *arg, int rc)
{
    struct voter *v = arg;
    (void)rc;
    v->bench->failed_logs++;
    world_schedule(v->bench->world, &v->end, WORLD_NOBODY, ENV_MS(1), end_now);
}

static void start(struct world_event *event)
{
    struct voter *v = list_entry(event, struct voter, start);
    struct bench *b = v->bench;
    struct consensus_voter voters[VOTERS_MAX];
    if (v->raft)
        return;
    if (!world_node_up(b->world, v->node))
        world_node_start(b->world, v->node);
    for (int i = 0; i < b->voters; i++)
        voters[i] = (struct consensus_voter){.id = (uint64_t)i + 1, .address = "somewhere"};
    struct consensus_config consensus = {.id = (uint64_t)v->node,
                                         .voters = voters,
                                         .voters_count = (unsigned)b->voters,
                                         .dir = "",
                                         .may_bootstrap = !v->voted,
                                         .snapshot_threshold = b->snapshot_threshold,
                                         .snapshot_trailing = 1 + b->snapshot_threshold / 4};
    struct consensus_callbacks callbacks = {
        .apply = apply, .snapshot = snapshot, .restore = restore, .failed = failed, .arg = v};
    struct raft_sim_config config = {.world = b->world,
                                     .net = b->raft_net,
                                     .disk = v->disk,
                                     .node = v->node,
                                     .env = world_env_create(b->world, v->node),
                                     .consensus = &consensus};
    v->version = 0;
    v->hash = 0;
    assert_int_equal(raft_sim_open(&config, &callbacks, &v->raft), 0);
    assert_int_equal(raft_sim_start(v->raft), 0);
    v->voted = true;
    if (b->working)
        world_schedule(b->world, &v->work, v->node, below(b, ENV_MS(10)), work);
}

/* ---- faults ---- */

static bool all_trusted(const struct bench *b)
{
    for (int i = 1; i <= b->voters; i++) {
        struct consensus_stats stats;
        if (!b->v[i].raft)
            return false;
        consensus_stats_get(raft_sim_consensus(b->v[i].raft), &stats);
        if (stats.on_probation)
            return false;
    }
    return true;
}

/* The operator replaces a voter's disk: only while every voter is up, trusted and not empty (raft-notes, "A voter without"). */
static void wipe(struct voter *v)
{
    struct bench *b = v->bench;
    if (!all_trusted(b))
        return;
    for (int i = 1; i <= b->voters; i++) {
        struct raft_sim_disk_stats stats;
        raft_sim_disk_stats(b->v[i].disk, &stats);
        if (stats.last_index <= 1)
            return;
    }
    crash(v, WORLD_CRASH_POWER);
    raft_sim_disk_wipe(v->disk);
    v->voted = false;
    b->wiped++;
}

static void heal(struct world_event *event)
{
    struct bench *b = list_entry(event, struct bench, heal);
    sim_net_heal(b->net);
    for (int i = 1; i <= b->voters; i++)
        world_node_pause(b->world, i, false);
    if (b->faulty)
        world_schedule(b->world, &b->heal, WORLD_NOBODY, ENV_MS(500) + below(b, ENV_MS(3000)), heal);
}

static void fault(struct world_event *event)
{
    struct bench *b = list_entry(event, struct bench, fault);
    int a = 1 + (int)below(b, (uint64_t)b->voters), other = 1 + (int)below(b, (uint64_t)b->voters);
    struct voter *v = &b->v[a];
    uint64_t kind = below(b, b->wipes ? 9 : 8);
    log_info("fault %llu a=%d other=%d", (unsigned long long)kind, a, other);
    switch (kind) {
    case 0: crash(v, WORLD_CRASH_PROCESS); break;
    case 1: crash(v, WORLD_CRASH_POWER); break;
    case 2: sim_net_isolate(b->net, a, true); break;
    case 3:
    case 4:
        if (a != other)
            sim_net_cut(b->net, a, other, true);
        break;
    case 5:
        if (v->raft)
            world_node_pause(b->world, a, true);
        break;
    case 8: wipe(v); break;
    case 6: b->disk.slow_permille = below(b, 2) ? 400 : 0; /* fall through */
    default: b->disk.slow_max_ns = below(b, ENV_MS(3000)); raft_sim_disk_faults(v->disk, &b->disk);
    }
    world_schedule(b->world, &b->fault, WORLD_NOBODY, below(b, ENV_MS(1200)), fault);
}

static bool level(void *arg)
{
    struct bench *b = arg;
    bool leader = false;
    for (int i = 1; i <= b->voters; i++) {
        if (!b->v[i].raft || b->v[i].version != b->newest)
            return false;
        leader = leader || consensus_is_leader(raft_sim_consensus(b->v[i].raft));
    }
    return leader && b->newest > 0;
}

static void bench_open(struct bench *b, uint64_t seed, const struct raft_sim_faults *disk)
{
    memset(b, 0, sizeof(*b));
    b->world = world_create(seed);
    logged = b;
    (void)world_node_add(b->world);
    struct sim_net_config net = {.tail_permille = 10, .tail_max_ns = ENV_MS(150)};
    b->net = sim_net_create(b->world, &net);
    b->raft_net = raft_sim_net_create(b->world, b->net, /* reset_per_million= */ 500);
    b->voters = seed % 3 == 0 ? 5 : 3;
    b->snapshot_threshold = 8u << seed % 4;
    b->disk = *disk;
    b->disk.meta_written = meta_written;
    b->disk.arg = b;
    b->values = calloc(VERSIONS_MAX, sizeof(*b->values));
    b->hashes = calloc(VERSIONS_MAX, sizeof(*b->hashes));
    b->faulty = b->working = true;
    for (int i = 1; i <= b->voters; i++) {
        (void)world_node_add(b->world);
        b->v[i] = (struct voter){.bench = b, .node = i, .disk = raft_sim_disk_create(b->world, i, &b->disk)};
        world_schedule(b->world, &b->v[i].start, WORLD_NOBODY, below(b, ENV_MS(100)), start);
    }
    world_schedule(b->world, &b->fault, WORLD_NOBODY, ENV_MS(1000), fault);
    world_schedule(b->world, &b->heal, WORLD_NOBODY, ENV_MS(2000), heal);
}

static void bench_calm(struct bench *b)
{
    struct raft_sim_faults quiet = {0};
    b->faulty = b->working = false;
    world_cancel(b->world, &b->fault);
    heal(&b->heal);
    raft_sim_net_resets(b->raft_net, 0);
    for (int i = 1; i <= b->voters; i++) {
        raft_sim_disk_faults(b->v[i].disk, &quiet);
        world_schedule(b->world, &b->v[i].start, WORLD_NOBODY, 0, start);
    }
}

static uint64_t bench_close(struct bench *b)
{
    uint64_t cut = 0;
    world_cancel(b->world, &b->heal);
    for (int i = 1; i <= b->voters; i++) {
        struct raft_sim_disk_stats stats;
        crash(&b->v[i], WORLD_CRASH_PROCESS);
        world_cancel(b->world, &b->v[i].start);
        raft_sim_disk_stats(b->v[i].disk, &stats);
        cut += stats.installs_cut;
        raft_sim_disk_destroy(b->v[i].disk);
    }
    raft_sim_net_destroy(b->raft_net);
    sim_net_destroy(b->net);
    world_destroy(b->world);
    free(b->values);
    free(b->hashes);
    logged = NULL;
    return cut;
}

static uint64_t run_seed(uint64_t seed, const struct raft_sim_faults *disk, bool wipes, uint64_t sums[6])
{
    struct bench b;
    size_t heap = consensus_heap_used();
    bench_open(&b, seed, disk);
    b.wipes = wipes;
    world_run(b.world, ENV_MS(20000));
    bench_calm(&b);
    if (!world_run_until(b.world, level, &b, ENV_MS(20000)))
        broken(&b, "the voters do not come level");
    if (b.failures)
        fail_msg("seed %llu: %s", (unsigned long long)seed, b.first_failure);
    uint64_t hash = world_trace_hash(b.world);
    sums[0] += b.newest;
    sums[1] += b.acked;
    sums[2] += b.unknown;
    sums[3] += b.restarts;
    sums[4] += b.failed_logs;
    sums[5] += b.wiped;
    uint64_t cut = bench_close(&b);
    if (consensus_heap_used() - heap > cut * LEAKED_BYTES)
        fail_msg("seed %llu: %zu bytes of libraft's heap are left, %llu snapshots were cut", (unsigned long long)seed,
                 consensus_heap_used() - heap, (unsigned long long)cut);
    return hash;
}

static void run_seeds(const struct raft_sim_faults *disk, bool wipes)
{
    uint64_t sums[6] = {0};
    for (uint64_t i = 0; i < seed_count; i++)
        (void)run_seed(first_seed + i, disk, wipes, sums);
    assert_true(sums[1] > 0 && sums[2] > 0 && sums[3] > 0);
    printf(
        "%llu seeds: entries %llu, acknowledged %llu, unknown %llu, restarts %llu, logs failed %llu, disks lost %llu\n",
        (unsigned long long)seed_count, (unsigned long long)sums[0], (unsigned long long)sums[1],
        (unsigned long long)sums[2], (unsigned long long)sums[3], (unsigned long long)sums[4],
        (unsigned long long)sums[5]);
    assert_true((sums[5] > 0) == wipes);
}

/* Goal: no committed entry is lost or changed, with disks that are slow now and then. */
static void nothing_is_lost(void **state)
{
    (void)state;
    struct raft_sim_faults disk = {0};
    run_seeds(&disk, /* wipes= */ false);
}

/* Goal: the same with writes that fail: the voter dies and comes back with what its disk has. */
static void nothing_is_lost_by_failing_disks(void **state)
{
    (void)state;
    struct raft_sim_faults disk = {.error_per_million = 1500, .write_max_ns = ENV_MS(5)};
    run_seeds(&disk, /* wipes= */ false);
}

/* Goal: the same when voters lose their disks, one after the other, and are told to start empty (C2). */
static void nothing_is_lost_by_lost_disks(void **state)
{
    (void)state;
    struct raft_sim_faults disk = {0};
    run_seeds(&disk, /* wipes= */ true);
}

/* Goal: one seed, one trace. */
static void same_seed_same_trace(void **state)
{
    (void)state;
    struct raft_sim_faults disk = {.error_per_million = 500};
    uint64_t sums[6] = {0};
    uint64_t once = run_seed(first_seed, &disk, false, sums);
    assert_true(once == run_seed(first_seed, &disk, false, sums));
    assert_true(once != run_seed(first_seed + 1, &disk, false, sums));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost),
        cmocka_unit_test(nothing_is_lost_by_failing_disks),
        cmocka_unit_test(nothing_is_lost_by_lost_disks),
        cmocka_unit_test(same_seed_same_trace),
    };
    const char *trace = getenv("ASHLAR_SIM_TRACE");
    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        seed_count = strtoull(argv[2], NULL, 10);
    if (argc > 3)
        cmocka_set_test_filter(argv[3]);
    log_set_hook(hook, NULL);
    log_init(!trace ? LOG_ERROR : trace[0] == '2' ? LOG_TRACE : LOG_DEBUG, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
