/* SPDX-License-Identifier: Apache-2.0 */
/* raw_rdma: rdma_cm and verbs without any of our transport, stepped by hand. */
#include "tests/unit/transport/raw_rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/transport/socket.h"

#define RECEIVES 64u
#define MEMORY_BYTES (2u << 20)
#define SEND_AT (1u << 20) /* READs go below it */

struct raw {
    struct rdma_event_channel *events;
    struct rdma_cm_id *id;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_mr *mr;
    uint8_t *memory;
    uint8_t greeting[196];
    uint8_t greeting_bytes;
    bool up, rejected, gone;
    unsigned done;
    int status;
    const uint8_t *received;
    uint32_t received_bytes, send_at;
};

static uint8_t *receive_slot(const struct raw *raw, uint64_t index)
{
    return raw->memory + MEMORY_BYTES + index * RDMA_RECEIVE_BYTES;
}

static void post_receive(struct raw *raw, uint64_t index)
{
    struct ibv_sge piece = {
        .addr = (uintptr_t)receive_slot(raw, index), .length = RDMA_RECEIVE_BYTES, .lkey = raw->mr->lkey};
    struct ibv_recv_wr work = {.wr_id = index, .sg_list = &piece, .num_sge = 1}, *bad;
    assert_int_equal(ibv_post_recv(raw->id->qp, &work, &bad), 0);
}

static void prepare(struct raw *raw)
{
    size_t bytes = MEMORY_BYTES + RECEIVES * RDMA_RECEIVE_BYTES;
    raw->pd = ibv_alloc_pd(raw->id->verbs);
    raw->cq = ibv_create_cq(raw->id->verbs, 256, NULL, NULL, 0);
    assert_true(raw->pd && raw->cq);
    struct ibv_qp_init_attr attr = {
        .send_cq = raw->cq,
        .recv_cq = raw->cq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = 128, .max_recv_wr = RECEIVES, .max_send_sge = 1, .max_recv_sge = 1}};
    assert_int_equal(rdma_create_qp(raw->id, raw->pd, &attr), 0);
    raw->memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    assert_non_null(raw->memory);
    raw->mr = ibv_reg_mr(raw->pd, raw->memory, bytes, IBV_ACCESS_LOCAL_WRITE);
    assert_non_null(raw->mr);
    for (uint64_t i = 0; i < RECEIVES; i++)
        post_receive(raw, i);
}

static void step_event(struct raw *raw, const struct rdma_cm_event *event)
{
    struct rdma_conn_param params = {.private_data = raw->greeting,
                                     .private_data_len = raw->greeting_bytes,
                                     .responder_resources = 4,
                                     .initiator_depth = 4,
                                     .retry_count = 3,
                                     .rnr_retry_count = 3};
    switch (event->event) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
        prepare(raw);
        assert_int_equal(rdma_resolve_route(raw->id, 2000), 0);
        break;
    case RDMA_CM_EVENT_ROUTE_RESOLVED: assert_int_equal(rdma_connect(raw->id, &params), 0); break;
    case RDMA_CM_EVENT_ESTABLISHED: raw->up = true; break;
    case RDMA_CM_EVENT_REJECTED: raw->rejected = true; break;
    default: raw->gone = true; break;
    }
}

void raw_step(struct raw *raw)
{
    struct rdma_cm_event *event;
    struct ibv_wc wc;
    while (rdma_get_cm_event(raw->events, &event) == 0) {
        struct rdma_cm_event copy = *event;
        assert_int_equal(rdma_ack_cm_event(event), 0);
        step_event(raw, &copy);
    }
    while (raw->cq && ibv_poll_cq(raw->cq, 1, &wc) > 0) {
        if (wc.wr_id >= RECEIVES) {
            raw->done++;
            raw->status = wc.status;
        } else if (wc.status == IBV_WC_SUCCESS) {
            raw->received = receive_slot(raw, wc.wr_id);
            raw->received_bytes = wc.byte_len;
        }
    }
}

