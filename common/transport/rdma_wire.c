/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_wire: greeting, head, reference and tags as bytes; the accounts of credits.
 *
 *   greeting: 0 magic | 4 version | 6 flags | 8 node | 12 receive_bytes | 16 incarnation | 24 credits | 26 windows | 28 zero
 *   head:     0 magic | 4 credits | 6 done_count | 8 stream_bytes | 12 zero
 *   ref:      0 address | 8 key | 12 tag
 * Failure modes: bytes that are not exactly this are refused; credits that do not exist are a broken peer.
 */
#include "common/transport/rdma_wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define GREETING_MAGIC 0x474d5241u /* "ARMG" */
#define HEAD_MAGIC 0x484d5241u     /* "ARMH" */

static void put16(uint8_t *out, uint16_t value)
{
    assert(out != NULL);
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *out, uint32_t value)
{
    assert(out != NULL);
    put16(out, (uint16_t)value);
    put16(out + 2, (uint16_t)(value >> 16));
}

static void put64(uint8_t *out, uint64_t value)
{
    assert(out != NULL);
    put32(out, (uint32_t)value);
    put32(out + 4, (uint32_t)(value >> 32));
}

static uint16_t get16(const uint8_t *in)
{
    assert(in != NULL);
    return (uint16_t)(in[0] | (uint16_t)in[1] << 8);
}

static uint32_t get32(const uint8_t *in)
{
    assert(in != NULL);
    return get16(in) | (uint32_t)get16(in + 2) << 16;
}

static uint64_t get64(const uint8_t *in)
{
    assert(in != NULL);
    return get32(in) | (uint64_t)get32(in + 4) << 32;
}

void rdma_greeting_encode(const struct rdma_greeting *greeting, uint8_t out[RDMA_GREETING_BYTES])
{
    assert(greeting->receive_bytes <= RDMA_RECEIVE_BYTES_MAX);
    assert(greeting->credits >= RDMA_CREDITS_MIN && greeting->credits <= RDMA_CREDITS_MAX);
    assert(greeting->windows <= RDMA_WINDOWS_MAX);
    memset(out, 0, RDMA_GREETING_BYTES);
    put32(out, GREETING_MAGIC);
    put16(out + 4, greeting->version);
    put16(out + 6, greeting->flags);
    put32(out + 8, greeting->node);
    put32(out + 12, greeting->receive_bytes);
    put64(out + 16, greeting->incarnation);
    put16(out + 24, greeting->credits);
    put16(out + 26, greeting->windows);
}

int rdma_greeting_decode(const void *in, size_t bytes, struct rdma_greeting *ret_greeting)
{
    const uint8_t *at = in;
    assert(ret_greeting != NULL);
    if (!in || bytes < RDMA_GREETING_BYTES || get32(at) != GREETING_MAGIC)
        return -EBADMSG;
    struct rdma_greeting greeting = {
        .version = get16(at + 4),
        .flags = get16(at + 6),
        .node = get32(at + 8),
        .receive_bytes = get32(at + 12),
        .incarnation = get64(at + 16),
        .credits = get16(at + 24),
        .windows = get16(at + 26),
    };
    if (greeting.version != RDMA_WIRE_VERSION)
        return -EPROTONOSUPPORT;
    if (greeting.receive_bytes < RDMA_RECEIVE_BYTES || greeting.receive_bytes > RDMA_RECEIVE_BYTES_MAX ||
        greeting.credits < RDMA_CREDITS_MIN || greeting.credits > RDMA_CREDITS_MAX ||
        greeting.windows > RDMA_WINDOWS_MAX)
        return -EBADMSG;
    *ret_greeting = greeting;
    return 0;
}

