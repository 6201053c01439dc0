/* SPDX-License-Identifier: Apache-2.0 */
/* socket: addresses ("tcp:HOST:PORT", "unix:PATH") and the sockets behind them, shared by tcp_ring and tcp_uv.
 *
 * Concept: HOST is a numeric IPv4 address, a numeric IPv6 one in brackets, "localhost" or "*" (listen on all); names
 *   are not resolved here: a resolver that hangs would stop an event loop.
 * Threading: pure functions over descriptors. Errors: 0 or -errno (-EINVAL: not an address).
 * Ownership: a returned descriptor is the caller's.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_SOCKET_H
#define ASHLAR_COMMON_TRANSPORT_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SOCKET_ADDRESS_CHARS 144u

struct socket_address {
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    };
    socklen_t bytes;
};

int socket_address_parse(const char *text, struct socket_address *ret_address);
void socket_address_format(const struct socket_address *address, char text[SOCKET_ADDRESS_CHARS]);
/* A socket ready for connect(2), keep-alive and user timeout set. */
int socket_create(const struct socket_address *address, bool nonblocking);
void socket_tune(int fd); /* an accepted or connected socket: no delay, keep-alive, user timeout */
/* Bound and listening; *address becomes the bound one (port 0 is filled in). A unix path is taken over only if
 * nobody listens on it. */
int socket_listen(struct socket_address *address, bool nonblocking);
/* Before the descriptor is closed: unlinks a unix path. */
void socket_listen_end(const struct socket_address *address);
/* Reason given to closed for a failed connect: a missing unix path is a refusal, too. */
int socket_connect_error(int rc);

#endif
