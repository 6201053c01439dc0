/* SPDX-License-Identifier: Apache-2.0 */
/* client_body: bodies of the frames between a client and its gateway, byte by byte (all little-endian).
 *
 *   ATTACH        attachment[16] | volume name[64], NUL-terminated | 16 zero bytes [| snapshot name[64], NUL-terminated]
 *   ATTACH|1      u64 shard_bytes | u32 run_count | u32 address_count | runs | addresses: u16 bytes, text without NUL
 *                 (header: volume, session, length = size of the volume); with an error: a sentence
 *   FLUSH|1       runs: u32 first shard | u32 shard count | u64 loss number (R13); shards in no run have 0. aux: number of
 *                 shards with losses that did not fit; all of them come after the last run
 *   VOLUME_LIST|1 entries: u64 id | u64 size | u32 flags | u32 0 | name[64]. The request's aux: ids above this one; the answer's
 *                 aux: 1 when there are more
 *   EXTENTS|1     entries: u32 length in blocks | u32 state; header: offset and length they cover
 *   READ|1, WRITE u32 CRC32C a block
 * Threading: pure functions. Errors: decoding hostile bytes gives -EBADMSG. Ownership: none taken.
 */
#ifndef ASHLAR_COMMON_CLIENT_BODY_H
#define ASHLAR_COMMON_CLIENT_BODY_H

#include <stddef.h>
#include <stdint.h>

#define CLIENT_NAME_MAX 64u
#define CLIENT_ADDRESS_MAX 108u
#define CLIENT_ADDRESSES_MAX 256u
#define CLIENT_ATTACH_BYTES 96u
#define CLIENT_ATTACH_SNAPSHOT_BYTES 160u /* of a snapshot */
#define CLIENT_LOSS_RUN_BYTES 16u
#define CLIENT_LOSS_RUNS_MAX 8192u
#define CLIENT_LIST_ENTRY_BYTES 88u
#define CLIENT_LIST_ENTRIES_MAX 2048u
#define CLIENT_EXTENT_BYTES 8u
#define CLIENT_EXTENTS_LENGTH_MAX (32u << 20) /* bytes asked for at once */
#define CLIENT_EXTENTS_MAX (CLIENT_EXTENTS_LENGTH_MAX / 4096u)
#define CLIENT_ATTACHED_HEAD_BYTES 16u
#define CLIENT_ATTACHED_BYTES_MAX                                                \
    (CLIENT_ATTACHED_HEAD_BYTES + CLIENT_LOSS_RUNS_MAX * CLIENT_LOSS_RUN_BYTES + \
     CLIENT_ADDRESSES_MAX * (CLIENT_ADDRESS_MAX + 2u))

struct client_attach {
    uint8_t attachment[16];
    char name[CLIENT_NAME_MAX];
    char snapshot[CLIENT_NAME_MAX]; /* empty: the volume itself */
};
/* Returns the bytes used: CLIENT_ATTACH_BYTES, or CLIENT_ATTACH_SNAPSHOT_BYTES. */
size_t client_attach_encode(const struct client_attach *attach, uint8_t out[CLIENT_ATTACH_SNAPSHOT_BYTES]);
int client_attach_decode(const void *body, size_t bytes, struct client_attach *ret_attach);

struct client_loss_run {
    uint32_t first, count;
    uint64_t loss;
};
/* Host-order runs to wire bytes and back; decode checks that runs ascend and do not overlap. */
size_t client_loss_encode(const struct client_loss_run *runs, uint32_t count, uint8_t *out);
int client_loss_decode(const void *body, size_t bytes, struct client_loss_run *ret_runs, uint32_t max,
                       uint32_t *ret_count);

struct client_list_entry {
    uint64_t id, size;
    uint32_t flags; /* enum client_list_flags */
    char name[CLIENT_NAME_MAX];
};
enum client_list_flags { CLIENT_LIST_ATTACHED = 1 };
void client_list_entry_encode(const struct client_list_entry *entry, uint8_t out[CLIENT_LIST_ENTRY_BYTES]);
int client_list_entry_decode(const uint8_t in[CLIENT_LIST_ENTRY_BYTES], struct client_list_entry *ret_entry);

/* The answer to ATTACH. Encoding: begin with the runs, then add addresses while they fit. */
size_t client_attached_begin(uint8_t *out, uint64_t shard_bytes, const struct client_loss_run *runs,
                             uint32_t run_count);
size_t client_attached_address(uint8_t *out, size_t bytes, const char *address); /* the new length */
struct client_attached {
    uint64_t shard_bytes;
    const uint8_t *runs; /* into the body: client_loss_decode */
    size_t runs_bytes;
    const uint8_t *addresses; /* into the body: client_attached_next */
    size_t addresses_bytes;
    uint32_t address_count;
};
int client_attached_decode(const void *body, size_t bytes, struct client_attached *ret_attached);
/* Takes the next address off; -ENOENT when there are no more, -EBADMSG. */
int client_attached_next(struct client_attached *attached, char ret_address[CLIENT_ADDRESS_MAX]);

static inline uint32_t client_get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}
static inline void client_put_u32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
    at[2] = (uint8_t)(value >> 16);
    at[3] = (uint8_t)(value >> 24);
}
static inline uint64_t client_get_u64(const uint8_t *at)
{
    return (uint64_t)client_get_u32(at) | (uint64_t)client_get_u32(at + 4) << 32;
}
static inline void client_put_u64(uint8_t *at, uint64_t value)
{
    client_put_u32(at, (uint32_t)value);
    client_put_u32(at + 4, (uint32_t)(value >> 32));
}

#endif
