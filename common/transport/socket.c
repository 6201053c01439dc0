/* SPDX-License-Identifier: Apache-2.0 */
/* socket: addresses to sockets.
 *
 *   - parse "tcp:..." or "unix:...", make the socket, set what every link wants: TCP_NODELAY (frames are gathered by
 *     us), keep-alive and TCP_USER_TIMEOUT (a dead peer ends the link in SOCKET_DEAD_MS);
 *   - a unix path left by a killed process is unlinked when a connect to it is refused.
 * Failure modes: options a kernel lacks are ignored, the rest is returned.
 */
#include "common/transport/socket.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOCKET_DEAD_MS 10000
#define SOCKET_KEEP_IDLE_S 4
#define SOCKET_KEEP_INTERVAL_S 2
#define SOCKET_KEEP_COUNT 3
#define SOCKET_BACKLOG 1024

static int parse_port(const char *text, in_port_t *ret_port)
{
    char *end = NULL;
    errno = 0;
    unsigned long port = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || port > 65535)
        return -EINVAL;
    *ret_port = htons((uint16_t)port);
    return 0;
}

static int parse_tcp(const char *text, struct socket_address *address)
{
    assert(address != NULL);
    char host[64];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        return -EINVAL;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    in_port_t port = 0;
    if (parse_port(colon + 1, &port) < 0)
        return -EINVAL;
    size_t len = strlen(host);
    if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)&address->storage;
        host[len - 1] = '\0';
        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
        address->bytes = sizeof(*in6);
        return inet_pton(AF_INET6, host + 1, &in6->sin6_addr) == 1 ? 0 : -EINVAL;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)&address->storage;
    const char *numeric = host;
    if (strcmp(host, "localhost") == 0)
        numeric = "127.0.0.1";
    else if (strcmp(host, "*") == 0)
        numeric = "0.0.0.0";
    in->sin_family = AF_INET;
    in->sin_port = port;
    address->bytes = sizeof(*in);
    return inet_pton(AF_INET, numeric, &in->sin_addr) == 1 ? 0 : -EINVAL;
}

static int parse_unix(const char *path, struct socket_address *address)
{
    assert(address != NULL);
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof(address->un.sun_path))
        return -EINVAL;
    address->un.sun_family = AF_UNIX;
    memcpy(address->un.sun_path, path, len + 1);
    address->bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return 0;
}

int socket_address_parse(const char *text, struct socket_address *ret_address)
{
    struct socket_address address;
    assert(text && ret_address);
    memset(&address, 0, sizeof(address));
    int rc = -EINVAL;
    if (strncmp(text, "tcp:", 4) == 0)
        rc = parse_tcp(text + 4, &address);
    else if (strncmp(text, "unix:", 5) == 0)
        rc = parse_unix(text + 5, &address);
    if (rc == 0)
        *ret_address = address;
    return rc;
}

void socket_address_format(const struct socket_address *address, char text[SOCKET_ADDRESS_CHARS])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->any.sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&address->storage;
        (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        (void)snprintf(text, SOCKET_ADDRESS_CHARS, "tcp:%s:%u", host, ntohs(in->sin_port));
    } else if (address->any.sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&address->storage;
        (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        (void)snprintf(text, SOCKET_ADDRESS_CHARS, "tcp:[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        assert(address->any.sa_family == AF_UNIX);
        bool named = address->bytes > offsetof(struct sockaddr_un, sun_path);
        (void)snprintf(text, SOCKET_ADDRESS_CHARS, "unix:%.*s", (int)sizeof(address->un.sun_path),
                       named ? address->un.sun_path : "");
    }
}

static void set_int(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value)); /* without it links work, only slower */
}

void socket_tune(int fd)
{
    assert(fd >= 0);
    int domain = 0;
    socklen_t bytes = sizeof(domain);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) < 0 || domain == AF_UNIX)
        return;
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, SOCKET_KEEP_IDLE_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, SOCKET_KEEP_INTERVAL_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, SOCKET_KEEP_COUNT);
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, SOCKET_DEAD_MS);
}

int socket_create(const struct socket_address *address, bool nonblocking)
{
    assert(address->bytes > 0);
    int type = SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
    int fd = socket(address->any.sa_family, type, 0);
    if (fd < 0)
        return -errno;
    socket_tune(fd);
    return fd;
}

/* A path nobody answers on is a leftover of a killed process. */
static int unlink_stale(const struct socket_address *address)
{
    assert(address != NULL);
    struct stat st;
    if (lstat(address->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return -EADDRINUSE;
    int fd = socket_create(address, /* nonblocking= */ true);
    if (fd < 0)
        return fd;
    int rc = connect(fd, &address->any, address->bytes) < 0 ? -errno : 0;
    (void)close(fd);
    if (rc != -ECONNREFUSED)
        return -EADDRINUSE;
    return unlink(address->un.sun_path) < 0 ? -errno : 0;
}

static int socket_bind(int fd, const struct socket_address *address)
{
    if (address->any.sa_family != AF_UNIX)
        set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, &address->any, address->bytes) == 0)
        return 0;
    if (errno != EADDRINUSE || address->any.sa_family != AF_UNIX)
        return -errno;
    int rc = unlink_stale(address);
    if (rc < 0)
        return rc;
    return bind(fd, &address->any, address->bytes) < 0 ? -errno : 0;
}

int socket_listen(struct socket_address *address, bool nonblocking)
{
    int fd = socket_create(address, nonblocking);
    if (fd < 0)
        return fd;
    int rc = socket_bind(fd, address);
    if (rc < 0)
        goto err_after_create;
    address->bytes = sizeof(address->storage);
    if (listen(fd, SOCKET_BACKLOG) < 0 || getsockname(fd, &address->any, &address->bytes) < 0) {
        rc = -errno;
        goto err_after_create;
    }
    assert(fd >= 0);
    return fd;

err_after_create:
    (void)close(fd);
    assert(rc < 0);
    return rc;
}

void socket_listen_end(const struct socket_address *address)
{
    /* While its descriptor is open nobody else takes the path over, so the file is still ours. */
    assert(address->bytes > 0);
    if (address->any.sa_family == AF_UNIX)
        (void)unlink(address->un.sun_path);
}

int socket_connect_error(int rc)
{
    assert(rc < 0);
    return rc == -ENOENT || rc == -EAGAIN ? -ECONNREFUSED : rc;
}
