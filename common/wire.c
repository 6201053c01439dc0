/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame header, between host order and the 192 little-endian bytes of docs/internals/wire.md.
 *
 * - wire_encode fills struct layout field by field and seals it with a CRC32C
 * - wire_decode checks from the outside in: magic, version, CRC, reserved bytes, opcode, lengths
 *
 * Decoding trusts nothing: each refusal leaves *ret_header untouched, and no length above the limits
 * ever leaves this file.
 */
#include "common/wire.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "common/crc32c.h"

/* The bytes on the wire; every field little-endian, no padding. */
struct layout {
    uint32_t magic;
    uint16_t version;
    uint16_t opcode;
    uint32_t flags;
    uint32_t status;
    uint64_t request_id;
    uint32_t body_len;
    uint32_t payload_len;
    uint32_t src_node;
    uint32_t dst_node;
    uint64_t src_incarnation;
    uint64_t dst_incarnation;
    uint64_t map_version;
    uint64_t volume;
    uint32_t shard;
    uint32_t generation;
    uint64_t epoch;
    uint64_t session;
    uint64_t lsn_n;
    uint64_t commit_n;
    uint64_t offset;
    uint64_t length;
    uint64_t loss_number;
    uint64_t aux;
    uint64_t aux2;
    uint32_t credits;
    uint32_t stage_ns[4];
    uint32_t body_crc;
    uint8_t reserved[12];
    uint32_t header_crc; /* CRC32C of all bytes before it */
};

#define ASSERT_AT(field, at) _Static_assert(offsetof(struct layout, field) == (at), "wire.md: " #field)
ASSERT_AT(magic, 0);
ASSERT_AT(version, 4);
ASSERT_AT(opcode, 6);
ASSERT_AT(flags, 8);
ASSERT_AT(status, 12);
ASSERT_AT(request_id, 16);
ASSERT_AT(body_len, 24);
ASSERT_AT(payload_len, 28);
ASSERT_AT(src_node, 32);
ASSERT_AT(dst_node, 36);
ASSERT_AT(src_incarnation, 40);
ASSERT_AT(dst_incarnation, 48);
ASSERT_AT(map_version, 56);
ASSERT_AT(volume, 64);
ASSERT_AT(shard, 72);
ASSERT_AT(generation, 76);
ASSERT_AT(epoch, 80);
ASSERT_AT(session, 88);
ASSERT_AT(lsn_n, 96);
ASSERT_AT(commit_n, 104);
ASSERT_AT(offset, 112);
ASSERT_AT(length, 120);
ASSERT_AT(loss_number, 128);
ASSERT_AT(aux, 136);
ASSERT_AT(aux2, 144);
ASSERT_AT(credits, 152);
ASSERT_AT(stage_ns, 156);
ASSERT_AT(body_crc, 172);
ASSERT_AT(reserved, 176);
ASSERT_AT(header_crc, 188);
_Static_assert(sizeof(struct layout) == WIRE_HEADER_BYTES, "the header is 192 bytes");
_Static_assert(WIRE_PAYLOAD_MAX % WIRE_BLOCK_BYTES == 0, "a payload is whole blocks");
_Static_assert(WIRE_VERSION_MIN >= 1 && WIRE_VERSION_MIN <= WIRE_VERSION, "version 0: not set");

struct opcode_names {
    const char *request;
    const char *reply; /* NULL: one way, has no answer */
};

static struct opcode_names opcode_names(unsigned opcode)
{
#define BOTH(name) ((struct opcode_names){name, name "-reply"})
#define ONE_WAY(name) ((struct opcode_names){name, NULL})
    switch (opcode & ~1u) {
    case WIRE_HELLO: return BOTH("hello");
    case WIRE_PING: return BOTH("ping");
    case WIRE_ATTACH: return BOTH("attach");
    case WIRE_DETACH: return BOTH("detach");
    case WIRE_VOLUME_LIST: return BOTH("volume-list");
    case WIRE_READ: return BOTH("read");
    case WIRE_WRITE: return BOTH("write");
    case WIRE_ZERO: return BOTH("zero");
    case WIRE_FLUSH: return BOTH("flush");
    case WIRE_EXTENTS: return BOTH("extents");
    case WIRE_REPLICATE: return BOTH("replicate");
    case WIRE_MEMBER_FLUSH: return BOTH("member-flush");
    case WIRE_COMMIT: return ONE_WAY("commit");
    case WIRE_RAISE: return BOTH("raise");
    case WIRE_TAKEOVER_DONE: return BOTH("takeover-done");
    case WIRE_RESERVE: return BOTH("reserve");
    case WIRE_REPAIR_READ: return BOTH("repair-read");
    case WIRE_SEAL: return ONE_WAY("seal");
    case WIRE_DAMAGED: return ONE_WAY("damaged");
    case WIRE_SYNC_START: return BOTH("sync-start");
    case WIRE_SYNC_DIGEST: return BOTH("sync-digest");
    case WIRE_SYNC_COPY: return BOTH("sync-copy");
    case WIRE_SYNC_EPOCH: return BOTH("sync-epoch");
    case WIRE_SYNC_JOIN: return BOTH("sync-join");
    case WIRE_SYNC_GENERATIONS: return BOTH("sync-generations");
    case WIRE_SYNC_END: return BOTH("sync-end");
    case WIRE_CTL_HEARTBEAT: return BOTH("ctl-heartbeat");
    case WIRE_CTL_PROPOSE: return BOTH("ctl-propose");
    case WIRE_CTL_SUBSCRIBE: return BOTH("ctl-subscribe");
    case WIRE_CTL_MAP_ENTRY: return ONE_WAY("ctl-map-entry");
    case WIRE_CTL_MAP_SNAPSHOT: return ONE_WAY("ctl-map-snapshot");
    case WIRE_CTL_SUSPECT: return ONE_WAY("ctl-suspect");
    case WIRE_CTL_ADMIN: return BOTH("ctl-admin");
    default: return (struct opcode_names){NULL, NULL};
    }
#undef BOTH
#undef ONE_WAY
}

