/* SPDX-License-Identifier: Apache-2.0 */
/* admin_socket: frames over a blocking socket.
 *
 *   - admin_socket_open: resolve, connect without blocking, HELLO, check the answer
 *   - admin_socket_call: one CTL_ADMIN out, its answer in
 * Failure modes: no answer in time (-ETIMEDOUT), nobody there (-ECONNREFUSED, -ENOENT), an end in the middle (-EPIPE), bytes that
 * are not the protocol (-EBADMSG). What a node sends is bounded before memory is taken for it.
 */
#include "client/cli/admin_socket.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/hello.h"
#include "common/wire.h"

uint64_t admin_now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int wait_for(int fd, short events, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now = admin_now_ms();
        if (now >= deadline_ms)
            return -ETIMEDOUT;
        struct pollfd poller = {.fd = fd, .events = events};
        uint64_t left = deadline_ms - now;
        int n = poll(&poller, 1, left > 60000 ? 60000 : (int)left);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int send_all(int fd, const void *bytes, size_t length, uint64_t deadline_ms)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = send(fd, at, length, MSG_NOSIGNAL);
        if (n > 0) {
            at += n;
            length -= (size_t)n;
            continue;
        }
        int rc = errno == EAGAIN ? wait_for(fd, POLLOUT, deadline_ms) : errno == EINTR ? 0 : -errno;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int receive_all(int fd, void *bytes, size_t length, uint64_t deadline_ms)
{
    char *at = bytes;
    while (length > 0) {
        ssize_t n = recv(fd, at, length, 0);
        if (n > 0) {
            at += n;
            length -= (size_t)n;
            continue;
        }
        if (n == 0)
            return -EPIPE;
        int rc = errno == EAGAIN ? wait_for(fd, POLLIN, deadline_ms) : errno == EINTR ? 0 : -errno;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int start_connect(int family, const struct sockaddr *to, socklen_t length, uint64_t deadline_ms, int *ret_fd)
{
    int rc = 0, error = 0, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t size = sizeof(error);
    if (fd < 0)
        return -errno;
    if (connect(fd, to, length) < 0)
        rc = errno == EINPROGRESS ? wait_for(fd, POLLOUT, deadline_ms) : -errno;
    if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0)
        rc = -error;
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

static int connect_unix(const char *path, uint64_t deadline_ms, int *ret_fd)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(to.sun_path))
        return -ENAMETOOLONG;
    strcpy(to.sun_path, path);
    return start_connect(AF_UNIX, (struct sockaddr *)&to, sizeof(to), deadline_ms, ret_fd);
}

static int connect_tcp(const char *host_port, uint64_t deadline_ms, int *ret_fd)
{
    char host[256];
    const char *colon = strrchr(host_port, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    if (!colon || colon == host_port || (size_t)(colon - host_port) >= sizeof(host))
        return -EINVAL;
    bool bracketed = host_port[0] == '[' && colon[-1] == ']';
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - host_port) - (bracketed ? 2 : 0),
                   host_port + (bracketed ? 1 : 0));
    if (getaddrinfo(host, colon + 1, &hints, &list) != 0)
        return -EHOSTUNREACH;
    int rc = -EHOSTUNREACH;
    for (struct addrinfo *at = list; at && rc < 0; at = at->ai_next)
        rc = start_connect(at->ai_family, at->ai_addr, at->ai_addrlen, deadline_ms, ret_fd);
    freeaddrinfo(list);
    return rc;
}

static int send_frame(struct admin_socket *s, uint16_t opcode, const void *body, size_t length, uint64_t deadline_ms)
{
    uint8_t head[WIRE_HEADER_BYTES];
    struct wire_header header = {
        .opcode = opcode,
        .version = WIRE_VERSION,
        .request_id = ++s->next_request,
        .body_len = (uint32_t)length,
        .body_crc = length > 0 ? crc32c(body, length) : 0,
    };
    assert(length <= WIRE_BODY_MAX);
    wire_encode(&header, head);
    int rc = send_all(s->fd, head, sizeof(head), deadline_ms);
    return rc < 0 ? rc : send_all(s->fd, body, length, deadline_ms);
}

