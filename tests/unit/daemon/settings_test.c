/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration of a daemon may say, and what must hold as a whole. Method: files written for each case. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/daemon/settings.h"

static const char good[] = "[cluster]\nname = c\nvoter[] = 1@127.0.0.1:7102,127.0.0.1:7101\n"
                           "[node]\nid = 1\n[store]\npath = /s\n";

static int load(struct settings *settings, const char *text, const char *more, const char *flag, char *error)
{
    char path[] = "/tmp/settings-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(write(fd, more, strlen(more)), (ssize_t)strlen(more));
    assert_int_equal(close(fd), 0);
    const char *assignments[] = {flag};
    int rc = settings_load(settings, path, assignments, flag ? 1 : 0, error);
    assert_int_equal(unlink(path), 0);
    return rc;
}

/* Goal: a small file is enough; the rest has defaults. */
static void defaults(void **state)
{
    struct settings settings;
    char error[CONFIG_ERROR_MAX] = "";
    (void)state;
    assert_int_equal(load(&settings, good, "", NULL, error), 0);
    assert_int_equal(settings.node, 1);
    assert_int_equal(settings.voter_count, 1);
    assert_string_equal(settings.voters[0].raft, "127.0.0.1:7102");
    assert_string_equal(settings.voters[0].control, "127.0.0.1:7101");
    assert_string_equal(settings.raft, "127.0.0.1:7102"); /* from the voter's own line */
    assert_ptr_equal(settings_own_voter(&settings), &settings.voters[0]);
    assert_int_equal(settings.shard_bytes, 1u << 30);
    assert_int_equal(settings.log_level, LOG_INFO);
    assert_string_not_equal(settings.host, "");
    assert_int_equal(settings.cluster_id, settings_cluster_id("c"));
}

/* Goal: a flag wins over the file. */
static void flag_wins(void **state)
{
    struct settings settings;
    char error[CONFIG_ERROR_MAX] = "";
    (void)state;
    assert_int_equal(load(&settings, good, "[log]\nlevel = error\n", "log.level=debug", error), 0);
    assert_int_equal(settings.log_level, LOG_DEBUG);
}

/* Goal: a node that is no voter knows it. */
static void not_a_voter(void **state)
{
    struct settings settings;
    char error[CONFIG_ERROR_MAX] = "";
    (void)state;
    assert_int_equal(load(&settings, good, "", "node.id=7", error), 0);
    assert_null(settings_own_voter(&settings));
    assert_string_equal(settings.raft, "");
}

/* Goal: times that cannot be safe are refused (R10). */
static void unsafe_times(void **state)
{
    struct settings settings;
    char error[CONFIG_ERROR_MAX] = "";
    (void)state;
    assert_int_not_equal(load(&settings, good, "", "cluster.lease=1200ms", error), 0);
    assert_non_null(strstr(error, "node_timeout"));
    assert_int_not_equal(load(&settings, good, "", "cluster.heartbeat=450ms", error), 0);
    assert_int_equal(load(&settings, good, "", "cluster.heartbeat=449ms", error), 0);
}

/* Goal: clients' settings may be in the same file. */
static void client_section_is_ignored(void **state)
{
    struct settings settings;
    char error[CONFIG_ERROR_MAX] = "";
    (void)state;
    assert_int_equal(load(&settings, good, "[client]\naddresses = unix:/x\nwhat = ever\n", NULL, error), 0);
    assert_int_not_equal(load(&settings, good, "[clients]\nx = y\n", NULL, error), 0);
}

/* Goal: addresses are HOST:PORT, the host of IPv6 in brackets. */
static void addresses(void **state)
{
    static const char *const bad[] = {"",     ":",    "a",        "a:",    ":1",        "a:0",  "a:65536",
                                      "a:1x", "a:-1", "::1:7100", "a:b:1", "[::1:7100", "a: 1", "a:000001"};
    size_t host_bytes = 99;
    uint16_t port = 99;
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_not_equal(settings_split_address(bad[i], &host_bytes, &port), 0);
        assert_int_equal(host_bytes, 99); /* untouched on failure */
    }
    assert_int_equal(settings_split_address("[::1]:7100", &host_bytes, &port), 0);
    assert_int_equal(host_bytes, 5);
    assert_int_equal(port, 7100);
    assert_int_equal(settings_split_address("host.name:65535", &host_bytes, &port), 0);
    assert_int_equal(port, 65535);
}

/* Goal: others are told where to reach a node that listens everywhere. */
static void advertised(void **state)
{
    struct settings settings;
    char error[CONFIG_ERROR_MAX] = "", address[64];
    (void)state;
    assert_int_equal(load(&settings, good, "", NULL, error), 0);
    assert_int_equal(settings_advertised(&settings, "0.0.0.0:7100", address, sizeof(address)), 0);
    assert_string_equal(address, "tcp:0.0.0.0:7100");
    assert_int_equal(load(&settings, good, "", "node.advertise=10.0.0.1", error), 0);
    assert_int_equal(settings_advertised(&settings, "0.0.0.0:7100", address, sizeof(address)), 0);
    assert_string_equal(address, "tcp:10.0.0.1:7100");
    assert_int_not_equal(settings_advertised(&settings, "0.0.0.0:7100", address, 10), 0);
}

/* Goal: clusters of different names do not mix. */
static void cluster_ids_differ(void **state)
{
    (void)state;
    assert_int_not_equal(settings_cluster_id("a"), settings_cluster_id("b"));
    assert_int_not_equal(settings_cluster_id("ab"), settings_cluster_id("ba"));
    assert_int_equal(settings_cluster_id("same"), settings_cluster_id("same"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(flag_wins),
        cmocka_unit_test(not_a_voter),
        cmocka_unit_test(unsafe_times),
        cmocka_unit_test(client_section_is_ignored),
        cmocka_unit_test(addresses),
        cmocka_unit_test(advertised),
        cmocka_unit_test(cluster_ids_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
