/* SPDX-License-Identifier: Apache-2.0 */
/* store_tool: a formatted directory can be opened, an existing one is kept, a running daemon's is left alone. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/daemon/store_tool.h"
#include "server/store/superblock.h"
#include "tests/unit/store_edges/edges_fixture.h"

#define FILE_BYTES (64u << 20)
static const struct store_identity identity = {.uuid = "0123456789abcde", .cluster_id = 7, .node = 3};

static int setup(void **state)
{
    static struct edges edges;
    edges_init(&edges);
    *state = &edges;
    return 0;
}

static int teardown(void **state)
{
    edges_close(*state);
    return 0;
}

static void check_superblocks(struct edges *edges, const char *directory)
{
    char path[STORE_TOOL_PATH_MAX];
    struct drive *drive = NULL;
    struct superblock super;
    uint8_t *block = aligned_alloc(BUF_ALIGN, BUF_ALIGN);
    assert_non_null(block);
    assert_int_equal(store_tool_drive_path(directory, path), 0);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &drive), 0);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        assert_int_equal(edges_io(edges, drive, DRIVE_READ, superblock_offsets[i], BUF_ALIGN, block), 0);
        assert_int_equal(superblock_decode(block, &super), 0);
        assert_memory_equal(super.identity.uuid, identity.uuid, sizeof(identity.uuid));
        assert_int_equal(super.identity.cluster_id, 7);
        assert_int_equal(super.identity.node, 3);
        assert_int_equal(super.drive_bytes, drive->bytes);
    }
    drive_close(drive);
    free(block);
}

static void format_makes_a_store_and_keeps_an_existing_one(void **state)
{
    struct edges *edges = *state;
    char directory[256];
    struct stat st;
    edges_path(edges, "store", directory);
    struct store_tool_format format = {.directory = directory, .bytes = FILE_BYTES + 5, .identity = identity};
    assert_int_equal(store_tool_format(&format), 0);
    check_superblocks(edges, directory);
    char path[STORE_TOOL_PATH_MAX];
    assert_int_equal(store_tool_drive_path(directory, path), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, FILE_BYTES);
    assert_int_equal(store_tool_format(&format), -EEXIST);
    format.force = true;
    assert_int_equal(store_tool_format(&format), 0);
    check_superblocks(edges, directory);
    format.bytes = FILE_BYTES * 2; /* force does not resize */
    assert_int_equal(store_tool_format(&format), -EEXIST);
}

static void format_on_another_file_links_to_it(void **state)
{
    struct edges *edges = *state;
    char directory[256], image[256], path[STORE_TOOL_PATH_MAX], target[300] = {0};
    edges_path(edges, "store", directory);
    edges_path(edges, "drive.img", image);
    struct store_tool_format format = {
        .directory = directory, .drive = image, .bytes = FILE_BYTES, .identity = identity};
    assert_int_equal(store_tool_format(&format), 0);
    assert_int_equal(store_tool_drive_path(directory, path), 0);
    assert_true(readlink(path, target, sizeof(target) - 1) > 0);
    assert_string_equal(target, image);
    check_superblocks(edges, directory);
}

/* Goal: force does not reach under a running daemon. Method: somebody has the drive open. */
static void format_under_an_open_drive_is_refused(void **state)
{
    struct edges *edges = *state;
    char directory[256], path[STORE_TOOL_PATH_MAX];
    struct drive *drive = NULL;
    edges_path(edges, "store", directory);
    struct store_tool_format format = {.directory = directory, .bytes = FILE_BYTES, .identity = identity};
    assert_int_equal(store_tool_format(&format), 0);
    assert_int_equal(store_tool_drive_path(directory, path), 0);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &drive), 0);
    format.force = true;
    assert_int_equal(store_tool_format(&format), -EBUSY);
    drive_close(drive);
    check_superblocks(edges, directory);
}

static void format_without_room_or_size_is_refused(void **state)
{
    struct edges *edges = *state;
    char directory[256];
    edges_path(edges, "store", directory);
    struct store_tool_format format = {.directory = directory, .bytes = 1ull << 47, .identity = identity};
    assert_int_equal(store_tool_format(&format), -ENOSPC);
    format.bytes = 0;
    assert_int_equal(store_tool_format(&format), -EINVAL);
    format.bytes = 1u << 20; /* not even the reserved part and some units */
    assert_int_equal(store_tool_format(&format), -EINVAL);
    format.bytes = FILE_BYTES; /* none of these left anything in the way */
    assert_int_equal(store_tool_format(&format), 0);
    edges_path(edges, "no/parent", directory);
    assert_int_equal(store_tool_format(&format), -ENOENT);
}

/* Goal: another owner's device is not overwritten by mistake. Method: a loop device with a byte in its first sectors. */
static void device_that_holds_something_needs_force(void **state)
{
    struct edges *edges = *state;
    char directory[256], image[256], device[128];
    edges_path(edges, "store", directory);
    edges_path(edges, "drive.img", image);
    assert_int_equal(drive_file_create(image, FILE_BYTES), 0);
    int fd = open(image, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, 1080), 1);
    (void)close(fd);
    if (!edges_loop_attach(image, device)) {
        print_message("skipped: loop devices need root and a kernel that has them\n");
        skip();
    }
    struct store_tool_format format = {.directory = directory, .drive = device, .identity = identity};
    assert_int_equal(store_tool_format(&format), -EEXIST);
    format.force = true;
    assert_int_equal(store_tool_format(&format), 0);
    check_superblocks(edges, directory);
    format.bytes = FILE_BYTES;
    assert_int_equal(store_tool_format(&format), -EINVAL);
    edges_loop_detach(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(format_makes_a_store_and_keeps_an_existing_one, setup, teardown),
        cmocka_unit_test_setup_teardown(format_on_another_file_links_to_it, setup, teardown),
        cmocka_unit_test_setup_teardown(format_under_an_open_drive_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(device_that_holds_something_needs_force, setup, teardown),
        cmocka_unit_test_setup_teardown(format_without_room_or_size_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests_name("store_tool", tests, NULL, NULL);
}
