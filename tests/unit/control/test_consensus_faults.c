/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus when its disk, its directory, its memory or its callers misbehave.
 *
 * The happy path of a disk fault: the append function of the backend is replaced
 * in a running node by one that holds writes back, fails or refuses them.
 *
 * Failure modes covered: failed and refused log writes, slow writes, a lost
 * directory, a foreign or half-made or corrupt one, no memory, strangers.
 */
#include "tests/unit/control/test_consensus_cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELD_MAX 64u

/* libraft 0.15 loses its list of segments when one of them is corrupt; any other
 * leak of its own would show in cluster_teardown(). */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libraft.so";
}

typedef int (*append_fn)(struct raft_io *, struct raft_io_append *, const struct raft_entry[], unsigned,
                         raft_io_append_cb);

/* One faulty disk at a time: the tests are single-threaded and in sequence. */
static struct {
    append_fn real;
    unsigned held;
    unsigned delay_ms;
    uv_loop_t *loop;
    struct {
        struct raft_io *io;
        struct raft_io_append *req;
        const struct raft_entry *entries;
        unsigned n;
        uv_timer_t timer;
    } hold[HELD_MAX];
} disk;

static int append_held(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                       raft_io_append_cb cb)
{
    assert_true(disk.held < HELD_MAX);
    (void)entries;
    (void)n;
    req->cb = cb;
    disk.hold[disk.held].io = io;
    disk.hold[disk.held++].req = req;
    return 0;
}

static int append_refused(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                          raft_io_append_cb cb)
{
    (void)req;
    (void)entries;
    (void)n;
    (void)cb;
    snprintf(io->errmsg, sizeof(io->errmsg), "refused by the test");
    return RAFT_NOSPACE;
}

static void delay_over(uv_timer_t *timer)
{
    unsigned i = (unsigned)(uintptr_t)timer->data;
    assert_int_equal(
        disk.real(disk.hold[i].io, disk.hold[i].req, disk.hold[i].entries, disk.hold[i].n, disk.hold[i].req->cb), 0);
    uv_close((uv_handle_t *)timer, NULL);
}

static int append_delayed(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                          raft_io_append_cb cb)
{
    unsigned i = disk.held++;
    assert_true(i < HELD_MAX);
    req->cb = cb;
    disk.hold[i].io = io;
    disk.hold[i].req = req;
    disk.hold[i].entries = entries;
    disk.hold[i].n = n;
    assert_int_equal(uv_timer_init(disk.loop, &disk.hold[i].timer), 0);
    disk.hold[i].timer.data = (void *)(uintptr_t)i;
    return uv_timer_start(&disk.hold[i].timer, delay_over, disk.delay_ms, 0);
}

static void replace_append(struct cluster *cluster, unsigned i, append_fn append)
{
    struct raft_io *inner = cluster->nodes[i].c->inner;
    memset(&disk, 0, sizeof(disk));
    disk.loop = &cluster->loop;
    disk.real = inner->append;
    inner->append = append;
}

static bool has_failed(struct cluster *cluster, void *arg)
{
    (void)cluster;
    return ((struct cluster_node *)arg)->failures > 0;
}

/* After the failure of node i: each proposal unknown once, the others go on, and
 * the node comes back whole. */
static void check_failed_node(struct cluster *cluster, unsigned i, const struct cluster_proposal *proposals, unsigned n)
{
    struct cluster_proposal late;
    struct cluster_node *node = &cluster->nodes[i];
    cluster_await(cluster, has_failed, node, "the failure");
    assert_int_equal(node->failures, 1);
    assert_false(node->is_leader);
    for (unsigned k = 0; k < n; k++) {
        assert_int_equal(proposals[k].calls, 1);
        assert_int_equal(proposals[k].rc, -EINPROGRESS);
    }
    assert_int_equal(cluster_propose(cluster, i, 99, &late), -ESHUTDOWN);
    cluster_stop(cluster, i);
    for (unsigned k = 0; k < n; k++)
        assert_int_equal(proposals[k].calls, 1);
    unsigned leader = cluster_await_leader(cluster);
    assert_true(leader != i);
    uint64_t version = consensus_version(cluster->nodes[leader].c);
    cluster_commit(cluster, ++version);
    cluster_boot(cluster, i);
    cluster_await_version(cluster, version);
    cluster_assert_same(cluster, version);
    assert_int_equal(node->failures, 0);
}

