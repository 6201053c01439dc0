/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_device: one RDMA device with all that is registered on it: protection domain, pool, slots, queues.
 *
 *   - made when the first connection resolves to it: everything is registered once, nothing per I/O (trap 3);
 *   - the buffer pool is registered without remote rights: a peer reaches a payload only through a memory window that
 *     is bound to that payload, for that queue pair, while it is on offer;
 *   - one shared receive queue; the receive slots are promised to connections as credits, their sum never above what is
 *     posted (trap 5); the completion queue holds whatever send queues and receive queue can complete (trap 7).
 * Failure modes: what the device or the memory limit does not allow ends the connection that asked, with one line that
 * says what to set.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/log.h"
#include "common/transport/rdma_internal.h"

#define LOG_MODULE "rdma"
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define INLINE_BYTES 220u /* head and one frame header: an answer without a payload */
/* siw of Linux 6.1 forgets that a received SEND was solicited (siw_qp.c, siw_rqe_complete): it would wake nobody. */
#define VENDOR_SIW 0x626d74u
#define VENDOR_RXE 0xffffffu

uint8_t *rdma_device_slot(const struct rdma_device *device, uint32_t slot)
{
    rdma_device_assert(device);
    assert(slot < device->receive_slots);
    return device->slots + (size_t)slot * RDMA_RECEIVE_BYTES;
}

uint8_t *rdma_device_send_slot(const struct rdma_device *device, uint32_t slot)
{
    rdma_device_assert(device);
    assert(slot < device->send_slots);
    return device->slots + ((size_t)device->receive_slots + slot) * RDMA_RECEIVE_BYTES;
}

void rdma_device_receive(struct rdma_device *device, uint16_t slot)
{
    rdma_device_assert(device);
    struct ibv_sge piece = {.addr = (uintptr_t)rdma_device_slot(device, slot),
                            .length = RDMA_RECEIVE_BYTES,
                            .lkey = device->slots_mr->lkey};
    struct ibv_recv_wr work = {.wr_id = slot, .sg_list = &piece, .num_sge = 1};
    struct ibv_recv_wr *bad = NULL;
    int rc = ibv_post_srq_recv(device->srq, &work, &bad);
    /* A slot is posted at most once, and the queue has room for all: only a dead device refuses, and its connections
     * end anyway. */
    assert(rc == 0 || rc > 0);
    if (rc != 0 && !device->removed)
        log_warn("device %s takes no receive error=\"%s\"", ibv_get_device_name(device->verbs->device), strerror(rc));
}

/* ---- memory */

