/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb, recovery: what survives a killed process, a torn WAL, a rotten WAL, a full file system.
 *
 * The writers are children (this program run again with a mode and a directory): they print the number of each
 * completed put, so that the parent knows what must be found after it killed them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/store_edges/edges_fixture.h"

static void number_key(unsigned n, char ret_key[16])
{
    (void)snprintf(ret_key, 16, "n%08u", n);
}

/* ---- the children */

static int child_edges(struct edges *edges, const char *directory)
{
    struct ring_config config = {.entries = 64, .fixed_files = 8, .seed = 1};
    memset(edges, 0, sizeof(*edges));
    (void)snprintf(edges->directory, sizeof(edges->directory), "%s", directory);
    if (ring_loop_create(&config, &edges->loop) < 0)
        return -1;
    return edges_kv_try_open(edges, false, false);
}

/* Puts until killed; a synced one every 100. */
static int child_puts(const char *directory)
{
    struct edges edges;
    char key[16];
    if (child_edges(&edges, directory) < 0)
        return 2;
    for (unsigned n = 0;; n++) {
        number_key(n, key);
        if (edges_put(&edges, key, key, n % 100 == 99) < 0)
            return 3;
        if (write(STDOUT_FILENO, &n, sizeof(n)) != (ssize_t)sizeof(n))
            return 4;
    }
}

/* Puts until the file size limit, then expects every request to fail and the close to work. */
static int child_fills(const char *directory)
{
    struct edges edges;
    struct rlimit limit = {.rlim_cur = 2u << 20, .rlim_max = 2u << 20};
    char key[16], value[1000];
    int rc = 0;
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    if (child_edges(&edges, directory) < 0)
        return 2;
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
        return 3;
    for (unsigned n = 0; n < 100000; n++) {
        number_key(n, key);
        rc = edges_put(&edges, key, value, false);
        if (rc < 0)
            break;
        if (write(STDOUT_FILENO, &n, sizeof(n)) != (ssize_t)sizeof(n))
            return 4;
    }
    if (rc >= 0 || edges_put(&edges, "more", "x", false) != -EIO || edges_sync(&edges) != -EIO)
        return 5;
    if (edges_get(&edges, "n00000000", NULL, 0) != -EIO)
        return 6;
    kv_close(edges.kv);
    ring_loop_destroy(edges.loop);
    return 0;
}

static pid_t child_start(const char *mode, const struct edges *edges, int *ret_pipe)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(fds[1], STDOUT_FILENO);
        (void)close(fds[0]);
        (void)close(fds[1]);
        (void)execl("/proc/self/exe", "kv_recovery_test", mode, edges->directory, (char *)NULL);
        _exit(99);
    }
    (void)close(fds[1]);
    *ret_pipe = fds[0];
    return pid;
}

/* Reads the numbers of completed puts until the pipe ends or, when count is not 0, until there are that many. */
static unsigned read_numbers(int fd, unsigned count)
{
    unsigned n, seen = 0;
    while ((count == 0 || seen < count) && read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n)) {
        assert_int_equal(n, seen);
        seen++;
    }
    return seen;
}

/* ---- the parent */

/* A killed writer's database; returns how many puts had completed. */
static unsigned killed_writer(struct edges *edges)
{
    int fd, status;
    edges_init(edges);
    edges_kv_open(edges, /* create= */ true);
    kv_close(edges->kv);
    edges->kv = NULL;
    pid_t pid = child_start("puts", edges, &fd);
    unsigned seen = read_numbers(fd, 1234);
    assert_int_equal(seen, 1234);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    unsigned n;
    while (read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n))
        seen = n + 1; /* completed before the kill, reported in the pipe */
    (void)close(fd);
    return seen;
}

static unsigned count_present(struct edges *edges, unsigned up_to)
{
    char key[16];
    for (unsigned n = 0; n < up_to; n++) {
        number_key(n, key);
        int rc = edges_get(edges, key, NULL, 0);
        if (rc == -ENOENT)
            return n;
        assert_int_equal(rc, 0);
    }
    return up_to;
}

/* The largest file of the database whose name ends so. */
static void file_path(const struct edges *edges, const char *suffix, char ret_path[600])
{
    char kv[256];
    edges_path(edges, "kv", kv);
    DIR *dir = opendir(kv);
    assert_non_null(dir);
    off_t largest = -1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[600];
        struct stat st;
        size_t length = strlen(entry->d_name);
        (void)snprintf(path, sizeof(path), "%s/%s", kv, entry->d_name);
        if (length < 5 || strcmp(entry->d_name + length - 4, suffix) != 0 || stat(path, &st) < 0)
            continue;
        if (st.st_size > largest) {
            largest = st.st_size;
            (void)snprintf(ret_path, 600, "%s", path);
        }
    }
    (void)closedir(dir);
    assert_true(largest > 0);
}

static void pretend_reboot(const struct edges *edges)
{
    char path[256];
    edges_path(edges, "kv/boot_id", path);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "another", 7), 7);
    (void)close(fd);
}

static void flip_byte(const char *path, off_t at)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte = (uint8_t)~byte;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void every_completed_put_survives_kill_9(void **state)
{
    struct edges edges;
    (void)state;
    unsigned completed = killed_writer(&edges);
    edges_kv_open(&edges, false);
    assert_int_equal(count_present(&edges, completed), completed);
    edges_kv_reopen(&edges);
    assert_int_equal(count_present(&edges, completed), completed);
    edges_close(&edges);
}