/* Goal: (C3), (C4). Five writes fail in the leader while followers may have
 * stored the entries; libraft alone would reuse their indexes, or crash. */
static void failed_log_writes_fail_the_instance(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposals[5];
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    cluster_commit(&cluster, 1);
    unsigned leader = cluster_await_leader(&cluster);
    replace_append(&cluster, leader, append_held);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(cluster_propose(&cluster, leader, 2 + i, &proposals[i]), 0);
    assert_int_equal(disk.held, 5);
    cluster.nodes[leader].c->inner->append = disk.real;
    for (unsigned i = 0; i < 5; i++)
        disk.hold[i].req->cb(disk.hold[i].req, RAFT_IOERR);
    check_failed_node(&cluster, leader, proposals, 5);
    cluster_teardown(&cluster);
}

/* Goal: the same when the backend refuses at once: the submit has succeeded, so
 * it completes later, once, as unknown. */
static void refused_log_write_fails_the_instance(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposals[2];
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    cluster_commit(&cluster, 1);
    unsigned leader = cluster_await_leader(&cluster);
    replace_append(&cluster, leader, append_refused);
    assert_int_equal(cluster_propose(&cluster, leader, 2, &proposals[0]), 0);
    assert_int_equal(cluster_propose(&cluster, leader, 3, &proposals[1]), -ESHUTDOWN);
    assert_int_equal(proposals[1].calls, 0);
    check_failed_node(&cluster, leader, proposals, 1);
    cluster_teardown(&cluster);
}

/* Goal: a follower with a failed disk falls silent; the other two carry on. */
static void follower_disk_failure_is_contained(void **state)
{
    struct cluster cluster;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    cluster_commit(&cluster, 1);
    unsigned leader = cluster_await_leader(&cluster);
    unsigned follower = (leader + 1) % 3;
    replace_append(&cluster, follower, append_refused);
    cluster_commit(&cluster, 2);
    check_failed_node(&cluster, follower, NULL, 0);
    cluster_teardown(&cluster);
}

static bool is_answered(struct cluster *cluster, void *arg)
{
    (void)cluster;
    return ((struct cluster_proposal *)arg)->calls > 0;
}

/* Goal: a leader whose log write takes several election timeouts stays leader,
 * and the entry is committed in the end. */
static void slow_log_write_is_waited_for(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposals[3];
    struct consensus_stats stats;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    cluster_commit(&cluster, 1);
    unsigned leader = cluster_await_leader(&cluster);
    uint64_t term = consensus_term(cluster.nodes[leader].c);
    replace_append(&cluster, leader, append_delayed);
    disk.delay_ms = 1500;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(cluster_propose(&cluster, leader, 2 + i, &proposals[i]), 0);
    cluster.nodes[leader].c->inner->append = disk.real;
    cluster_await(&cluster, is_answered, &proposals[2], "the slow write");
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(proposals[i].rc, 0);
    assert_true(consensus_is_leader(cluster.nodes[leader].c));
    assert_int_equal(consensus_term(cluster.nodes[leader].c), term);
    consensus_stats_get(cluster.nodes[leader].c, &stats);
    assert_true(stats.append_ms_max >= 1000);
    cluster_await_version(&cluster, 4);
    cluster_assert_same(&cluster, 4);
    cluster_teardown(&cluster);
}

static bool votes_withheld(struct cluster *cluster, void *arg)
{
    struct consensus_stats stats;
    consensus_stats_get(cluster->nodes[*(unsigned *)arg].c, &stats);
    return stats.votes_withheld >= 5;
}

static bool probation_over(struct cluster *cluster, void *arg)
{
    struct consensus_stats stats;
    consensus_stats_get(cluster->nodes[*(unsigned *)arg].c, &stats);
    return !stats.on_probation;
}

/* Goal: (C2). Entries 2..10 are on A and B only. B loses its directory; without
 * A, B and C are a majority that never heard of them: they must not elect. */