static int map_slots(struct rdma_device *device)
{
    size_t bytes = (size_t)(device->receive_slots + device->send_slots) * RDMA_RECEIVE_BYTES;
    assert(!device->slots);
    bytes = (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    const char *want = getenv("ASHLAR_HUGETLB");
    void *at = MAP_FAILED;
    if (want && strcmp(want, "1") == 0)
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (at == MAP_FAILED)
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -ENOMEM;
    (void)madvise(at, bytes, MADV_HUGEPAGE); /* where there are any */
    device->slots = at;
    device->slots_bytes = bytes;
    return 0;
}

static int register_memory(struct rdma_device *device)
{
    void *base;
    size_t bytes;
    assert(device->pd && !device->pool_mr);
    int rc = map_slots(device);
    if (rc < 0)
        return rc;
    buf_pool_region(device->transport->bufs, &base, &bytes);
    unsigned access = IBV_ACCESS_LOCAL_WRITE;
    if (device->windows)
        access |= IBV_ACCESS_MW_BIND;
    device->pool_mr = ibv_reg_mr(device->pd, base, bytes, access);
    if (device->pool_mr)
        device->slots_mr = ibv_reg_mr(device->pd, device->slots, device->slots_bytes, IBV_ACCESS_LOCAL_WRITE);
    if (device->slots_mr)
        return 0;
    rc = -errno;
    assert(rc < 0);
    rdma_error_memlock(bytes + device->slots_bytes, -rc);
    return rc;
}

/* ---- queues */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* What the device allows of what we want. */
static int learn_limits(struct rdma_device *device)
{
    const struct transport_rdma_config *config = &device->transport->config;
    const char *name = ibv_get_device_name(device->verbs->device);
    struct ibv_device_attr attr;
    int rc = -ibv_query_device(device->verbs, &attr);
    if (rc < 0)
        return rc;
    assert(config->links_max > 0 && config->credits >= RDMA_CREDITS_MIN);
    uint32_t wanted = config->links_max * config->credits;
    device->receive_slots = least(wanted, least((uint32_t)attr.max_srq_wr, RDMA_NO_SLOT - 1));
    device->send_slots = device->receive_slots;
    device->credits_left = device->receive_slots;
    device->pieces_max = least((uint32_t)attr.max_sge, RDMA_CUT_PIECES_MAX + 1) - 1; /* one is the head's */
    device->read_depth =
        least(RDMA_READ_DEPTH, least((uint32_t)attr.max_qp_rd_atom, (uint32_t)attr.max_qp_init_rd_atom));
    device->windows = !config->no_windows && device->read_depth > 0 &&
                      (attr.device_cap_flags & (IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B)) != 0 &&
                      device->verbs->device->transport_type == IBV_TRANSPORT_IB;
    device->solicited = attr.vendor_id != VENDOR_SIW;
    device->rxe = attr.vendor_id == VENDOR_RXE;
    if (attr.max_qp_wr < (int)RDMA_SQ_DEPTH || attr.max_sge < 2 || device->receive_slots < config->credits) {
        log_error("RDMA device %s is too small: max_qp_wr=%d (needs %u) max_sge=%d (2) max_srq_wr=%d (%u); use "
                  "transport.kind=tcp on this node",
                  name, attr.max_qp_wr, RDMA_SQ_DEPTH, attr.max_sge, attr.max_srq_wr, config->credits);
        return -EOPNOTSUPP;
    }
    if (device->receive_slots < wanted)
        log_warn("RDMA device %s: max_srq_wr=%d allows %u links instead of %u", name, attr.max_srq_wr,
                 device->receive_slots / config->credits, config->links_max);
    uint32_t completions = device->receive_slots + config->links_max * RDMA_SQ_DEPTH;
    if ((uint32_t)attr.max_cqe < completions) {
        log_error("RDMA device %s: max_cqe=%d, needs %u; lower transport.rdma_links", name, attr.max_cqe, completions);
        return -EOPNOTSUPP;
    }
    return 0;
}

static int make_queues(struct rdma_device *device)
{
    const struct transport_rdma_config *config = &device->transport->config;
    struct ibv_srq_init_attr srq = {.attr = {.max_wr = device->receive_slots, .max_sge = 1}};
    int completions = (int)(device->receive_slots + config->links_max * RDMA_SQ_DEPTH);
    assert(device->pd && !device->cq);
    device->channel = ibv_create_comp_channel(device->verbs);
    if (device->channel && fcntl(device->channel->fd, F_SETFL, O_NONBLOCK) == 0)
        device->cq = ibv_create_cq(device->verbs, completions, device, device->channel, 0);
    if (device->cq)
        device->srq = ibv_create_srq(device->pd, &srq);
    if (!device->srq)
        return errno > 0 ? -errno : -EIO;
    assert(srq.attr.max_wr >= device->receive_slots);
    return 0;
}

static int make_lists(struct rdma_device *device)
{
    assert(device->receive_slots > 0 && device->send_slots > 0);
    device->send_free = calloc(device->send_slots, sizeof(device->send_free[0]));
    device->receive_bytes = calloc(device->receive_slots, sizeof(device->receive_bytes[0]));
    device->receive_next = calloc(device->receive_slots, sizeof(device->receive_next[0]));
    if (!device->send_free || !device->receive_bytes || !device->receive_next)
        return -ENOMEM;
    for (uint32_t i = 0; i < device->send_slots; i++)
        device->send_free[device->send_free_count++] = (uint16_t)i;
    assert(device->send_free_count == device->send_slots);
    return map_u64_reserve(&device->by_qp, RDMA_LINKS_LIMIT);
}

static int device_init(struct rdma_device *device)
{
    int rc = learn_limits(device);
    if (rc < 0)
        return rc;
    device->pd = ibv_alloc_pd(device->verbs);
    if (!device->pd)
        return errno > 0 ? -errno : -EIO;
    rc = register_memory(device);
    if (rc == 0)
        rc = make_queues(device);
    if (rc == 0)
        rc = make_lists(device);
    if (rc < 0)
        return rc;
    assert(device->srq && device->cq);
    for (uint32_t i = 0; i < device->receive_slots; i++)
        rdma_device_receive(device, (uint16_t)i);
    device->inline_bytes = INLINE_BYTES;
    return 0;
}

int rdma_device_get(struct rdma_transport *transport, struct ibv_context *verbs, struct rdma_device **ret_device)
{
    assert(verbs != NULL);
    list_for_each(node, &transport->devices)
    {
        struct rdma_device *known = list_entry(node, struct rdma_device, node);
        if (known->verbs == verbs && !known->removed) {
            *ret_device = known;
            return 0;
        }
    }
    struct rdma_device *device = calloc(1, sizeof(*device));
    if (!device)
        return -ENOMEM;
    device->transport = transport;
    device->verbs = verbs;
    map_u64_init(&device->by_qp);
    int rc = device_init(device);
    if (rc < 0) {
        log_debug("RDMA device %s cannot be used error=\"%s\"", ibv_get_device_name(verbs->device), strerror(-rc));
        rdma_device_free(device);
        return rc;
    }
    list_push_back(&transport->devices, &device->node);
    rdma_poll_watch(device);
    rdma_poll(device); /* arms it */
    log_info("RDMA device %s: links=%u credits=%u reads=%s", ibv_get_device_name(verbs->device),
             device->receive_slots / transport->config.credits, transport->config.credits,
             device->windows ? "yes" : "no: large payloads are sent and copied");
    *ret_device = device;
    return 0;
}

void rdma_device_stop(struct rdma_device *device)
{
    rdma_device_assert(device);
    assert(device->conn_count == 0 || device->transport->closing);
    if (device->channel_polled && !device->channel_cancelled) {
        device->channel_cancelled = true;
        ring_cancel(device->transport->loop, &device->channel_op);
    }
    env_timer_stop(device->transport->env, &device->spin_timer);
}

/* It went away: no new connection; it is taken down with its last one, or now if it has none. */
struct rdma_device *rdma_device_lost(struct rdma_transport *transport, const struct ibv_context *verbs)
{
    assert(transport != NULL && verbs != NULL);
    list_for_each(node, &transport->devices)
    {
        struct rdma_device *device = list_entry(node, struct rdma_device, node);
        if (device->verbs != verbs)
            continue;
        if (!device->removed && device->conn_count == 0)
            rdma_device_stop(device);
        device->removed = true;
        return device;
    }
    return NULL;
}

/* An id of a removed device holds the library's context of it, which would be closed with the last one, while we still
 * have queues and memory there: so one is kept until they are gone. */
bool rdma_device_anchor(struct rdma_device *device, struct rdma_cm_id *id)
{
    static enum rdma_owner nobody = RDMA_OWNER_NOBODY;
    rdma_device_assert(device);
    assert(id != NULL);
    if (!device->removed || device->anchor)
        return false;
    id->context = &nobody;
    device->anchor = id;
    return true;
}

/* librdmacm closes a device that is gone when it looks for devices and nobody uses it; a driver may wait for that with
 * its removal. */
static void let_device_go(struct rdma_device *device)
{
    struct ibv_context **all;
    assert(device->removed && !device->pd);
    (void)rdma_destroy_id(device->anchor);
    device->anchor = NULL;
    all = rdma_get_devices(NULL);
    if (all)
        rdma_free_devices(all);
}

/* Half-built ones, too. In this order: nothing may be destroyed that something else still uses. */
void rdma_device_free(struct rdma_device *device)
{
    assert(device->conn_count == 0 && !device->channel_polled);
    assert(!device->spin_timer.armed);
    if (list_linked(&device->node))
        list_remove(&device->node);
    if (device->srq)
        (void)ibv_destroy_srq(device->srq);
    if (device->cq)
        (void)ibv_destroy_cq(device->cq);
    if (device->channel)
        (void)ibv_destroy_comp_channel(device->channel);
    if (device->slots_mr)
        (void)ibv_dereg_mr(device->slots_mr);
    if (device->pool_mr)
        (void)ibv_dereg_mr(device->pool_mr);
    if (device->pd)
        (void)ibv_dealloc_pd(device->pd);
    device->pd = NULL;
    if (device->anchor)
        let_device_go(device);
    if (device->slots)
        (void)munmap(device->slots, device->slots_bytes);
    map_u64_close(&device->by_qp);
    free(device->send_free);
    free(device->receive_bytes);
    free(device->receive_next);
    free(device);
}
