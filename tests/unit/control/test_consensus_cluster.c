/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fixture of the consensus tests; see its header.
 *
 * The happy path: setup reserves ports and makes directories, boot opens and
 * starts nodes, await turns the loop, teardown closes and looks for leftovers.
 *
 * Failure modes: every one fails the test that is running.
 */
#include "tests/unit/control/test_consensus_cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void node_apply(void *arg, uint64_t version, const void *entry, size_t len)
{
    struct cluster_node *node = arg;
    assert_int_equal(version, node->version + 1); /* (C5) */
    assert_true(version <= CLUSTER_ENTRIES_MAX);
    assert_true(len >= sizeof(uint64_t));
    memcpy(&node->entries[version - 1], entry, sizeof(uint64_t));
    node->version = version;
    node->applies++;
}

static int node_snapshot(void *arg, void **ret_bytes, size_t *ret_len)
{
    const struct cluster_node *node = arg;
    size_t len = node->version * sizeof(uint64_t);
    void *bytes = malloc(len > 0 ? len : 1);
    assert_non_null(bytes);
    memcpy(bytes, node->entries, len);
    *ret_bytes = bytes;
    *ret_len = len;
    return 0;
}

static int node_restore(void *arg, const void *bytes, size_t len, uint64_t version)
{
    struct cluster_node *node = arg;
    assert_int_equal(len, version * sizeof(uint64_t));
    assert_true(version <= CLUSTER_ENTRIES_MAX);
    memcpy(node->entries, bytes, len);
    node->version = version;
    return 0;
}

static void node_role_changed(void *arg, bool is_leader, uint64_t leader_id, const char *address)
{
    struct cluster_node *node = arg;
    assert_true((leader_id == 0) == (address == NULL));
    assert_true(!is_leader || leader_id == node->id);
    assert_false(is_leader == node->is_leader && leader_id == node->leader_id);
    node->is_leader = is_leader;
    node->leader_id = leader_id;
}

static void node_failed(void *arg, int rc)
{
    struct cluster_node *node = arg;
    assert_true(rc < 0);
    node->failures++;
}

static void node_closed(void *arg)
{
    struct cluster_node *node = arg;
    node->closed = true;
    node->c = NULL;
}

static void node_log(void *arg, enum consensus_log_level level, const char *message)
{
    const struct cluster *cluster = arg;
    if (getenv("CONSENSUS_TEST_LOG") != NULL)
        fprintf(stderr, "%10.3f %d %s\n", (double)uv_now(&cluster->loop) / 1000.0, (int)level, message);
}

/* The socket is bound, never listens: with SO_REUSEADDR the node's listener may
 * share the port, but the kernel gives it to nobody else. */
static int reserve_port(char address[64])
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sin);
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
    snprintf(address, 64, "127.0.0.1:%u", ntohs(sin.sin_port));
    return fd;
}

void cluster_setup(struct cluster *cluster, unsigned n, const char *base_dir)
{
    assert_true(n <= CLUSTER_NODES_MAX);
    signal(SIGPIPE, SIG_IGN);
    memset(cluster, 0, sizeof(*cluster));
    assert_int_equal(uv_loop_init(&cluster->loop), 0);
    assert_int_equal(uv_timer_init(&cluster->loop, &cluster->deadline), 0);
    cluster->deadline.data = cluster;
    snprintf(cluster->dir, sizeof(cluster->dir), "%s/ashlar-consensus-XXXXXX", base_dir);
    assert_non_null(mkdtemp(cluster->dir));
    cluster->n = n;
    cluster->heap_used = consensus_heap_used();
    for (unsigned i = 0; i < n; i++) {
        struct cluster_node *node = &cluster->nodes[i];
        node->cluster = cluster;
        node->id = 10 + i;
        int len = snprintf(node->dir, sizeof(node->dir), "%s/%u", cluster->dir, i);
        assert_true(len > 0 && (size_t)len < sizeof(node->dir));
        assert_int_equal(mkdir(node->dir, 0700), 0);
        node->port_fd = reserve_port(node->address);
    }
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    return ftw->level == 0 ? 0 : remove(path);
}

static void count_handle(uv_handle_t *handle, void *arg)
{
    if (!uv_is_closing(handle))
        (*(unsigned *)arg)++;
}