static void wiped_voter_does_not_vote(void **state)
{
    struct cluster cluster;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    cluster_commit(&cluster, 1);
    cluster_await_version(&cluster, 1);
    unsigned a = cluster_await_leader(&cluster);
    unsigned b = (a + 1) % 3;
    unsigned c = (a + 2) % 3;
    cluster_stop(&cluster, c);
    for (uint64_t value = 2; value <= 10; value++)
        cluster_commit(&cluster, value);
    cluster_stop(&cluster, b);
    cluster_stop(&cluster, a);
    cluster_wipe(&cluster, b);
    assert_int_equal(cluster_open(&cluster, b, false), -ENODATA);
    cluster_boot(&cluster, b); /* the operator insists */
    cluster_boot(&cluster, c);
    cluster_await(&cluster, votes_withheld, &b, "withheld votes");
    assert_false(consensus_is_leader(cluster.nodes[b].c));
    assert_false(consensus_is_leader(cluster.nodes[c].c));
    cluster_boot(&cluster, a);
    cluster_await_version(&cluster, 10);
    cluster_assert_same(&cluster, 10);
    cluster_await(&cluster, probation_over, &b, "the end of the probation");
    /* Now B counts: with C gone for good it elects with A. */
    cluster_stop(&cluster, c);
    cluster_commit(&cluster, 11);
    /* And the marker is gone: a restart does not bring the probation back. */
    cluster_stop(&cluster, b);
    cluster_boot(&cluster, b);
    assert_true(probation_over(&cluster, &b));
    cluster_commit(&cluster, 12);
    cluster_teardown(&cluster);
}

/* Goal: every wrong directory, config and port is refused with its own errno. */
static void open_refuses(void **state)
{
    struct cluster cluster;
    char path[PATH_MAX + 64];
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    assert_int_equal(cluster_open(&cluster, 0, false), -ENODATA);
    cluster.config.heartbeat_ms = 200;
    assert_int_equal(cluster_open(&cluster, 0, true), -EINVAL);
    cluster.config.heartbeat_ms = 0;
    cluster.config.segment_bytes = 1000;
    assert_int_equal(cluster_open(&cluster, 0, true), -EINVAL);
    cluster.config.segment_bytes = 0;
    cluster.config.bind_address = "nonsense";
    assert_int_equal(cluster_open(&cluster, 0, true), -EINVAL);
    cluster.config.bind_address = NULL;
    cluster.n = 2;
    assert_int_equal(cluster_open(&cluster, 0, true), -EINVAL);
    cluster.n = 3;

    assert_int_equal(cluster_open(&cluster, 0, true), 0);
    struct consensus *first = cluster.nodes[0].c;
    cluster.nodes[0].c = NULL;
    assert_int_equal(cluster_open(&cluster, 0, true), -EBUSY);
    cluster.nodes[0].c = first;
    assert_int_equal(consensus_start(first), 0);

    cluster.config.bind_address = cluster.nodes[0].address;
    assert_int_equal(cluster_open(&cluster, 1, true), 0);
    assert_int_equal(consensus_start(cluster.nodes[1].c), -EADDRINUSE);
    cluster.config.bind_address = NULL;
    cluster_stop(&cluster, 1);
    cluster_stop(&cluster, 0);

    cluster.nodes[2].id = 77; /* another voter set */
    assert_int_equal(cluster_open(&cluster, 0, true), 0);
    assert_int_equal(consensus_start(cluster.nodes[0].c), -ESTALE);
    cluster_stop(&cluster, 0);
    cluster.nodes[2].id = 12;

    snprintf(path, sizeof(path), "%s/raft/metadata1", cluster.nodes[1].dir);
    assert_int_equal(unlink(path), 0); /* the log lost, the marker not */
    path[strlen(path) - 1] = '2';
    (void)unlink(path);
    assert_int_equal(cluster_open(&cluster, 1, true), -ENODATA);
    cluster_teardown(&cluster);
}

/* Goal: a crash within the bootstrap is mended. Method: leave rubbish in raft/
 * and no marker. */