static const char *known_name(unsigned opcode)
{
    struct opcode_names names = opcode_names(opcode);
    return WIRE_IS_REPLY(opcode) ? names.reply : names.request;
}

const char *wire_opcode_name(unsigned opcode)
{
    const char *name = known_name(opcode);
    return name != NULL ? name : "unknown";
}

void wire_encode(const struct wire_header *header, uint8_t out[WIRE_HEADER_BYTES])
{
    assert(header != NULL);
    assert(out != NULL);
    assert(header->body_len <= WIRE_BODY_MAX);
    assert(header->payload_len <= WIRE_PAYLOAD_MAX);
    assert(known_name(header->opcode) != NULL);
    uint16_t version = header->version != 0 ? header->version : (uint16_t)WIRE_VERSION;
    struct layout raw = {
        .magic = htole32(WIRE_MAGIC),
        .version = htole16(version),
        .opcode = htole16(header->opcode),
        .flags = htole32(header->flags),
        .status = htole32((uint32_t)header->status),
        .request_id = htole64(header->request_id),
        .body_len = htole32(header->body_len),
        .payload_len = htole32(header->payload_len),
        .src_node = htole32(header->src_node),
        .dst_node = htole32(header->dst_node),
        .src_incarnation = htole64(header->src_incarnation),
        .dst_incarnation = htole64(header->dst_incarnation),
        .map_version = htole64(header->map_version),
        .volume = htole64(header->volume),
        .shard = htole32(header->shard),
        .generation = htole32(header->generation),
        .epoch = htole64(header->epoch),
        .session = htole64(header->session),
        .lsn_n = htole64(header->lsn_n),
        .commit_n = htole64(header->commit_n),
        .offset = htole64(header->offset),
        .length = htole64(header->length),
        .loss_number = htole64(header->loss_number),
        .aux = htole64(header->aux),
        .aux2 = htole64(header->aux2),
        .credits = htole32((uint32_t)header->credits),
        .body_crc = htole32(header->body_crc),
    };
    for (int i = 0; i < 4; i++)
        raw.stage_ns[i] = htole32(header->stage_ns[i]);
    raw.header_crc = htole32(crc32c(&raw, offsetof(struct layout, header_crc)));
    memcpy(out, &raw, sizeof(raw));
}

static int check_layout(const struct layout *raw)
{
    static const uint8_t zeros[sizeof(raw->reserved)];
    if (le32toh(raw->magic) != WIRE_MAGIC)
        return -EBADMSG;
    uint16_t version = le16toh(raw->version);
    if (version < WIRE_VERSION_MIN || version > WIRE_VERSION)
        return -EPROTONOSUPPORT;
    if (le32toh(raw->header_crc) != crc32c(raw, offsetof(struct layout, header_crc)))
        return -EBADMSG;
    if (memcmp(raw->reserved, zeros, sizeof(zeros)) != 0)
        return -EBADMSG;
    if (known_name(le16toh(raw->opcode)) == NULL)
        return -EBADMSG;
    if (le32toh(raw->body_len) > WIRE_BODY_MAX || le32toh(raw->payload_len) > WIRE_PAYLOAD_MAX)
        return -EMSGSIZE;
    return 0;
}

static void copy_to_host(const struct layout *raw, struct wire_header *ret_header)
{
    *ret_header = (struct wire_header){
        .opcode = le16toh(raw->opcode),
        .version = le16toh(raw->version),
        .flags = le32toh(raw->flags),
        .status = (int32_t)le32toh(raw->status),
        .request_id = le64toh(raw->request_id),
        .body_len = le32toh(raw->body_len),
        .payload_len = le32toh(raw->payload_len),
        .src_node = le32toh(raw->src_node),
        .dst_node = le32toh(raw->dst_node),
        .src_incarnation = le64toh(raw->src_incarnation),
        .dst_incarnation = le64toh(raw->dst_incarnation),
        .map_version = le64toh(raw->map_version),
        .volume = le64toh(raw->volume),
        .shard = le32toh(raw->shard),
        .generation = le32toh(raw->generation),
        .epoch = le64toh(raw->epoch),
        .session = le64toh(raw->session),
        .lsn_n = le64toh(raw->lsn_n),
        .commit_n = le64toh(raw->commit_n),
        .offset = le64toh(raw->offset),
        .length = le64toh(raw->length),
        .loss_number = le64toh(raw->loss_number),
        .aux = le64toh(raw->aux),
        .aux2 = le64toh(raw->aux2),
        .credits = (int32_t)le32toh(raw->credits),
        .body_crc = le32toh(raw->body_crc),
    };
    for (int i = 0; i < 4; i++)
        ret_header->stage_ns[i] = le32toh(raw->stage_ns[i]);
}

int wire_decode(const uint8_t in[WIRE_HEADER_BYTES], struct wire_header *ret_header)
{
    assert(in != NULL);
    assert(ret_header != NULL);
    struct layout raw;
    memcpy(&raw, in, sizeof(raw));
    int rc = check_layout(&raw);
    if (rc < 0)
        return rc;
    copy_to_host(&raw, ret_header);
    assert(ret_header->body_len <= WIRE_BODY_MAX);
    assert(ret_header->payload_len <= WIRE_PAYLOAD_MAX);
    return 0;
}
