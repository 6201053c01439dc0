/* SPDX-License-Identifier: Apache-2.0 */
/* records: keys and values that the store keeps in its kv (docs/internals/disk.md has them byte by byte).
 *
 * Concept: keys are big-endian so that they sort; the generation is stored inverted, so that the first record of a
 *   chunk from (chunk, g) on is the newest one that generation g sees. Values are little-endian, start with a format
 *   byte and end with a CRC32C over key and value: a record under a wrong key is as bad as a torn one.
 * Threading: pure functions. Errors: decoders return -EBADMSG for anything they did not write. Ownership: none taken.
 */
#ifndef ASHLAR_SERVER_STORE_RECORDS_H
#define ASHLAR_SERVER_STORE_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/store/store.h"

#define RECORD_UNIT_NONE 0xffffffffu
#define RECORD_KEY_BYTES 27u
#define RECORD_MAP_BYTES_MAX 320u
#define RECORD_SUMS_BYTES 1032u
#define RECORD_MARK_BYTES 24u
#define RECORD_SHARD_BYTES 64u
#define RECORD_SHARD_BYTES_FORMER 24u /* without base and origin: still read */
#define RECORD_DROP_BYTES 8u
#define RECORD_SUPER_BYTES 128u

enum record_kind {
    RECORD_SUPER = 'S', /* one: stop record, settled_seq, watermark, scrub position */
    RECORD_MAP = 'c',   /* (shard instance, chunk, generation) */
    RECORD_SUMS = 'u',  /* (shard instance, chunk, generation) */
    RECORD_MARK = 'd',  /* (shard instance, region) */
    RECORD_DROP = 'x',  /* (shard instance): being removed */
    RECORD_SHARD = 's', /* (shard instance) */
};

struct record_key {
    uint8_t bytes[RECORD_KEY_BYTES];
    uint32_t len;
};

/* 2-bit state of a block. OVER: owned, with valid older content in the base unit beneath: told from OWN only
 * while unsettled (R21: what never existed falls back to its old source). */
enum block_state { BLOCK_ZERO = 0, BLOCK_OWN = 1, BLOCK_BASE = 2, BLOCK_OVER = 3 };

/* Blocks that became valid in settle class seq; empty when seq is 0. Two classes are open at most: the one a
 * running flush settles and the one after it. */
struct record_fresh {
    uint64_t seq;
    uint64_t bits[4];
};

struct record_map {
    uint32_t generation; /* from the key */
    bool bare;           /* carries mod_epoch only: the content is the base's, or nothing */
    uint64_t mod_epoch;
    uint32_t own[STORE_CHUNK_UNITS];
    uint32_t base[STORE_CHUNK_UNITS];
    uint8_t states[STORE_CHUNK_BLOCKS / 4];
    struct record_fresh fresh[2];
};

struct record_mark {
    uint64_t epoch;
    uint32_t
        suspect_from; /* oldest generation, plus 1, whose record may have checksums that an unclean stop left; 0: the newest */
    bool frozen; /* R16, R17 */
};

struct record_shard {
    uint64_t bytes;
    uint64_t origin; /* volume at the root of its family: units are shared inside one family only (I12) */
    bool has_base;
    struct store_base base;
};

struct record_super {
    bool clean;
    bool suspect; /* clean, but marked regions of an earlier unclean stop were not all verified */
    char boot_id[40];
    uint64_t settled_seq;
    uint64_t watermark_units; /* prewritten */
    uint64_t scrub_volume;    /* scrub position */
    uint32_t scrub_shard;
    uint32_t scrub_chunk;
};

struct record_key record_key_super(void);
struct record_key record_key_chunk(enum record_kind kind, const struct store_shard_id *id, uint32_t chunk,
                                   uint32_t generation);
struct record_key record_key_mark(const struct store_shard_id *id, uint32_t region);
struct record_key record_key_shard(enum record_kind kind, const struct store_shard_id *id);
/* First key of a kind, and the first key after it: scan bounds. */
struct record_key record_key_first(enum record_kind kind);
struct record_key record_key_end(enum record_kind kind);
int record_key_decode(const void *key, size_t key_len, enum record_kind *ret_kind, struct store_shard_id *ret_id,
                      uint32_t *ret_index /* chunk or region */, uint32_t *ret_generation);

uint32_t record_map_encode(const struct record_key *key, const struct record_map *map,
                           uint8_t out[RECORD_MAP_BYTES_MAX]); /* returns the length */
int record_map_decode(const void *key, size_t key_len, const void *value, size_t bytes, struct record_map *ret_map);
void record_sums_encode(const struct record_key *key, const uint32_t crcs[STORE_CHUNK_BLOCKS],
                        uint8_t out[RECORD_SUMS_BYTES]);
int record_sums_decode(const void *key, size_t key_len, const void *value, size_t bytes,
                       uint32_t ret_crcs[STORE_CHUNK_BLOCKS]);
void record_mark_encode(const struct record_key *key, const struct record_mark *mark, uint8_t out[RECORD_MARK_BYTES]);
int record_mark_decode(const void *key, size_t key_len, const void *value, size_t bytes, struct record_mark *ret_mark);
void record_shard_encode(const struct record_key *key, const struct record_shard *shard,
                         uint8_t out[RECORD_SHARD_BYTES]);
int record_shard_decode(const void *key, size_t key_len, const void *value, size_t bytes,
                        struct record_shard *ret_shard);
void record_drop_encode(const struct record_key *key, uint8_t out[RECORD_DROP_BYTES]);
int record_drop_decode(const void *key, size_t key_len, const void *value, size_t bytes);
void record_super_encode(const struct record_super *super, uint8_t out[RECORD_SUPER_BYTES]);
int record_super_decode(const void *value, size_t bytes, struct record_super *ret_super);

static inline enum block_state record_state_get(const uint8_t *states, uint32_t block)
{
    return (enum block_state)(((uint32_t)states[block / 4] >> (block % 4 * 2)) & 3u);
}
static inline void record_state_set(uint8_t *states, uint32_t block, enum block_state state)
{
    uint32_t shift = block % 4 * 2;
    states[block / 4] = (uint8_t)((states[block / 4] & ~(3u << shift)) | ((uint32_t)state << shift));
}

#endif
