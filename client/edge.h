/* SPDX-License-Identifier: Apache-2.0 */
/* edge: what the files of the library around the core share: the loop thread, calls posted to it, words about errors.
 *
 * Concept: one thread runs a libuv loop with the cores of all volumes of a cluster. Other threads post calls to it through a
 *   lock-free stack, taken whole by the loop; the loop is woken only by the post that finds the stack empty.
 * Threading: edge_post by any thread; a call's run on the loop thread. The one lock of the library guards the free requests of a
 *   volume (volume_uv.c): submitters on many threads take them and the loop gives them back; it is held for two pointer
 *   moves, and a lock-free list would need an answer to ABA.
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
bool edge_on_loop(const struct ashlar_cluster *cluster);
/* Loop thread: */
struct env *edge_env(struct ashlar_cluster *cluster);
struct transport *edge_transport(struct ashlar_cluster *cluster);
const struct edge_settings *edge_settings(const struct ashlar_cluster *cluster);
void edge_volume_opened(struct ashlar_cluster *cluster, int delta); /* any thread: how many handles live */

#endif