/* The answer to the last request; *ret_body is malloc'ed with a NUL behind it. */
static int receive_frame(struct admin_socket *s, uint16_t opcode, uint64_t deadline_ms, struct wire_header *ret_header,
                         char **ret_body)
{
    uint8_t head[WIRE_HEADER_BYTES];
    int rc = receive_all(s->fd, head, sizeof(head), deadline_ms);
    if (rc == 0)
        rc = wire_decode(head, ret_header);
    if (rc < 0)
        return rc;
    if (ret_header->opcode != (opcode | 1) || ret_header->request_id != s->next_request || ret_header->payload_len > 0)
        return -EBADMSG;
    char *body = malloc((size_t)ret_header->body_len + 1);
    if (!body)
        return -ENOMEM;
    rc = receive_all(s->fd, body, ret_header->body_len, deadline_ms);
    if (rc == 0 && ret_header->body_len > 0 && crc32c(body, ret_header->body_len) != ret_header->body_crc)
        rc = -EBADMSG;
    if (rc < 0) {
        free(body);
        return rc;
    }
    body[ret_header->body_len] = '\0';
    *ret_body = body;
    return 0;
}

static int say_hello(struct admin_socket *s, uint64_t deadline_ms, char error[ADMIN_ERROR_MAX])
{
    struct hello ours = {.version_min = WIRE_VERSION_MIN, .version_max = WIRE_VERSION, .role = HELLO_ADMIN}, theirs;
    struct wire_header header;
    uint8_t body[HELLO_BYTES];
    char *answer = NULL;
    hello_encode(&ours, body);
    int rc = send_frame(s, WIRE_HELLO, body, sizeof(body), deadline_ms);
    if (rc == 0)
        rc = receive_frame(s, WIRE_HELLO, deadline_ms, &header, &answer);
    if (rc == 0)
        rc = hello_decode(answer, header.body_len, &theirs);
    if (rc == 0 && header.status < 0) {
        rc = header.status;
        (void)snprintf(error, ADMIN_ERROR_MAX, "%s", theirs.text);
    }
    free(answer);
    if (rc == 0)
        s->node = theirs.node;
    return rc;
}

static const char *reason_of(int rc)
{
    switch (rc) {
    case -EPIPE:
    case -ECONNRESET: return "the connection ended";
    case -ETIMEDOUT: return "no answer in time";
    case -EBADMSG:
    case -EPROTONOSUPPORT: return "it does not speak Ashlar's protocol; is this a control address?";
    default: return strerror(-rc);
    }
}

int admin_socket_open(struct admin_socket *s, const char *address, uint64_t deadline_ms, char error[ADMIN_ERROR_MAX])
{
    int rc = -EINVAL;
    *s = (struct admin_socket){.fd = -1};
    error[0] = '\0';
    if (strncmp(address, "unix:", 5) == 0)
        rc = connect_unix(address + 5, deadline_ms, &s->fd);
    else if (strncmp(address, "tcp:", 4) == 0)
        rc = connect_tcp(address + 4, deadline_ms, &s->fd);
    if (rc == 0)
        rc = say_hello(s, deadline_ms, error);
    if (rc < 0 && !error[0])
        (void)snprintf(error, ADMIN_ERROR_MAX, "%s", reason_of(rc));
    if (rc < 0)
        admin_socket_close(s);
    return rc;
}

void admin_socket_close(struct admin_socket *s)
{
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = -1;
}

int admin_socket_call(struct admin_socket *s, const char *request, size_t length, uint64_t deadline_ms,
                      char **ret_answer, size_t *ret_length, char error[ADMIN_ERROR_MAX])
{
    struct wire_header header;
    assert(s->fd >= 0 && length <= WIRE_BODY_MAX);
    int rc = send_frame(s, WIRE_CTL_ADMIN, request, length, deadline_ms);
    if (rc == 0)
        rc = receive_frame(s, WIRE_CTL_ADMIN, deadline_ms, &header, ret_answer);
    if (rc < 0) {
        (void)snprintf(error, ADMIN_ERROR_MAX, "%s", reason_of(rc));
        admin_socket_close(s);
        return rc;
    }
    *ret_length = header.body_len;
    return 0;
}
