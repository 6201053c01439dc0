/* SPDX-License-Identifier: Apache-2.0 */
/* transport: the conformance suite of common/transport.h: every case on every kind of transport.
 * Method: see rig.h; each case ends with nothing left open. Usage: transport_test [FILTER] (a pattern of cmocka's). */
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "tests/unit/transport/rig.h"

static const struct rig_kind kinds[] = {
    {"tcp_ring", RIG_RING, RIG_RING, "tcp:127.0.0.1:0"},
    {"unix_ring", RIG_RING, RIG_RING, NULL},
    {"tcp_uv", RIG_UV, RIG_UV, "tcp:127.0.0.1:0"},
    {"unix_uv", RIG_UV, RIG_UV, NULL},
    {"unix_uv_to_ring", RIG_UV, RIG_RING, NULL},
    {"tcp_ring_to_uv", RIG_RING, RIG_UV, "tcp:127.0.0.1:0"},
    {"sim", RIG_SIM, RIG_SIM, NULL},
    /* where $ASHLAR_TEST_RDMA names two addresses: in the guests of tests/vm, and on real devices */
    {"rdma", RIG_RDMA, RIG_RDMA, NULL},
    {"rdma_plain", RIG_RDMA_PLAIN, RIG_RDMA_PLAIN, NULL},
    {"rdma_mixed", RIG_RDMA, RIG_RDMA_PLAIN, NULL},
    {"rdma_spin", RIG_RDMA_SPIN, RIG_RDMA_SPIN, NULL},
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))
#define CASES_MAX 64u

struct run {
    const struct rig_kind *kind;
    const struct rig_case *rig_case;
    char name[120];
};

static void run_case(void **state)
{
    const struct run *run = *state;
    const struct rig_case *rig_case = run->rig_case;
    struct rig *rig = rig_open(run->kind, rig_case->bufs_bytes ? rig_case->bufs_bytes : RIG_BUFS_BYTES);
    rig_case->run(rig);
    rig_close(rig);
}

static struct run runs[KIND_COUNT * CASES_MAX];
static struct CMUnitTest tests[KIND_COUNT * CASES_MAX];
static unsigned run_count;

static void add_cases(const struct rig_kind *kind, const struct rig_case *cases, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (cases[i].raw_only && kind->connector >= RIG_SIM)
            continue;
        struct run *run = &runs[run_count];
        run->kind = kind;
        run->rig_case = &cases[i];
        (void)snprintf(run->name, sizeof(run->name), "%s/%s", kind->name, cases[i].name);
        tests[run_count++] = (struct CMUnitTest){.name = run->name, .test_func = run_case, .initial_state = run};
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const char *level = getenv("ASHLAR_TEST_LOG");
    log_init(level ? LOG_DEBUG : LOG_ERROR, NULL);
    char hosts[2][64];
    bool rdma = rig_rdma_hosts(hosts[0], hosts[1]);
    for (unsigned i = 0; i < KIND_COUNT; i++) {
        if (kinds[i].connector >= RIG_RDMA && !rdma)
            continue;
        add_cases(&kinds[i], traffic_cases, traffic_case_count);
        add_cases(&kinds[i], life_cases, life_case_count);
        add_cases(&kinds[i], hostile_cases, hostile_case_count);
#if ASHLAR_HAVE_RDMA
        if (kinds[i].connector == RIG_RDMA && kinds[i].acceptor == RIG_RDMA)
            add_cases(&kinds[i], rdma_cases, rdma_case_count);
        if (kinds[i].connector >= RIG_RDMA && kinds[i].connector == kinds[i].acceptor)
            add_cases(&kinds[i], spin_cases, spin_case_count);
#endif
    }
    return _cmocka_run_group_tests("transport", tests, run_count, NULL, NULL);
}
