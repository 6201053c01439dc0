/* SPDX-License-Identifier: Apache-2.0 */
/* map_codec: bounded little-endian writer and reader of entries and snapshots (docs/internals/map.md).
 *
 * Concept: a writer fills a caller's buffer, or grows its own (capacity 0 at start, grow set); a reader
 *   turns `bad` at the first byte that is not there and gives zeros from then on, so that a decoder
 *   checks once at its end. Varints are LEB128 of at most 10 bytes.
 * Threading: pure functions. Errors: the sticky flags. Ownership: a growing writer's bytes are the holder's to free.
 */
#ifndef ASHLAR_SERVER_CONTROL_MAP_CODEC_H
#define ASHLAR_SERVER_CONTROL_MAP_CODEC_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct map_writer {
    uint8_t *bytes;
    size_t len, capacity;
    bool grow, overflow;
};

static inline bool map_writer_room(struct map_writer *w, size_t bytes)
{
    if (w->overflow)
        return false;
    if (w->capacity - w->len >= bytes)
        return true;
    if (w->grow) {
        size_t capacity = (w->capacity + bytes) * 2 + 4096;
        uint8_t *grown = realloc(w->bytes, capacity);
        if (grown) {
            w->bytes = grown;
            w->capacity = capacity;
            return true;
        }
    }
    w->overflow = true;
    return false;
}

static inline void map_put(struct map_writer *w, const void *data, size_t bytes)
{
    if (bytes > 0 && map_writer_room(w, bytes)) {
        memcpy(w->bytes + w->len, data, bytes);
        w->len += bytes;
    }
}

static inline void map_put_int(struct map_writer *w, uint64_t value, unsigned bytes)
{
    uint8_t le[8];
    assert(bytes <= sizeof le);
    for (unsigned i = 0; i < bytes; i++)
        le[i] = (uint8_t)(value >> (8 * i));
    map_put(w, le, bytes);
}

static inline void map_put_varint(struct map_writer *w, uint64_t value)
{
    uint8_t out[10];
    size_t n = 0;
    do {
        out[n] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
        n++;
    } while (value > 0);
    map_put(w, out, n);
}

/* One byte of length, then the bytes without the final NUL. */
static inline void map_put_text(struct map_writer *w, const char *text, size_t size)
{
    size_t len = strnlen(text, size);
    assert(len < size);
    assert(len <= UINT8_MAX);
    map_put_int(w, len, 1);
    map_put(w, text, len);
}

struct map_reader {
    const uint8_t *bytes;
    size_t len, pos;
    bool bad;
};

static inline size_t map_reader_left(const struct map_reader *r)
{
    return r->bad ? 0 : r->len - r->pos;
}

static inline void map_get(struct map_reader *r, void *ret, size_t bytes)
{
    if (map_reader_left(r) < bytes) {
        r->bad = true;
        memset(ret, 0, bytes);
        return;
    }
    memcpy(ret, r->bytes + r->pos, bytes);
    r->pos += bytes;
}

static inline uint64_t map_get_int(struct map_reader *r, unsigned bytes)
{
    uint8_t le[8] = {0};
    uint64_t value = 0;
    assert(bytes <= sizeof le);
    map_get(r, le, bytes);
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)le[i] << (8 * i);
    return value;
}

static inline uint64_t map_get_varint(struct map_reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->bad || r->pos >= r->len)
            break;
        uint8_t byte = r->bytes[r->pos++];
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    r->bad = true;
    return 0;
}

static inline uint32_t map_get_varint32(struct map_reader *r)
{
    uint64_t value = map_get_varint(r);
    if (value > UINT32_MAX)
        r->bad = true;
    return r->bad ? 0 : (uint32_t)value;
}

/* Fills size bytes: the text and NULs; a text that does not fit or holds a NUL is bad. */
static inline void map_get_text(struct map_reader *r, char *ret, size_t size)
{
    size_t len = (size_t)map_get_int(r, 1);
    memset(ret, 0, size);
    if (len >= size) {
        r->bad = true;
        return;
    }
    map_get(r, ret, len);
    if (strnlen(ret, size) != len)
        r->bad = true;
}

#endif
