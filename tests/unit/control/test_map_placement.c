/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of placement: home first, distinct hosts, racks spread, shares by free space, little movement. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "tests/unit/control/map_fixture.h"

static void add_node(struct map_fixture *f, uint32_t node, const char *host, const char *rack)
{
    struct map_entry e = map_fixture_node_entry(node, MAP_STOP_CLEAN);
    (void)snprintf(e.node_info.host, sizeof e.node_info.host, "%s", host);
    (void)snprintf(e.node_info.rack, sizeof e.node_info.rack, "%s", rack);
    assert_int_equal(map_fixture_apply(f, &e).rc, 0);
}

static void home_comes_first_and_hosts_are_distinct(void **state)
{
    (void)state;
    struct map_fixture f;
    map_fixture_init(&f);
    for (uint32_t n = 1; n <= 6; n++) { /* two daemons a host */
        char host[8];
        (void)snprintf(host, sizeof host, "h%u", (n - 1) / 2);
        add_node(&f, n, host, "");
    }
    for (uint32_t s = 0; s < 200; s++) {
        uint32_t nodes[5];
        assert_int_equal(map_place(f.map, 1, s, 3, 2, NULL, 0, NULL, 0, nodes), 3);
        assert_int_equal(nodes[0], 2);
        assert_true((nodes[1] - 1) / 2 != 0 && (nodes[2] - 1) / 2 != 0);
        assert_true((nodes[1] - 1) / 2 != (nodes[2] - 1) / 2);
        assert_int_equal(map_place(f.map, 1, s, 4, 2, NULL, 0, NULL, 0, nodes), 3); /* three hosts */
        uint32_t no = 2;
        assert_int_equal(map_place(f.map, 1, s, 2, 2, NULL, 0, &no, 1, nodes), 2);
        assert_true(nodes[0] != 2 && nodes[1] != 2);
    }
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0);
    uint32_t nodes[5];
    assert_int_equal(map_place(f.map, 1, 0, 3, 2, NULL, 0, NULL, 0, nodes), 3);
    assert_true(nodes[0] != 2 && nodes[1] != 2 && nodes[2] != 2);
    map_fixture_close(&f);
}

static void racks_are_spread_when_there_are_enough(void **state)
{
    (void)state;
    struct map_fixture f;
    map_fixture_init(&f);
    for (uint32_t n = 1; n <= 6; n++) {
        char host[8], rack[8];
        (void)snprintf(host, sizeof host, "h%u", n);
        (void)snprintf(rack, sizeof rack, "r%u", n % 2);
        add_node(&f, n, host, rack);
    }
    for (uint32_t s = 0; s < 100; s++) {
        uint32_t nodes[3];
        assert_int_equal(map_place(f.map, 9, s, 2, 0, NULL, 0, NULL, 0, nodes), 2);
        assert_true(nodes[0] % 2 != nodes[1] % 2);
        assert_int_equal(map_place(f.map, 9, s, 3, 0, NULL, 0, NULL, 0, nodes), 3); /* two racks, three copies */
    }
    map_fixture_close(&f);
}

static void shares_follow_the_free_space(void **state)
{
    (void)state;
    struct map_fixture f;
    map_fixture_init(&f);
    for (uint32_t n = 1; n <= 4; n++)
        (void)map_fixture_register(&f, n, MAP_STOP_CLEAN);
    static const struct map_weight weights[] = {{1, 1ull << 40}, {2, 2ull << 40}, {3, 4ull << 40}, {4, 1ull << 40}};
    uint32_t count[5] = {0};
    for (uint32_t s = 0; s < 8000; s++) {
        uint32_t node;
        assert_int_equal(map_place(f.map, 3, s, 1, 0, weights, 4, NULL, 0, &node), 1);
        count[node]++;
    }
    assert_in_range(count[1], 850, 1150);
    assert_in_range(count[2], 1800, 2200);
    assert_in_range(count[3], 3700, 4300);
    assert_in_range(count[4], 850, 1150);
    map_fixture_close(&f);
}

static void a_node_that_goes_moves_only_its_share(void **state)
{
    (void)state;
    struct map_fixture f;
    map_fixture_init(&f);
    for (uint32_t n = 1; n <= 5; n++)
        (void)map_fixture_register(&f, n, MAP_STOP_CLEAN);
    uint32_t before[500][2];
    for (uint32_t s = 0; s < 500; s++)
        assert_int_equal(map_place(f.map, 3, s, 2, 0, NULL, 0, NULL, 0, before[s]), 2);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 4), 0);
    for (uint32_t s = 0; s < 500; s++) {
        uint32_t after[2];
        assert_int_equal(map_place(f.map, 3, s, 2, 0, NULL, 0, NULL, 0, after), 2);
        for (uint32_t i = 0; i < 2; i++)
            assert_true(before[s][i] == 4 || before[s][i] == after[0] || before[s][i] == after[1]);
    }
    map_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(home_comes_first_and_hosts_are_distinct),
        cmocka_unit_test(racks_are_spread_when_there_are_enough),
        cmocka_unit_test(shares_follow_the_free_space),
        cmocka_unit_test(a_node_that_goes_moves_only_its_share),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
