/* SPDX-License-Identifier: Apache-2.0 */
/* window_wire: the body of a RAISE answer (docs/internals/wire.md): entries of {u64 offset, u32 length, u32 generation},
 * little-endian, at most REPLICA_WINDOW_MAX. Overlong windows are reported as one range that covers all: more is copied, never less.
 * Threading: pure. Errors: decode gives -EBADMSG. Ownership: none taken. */
#ifndef ASHLAR_SERVER_REPLICA_WINDOW_WIRE_H
#define ASHLAR_SERVER_REPLICA_WINDOW_WIRE_H

#include <stddef.h>
#include <stdint.h>

struct replica;

#define WINDOW_ENTRY_BYTES 16u

struct window_range {
    uint64_t offset;
    uint32_t length, generation;
};

uint32_t window_encode(const struct replica *rep, uint8_t *body, uint32_t capacity); /* bytes used */
/* Calls fn for each entry; ranges are block multiples inside limit_bytes, else -EBADMSG. */
int window_decode(const uint8_t *body, size_t bytes, uint64_t limit_bytes,
                  void (*fn)(void *arg, const struct window_range *range), void *arg);

#endif