struct raw *raw_connect_start(struct rig *rig, const void *greeting, uint8_t bytes)
{
    char hosts[2][64], text[SOCKET_ADDRESS_CHARS];
    struct socket_address to, from;
    struct raw *raw = calloc(1, sizeof(*raw));
    assert_non_null(raw);
    assert_true(bytes <= sizeof(raw->greeting));
    memcpy(raw->greeting, greeting, bytes);
    raw->greeting_bytes = bytes;
    if (!rig->listener)
        rig_listen(rig);
    assert_true(rig_rdma_hosts(hosts[0], hosts[1]));
    assert_true(snprintf(text, sizeof(text), "tcp:%s", strchr(rig->listen_address, ':') + 1) > 0);
    assert_int_equal(socket_address_parse(text, &to), 0);
    (void)snprintf(text, sizeof(text), "tcp:%s:0", hosts[1]);
    assert_int_equal(socket_address_parse(text, &from), 0);
    raw->events = rdma_create_event_channel();
    assert_non_null(raw->events);
    assert_int_equal(fcntl(raw->events->fd, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(rdma_create_id(raw->events, &raw->id, raw, RDMA_PS_TCP), 0);
    assert_int_equal(rdma_resolve_addr(raw->id, &from.any, &to.any, 2000), 0);
    return raw;
}

void raw_post(struct raw *raw, enum raw_op op, const void *data, uint32_t bytes, uint64_t address, uint32_t key)
{
    static const enum ibv_wr_opcode opcodes[] = {IBV_WR_SEND, IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE};
    uint8_t *at = raw->memory;
    if (op == RAW_SEND) {
        at += SEND_AT + raw->send_at;
        raw->send_at = (raw->send_at + bytes) % (MEMORY_BYTES - SEND_AT - RDMA_RECEIVE_BYTES);
        memcpy(at, data, bytes);
    }
    struct ibv_sge piece = {.addr = (uintptr_t)at, .length = bytes, .lkey = raw->mr->lkey};
    struct ibv_send_wr work = {.wr_id = RECEIVES,
                               .sg_list = &piece,
                               .num_sge = 1,
                               .opcode = opcodes[op],
                               .send_flags = IBV_SEND_SIGNALED | (op == RAW_SEND ? IBV_SEND_SOLICITED : 0),
                               .wr = {.rdma = {.remote_addr = address, .rkey = key}}};
    struct ibv_send_wr *bad;
    assert_int_equal(ibv_post_send(raw->id->qp, &work, &bad), 0);
}

bool raw_is_up(const struct raw *raw)
{
    return raw->up;
}

bool raw_is_rejected(const struct raw *raw)
{
    return raw->rejected;
}

bool raw_is_gone(const struct raw *raw)
{
    return raw->gone;
}

unsigned raw_done(const struct raw *raw)
{
    return raw->done;
}

int raw_status(const struct raw *raw)
{
    return raw->status;
}

bool raw_refused(const struct raw *raw)
{
    return raw->status == IBV_WC_REM_ACCESS_ERR || raw->status == IBV_WC_REM_INV_REQ_ERR;
}

const uint8_t *raw_received(const struct raw *raw, uint32_t *ret_bytes)
{
    *ret_bytes = raw->received_bytes;
    return raw->received;
}

bool raw_has_windows(const struct raw *raw)
{
    struct ibv_device_attr attr;
    assert_int_equal(ibv_query_device(raw->id->verbs, &attr), 0);
    return (attr.device_cap_flags & (IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B)) != 0;
}

const uint8_t *raw_memory(const struct raw *raw)
{
    return raw->memory;
}

void raw_close(struct raw *raw)
{
    if (raw->id->qp) {
        (void)rdma_disconnect(raw->id);
        rdma_destroy_qp(raw->id);
    }
    if (raw->mr)
        (void)ibv_dereg_mr(raw->mr);
    if (raw->cq)
        (void)ibv_destroy_cq(raw->cq);
    if (raw->pd)
        (void)ibv_dealloc_pd(raw->pd);
    (void)rdma_destroy_id(raw->id);
    rdma_destroy_event_channel(raw->events);
    free(raw->memory);
    free(raw);
}
