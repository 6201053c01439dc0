/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hello body: 192 little-endian bytes, laid out in docs/internals/wire.md.
 *
 * - hello_encode writes it, cutting the text at HELLO_TEXT_MAX - 1 characters
 * - hello_decode checks it; a longer body is one of a later version, whose tail is ignored
 * - hello_negotiate picks the newest version that both sides know
 *
 * Malformed bodies are -EBADMSG, no common version is -EPROTONOSUPPORT.
 */
#include "common/hello.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "common/wire.h"

/* The bytes on the wire; every field little-endian, no padding. */
struct layout {
    uint16_t version_min;
    uint16_t version_max;
    uint32_t role;
    uint32_t node;
    uint32_t feature_level;
    uint64_t incarnation;
    uint64_t cluster_id;
    uint64_t connection;
    uint64_t map_version;
    uint32_t inflight_bytes_max;
    uint32_t inflight_count_max;
    uint8_t reserved[8];
    char text[HELLO_TEXT_MAX];
};
_Static_assert(offsetof(struct layout, role) == 4, "wire.md: role");
_Static_assert(offsetof(struct layout, node) == 8, "wire.md: node");
_Static_assert(offsetof(struct layout, feature_level) == 12, "wire.md: feature_level");
_Static_assert(offsetof(struct layout, incarnation) == 16, "wire.md: incarnation");
_Static_assert(offsetof(struct layout, cluster_id) == 24, "wire.md: cluster_id");
_Static_assert(offsetof(struct layout, connection) == 32, "wire.md: connection");
_Static_assert(offsetof(struct layout, map_version) == 40, "wire.md: map_version");
_Static_assert(offsetof(struct layout, inflight_bytes_max) == 48, "wire.md: inflight_bytes_max");
_Static_assert(offsetof(struct layout, inflight_count_max) == 52, "wire.md: inflight_count_max");
_Static_assert(offsetof(struct layout, reserved) == 56, "wire.md: reserved");
_Static_assert(offsetof(struct layout, text) == 64, "wire.md: text");
_Static_assert(sizeof(struct layout) == HELLO_BYTES, "the hello body is 192 bytes");

void hello_encode(const struct hello *hello, uint8_t out[HELLO_BYTES])
{
    assert(hello != NULL);
    assert(out != NULL);
    assert(hello->version_min >= 1 && hello->version_min <= hello->version_max);
    assert(hello->role >= HELLO_PEER && hello->role <= HELLO_ADMIN);
    struct layout raw = {
        .version_min = htole16(hello->version_min),
        .version_max = htole16(hello->version_max),
        .role = htole32(hello->role),
        .node = htole32(hello->node),
        .feature_level = htole32(hello->feature_level),
        .incarnation = htole64(hello->incarnation),
        .cluster_id = htole64(hello->cluster_id),
        .connection = htole64(hello->connection),
        .map_version = htole64(hello->map_version),
        .inflight_bytes_max = htole32(hello->inflight_bytes_max),
        .inflight_count_max = htole32(hello->inflight_count_max),
    };
    /* The rest of the text stays zero: no byte of the sender's memory leaks. */
    memcpy(raw.text, hello->text, strnlen(hello->text, HELLO_TEXT_MAX - 1));
    memcpy(out, &raw, sizeof(raw));
}

static int check_layout(const struct layout *raw)
{
    static const uint8_t zeros[sizeof(raw->reserved)];
    uint16_t version_min = le16toh(raw->version_min);
    uint32_t role = le32toh(raw->role);
    if (version_min < 1 || version_min > le16toh(raw->version_max))
        return -EBADMSG;
    if (role < HELLO_PEER || role > HELLO_ADMIN)
        return -EBADMSG;
    if (memcmp(raw->reserved, zeros, sizeof(zeros)) != 0)
        return -EBADMSG;
    if (memchr(raw->text, '\0', sizeof(raw->text)) == NULL)
        return -EBADMSG;
    return 0;
}

int hello_decode(const void *body, size_t bytes, struct hello *ret_hello)
{
    assert(body != NULL || bytes == 0);
    assert(ret_hello != NULL);
    struct layout raw;
    if (bytes < sizeof(raw))
        return -EBADMSG;
    memcpy(&raw, body, sizeof(raw));
    int rc = check_layout(&raw);
    if (rc < 0)
        return rc;
    *ret_hello = (struct hello){
        .version_min = le16toh(raw.version_min),
        .version_max = le16toh(raw.version_max),
        .role = le32toh(raw.role),
        .node = le32toh(raw.node),
        .incarnation = le64toh(raw.incarnation),
        .cluster_id = le64toh(raw.cluster_id),
        .connection = le64toh(raw.connection),
        .map_version = le64toh(raw.map_version),
        .feature_level = le32toh(raw.feature_level),
        .inflight_bytes_max = le32toh(raw.inflight_bytes_max),
        .inflight_count_max = le32toh(raw.inflight_count_max),
    };
    memcpy(ret_hello->text, raw.text, strlen(raw.text));
    assert(ret_hello->text[HELLO_TEXT_MAX - 1] == '\0');
    return 0;
}

int hello_negotiate(const struct hello *theirs, uint16_t *ret_version)
{
    assert(theirs != NULL);
    assert(ret_version != NULL);
    uint32_t newest = theirs->version_max < WIRE_VERSION ? theirs->version_max : WIRE_VERSION;
    if (newest < theirs->version_min || newest < WIRE_VERSION_MIN)
        return -EPROTONOSUPPORT;
    *ret_version = (uint16_t)newest;
    return 0;
}
