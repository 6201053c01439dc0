/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoder of the hello body.
 *
 * Whatever decodes has a role, a sane version range and a terminated text, negotiates without surprise,
 * and decodes to the same again after encoding.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/hello.h"
#include "common/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_negotiation(const struct hello *hello)
{
    uint16_t version = 0;
    int rc = hello_negotiate(hello, &version);
    assert(rc == 0 || rc == -EPROTONOSUPPORT);
    if (rc < 0) {
        assert(version == 0);
        assert(hello->version_min > WIRE_VERSION || hello->version_max < WIRE_VERSION_MIN);
        return;
    }
    assert(version >= hello->version_min && version <= hello->version_max);
    assert(version >= WIRE_VERSION_MIN && version <= WIRE_VERSION);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello hello;
    struct hello again;
    memset(&hello, 0, sizeof(hello));
    memset(&again, 0, sizeof(again));
    int rc = hello_decode(data, size, &hello);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc < 0)
        return 0;
    assert(size >= HELLO_BYTES);
    assert(hello.role >= HELLO_PEER && hello.role <= HELLO_ADMIN);
    assert(hello.version_min >= 1 && hello.version_min <= hello.version_max);
    assert(memchr(hello.text, '\0', sizeof(hello.text)) != NULL);
    check_negotiation(&hello);
    uint8_t raw[HELLO_BYTES];
    hello_encode(&hello, raw);
    rc = hello_decode(raw, sizeof(raw), &again);
    assert(rc == 0);
    assert(again.node == hello.node && again.incarnation == hello.incarnation);
    assert(again.cluster_id == hello.cluster_id && again.connection == hello.connection);
    assert(strcmp(again.text, hello.text) == 0);
    assert(memcmp(raw, data, 64) == 0);
    return 0;
}
