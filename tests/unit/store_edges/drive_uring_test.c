/* SPDX-License-Identifier: Apache-2.0 */
/* drive_uring: round trips on a file and a loop device, exclusion, and the errors of a drive that ends or fills up. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/store_edges/edges_fixture.h"

#define FILE_BYTES (8u << 20)

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

static void image(struct edges *edges, char ret_path[256])
{
    edges_path(edges, "store.img", ret_path);
    assert_int_equal(drive_file_create(ret_path, FILE_BYTES), 0);
}

static void fill(uint8_t *data, uint32_t length, uint32_t seed)
{
    for (uint32_t i = 0; i < length; i++)
        data[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

static void round_trip(struct edges *edges, struct drive *drive, uint8_t *data, uint8_t *back)
{
    static const uint32_t lengths[] = {4096, 65536, BUF_BYTES_MAX};
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint64_t offset = drive->bytes - lengths[i]; /* the very end */
        fill(data, lengths[i], i);
        assert_int_equal(edges_io(edges, drive, DRIVE_WRITE, offset, lengths[i], data), 0);
        assert_int_equal(edges_io(edges, drive, DRIVE_FLUSH, 0, 0, NULL), 0);
        memset(back, 0xee, lengths[i]);
        assert_int_equal(edges_io(edges, drive, DRIVE_READ, offset, lengths[i], back), 0);
        assert_memory_equal(back, data, lengths[i]);
    }
}

static void created_file_has_all_its_space(void **state)
{
    char path[256];
    struct stat st;
    image(*state, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, FILE_BYTES);
    assert_true((uint64_t)st.st_blocks * 512 >= FILE_BYTES);
    assert_int_equal(drive_file_create(path, FILE_BYTES), -EEXIST);
}

static void file_that_does_not_fit_is_not_left_behind(void **state)
{
    char path[256];
    edges_path(*state, "huge.img", path);
    assert_int_equal(drive_file_create(path, 1ull << 50), -ENOSPC);
    assert_int_equal(access(path, F_OK), -1);
}

static void file_round_trip_with_registered_buffers(void **state)
{
    struct edges *edges = *state;
    struct drive *drive = NULL;
    char path[256];
    image(edges, path);
    struct buf_pool *pool = buf_pool_create(8u << 20);
    assert_non_null(pool);
    assert_int_equal(drive_uring_open(edges->loop, pool, path, &drive), 0);
    assert_int_equal(drive->bytes, FILE_BYTES);
    assert_int_equal(drive->prewritten, 0);
    assert_true(drive->is_file && drive->volatile_cache);
    struct buf *data = buf_alloc(pool, BUF_BYTES_MAX), *back = buf_alloc(pool, BUF_BYTES_MAX);
    round_trip(edges, drive, data->data, back->data);
    buf_unref(data);
    buf_unref(back);
    drive_close(drive);
    buf_pool_destroy(pool);
}

static void file_round_trip_with_plain_buffers(void **state)
{
    struct edges *edges = *state;
    struct drive *drive = NULL;
    char path[256];
    image(edges, path);
    uint8_t *data = aligned_alloc(BUF_ALIGN, BUF_BYTES_MAX), *back = aligned_alloc(BUF_ALIGN, BUF_BYTES_MAX);
    assert_true(data && back);
    assert_int_equal(drive_uring_open(edges->loop, /* pool= */ NULL, path, &drive), 0);
    round_trip(edges, drive, data, back);
    drive_close(drive);
    free(data);
    free(back);
}

/* Goal: R1, the lock is on the descriptor that does the I/O. Method: two opens, in one process and from a child. */
static void second_opener_is_refused_until_the_first_closes(void **state)
{
    struct edges *edges = *state;
    struct drive *first = NULL, *second = NULL;
    char path[256], command[400];
    image(edges, path);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &first), 0);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &second), -EBUSY);
    assert_null(second);
    (void)snprintf(command, sizeof(command), "flock --nonblock --conflict-exit-code 9 '%s' true", path);
    assert_int_equal(WEXITSTATUS(system(command)), 9);
    drive_close(first);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &second), 0);
    drive_close(second);
}

static void what_is_no_drive_is_refused(void **state)
{
    struct edges *edges = *state;
    struct drive *drive = NULL;
    char path[256];
    edges_path(edges, "none", path);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &drive), -ENOENT);
    assert_int_equal(drive_uring_open(edges->loop, NULL, edges->directory, &drive), -EINVAL);
    assert_int_equal(drive_uring_open(edges->loop, NULL, "/dev/null", &drive), -EINVAL);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 100), 0); /* not even one block */
    (void)close(fd);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &drive), -EINVAL);
    assert_null(drive);
}

