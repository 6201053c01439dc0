/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_uv: TCP and unix sockets over a libuv loop: the transport of the control thread, the client library, the tools.
 *
 * Concept: non-blocking sockets watched by uv_poll, so that a receive scatters into body, payload and staging, and
 *   what a turn queues on a link is one sendmsg.
 * Threading: the loop's thread. Errors: as in transport.h.
 * Ownership: loop, env (of the same loop: env_uv.h) and pool are borrowed and outlive the transport. End it by
 *   stream_transport_shutdown, turns of the loop until stream_transport_live is 0, and stream_transport_destroy.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_TCP_UV_H
#define ASHLAR_COMMON_TRANSPORT_TCP_UV_H

#include "common/env.h"
#include "common/transport.h"
#include "common/transport/stream.h"

struct uv_loop_s; /* uv_loop_t */

int transport_uv_create(struct uv_loop_s *loop, struct env *env, struct buf_pool *bufs,
                        struct transport **ret_transport);

#endif
