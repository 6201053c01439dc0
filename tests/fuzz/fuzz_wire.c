/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoder of the frame header.
 *
 * - the input as it is: the CRC refuses nearly all of them
 * - the input with magic, version and CRC made good, as a hostile peer would: the checks behind them
 *
 * Whatever decodes obeys the limits, has a named opcode, and encodes to the very bytes it came from.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_le(uint8_t *at, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static void check(const uint8_t raw[WIRE_HEADER_BYTES])
{
    struct wire_header header;
    int rc = wire_decode(raw, &header);
    if (rc < 0) {
        assert(rc == -EBADMSG || rc == -EPROTONOSUPPORT || rc == -EMSGSIZE);
        return;
    }
    assert(rc == 0);
    assert(header.body_len <= WIRE_BODY_MAX);
    assert(header.payload_len <= WIRE_PAYLOAD_MAX);
    assert(strcmp(wire_opcode_name(header.opcode), "unknown") != 0);
    uint8_t again[WIRE_HEADER_BYTES];
    wire_encode(&header, again);
    assert(memcmp(raw, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t raw[WIRE_HEADER_BYTES] = {0};
    if (size > 0)
        memcpy(raw, data, size < sizeof(raw) ? size : sizeof(raw));
    check(raw);
    write_le(raw, WIRE_MAGIC, 4);
    write_le(raw + 4, WIRE_VERSION, 2);
    write_le(raw + 188, crc32c(raw, 188), 4);
    check(raw);
    return 0;
}