/* Goal: a short read continues, and one that gets nothing is -EIO. Method: the file shrinks under the open drive. */
static void read_past_the_end_is_eio(void **state)
{
    struct edges *edges = *state;
    struct drive *drive = NULL;
    char path[256];
    uint8_t *data = aligned_alloc(BUF_ALIGN, 65536);
    assert_non_null(data);
    image(edges, path);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &drive), 0);
    assert_int_equal(truncate(path, 1u << 20), 0);
    assert_int_equal(edges_io(edges, drive, DRIVE_READ, (1u << 20) - 4096, 65536, data), -EIO);
    assert_int_equal(edges_io(edges, drive, DRIVE_READ, (1u << 20) - 65536, 65536, data), 0);
    drive_close(drive);
    free(data);
}

/* ---- errors: another file is slid under the drive's descriptor (a loop without registered files uses it as it is) */

static int descriptor_of(const char *path)
{
    for (int fd = 3; fd < 256; fd++) {
        char link[64], target[256];
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof(target) - 1);
        if (n > 0 && strncmp(target, path, (size_t)n) == 0 && path[n] == '\0')
            return fd;
    }
    return -1;
}

static void slide_under(const char *path, const char *other)
{
    int fd = descriptor_of(path), new_fd = open(other, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && new_fd >= 0);
    assert_int_equal(dup2(new_fd, fd), fd);
    (void)close(new_fd);
}

static void failing_kernel_calls_become_eio_or_enospc(void **state)
{
    struct edges *edges = *state;
    struct ring_config config = {.entries = 16, .fixed_files = 0, .seed = 1};
    struct drive *drive = NULL;
    char path[256];
    uint8_t *data = aligned_alloc(BUF_ALIGN, BUF_ALIGN);
    assert_non_null(data);
    fill(data, BUF_ALIGN, 1);
    image(edges, path);
    ring_loop_destroy(edges->loop);
    assert_int_equal(ring_loop_create(&config, &edges->loop), 0);
    assert_int_equal(drive_uring_open(edges->loop, NULL, path, &drive), 0);
    assert_int_equal(edges_io(edges, drive, DRIVE_WRITE, 0, BUF_ALIGN, data), 0);
    assert_int_equal(edges_io(edges, drive, DRIVE_FLUSH, 0, 0, NULL), 0);
    slide_under(path, "/dev/full");
    assert_int_equal(edges_io(edges, drive, DRIVE_WRITE, 0, BUF_ALIGN, data), -ENOSPC);
    assert_int_equal(edges_io(edges, drive, DRIVE_FLUSH, 0, 0, NULL), -EIO); /* no fsync there: EINVAL */
    drive_close(drive);
    free(data);
}

/* ---- as root: devices */

static void loop_device_round_trip_and_exclusion(void **state)
{
    struct edges *edges = *state;
    struct drive *drive = NULL, *second = NULL;
    char path[256], device[128];
    image(edges, path);
    if (!edges_loop_attach(path, device)) {
        print_message("skipped: loop devices need root and a kernel that has them\n");
        skip();
    }
    uint8_t *data = aligned_alloc(BUF_ALIGN, BUF_BYTES_MAX), *back = aligned_alloc(BUF_ALIGN, BUF_BYTES_MAX);
    assert_true(data && back);
    assert_int_equal(drive_uring_open(edges->loop, NULL, device, &drive), 0);
    assert_int_equal(drive->bytes, FILE_BYTES);
    assert_int_equal(drive->prewritten, FILE_BYTES);
    assert_false(drive->is_file);
    assert_int_equal(drive_uring_open(edges->loop, NULL, device, &second), -EBUSY);
    round_trip(edges, drive, data, back);
    drive_close(drive);
    edges_loop_detach(device);
    free(data);
    free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(created_file_has_all_its_space, setup, teardown),
        cmocka_unit_test_setup_teardown(file_that_does_not_fit_is_not_left_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(file_round_trip_with_registered_buffers, setup, teardown),
        cmocka_unit_test_setup_teardown(file_round_trip_with_plain_buffers, setup, teardown),
        cmocka_unit_test_setup_teardown(second_opener_is_refused_until_the_first_closes, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_drive_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(read_past_the_end_is_eio, setup, teardown),
        cmocka_unit_test_setup_teardown(failing_kernel_calls_become_eio_or_enospc, setup, teardown),
        cmocka_unit_test_setup_teardown(loop_device_round_trip_and_exclusion, setup, teardown),
    };
    return cmocka_run_group_tests_name("drive_uring", tests, NULL, NULL);
}
