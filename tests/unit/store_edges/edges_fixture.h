/* SPDX-License-Identifier: Apache-2.0 */
/* edges_fixture: a scratch directory, a ring loop and blocking wrappers around kv and drive requests, for tests.
 * Threading: one thread. Errors: cmocka assertions. Ownership: edges_close removes the directory. */
#ifndef ASHLAR_TESTS_EDGES_FIXTURE_H
#define ASHLAR_TESTS_EDGES_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/ring/ring.h"
#include "server/store/drive.h"
#include "server/store/kv.h"

struct edges {
    char directory[128];
    struct ring_loop *loop;
    struct kv *kv;
};

void edges_init(struct edges *edges);
void edges_close(struct edges *edges);
void edges_path(const struct edges *edges, const char *name, char ret_path[256]);
void edges_run_until(struct edges *edges, const bool *done); /* fails the test after 60 s */

int edges_kv_try_open(struct edges *edges, bool create, bool read_only); /* in DIR/kv */
void edges_kv_open(struct edges *edges, bool create);
void edges_kv_reopen(struct edges *edges);

/* One request, run to its end; the strings are keys and values without their final zero. */
int edges_put(struct edges *edges, const char *key, const char *value, bool sync);
int edges_write(struct edges *edges, struct kv_write *req); /* frees the batch */
int edges_sync(struct edges *edges);
int edges_get(struct edges *edges, const char *key, char *ret_value, size_t value_bytes);
int edges_scan(struct edges *edges, struct kv_scan *scan, const char *from, const char *to, uint32_t limit);
int edges_io(struct edges *edges, struct drive *drive, enum drive_op op, uint64_t offset, uint32_t length, void *data);

/* A loop device on a file: false without root or without loop devices. */
bool edges_loop_attach(const char *image, char ret_device[128]);
void edges_loop_detach(const char *device);

#endif