void rdma_head_encode(const struct rdma_head *head, uint8_t out[RDMA_HEAD_BYTES])
{
    assert(head->done_count <= RDMA_DONES_MAX);
    assert(head->credits <= RDMA_CREDITS_MAX);
    assert(head->stream_bytes <= RDMA_RECEIVE_BYTES_MAX);
    put32(out, HEAD_MAGIC);
    put16(out + 4, head->credits);
    put16(out + 6, head->done_count);
    put32(out + 8, head->stream_bytes);
    put32(out + 12, 0);
}

int rdma_head_decode(const uint8_t *in, size_t bytes, struct rdma_head *ret_head)
{
    assert(ret_head != NULL);
    assert(bytes <= RDMA_RECEIVE_BYTES_MAX);
    if (bytes < RDMA_HEAD_BYTES || get32(in) != HEAD_MAGIC)
        return -EBADMSG;
    struct rdma_head head = {.credits = get16(in + 4), .done_count = get16(in + 6), .stream_bytes = get32(in + 8)};
    if (head.done_count > RDMA_DONES_MAX ||
        (uint64_t)head.stream_bytes + head.done_count * RDMA_DONE_BYTES != bytes - RDMA_HEAD_BYTES)
        return -EBADMSG;
    *ret_head = head;
    return 0;
}

void rdma_ref_encode(const struct rdma_ref *ref, uint8_t out[RDMA_REF_BYTES])
{
    assert(ref != NULL);
    put64(out, ref->address);
    put32(out + 8, ref->key);
    put32(out + 12, ref->tag);
}

void rdma_ref_decode(const uint8_t in[RDMA_REF_BYTES], struct rdma_ref *ret_ref)
{
    assert(ret_ref != NULL);
    *ret_ref = (struct rdma_ref){.address = get64(in), .key = get32(in + 8), .tag = get32(in + 12)};
}

void rdma_tag_encode(uint32_t tag, uint8_t out[RDMA_DONE_BYTES])
{
    assert(out != NULL);
    put32(out, tag);
}

uint32_t rdma_tag_decode(const uint8_t in[RDMA_DONE_BYTES])
{
    assert(in != NULL);
    return get32(in);
}

/* ---- credits */

static void credit_check(const struct rdma_credit *credit)
{
    assert(credit->available <= credit->total);
    assert(credit->owed + credit->granted <= credit->own);
}

void rdma_credit_init(struct rdma_credit *credit, uint32_t own, uint32_t total)
{
    assert(own >= RDMA_CREDITS_MIN && own <= RDMA_CREDITS_MAX);
    assert(total >= RDMA_CREDITS_MIN && total <= RDMA_CREDITS_MAX);
    *credit = (struct rdma_credit){.total = total, .available = total, .own = own, .granted = own};
}

bool rdma_credit_may_send(const struct rdma_credit *credit)
{
    credit_check(credit);
    return credit->available > 1;
}

bool rdma_credit_must_return(const struct rdma_credit *credit)
{
    credit_check(credit);
    return credit->owed >= credit->own / 2 && credit->available > 0;
}

void rdma_credit_use(struct rdma_credit *credit)
{
    assert(credit->available > 0);
    assert(credit->available <= credit->total);
    credit->available--;
    credit_check(credit);
}

uint16_t rdma_credit_take_owed(struct rdma_credit *credit)
{
    credit_check(credit);
    uint32_t owed = credit->owed;
    credit->owed = 0;
    credit->granted += owed;
    assert(owed <= UINT16_MAX);
    return (uint16_t)owed;
}

void rdma_credit_freed(struct rdma_credit *credit)
{
    assert(credit->owed < credit->own);
    credit->owed++;
    credit_check(credit);
}

int rdma_credit_received(struct rdma_credit *credit)
{
    credit_check(credit);
    if (credit->granted == 0)
        return -EBADMSG;
    credit->granted--;
    assert(credit->granted < credit->own);
    return 0;
}

int rdma_credit_given(struct rdma_credit *credit, uint16_t credits)
{
    credit_check(credit);
    if (credits > credit->total - credit->available)
        return -EBADMSG;
    credit->available += credits;
    assert(credit->available <= credit->total);
    return 0;
}
