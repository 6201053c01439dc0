/* SPDX-License-Identifier: Apache-2.0 */
/* admin_socket: one request to one control address, over a blocking link of its own (docs/internals/wire.md).
 *
 * Concept: connect, HELLO, CTL_ADMIN with a JSON body, its answer; every step bounded by a deadline.
 * Threading: blocking; one thread. Errors: 0 / -errno; error gets a sentence. Ownership: the answer is given (free).
 */
#ifndef ASHLAR_CLIENT_CLI_ADMIN_SOCKET_H
#define ASHLAR_CLIENT_CLI_ADMIN_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#define ADMIN_ERROR_MAX 320

struct admin_socket {
    int fd;        /* -1: closed */
    uint32_t node; /* that answers there */
    uint64_t next_request;
};

uint64_t admin_now_ms(void); /* monotonic; what deadlines are counted in */
int admin_socket_open(struct admin_socket *s, const char *address, uint64_t deadline_ms, char error[ADMIN_ERROR_MAX]);
void admin_socket_close(struct admin_socket *s);
int admin_socket_call(struct admin_socket *s, const char *request, size_t length, uint64_t deadline_ms,
                      char **ret_answer, size_t *ret_length, char error[ADMIN_ERROR_MAX]);

#endif