/* Goal: an incomplete last record is the end of the WAL, in both recovery modes. */
static void torn_tail_loses_only_the_torn_record(void **state)
{
    (void)state;
    for (unsigned rebooted = 0; rebooted < 2; rebooted++) {
        struct edges edges;
        char path[600];
        struct stat st;
        unsigned completed = killed_writer(&edges);
        file_path(&edges, ".log", path);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(truncate(path, st.st_size - 3), 0);
        if (rebooted)
            pretend_reboot(&edges);
        edges_kv_open(&edges, false);
        assert_true(count_present(&edges, completed) >= completed - 1);
        edges_close(&edges);
    }
}

/* Goal: without a reboot nothing in the middle of the WAL can be torn, so a bad record there is corruption. */
static void rot_in_the_wal_of_this_boot_is_an_error(void **state)
{
    struct edges edges;
    char path[600];
    struct stat st;
    (void)state;
    (void)killed_writer(&edges);
    file_path(&edges, ".log", path);
    assert_int_equal(stat(path, &st), 0);
    flip_byte(path, st.st_size / 2);
    assert_int_equal(edges_kv_try_open(&edges, false, false), -EUCLEAN);
    assert_int_equal(edges_kv_try_open(&edges, false, false), -EUCLEAN); /* the failed open changed nothing */
    edges_close(&edges);
}

/* Goal: after a reboot an unsynced page may be missing; what follows it must not be applied. */
static void hole_after_a_reboot_ends_the_wal(void **state)
{
    struct edges edges;
    char path[600], key[16];
    struct stat st;
    (void)state;
    unsigned completed = killed_writer(&edges);
    file_path(&edges, ".log", path);
    assert_int_equal(stat(path, &st), 0);
    static const uint8_t zeros[4096];
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, zeros, sizeof(zeros), st.st_size / 2 / 4096 * 4096), sizeof(zeros));
    (void)close(fd);
    pretend_reboot(&edges);
    edges_kv_open(&edges, false);
    unsigned present = count_present(&edges, completed);
    assert_true(present > 0 && present < completed);
    for (unsigned n = present; n < completed; n++) { /* a prefix: nothing behind the hole */
        number_key(n, key);
        assert_int_equal(edges_get(&edges, key, NULL, 0), -ENOENT);
    }
    edges_kv_reopen(&edges); /* of this boot again: the hole must be gone */
    assert_int_equal(count_present(&edges, completed), present);
    edges_close(&edges);
}

static void broken_manifest_is_corruption(void **state)
{
    struct edges edges;
    char path[256];
    (void)state;
    edges_init(&edges);
    edges_kv_open(&edges, /* create= */ true);
    kv_close(edges.kv);
    edges.kv = NULL;
    edges_path(&edges, "kv/CURRENT", path);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "nonsense", 8), 8);
    (void)close(fd);
    assert_int_equal(edges_kv_try_open(&edges, false, false), -EUCLEAN);
    edges_close(&edges);
}

/* Goal: rot in a table is seen by the reader, and only reported: the kv stays usable for what is sound. */
static void rot_in_a_table_is_an_error_of_the_read(void **state)
{
    struct edges edges;
    struct kv_scan scan = {0};
    char path[600];
    (void)state;
    (void)killed_writer(&edges);
    edges_kv_open(&edges, false); /* turns the WAL into a table */
    kv_close(edges.kv);
    edges.kv = NULL;
    file_path(&edges, ".sst", path);
    flip_byte(path, 100); /* in the first data block */
    edges_kv_open(&edges, false);
    assert_int_equal(edges_get(&edges, "n00000000", NULL, 0), -EUCLEAN);
    assert_int_equal(edges_scan(&edges, &scan, "n", "o", 100), -EUCLEAN);
    assert_int_equal(edges_get(&edges, "n00001000", NULL, 0), 0);
    assert_int_equal(edges_put(&edges, "n00000000", "again", true), 0);
    assert_int_equal(edges_get(&edges, "n00000000", NULL, 0), 0);
    kv_batch_free(&scan.pairs);
    edges_close(&edges);
}

static void full_file_system_fails_the_kv_for_good(void **state)
{
    struct edges edges;
    int fd, status;
    (void)state;
    edges_init(&edges);
    edges_kv_open(&edges, /* create= */ true);
    kv_close(edges.kv);
    edges.kv = NULL;
    pid_t pid = child_start("fills", &edges, &fd);
    unsigned completed = read_numbers(fd, 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    (void)close(fd);
    assert_true(completed > 100);
    edges_kv_open(&edges, false); /* with room again, everything that completed is there */
    assert_int_equal(count_present(&edges, completed), completed);
    edges_close(&edges);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "puts") == 0)
        return child_puts(argv[2]);
    if (argc == 3 && strcmp(argv[1], "fills") == 0)
        return child_fills(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_completed_put_survives_kill_9),
        cmocka_unit_test(torn_tail_loses_only_the_torn_record),
        cmocka_unit_test(rot_in_the_wal_of_this_boot_is_an_error),
        cmocka_unit_test(hole_after_a_reboot_ends_the_wal),
        cmocka_unit_test(broken_manifest_is_corruption),
        cmocka_unit_test(rot_in_a_table_is_an_error_of_the_read),
        cmocka_unit_test(full_file_system_fails_the_kv_for_good),
    };
    return cmocka_run_group_tests_name("kv_recovery", tests, NULL, NULL);
}
