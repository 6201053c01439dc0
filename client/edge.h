/* SPDX-License-Identifier: Apache-2.0 */
/* edge: what the files of the library around the core share: the loop thread, calls posted to it, words about errors.
 *
 * Concept: one libuv loop holds the cores of all volumes of a cluster. One thread at a time runs it: the library's own, or a
 *   blocking caller (cluster_uv.c). Others post calls to it through a lock-free stack, taken whole by the loop; the loop is
 *   woken only by the post that finds the stack empty.
 * Threading: edge_post by any thread; a call's run by who runs the loop. Two locks: who runs the loop (cluster_uv.c), and the
 *   free requests of a volume (volume_uv.c): submitters on many threads take them and the loop gives them back; it is held for
 *   two pointer moves, and a lock-free list would need an answer to ABA.
 * Errors: -errno; edge_error writes the sentence of the calling thread.
 * Ownership: a posted call is borrowed until its run.
 */
#ifndef ASHLAR_CLIENT_EDGE_H
#define ASHLAR_CLIENT_EDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "client/client.h"
#include "client/include/ashlar.h"

struct edge_call {
    struct edge_call *next;
    void (*run)(struct edge_call *call);
};

struct edge_settings { /* options and cluster file, resolved (settings.c) */
    char addresses[CLIENT_GATEWAYS_MAX][CLIENT_ADDRESS_MAX];
    uint32_t address_count;
    uint64_t io_timeout_ms, open_timeout_ms;
};
int edge_settings_read(const struct ashlar_options *options, struct edge_settings *ret_settings);

/* The calling thread's sentence; returns rc. */
int edge_error(int rc, const char *format, ...) __attribute__((format(printf, 2, 3)));
void edge_error_clear(void);

void edge_post(struct ashlar_cluster *cluster, struct edge_call *call);
bool edge_on_loop(const struct ashlar_cluster *cluster); /* the calling thread runs the loop: it is in a callback */
/* A blocking call: true if nobody runs the loop, then the caller does, posts its request and calls edge_run_until, which
 * returns when *done, written by a callback, is set. */
bool edge_enter(struct ashlar_cluster *cluster);
void edge_run_until(struct ashlar_cluster *cluster, const bool *done);
/* Each request is counted from before its post until before its callback. blocking: somebody sleeps until it ends. */
void edge_request_begun(struct ashlar_cluster *cluster);
void edge_request_ended(struct ashlar_cluster *cluster, bool blocking);
/* By who runs the loop: */
struct env *edge_env(struct ashlar_cluster *cluster);
struct transport *edge_transport(struct ashlar_cluster *cluster);
const struct edge_settings *edge_settings(const struct ashlar_cluster *cluster);
void edge_volume_opened(struct ashlar_cluster *cluster, int delta); /* any thread: how many handles live */

#endif
