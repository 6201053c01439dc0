/* SPDX-License-Identifier: Apache-2.0 */
/* env_uv: env over a libuv loop: the control thread, the client library's thread, the command line tools.
 *
 * Concept: one uv_timer serves a timer_heap (timers have millisecond grain here); tasks run from an idle handle
 *   (before the loop polls) and a check handle (right after it polled).
 * Threading: the loop's thread. Errors: env_uv_create returns 0 or -errno.
 * Ownership: the loop is borrowed. env_uv_destroy stops timers and forgets tasks at once and closes the handles;
 *   the env is freed when the loop has run their close callbacks, so run it once more before uv_loop_close.
 */
#ifndef ASHLAR_COMMON_ENV_UV_H
#define ASHLAR_COMMON_ENV_UV_H

#include "common/env.h"

struct uv_loop_s; /* uv_loop_t */

int env_uv_create(struct uv_loop_s *loop, uint64_t seed, struct env **ret_env); /* seed 0: from the system */
void env_uv_destroy(struct env *env);                                           /* accepts NULL */

#endif
