/* SPDX-License-Identifier: Apache-2.0 */
/* What a daemon remembers beside its store. Method: each case has a directory of its own; reboots are played by changing the
 * boot id in the file. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/daemon/node_state.h"

static const struct store_identity identity = {.uuid = {1, 2, 3}, .cluster_id = 5, .node = 1};

static int make_directory(void **state)
{
    static char directory[64];
    char control[NODE_STATE_PATH_MAX];
    (void)snprintf(directory, sizeof(directory), "/tmp/node-state-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    assert_int_equal(node_state_make(directory, control), 0);
    assert_int_equal(access(control, W_OK), 0);
    assert_int_equal(node_state_make(directory, control), 0); /* again */
    *state = directory;
    return 0;
}

static int remove_directory(void **state)
{
    static const char *const names[] = {"registered", "voter", "control/map", "control", "."};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", (const char *)*state, names[i]);
        if (remove(path) < 0)
            assert_true(errno == ENOENT || strcmp(names[i], ".") == 0);
    }
    return rmdir(*state);
}

static void write_registered(const char *directory, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/registered", directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

static enum map_stop stop_of(const char *directory, const struct store_identity *of, enum store_stop stop)
{
    enum map_stop result = (enum map_stop)99;
    assert_int_equal(node_state_last_stop(directory, of, stop, &result), 0);
    return result;
}

/* Goal: a store that never registered is a new one, whatever it says itself. */
static void never_registered_is_empty(void **state)
{
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_CLEAN), MAP_STOP_EMPTY);
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_REBOOTED), MAP_STOP_EMPTY);
}

/* Goal: after a registration the store's word counts, in the same boot. */
static void registered_in_this_boot(void **state)
{
    assert_int_equal(node_state_registered(*state, &identity), 0);
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_CLEAN), MAP_STOP_CLEAN);
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_SAME_BOOT), MAP_STOP_SAME_BOOT);
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_REBOOTED), MAP_STOP_REBOOTED);
}

/* Goal (R1, R13): a reboot is not forgotten because a life that never registered came after it: the store then says "same boot",
 * and unflushed data may be gone all the same. */
static void a_reboot_before_a_life_that_never_registered_counts(void **state)
{
    write_registered(*state, "01020300000000000000000000000000 another-boot-id\n");
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_SAME_BOOT), MAP_STOP_REBOOTED);
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_CLEAN), MAP_STOP_CLEAN);
    assert_int_equal(node_state_registered(*state, &identity), 0);
    assert_int_equal(stop_of(*state, &identity, STORE_STOP_SAME_BOOT), MAP_STOP_SAME_BOOT);
}

/* Goal: a store formatted anew is empty, though the directory was used before. */
static void another_store_is_empty(void **state)
{
    struct store_identity other = identity;
    other.uuid[0] = 9;
    assert_int_equal(node_state_registered(*state, &identity), 0);
    assert_int_equal(stop_of(*state, &other, STORE_STOP_CLEAN), MAP_STOP_EMPTY);
}

/* Goal: a damaged record is the careful answer, never a crash. */
static void damaged_record_is_empty(void **state)
{
    static const char *const damaged[] = {"", "\n", "01020300",
                                          "garbage garbage garbage garbage garbage garbage garbage",
                                          "010203000000000000000000000000000"};
    for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        write_registered(*state, damaged[i]);
        assert_int_equal(stop_of(*state, &identity, STORE_STOP_SAME_BOOT), MAP_STOP_EMPTY);
    }
}

static void voter_is_remembered(void **state)
{
    assert_false(node_state_is_voter(*state));
    assert_int_equal(node_state_set_voter(*state), 0);
    assert_true(node_state_is_voter(*state));
    assert_int_equal(node_state_set_voter(*state), 0);
}

static void map_is_kept(void **state)
{
    void *bytes = NULL;
    size_t len = 7;
    assert_int_equal(node_state_load_map(*state, &bytes, &len), -ENOENT);
    assert_null(bytes);
    assert_int_equal(len, 7);
    assert_int_equal(node_state_save_map(*state, "older", 5), 0);
    assert_int_equal(node_state_save_map(*state, "new", 3), 0);
    assert_int_equal(node_state_load_map(*state, &bytes, &len), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(bytes, "new", 3);
    free(bytes);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        CASE(never_registered_is_empty),
        CASE(registered_in_this_boot),
        CASE(a_reboot_before_a_life_that_never_registered_counts),
        CASE(another_store_is_empty),
        CASE(damaged_record_is_empty),
        CASE(voter_is_remembered),
        CASE(map_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
