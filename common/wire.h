/* SPDX-License-Identifier: Apache-2.0 */
/* wire: the frame every Ashlar process exchanges, byte by byte (docs/internals/wire.md).
 *
 * Concept: frame = 192-byte little-endian header | body (body_len bytes: block checksums, lists, JSON) |
 *   payload (payload_len bytes: block data). The header carries the whole identity of the protocol:
 *   incarnations (R1), lsn (R2), map version (R3), epoch, session, generation, loss number (R13).
 * Threading: pure functions.
 * Errors: decode returns -EBADMSG (not our frame, or corrupt), -EPROTONOSUPPORT (version), -EMSGSIZE (limit).
 * Ownership: none taken.
 */
#ifndef ASHLAR_COMMON_WIRE_H
#define ASHLAR_COMMON_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC 0x4c485341u /* "ASHL" in little-endian byte order */
#define WIRE_VERSION 1u
#define WIRE_VERSION_MIN 1u
#define WIRE_HEADER_BYTES 192u
#define WIRE_BODY_MAX (256u * 1024u)
#define WIRE_PAYLOAD_MAX (1024u * 1024u)
#define WIRE_BLOCK_BYTES 4096u
#define WIRE_BLOCKS_MAX (WIRE_PAYLOAD_MAX / WIRE_BLOCK_BYTES)

/* Requests have even numbers, the answer to request N is N | 1. */
enum wire_opcode {
    WIRE_HELLO = 2, /* body: struct hello (JSON-free, see hello.h); answer HELLO|1 */
    WIRE_PING = 4,
    /* client -> gateway */
    WIRE_ATTACH = 16, /* body: attach request; answer carries session, size */
    WIRE_DETACH = 18,
    WIRE_VOLUME_LIST = 20, /* answer body: names, sizes */
    /* client -> gateway -> primary; offset is in the volume towards a gateway, in the shard towards a primary */
    WIRE_READ = 32,
    WIRE_WRITE = 34,
    WIRE_ZERO = 36, /* WIRE_F_TRIM: may give space back (the default); WIRE_F_NO_HOLE: stay allocated */
    WIRE_FLUSH = 38,
    WIRE_EXTENTS = 40, /* answer body: runs of {u32 length_blocks, u32 state} */
    /* primary -> member */
    WIRE_REPLICATE = 64, /* aux: opcode applied: WIRE_WRITE or WIRE_ZERO */
    WIRE_MEMBER_FLUSH = 66,
    WIRE_COMMIT = 68, /* one way: commit_n advances on an idle link; no answer */
    WIRE_RAISE = 70,  /* R11; answer body: window entries */
    WIRE_TAKEOVER_DONE = 72,
    WIRE_RESERVE = 74,     /* slow path of space reservation near a full drive */
    WIRE_REPAIR_READ = 76, /* primary reads one chunk range of a member to repair its own */
    WIRE_SEAL = 80,        /* one way, gateway -> primary: writes of the volume are stamped with generation (R20) */
    WIRE_DAMAGED = 78,     /* one way, member -> primary: block at offset does not match its checksum here */
    /* resync, primary -> member R */
    WIRE_SYNC_START = 96,        /* answer body: R's chunks with mod_epoch > e_R and R's marks (R16) */
    WIRE_SYNC_DIGEST = 98,       /* answer body: per block crc32c + crc64, recomputed from R's drive */
    WIRE_SYNC_COPY = 100,        /* a locked, numbered write of old bytes; aux: WIRE_WRITE or WIRE_ZERO */
    WIRE_SYNC_EPOCH = 102,       /* R's mod_epoch := max(own, aux) for one chunk */
    WIRE_SYNC_JOIN = 104,        /* R enters JOINING; it flushes before it answers (R17) */
    WIRE_SYNC_GENERATIONS = 108, /* answer body: u32 generations that have a record of the chunk, ascending */
    WIRE_SYNC_END = 106,         /* added or abandoned; R drops its frozen marks when added */
    /* control */
    WIRE_CTL_HEARTBEAT = 128,
    WIRE_CTL_PROPOSE = 130,
    WIRE_CTL_SUBSCRIBE = 132,
    WIRE_CTL_MAP_ENTRY = 134,    /* one way: a committed entry, aux = map version it makes */
    WIRE_CTL_MAP_SNAPSHOT = 136, /* one way: piece of a map snapshot; offset, length = total */
    WIRE_CTL_SUSPECT = 138,      /* one way: a link to node aux was refused or reset (R10) */
    WIRE_CTL_ADMIN = 140,        /* body: JSON request; answer body: JSON */
};
#define WIRE_IS_REPLY(opcode) (((opcode)&1u) != 0)

enum wire_flags {
    WIRE_F_FUA = 1u << 0,
    WIRE_F_TRIM = 1u << 1,
    WIRE_F_NO_HOLE = 1u << 2,
    WIRE_F_TAKEOVER = 1u << 3,  /* REPLICATE sent by a takeover (R11) */
    WIRE_F_RETRY = 1u << 4,     /* sent before on another link or epoch */
    WIRE_F_READ_ONLY = 1u << 5, /* ATTACH */
    WIRE_F_FORCE = 1u << 6,     /* ATTACH: take the volume from another attachment */
    WIRE_F_FAILOVER = 1u << 7,  /* ATTACH: same attachment through another gateway (R19) */
    WIRE_F_TO_SYNC = 1u << 8,   /* REPLICATE to a member that is not in sync: SYNCING, or JOINING (which must answer) */
    WIRE_F_HEAD = 1u << 9,      /* COPY: record belongs to the head generation */
};

/* Host-order form of the header; wire_encode writes it, wire_decode reads and checks it. */
struct wire_header {
    uint16_t opcode;
    uint16_t version;
    uint32_t flags;
    int32_t status; /* answers: 0 or -errno */
    uint64_t request_id;
    uint32_t body_len;
    uint32_t payload_len;
    uint32_t src_node, dst_node; /* 0: a client */
    uint64_t src_incarnation, dst_incarnation;
    uint64_t map_version;
    uint64_t volume;
    uint32_t shard;
    uint32_t generation;
    uint64_t epoch;
    uint64_t session;
    uint64_t lsn_n;    /* lsn = (epoch, lsn_n) */
    uint64_t commit_n; /* every lsn (epoch, n <= commit_n) is committed */
    uint64_t offset;   /* bytes */
    uint64_t length;   /* bytes */
    uint64_t loss_number;
    uint64_t aux, aux2;   /* by opcode */
    int32_t credits;      /* units of space granted (answers of members) */
    uint32_t stage_ns[4]; /* answers: time spent in gateway queue, primary, network + backups, drive */
    uint32_t body_crc;    /* CRC32C of the body */
};

void wire_encode(const struct wire_header *header, uint8_t out[WIRE_HEADER_BYTES]);
int wire_decode(const uint8_t in[WIRE_HEADER_BYTES], struct wire_header *ret_header);
const char *wire_opcode_name(unsigned opcode);

#endif