static void half_bootstrap_is_swept(void **state)
{
    struct cluster cluster;
    char path[PATH_MAX + 64];
    (void)state;
    cluster_setup(&cluster, 1, "/tmp");
    snprintf(path, sizeof(path), "%s/raft", cluster.nodes[0].dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/raft/metadata1", cluster.nodes[0].dir);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "rubbish", 7), 7);
    close(fd);
    cluster_boot(&cluster, 0);
    cluster_commit(&cluster, 1);
    cluster_teardown(&cluster);
}

/* Flips a byte in the middle of the first closed segment after the bootstrap's;
 * false if there is none. */
static bool corrupt_closed_segment(const char *node_dir)
{
    char path[PATH_MAX * 2];
    unsigned long first = 0;
    unsigned long last = 0;
    bool found = false;
    snprintf(path, sizeof(path), "%s/raft", node_dir);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (const struct dirent *entry = readdir(dir); entry != NULL && !found; entry = readdir(dir)) {
        if (sscanf(entry->d_name, "%lu-%lu", &first, &last) != 2 || first < 2)
            continue;
        snprintf(path, sizeof(path), "%s/raft/%s", node_dir, entry->d_name);
        found = true;
    }
    closedir(dir);
    if (!found)
        return false;
    unsigned char byte = 0;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, 200), 1);
    byte ^= 0x5a;
    assert_int_equal(pwrite(fd, &byte, 1, 200), 1);
    close(fd);
    return true;
}

/* Goal: acknowledged entries that rotted are not "recovered" away. */
static void corrupt_log_is_refused(void **state)
{
    struct cluster cluster;
    (void)state;
    cluster_setup(&cluster, 1, "/tmp");
    cluster.config.segment_bytes = 8192;
    cluster_boot(&cluster, 0);
    for (uint64_t value = 1; value <= 400; value++)
        cluster_commit(&cluster, value);
    cluster_stop(&cluster, 0);
    assert_true(corrupt_closed_segment(cluster.nodes[0].dir));
    cluster.library_leaks = true;
    assert_int_equal(cluster_open(&cluster, 0, false), 0);
    assert_int_equal(consensus_start(cluster.nodes[0].c), -EBADMSG);
    cluster_teardown(&cluster);
}

/* Goal: the survivor of a lost majority can be made to go on, by force only. */
static void force_voters_saves_the_survivor(void **state)
{
    struct cluster cluster;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    for (uint64_t value = 1; value <= 10; value++)
        cluster_commit(&cluster, value);
    cluster_await_version(&cluster, 10);
    for (unsigned i = 0; i < 3; i++)
        cluster_stop(&cluster, i);
    cluster.n = 1;
    assert_int_equal(cluster_open(&cluster, 0, false), 0);
    assert_int_equal(consensus_start(cluster.nodes[0].c), -ESTALE);
    cluster_stop(&cluster, 0);
    cluster.config.force_voters = true;
    assert_int_equal(cluster_open(&cluster, 0, false), 0);
    assert_int_equal(consensus_start(cluster.nodes[0].c), 0);
    cluster_commit(&cluster, 11);
    cluster_stop(&cluster, 0);
    cluster.config.force_voters = false;
    cluster_boot(&cluster, 0);
    cluster_await_version(&cluster, 11);
    cluster_assert_same(&cluster, 11);
    cluster.n = 3;
    cluster_teardown(&cluster);
}

/* Goal: at the bound of the heap a proposal is refused, and that is all. */
static void full_heap_refuses_a_proposal(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposal;
    static unsigned char big[CONSENSUS_ENTRY_BYTES_MAX + 1];
    (void)state;
    cluster_setup(&cluster, 1, "/tmp");
    cluster_boot_all(&cluster);
    cluster_commit(&cluster, 1);
    assert_true(consensus_heap_used() > 0);
    consensus_heap_set_max(consensus_heap_used() + 64);
    assert_int_equal(cluster_propose(&cluster, 0, 2, &proposal), -ENOMEM);
    consensus_heap_set_max(CONSENSUS_HEAP_BYTES_MAX);
    assert_int_equal(proposal.calls, 0);
    assert_int_equal(consensus_propose(cluster.nodes[0].c, big, sizeof(big), &proposal.req, (void *)abort), -EMSGSIZE);
    assert_int_equal(consensus_propose(cluster.nodes[0].c, big, 0, &proposal.req, (void *)abort), -EINVAL);
    cluster_commit(&cluster, 2);
    cluster_assert_same(&cluster, 2);
    cluster_teardown(&cluster);
}

