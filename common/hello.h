/* SPDX-License-Identifier: Apache-2.0 */
/* hello: the first frame on every link, and its answer (body of WIRE_HELLO; docs/internals/wire.md).
 *
 * Concept: says who speaks (cluster, node, incarnation, role) and which protocol versions it knows. A mismatch is
 *   answered with a status and a sentence, then the link closes. Incarnations follow R1, connection numbers R5.
 * Threading: pure functions. Errors: -EBADMSG, -EPROTONOSUPPORT. Ownership: none taken.
 */
#ifndef ASHLAR_COMMON_HELLO_H
#define ASHLAR_COMMON_HELLO_H

#include <stddef.h>
#include <stdint.h>

#define HELLO_TEXT_MAX 128

enum hello_role { HELLO_PEER = 1, HELLO_CLIENT = 2, HELLO_CONTROL = 3, HELLO_ADMIN = 4 };

struct hello {
    uint16_t version_min, version_max;
    uint32_t role;
    uint32_t node;        /* 0: client */
    uint64_t incarnation; /* 0: client */
    uint64_t cluster_id;  /* 0: not known yet (client) */
    uint64_t connection;  /* number of this link among the sender's links to this receiver: R5 */
    uint64_t map_version;
    uint32_t feature_level;      /* R23 */
    uint32_t inflight_bytes_max; /* answer to a client: how much it may have in flight */
    uint32_t inflight_count_max;
    char text[HELLO_TEXT_MAX]; /* answer with an error: the reason in one sentence */
};

#define HELLO_BYTES 192u
void hello_encode(const struct hello *hello, uint8_t out[HELLO_BYTES]);
int hello_decode(const void *body, size_t bytes, struct hello *ret_hello);
/* Common version of both sides: 0 and ret, or -EPROTONOSUPPORT. */
int hello_negotiate(const struct hello *theirs, uint16_t *ret_version);

#endif