void cluster_teardown(struct cluster *cluster)
{
    unsigned handles = 0;
    for (unsigned i = 0; i < cluster->n; i++) {
        cluster_stop(cluster, i);
        close(cluster->nodes[i].port_fd);
    }
    uv_walk(&cluster->loop, count_handle, &handles);
    assert_int_equal(handles, 1); /* the fixture's own timer */
    uv_close((uv_handle_t *)&cluster->deadline, NULL);
    while (uv_run(&cluster->loop, UV_RUN_DEFAULT) != 0) {}
    assert_int_equal(uv_loop_close(&cluster->loop), 0);
    if (!cluster->library_leaks)
        assert_int_equal(consensus_heap_used(), cluster->heap_used);
    assert_int_equal(nftw(cluster->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
    assert_int_equal(rmdir(cluster->dir), 0);
}

int cluster_open(struct cluster *cluster, unsigned i, bool may_bootstrap)
{
    struct cluster_node *node = &cluster->nodes[i];
    struct consensus_voter voters[CLUSTER_NODES_MAX];
    struct consensus_config config = cluster->config;
    const struct consensus_callbacks callbacks = {
        .apply = node_apply,
        .snapshot = node_snapshot,
        .restore = node_restore,
        .role_changed = node_role_changed,
        .failed = node_failed,
        .arg = node,
    };
    assert_null(node->c);
    /* Each voter lists them in another order: it must not matter. */
    for (unsigned k = 0; k < cluster->n; k++) {
        const struct cluster_node *other = &cluster->nodes[(k + i) % cluster->n];
        voters[k] = (struct consensus_voter){.id = other->id, .address = other->address};
    }
    config.id = node->id;
    config.voters = voters;
    config.voters_count = cluster->n;
    config.dir = node->dir;
    config.may_bootstrap = may_bootstrap;
    config.log = node_log;
    config.log_arg = cluster;
    node->version = 0;
    node->applies = 0;
    node->failures = 0;
    node->is_leader = false;
    node->leader_id = 0;
    node->closed = false;
    return consensus_open(&config, &cluster->loop, &callbacks, &node->c);
}

void cluster_boot(struct cluster *cluster, unsigned i)
{
    char marker[PATH_MAX + 16];
    snprintf(marker, sizeof(marker), "%s/bootstrapped", cluster->nodes[i].dir);
    assert_int_equal(cluster_open(cluster, i, access(marker, F_OK) != 0), 0);
    assert_int_equal(consensus_start(cluster->nodes[i].c), 0);
}

void cluster_boot_all(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->n; i++)
        cluster_boot(cluster, i);
}

static bool is_closed(struct cluster *cluster, void *arg)
{
    (void)cluster;
    return ((struct cluster_node *)arg)->closed;
}

void cluster_stop(struct cluster *cluster, unsigned i)
{
    struct cluster_node *node = &cluster->nodes[i];
    if (node->c == NULL)
        return;
    consensus_close(node->c, node_closed, node);
    cluster_await(cluster, is_closed, node, "close");
}

void cluster_wipe(struct cluster *cluster, unsigned i)
{
    assert_null(cluster->nodes[i].c);
    assert_int_equal(nftw(cluster->nodes[i].dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void on_deadline(uv_timer_t *timer)
{
    ((struct cluster *)timer->data)->timed_out = true;
}

void cluster_await(struct cluster *cluster, cluster_condition condition, void *arg, const char *what)
{
    cluster->timed_out = false;
    uv_update_time(&cluster->loop);
    assert_int_equal(uv_timer_start(&cluster->deadline, on_deadline, CLUSTER_DEADLINE_MS, 0), 0);
    while (!condition(cluster, arg)) {
        uv_run(&cluster->loop, UV_RUN_ONCE);
        if (cluster->timed_out)
            fail_msg("timed out waiting for %s", what);
    }
    uv_timer_stop(&cluster->deadline);
}

static bool has_leader(struct cluster *cluster, void *arg)
{
    unsigned *ret = arg;
    *ret = CLUSTER_NODES_MAX;
    for (unsigned i = 0; i < cluster->n; i++)
        if (cluster->nodes[i].c != NULL && consensus_is_leader(cluster->nodes[i].c))
            *ret = i;
    if (*ret == CLUSTER_NODES_MAX)
        return false;
    for (unsigned i = 0; i < cluster->n; i++) {
        const struct cluster_node *node = &cluster->nodes[i];
        if (node->c != NULL && node->leader_id != cluster->nodes[*ret].id)
            return false;
    }
    return true;
}

unsigned cluster_await_leader(struct cluster *cluster)
{
    unsigned leader = CLUSTER_NODES_MAX;
    cluster_await(cluster, has_leader, &leader, "a leader");
    return leader;
}

static bool has_version(struct cluster *cluster, void *arg)
{
    for (unsigned i = 0; i < cluster->n; i++)
        if (cluster->nodes[i].c != NULL && consensus_version(cluster->nodes[i].c) < *(uint64_t *)arg)
            return false;
    return true;
}

void cluster_await_version(struct cluster *cluster, uint64_t version)
{
    cluster_await(cluster, has_version, &version, "a version");
}

static void proposed(struct consensus_propose_req *req, int rc, uint64_t version)
{
    struct cluster_proposal *proposal = (struct cluster_proposal *)req;
    proposal->calls++;
    proposal->rc = rc;
    proposal->version = version;
}

int cluster_propose(struct cluster *cluster, unsigned i, uint64_t value, struct cluster_proposal *proposal)
{
    memset(proposal, 0, sizeof(*proposal));
    int rc = consensus_propose(cluster->nodes[i].c, &value, sizeof(value), &proposal->req, proposed);
    assert_int_equal(proposal->calls, 0); /* never from inside the submit */
    return rc;
}

static bool is_called(struct cluster *cluster, void *arg)
{
    (void)cluster;
    return ((struct cluster_proposal *)arg)->calls > 0;
}

void cluster_commit(struct cluster *cluster, uint64_t value)
{
    struct cluster_proposal proposal;
    unsigned leader = cluster_await_leader(cluster);
    assert_int_equal(cluster_propose(cluster, leader, value, &proposal), 0);
    cluster_await(cluster, is_called, &proposal, "a proposal");
    assert_int_equal(proposal.calls, 1);
    assert_int_equal(proposal.rc, 0);
}

void cluster_assert_same(struct cluster *cluster, uint64_t version)
{
    for (unsigned i = 0; i < cluster->n; i++) {
        const struct cluster_node *node = &cluster->nodes[i];
        if (node->c == NULL)
            continue;
        assert_int_equal(node->version, version);
        assert_int_equal(consensus_version(node->c), version);
        for (uint64_t k = 0; k < version; k++)
            assert_int_equal(node->entries[k], k + 1);
    }
}
