/* SPDX-License-Identifier: Apache-2.0 */
/* edges_fixture: see the header. Requests carry a pointer to a bool in owner; the loop turns until it is true. */
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/store_edges/edges_fixture.h"

#define HANG_SECONDS 60

void edges_init(struct edges *edges)
{
    const char *base = getenv("TMPDIR");
    struct ring_config config = {.entries = 64, .fixed_files = 8, .seed = 1};
    memset(edges, 0, sizeof(*edges));
    (void)snprintf(edges->directory, sizeof(edges->directory), "%s/ashlar-edges-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(edges->directory));
    assert_int_equal(ring_loop_create(&config, &edges->loop), 0);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void edges_close(struct edges *edges)
{
    kv_close(edges->kv);
    ring_loop_destroy(edges->loop);
    assert_int_equal(nftw(edges->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

void edges_path(const struct edges *edges, const char *name, char ret_path[256])
{
    int n = snprintf(ret_path, 256, "%s/%s", edges->directory, name);
    assert_true(n > 0 && n < 256);
}

void edges_run_until(struct edges *edges, const bool *done)
{
    time_t deadline = time(NULL) + HANG_SECONDS;
    while (!*done) {
        assert_int_equal(ring_loop_turn(edges->loop, 100 * 1000 * 1000), 0);
        assert_true(time(NULL) < deadline);
    }
}

int edges_kv_try_open(struct edges *edges, bool create, bool read_only)
{
    char path[256];
    edges_path(edges, "kv", path);
    struct kv_rocksdb_config config = {.path = path, .cache_bytes = 8u << 20, .create = create, .read_only = read_only};
    return kv_rocksdb_open(edges->loop, &config, &edges->kv);
}

void edges_kv_open(struct edges *edges, bool create)
{
    assert_int_equal(edges_kv_try_open(edges, create, /* read_only= */ false), 0);
}

void edges_kv_reopen(struct edges *edges)
{
    kv_close(edges->kv);
    edges->kv = NULL;
    edges_kv_open(edges, /* create= */ false);
}

static void write_done(struct kv_write *req, int rc)
{
    assert_int_equal(req->rc, rc);
    *(bool *)req->owner = true;
}

int edges_write(struct edges *edges, struct kv_write *req)
{
    bool done = false;
    req->cb = write_done;
    req->owner = &done;
    kv_write(edges->kv, req);
    assert_false(done);
    edges_run_until(edges, &done);
    kv_batch_free(&req->batch);
    return req->rc;
}

int edges_put(struct edges *edges, const char *key, const char *value, bool sync)
{
    struct kv_write req = {.sync = sync};
    kv_batch_put(&req.batch, key, strlen(key), value, strlen(value));
    return edges_write(edges, &req);
}

int edges_sync(struct edges *edges)
{
    struct kv_write req = {.sync = true};
    return edges_write(edges, &req);
}

static void get_done(struct kv_get *req, int rc)
{
    assert_int_equal(req->rc, rc);
    *(bool *)req->owner = true;
}

int edges_get(struct edges *edges, const char *key, char *ret_value, size_t value_bytes)
{
    bool done = false;
    struct kv_get req = {.key_len = (uint32_t)strlen(key), .cb = get_done, .owner = &done};
    memcpy(req.key, key, req.key_len);
    kv_get(edges->kv, &req);
    assert_false(done);
    edges_run_until(edges, &done);
    if (req.rc == 0 && ret_value) {
        assert_true(req.value_len < value_bytes);
        if (req.value_len)
            memcpy(ret_value, req.value, req.value_len);
        ret_value[req.value_len] = '\0';
    }
    kv_get_free(&req);
    return req.rc;
}

static void scan_done(struct kv_scan *req, int rc)
{
    assert_int_equal(req->rc, rc);
    *(bool *)req->owner = true;
}

int edges_scan(struct edges *edges, struct kv_scan *scan, const char *from, const char *to, uint32_t limit)
{
    bool done = false;
    scan->from_len = (uint32_t)strlen(from);
    scan->to_len = (uint32_t)strlen(to);
    memcpy(scan->from, from, scan->from_len);
    memcpy(scan->to, to, scan->to_len);
    scan->limit = limit;
    scan->cb = scan_done;
    scan->owner = &done;
    kv_scan(edges->kv, scan);
    assert_false(done);
    edges_run_until(edges, &done);
    return scan->rc;
}

struct io_wait {
    bool done;
    int rc;
};

static void io_done(struct drive_io *io, int rc)
{
    struct io_wait *wait = io->owner;
    assert_false(wait->done);
    wait->done = true;
    wait->rc = rc;
}

int edges_io(struct edges *edges, struct drive *drive, enum drive_op op, uint64_t offset, uint32_t length, void *data)
{
    struct io_wait wait = {.done = false};
    struct drive_io io = {.op = op, .offset = offset, .length = length, .data = data, .cb = io_done, .owner = &wait};
    drive_submit(drive, &io);
    assert_false(wait.done); /* never inside submit */
    edges_run_until(edges, &wait.done);
    return wait.rc;
}

static bool run(const char *command, char *ret_line, size_t line_bytes)
{
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    ret_line[0] = '\0';
    if (fgets(ret_line, (int)line_bytes, pipe))
        ret_line[strcspn(ret_line, "\n")] = '\0';
    return pclose(pipe) == 0;
}

bool edges_loop_attach(const char *image, char ret_device[128])
{
    char command[400];
    (void)snprintf(command, sizeof(command), "losetup --direct-io=on --find --show '%s' 2>/dev/null", image);
    return geteuid() == 0 && run(command, ret_device, 128);
}

void edges_loop_detach(const char *device)
{
    char command[400], line[128];
    (void)snprintf(command, sizeof(command), "losetup --detach %s", device);
    assert_true(run(command, line, sizeof(line)));
}
