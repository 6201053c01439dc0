/* SPDX-License-Identifier: Apache-2.0 */
/* nbd_probe: the client's side of an NBD handshake, no further than needed to know the size.
 *
 *   - greeting, client flags, NBD_OPT_GO for "", its answers until NBD_REP_ACK, NBD_CMD_DISC
 * Failure modes: see the header. Lengths that the server sends are bounded.
 */
#include "client/cli/nbd_probe.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/cli/admin_socket.h"

#define NBD_MAGIC 0x4e42444d41474943ull  /* NBDMAGIC */
#define NBD_OPTION 0x49484156454f5054ull /* IHAVEOPT */
#define NBD_REPLY 0x0003e889045565a9ull
#define NBD_REQUEST 0x25609513u
enum { OPT_GO = 7, REP_ACK = 1, REP_INFO = 3, INFO_EXPORT = 0, CMD_DISC = 2, ANSWER_MAX = 4096 };

static int set_timeout(int fd, uint64_t deadline_ms)
{
    uint64_t now = admin_now_ms();
    if (now >= deadline_ms)
        return -ETIMEDOUT;
    uint64_t left = deadline_ms - now;
    struct timeval time = {.tv_sec = (time_t)(left / 1000), .tv_usec = (suseconds_t)(left % 1000) * 1000};
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)) < 0 ? -errno : 0;
}

static int receive(int fd, void *bytes, size_t length, uint64_t deadline_ms)
{
    int rc = set_timeout(fd, deadline_ms);
    if (rc < 0)
        return rc;
    ssize_t n = recv(fd, bytes, length, MSG_WAITALL);
    if (n < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    return (size_t)n == length ? 0 : -EACCES; /* it hung up on us */
}

static int transmit(int fd, const void *bytes, size_t length)
{
    return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -EACCES;
}

struct greeting {
    uint64_t magic, option;
    uint16_t flags;
} __attribute__((packed));
struct option_go {
    uint32_t client_flags;
    uint64_t magic;
    uint32_t option, length, name_length;
    uint16_t info_count;
} __attribute__((packed));
struct answer {
    uint64_t magic;
    uint32_t option, type, length;
} __attribute__((packed));
struct info_export {
    uint16_t type;
    uint64_t size;
    uint16_t flags;
} __attribute__((packed));
struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed));

static int read_answers(int fd, uint64_t deadline_ms, uint64_t *ret_size)
{
    for (int i = 0; i < 16; i++) {
        struct answer answer;
        char body[ANSWER_MAX];
        int rc = receive(fd, &answer, sizeof(answer), deadline_ms);
        uint32_t length = be32toh(answer.length), type = be32toh(answer.type);
        if (rc == 0 && (be64toh(answer.magic) != NBD_REPLY || length > sizeof(body)))
            rc = -EBADMSG;
        if (rc == 0 && length > 0)
            rc = receive(fd, body, length, deadline_ms);
        if (rc < 0 || type == REP_ACK)
            return rc;
        if (type != REP_INFO)
            return -EACCES;
        struct info_export info;
        if (length >= sizeof(info)) {
            memcpy(&info, body, sizeof(info));
            if (be16toh(info.type) == INFO_EXPORT)
                *ret_size = be64toh(info.size);
        }
    }
    return -EBADMSG;
}

int nbd_probe(const char *socket_path, uint64_t deadline_ms, uint64_t *ret_size)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct greeting greeting;
    struct option_go go = {
        .client_flags = htobe32(1), /* fixed newstyle */
        .magic = htobe64(NBD_OPTION),
        .option = htobe32(OPT_GO),
        .length = htobe32(6),
    };
    struct request disconnect = {.magic = htobe32(NBD_REQUEST), .type = htobe16(CMD_DISC)};
    if (strlen(socket_path) >= sizeof(to.sun_path))
        return -ENAMETOOLONG;
    strcpy(to.sun_path, socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
    if (rc == 0)
        rc = receive(fd, &greeting, sizeof(greeting), deadline_ms);
    if (rc == 0 && (be64toh(greeting.magic) != NBD_MAGIC || be64toh(greeting.option) != NBD_OPTION))
        rc = -EBADMSG;
    if (rc == 0)
        rc = transmit(fd, &go, sizeof(go));
    if (rc == 0)
        rc = read_answers(fd, deadline_ms, ret_size);
    if (rc == 0)
        (void)transmit(fd, &disconnect, sizeof(disconnect));
    (void)close(fd);
    return rc;
}