static int connect_stranger(const char *address)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sin.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    return fd;
}

/* Goal: strangers neither get in nor in the way: silent ones, garbage, a
 * handshake for another cluster, more than may be undecided at once. */
static void strangers_are_dropped(void **state)
{
    struct cluster cluster;
    int fds[48];
    unsigned char garbage[64];
    (void)state;
    memset(garbage, 0xff, sizeof(garbage));
    cluster_setup(&cluster, 3, "/tmp");
    for (unsigned i = 0; i < 3; i++)
        cluster_boot(&cluster, i);
    for (unsigned i = 0; i < 48; i++) {
        fds[i] = connect_stranger(cluster.nodes[i % 3].address);
        if (i % 2 == 0)
            (void)!write(fds[i], garbage, sizeof(garbage));
        if (i % 8 == 7)
            memcpy(garbage, "ASHRAFT1\x0b\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0", 24);
    }
    for (uint64_t value = 1; value <= 20; value++)
        cluster_commit(&cluster, value);
    cluster_await_version(&cluster, 20);
    for (unsigned i = 0; i < 48; i++)
        close(fds[i]);
    cluster_assert_same(&cluster, 20);
    cluster_teardown(&cluster);
}

/* The child: commits and reports until it is killed. */
static void commit_until_killed(struct cluster *cluster, int report_fd)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* a failure here must not return to the runner */
    assert_int_equal(uv_loop_fork(&cluster->loop), 0);
    cluster_boot(cluster, 0);
    cluster_await_leader(cluster);
    uint64_t value = consensus_version(cluster->nodes[0].c);
    for (;;) {
        cluster_commit(cluster, ++value);
        assert_int_equal(write(report_fd, &value, sizeof(value)), sizeof(value));
    }
}

/* Goal: what was reported as committed survives the death of the process at any
 * moment, half-written segment or not. Method: SIGKILL, five times. */
static void killed_process_keeps_its_commits(void **state)
{
    struct cluster cluster;
    uint64_t reported = 0;
    uint64_t value = 0;
    (void)state;
    cluster_setup(&cluster, 1, "/tmp");
    cluster.config.segment_bytes = 8192;
    cluster.config.snapshot_threshold = 64;
    cluster.config.snapshot_trailing = 8;
    for (unsigned round = 0; round < 5; round++) {
        int fds[2];
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            commit_until_killed(&cluster, fds[1]);
            _exit(1);
        }
        close(fds[1]);
        for (unsigned i = 0; i < 70 + round; i++)
            assert_int_equal(read(fds[0], &reported, sizeof(reported)), sizeof(reported));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(fds[0], &value, sizeof(value)) == sizeof(value))
            reported = value;
        close(fds[0]);
        cluster_boot(&cluster, 0);
        cluster_await_leader(&cluster);
        value = consensus_version(cluster.nodes[0].c);
        assert_true(value == reported || value == reported + 1);
        cluster_assert_same(&cluster, value);
        cluster_stop(&cluster, 0);
    }
    cluster_teardown(&cluster);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failed_log_writes_fail_the_instance),
        cmocka_unit_test(refused_log_write_fails_the_instance),
        cmocka_unit_test(follower_disk_failure_is_contained),
        cmocka_unit_test(slow_log_write_is_waited_for),
        cmocka_unit_test(wiped_voter_does_not_vote),
        cmocka_unit_test(open_refuses),
        cmocka_unit_test(half_bootstrap_is_swept),
        cmocka_unit_test(corrupt_log_is_refused),
        cmocka_unit_test(killed_process_keeps_its_commits),
        cmocka_unit_test(force_voters_saves_the_survivor),
        cmocka_unit_test(full_heap_refuses_a_proposal),
        cmocka_unit_test(strangers_are_dropped),
    };
    return cmocka_run_group_tests_name("consensus_faults", tests, NULL, NULL);
}
