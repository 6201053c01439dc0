/* SPDX-License-Identifier: Apache-2.0 */
/* fake_gateway: see the header. Frames are checked as a strict gateway would: a client that sends anything else fails the test. */
#include "tests/unit/client/fake_gateway.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/hello.h"
#include "common/log.h"

#define POOL_BYTES (64u << 20)
#define BLOCK WIRE_BLOCK_BYTES

/* ---- answers */

static void answer(struct fake_link *from, const struct wire_header *request, struct wire_header *reply,
                   const void *body, struct buf *payload)
{
    struct fake *fake = from->gateway->fake;
    if (fake->drop_after != 0 && fake->frame_count == fake->drop_after) {
        fake->drop_after = 0;
        link_close(from->link);
        return;
    }
    reply->opcode = request->opcode | 1u;
    reply->request_id = request->request_id;
    reply->map_version = from->gateway->map_version;
    (void)link_send(from->link, reply, body, payload, 0);
}

static void answer_status(struct fake_link *from, const struct wire_header *request, int status)
{
    struct wire_header reply = {.status = status};
    answer(from, request, &reply, NULL, NULL);
}

static void on_hello(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    struct hello theirs, ours = {.version_min = WIRE_VERSION_MIN,
                                 .version_max = WIRE_VERSION,
                                 .role = HELLO_CLIENT,
                                 .node = (uint32_t)from->gateway->side.node,
                                 .incarnation = 100,
                                 .cluster_id = 4711,
                                 .inflight_bytes_max = fake->inflight_bytes_max,
                                 .inflight_count_max = fake->inflight_count_max};
    uint8_t body[HELLO_BYTES];
    assert_int_equal(hello_decode(msg->body, msg->header.body_len, &theirs), 0);
    assert_int_equal(theirs.role, HELLO_CLIENT);
    assert_true(theirs.cluster_id == 0 || theirs.cluster_id == 4711);
    hello_encode(&ours, body);
    struct wire_header reply = {.body_len = sizeof(body)};
    answer(from, &msg->header, &reply, body, NULL);
}

static uint32_t loss_runs(const struct fake *fake, struct client_loss_run *runs)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < FAKE_SHARDS; i++) {
        if (fake->loss[i] > 0)
            runs[count++] = (struct client_loss_run){i, 1, fake->loss[i]};
    }
    return count;
}

static int attach_status(const struct fake_link *from, const struct msg *msg, const struct client_attach *attach)
{
    struct fake *fake = from->gateway->fake;
    bool same = memcmp(fake->attachment, attach->attachment, sizeof(fake->attachment)) == 0;
    if (from->gateway->refuses_attach)
        return -EAGAIN;
    if (from->gateway->knows_no_volume)
        return -ENOENT;
    if (fake->deleted || strcmp(attach->name, "vol") != 0)
        return -ENOENT;
    return fake->attached && !same && !(msg->header.flags & WIRE_F_FORCE) ? -EBUSY : 0;
}

static void on_attach(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    struct client_attach attach;
    static uint8_t body[CLIENT_ATTACHED_BYTES_MAX];
    struct client_loss_run runs[FAKE_SHARDS];
    assert_int_equal(client_attach_decode(msg->body, msg->header.body_len, &attach), 0);
    int rc = attach_status(from, msg, &attach);
    if (rc != 0) {
        answer_status(from, &msg->header, rc);
        return;
    }
    memcpy(fake->attachment, attach.attachment, sizeof(fake->attachment));
    fake->attached = true;
    fake->sessions_opened++;
    from->session = ++fake->session;
    size_t bytes = client_attached_begin(body, FAKE_SHARD_BYTES, runs, loss_runs(fake, runs));
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        bytes = client_attached_address(body, bytes, fake->gateways[i].address);
    struct wire_header reply = {
        .volume = fake->volume, .session = from->session, .length = fake->size, .body_len = (uint32_t)bytes};
    answer(from, &msg->header, &reply, body, NULL);
}

/* ---- I/O */

static void check_span(const struct wire_header *h, uint64_t span)
{
    assert_true(h->length > 0);
    assert_true(h->offset + h->length <= FAKE_SIZE);
    assert_int_equal(h->offset / span, (h->offset + h->length - 1) / span);
}

static void on_read(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    const struct wire_header *h = &msg->header;
    uint32_t crcs[WIRE_BLOCKS_MAX], blocks = (uint32_t)(h->length / BLOCK);
    check_span(h, 1 << 20);
    assert_true(h->offset % BLOCK == 0 && h->length % BLOCK == 0 && h->payload_len == 0 && h->body_len == 0);
    struct buf *buf = buf_alloc(from->gateway->side.bufs, (uint32_t)h->length);
    assert_non_null(buf);
    memcpy(buf->data, fake->disk + h->offset, h->length);
    crc32c_blocks(buf->data, blocks, crcs);
    for (uint32_t i = 0; i < blocks; i++)
        crcs[i] = htole32(crcs[i]);
    if (fake->damage_reads > 0) {
        fake->damage_reads--;
        buf->data[17] ^= 1;
    }
    struct wire_header reply = {.length = h->length,
                                .body_len = blocks * 4,
                                .payload_len = (uint32_t)h->length,
                                .loss_number = fake->loss[h->offset / FAKE_SHARD_BYTES]};
    answer(from, h, &reply, crcs, buf);
    buf_unref(buf);
}

static void on_write(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    const struct wire_header *h = &msg->header;
    uint32_t crcs[WIRE_BLOCKS_MAX], count = 1;
    check_span(h, 1 << 20);
    assert_int_equal(h->payload_len, h->length);
    if (h->offset % BLOCK == 0 && h->length % BLOCK == 0) {
        count = (uint32_t)(h->length / BLOCK);
        crc32c_blocks(msg->payload->data, count, crcs);
    } else {
        check_span(h, BLOCK);
        crcs[0] = crc32c(msg->payload->data, h->length);
    }
    assert_int_equal(h->body_len, count * 4);
    if (fake->damage_writes > 0) {
        fake->damage_writes--;
        answer_status(from, h, -EBADMSG);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(client_get_u32(msg->body + i * 4), crcs[i]);
    memcpy(fake->disk + h->offset, msg->payload->data, h->length);
    fake->writes_applied++;
    struct wire_header reply = {.length = h->length, .loss_number = fake->loss[h->offset / FAKE_SHARD_BYTES]};
    answer(from, h, &reply, NULL, NULL);
}

static void on_zero(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    const struct wire_header *h = &msg->header;
    check_span(h, 16 << 20);
    assert_true(h->offset % BLOCK == 0 && h->length % BLOCK == 0 && h->payload_len == 0 && h->body_len == 0);
    memset(fake->disk + h->offset, 0, h->length);
    struct wire_header reply = {.length = h->length, .loss_number = fake->loss[h->offset / FAKE_SHARD_BYTES]};
    answer(from, h, &reply, NULL, NULL);
}

static void on_flush(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    struct client_loss_run runs[FAKE_SHARDS];
    uint8_t body[FAKE_SHARDS * CLIENT_LOSS_RUN_BYTES];
    size_t bytes = client_loss_encode(runs, loss_runs(fake, runs), body);
    struct wire_header reply = {.body_len = (uint32_t)bytes};
    fake->flushes++;
    answer(from, &msg->header, &reply, body, NULL);
}

/* Every second MiB is a hole. */
static void on_extents(struct fake_link *from, const struct msg *msg)
{
    const struct wire_header *h = &msg->header;
    static uint8_t body[CLIENT_EXTENTS_MAX * CLIENT_EXTENT_BYTES];
    uint32_t count = 0;
    assert_true(h->offset % BLOCK == 0 && h->length % BLOCK == 0 && h->length <= CLIENT_EXTENTS_LENGTH_MAX);
    uint64_t end = h->offset + h->length, shard_end = (h->offset / FAKE_SHARD_BYTES + 1) * FAKE_SHARD_BYTES;
    end = end < shard_end ? end : shard_end;
    for (uint64_t at = h->offset; at < end;) {
        uint64_t next = (at / (1 << 20) + 1) * (1 << 20);
        next = next < end ? next : end;
        client_put_u32(body + count * CLIENT_EXTENT_BYTES, (uint32_t)((next - at) / BLOCK));
        client_put_u32(body + count * CLIENT_EXTENT_BYTES + 4, (uint32_t)(at / (1 << 20) % 2));
        count++;
        at = next;
    }
    struct wire_header reply = {
        .offset = h->offset, .length = end - h->offset, .body_len = count * CLIENT_EXTENT_BYTES};
    answer(from, h, &reply, body, NULL);
}

/* Two pages: ids 1 and 2, then 7. */
static void on_list(struct fake_link *from, const struct msg *msg)
{
    uint8_t body[2 * CLIENT_LIST_ENTRY_BYTES];
    bool first = msg->header.aux == 0;
    struct client_list_entry a = {.id = first ? 1 : 7, .size = FAKE_SIZE}, b = {.id = 2, .size = 4096};
    (void)snprintf(a.name, sizeof(a.name), first ? "one" : "vol");
    (void)snprintf(b.name, sizeof(b.name), "two");
    client_list_entry_encode(&a, body);
    client_list_entry_encode(&b, body + CLIENT_LIST_ENTRY_BYTES);
    struct wire_header reply = {.aux = first, .body_len = (first ? 2 : 1) * CLIENT_LIST_ENTRY_BYTES};
    answer(from, &msg->header, &reply, body, NULL);
}

static void on_io(struct fake_link *from, const struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    assert_int_equal(msg->header.session, from->session);
    if (from->session != fake->session) {
        answer_status(from, &msg->header, -EPERM); /* I6 */
        return;
    }
    if (fake->deleted) {
        answer_status(from, &msg->header, -ENOENT);
        return;
    }
    if (fake->status_count > 0) {
        fake->status_count--;
        answer_status(from, &msg->header, fake->status);
        return;
    }
    switch (msg->header.opcode) {
    case WIRE_READ: on_read(from, msg); return;
    case WIRE_WRITE: on_write(from, msg); return;
    case WIRE_ZERO: on_zero(from, msg); return;
    case WIRE_FLUSH: on_flush(from, msg); return;
    case WIRE_EXTENTS: on_extents(from, msg); return;
    default: fail_msg("opcode %u", msg->header.opcode);
    }
}

/* ---- links */

static void on_ping(struct fake_link *from, const struct msg *msg)
{
    const struct fake *fake = from->gateway->fake;
    struct wire_header reply = {.volume = fake->volume, .session = from->session};
    reply.length = from->session != 0 ? fake->size : 0;
    answer(from, &msg->header, &reply, NULL, NULL);
}

static void hold(struct fake_link *from, struct msg *msg)
{
    struct fake *fake = from->gateway->fake;
    assert_true(fake->held_count < FAKE_HELD_MAX);
    fake->held[fake->held_count].link = from;
    fake->held[fake->held_count++].msg = msg;
    fake->held_bytes += msg->header.length;
    if (fake->held_bytes > fake->held_bytes_max)
        fake->held_bytes_max = fake->held_bytes;
    if (fake->held_count > fake->held_count_max)
        fake->held_count_max = fake->held_count;
}

static void link_message(struct link *link, void *owner, struct msg *msg)
{
    struct fake_link *from = owner;
    struct fake *fake = from->gateway->fake;
    bool io = msg->header.opcode >= WIRE_READ && msg->header.opcode <= WIRE_EXTENTS;
    if (from->gateway->muted) {
        msg_free(msg);
        return;
    }
    from->gateway->frames++;
    if (msg->header.opcode != WIRE_PING && ++fake->frame_count == fake->drop_before) {
        fake->drop_before = 0;
        link_close(link);
        msg_free(msg);
        return;
    }
    if (io && fake->hold) {
        hold(from, msg);
        return;
    }
    switch (msg->header.opcode) {
    case WIRE_HELLO: on_hello(from, msg); break;
    case WIRE_ATTACH: on_attach(from, msg); break;
    case WIRE_VOLUME_LIST: on_list(from, msg); break;
    case WIRE_PING: on_ping(from, msg); break;
    case WIRE_DETACH:
        assert_int_equal(msg->header.session, from->session);
        fake->detaches++;
        fake->attached = false;
        answer_status(from, &msg->header, 0);
        break;
    default: on_io(from, msg);
    }
    msg_free(msg);
}

static void link_closed(struct link *link, void *owner, int reason)
{
    struct fake_link *from = owner;
    struct fake *fake = from->gateway->fake;
    uint32_t kept = 0;
    (void)link;
    (void)reason;
    for (uint32_t i = 0; i < fake->held_count; i++) {
        if (fake->held[i].link == from) {
            fake->held_bytes -= fake->held[i].msg->header.length;
            msg_free(fake->held[i].msg);
        } else {
            fake->held[kept++] = fake->held[i];
        }
    }
    fake->held_count = kept;
    list_remove(&from->node);
    free(from);
}

static const struct link_callbacks link_callbacks = {.message = link_message, .closed = link_closed};

static void accepted(struct listener *listener, void *arg, struct link *link)
{
    struct fake_gateway *gateway = arg;
    struct fake_link *from = calloc(1, sizeof(*from));
    (void)listener;
    assert_non_null(from);
    from->gateway = gateway;
    from->link = link;
    list_push_back(&gateway->links, &from->node);
    link_set_owner(link, &link_callbacks, from);
}

void fake_release(struct fake *fake, uint32_t count)
{
    while (count-- > 0 && fake->held_count > 0) {
        struct fake_link *from = fake->held[0].link;
        struct msg *msg = fake->held[0].msg;
        fake->held_count--;
        memmove(fake->held, fake->held + 1, fake->held_count * sizeof(fake->held[0]));
        fake->held_bytes -= msg->header.length;
        on_io(from, msg);
        msg_free(msg);
    }
}

uint32_t fake_link_count(const struct fake_gateway *gateway)
{
    uint32_t count = 0;
    list_for_each(pos, &gateway->links) count++;
    return count;
}

void fake_up(struct fake_gateway *gateway)
{
    assert_null(gateway->listener);
    assert_int_equal(transport_listen(gateway->side.transport, gateway->address, accepted, gateway, &gateway->listener),
                     0);
}

void fake_down(struct fake_gateway *gateway)
{
    listener_close(gateway->listener);
    gateway->listener = NULL;
    list_for_each(pos, &gateway->links) link_close(list_entry(pos, struct fake_link, node)->link);
}

/* ---- fixture */

static void side_make(struct fake *fake, struct fake_side *side)
{
    side->node = world_node_add(fake->world);
    side->env = world_env_create(fake->world, side->node);
    side->bufs = buf_pool_create(POOL_BYTES);
    assert_non_null(side->bufs);
    assert_int_equal(transport_sim_create(fake->net, side->node, side->env, side->bufs, &side->transport), 0);
}

static void drop_line(void *arg, enum log_level level, const char *module, const char *line)
{
    (void)arg;
    (void)level;
    (void)module;
    (void)line;
}

struct fake *fake_create_bare(void)
{
    log_set_hook(drop_line, NULL);
    struct fake *fake = calloc(1, sizeof(*fake));
    assert_non_null(fake);
    fake->disk = calloc(1, FAKE_SIZE);
    assert_non_null(fake->disk);
    fake->volume = FAKE_VOLUME;
    fake->size = FAKE_SIZE;
    fake->inflight_bytes_max = 8u << 20;
    fake->inflight_count_max = 64;
    for (int i = 0; i < FAKE_GATEWAYS; i++) {
        fake->gateways[i].fake = fake;
        list_head_init(&fake->gateways[i].links);
    }
    return fake;
}

void fake_destroy_bare(struct fake *fake)
{
    assert_int_equal(fake->held_count, 0);
    free(fake->disk);
    free(fake);
}

struct fake *fake_create(uint64_t seed)
{
    struct fake *fake = fake_create_bare();
    fake->world = world_create(seed);
    struct sim_net_config config = {.tail_permille = 20, .tail_max_ns = 2000000};
    fake->net = sim_net_create(fake->world, &config);
    side_make(fake, &fake->client_side);
    for (int i = 0; i < FAKE_GATEWAYS; i++) {
        struct fake_gateway *gateway = &fake->gateways[i];
        side_make(fake, &gateway->side);
        (void)snprintf(gateway->address, sizeof(gateway->address), "sim:%d:7100", gateway->side.node);
        fake_up(gateway);
    }
    return fake;
}

static bool all_gone(void *arg)
{
    struct fake *fake = arg;
    size_t live = stream_transport_live(fake->client_side.transport);
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        live += stream_transport_live(fake->gateways[i].side.transport);
    return live == 0;
}

static void side_free(struct fake_side *side)
{
    struct buf_pool_stats stats;
    transport_sim_destroy(side->transport);
    buf_pool_stats(side->bufs, &stats);
    assert_int_equal(stats.used_bytes, 0);
    buf_pool_destroy(side->bufs);
}

void fake_destroy(struct fake *fake)
{
    stream_transport_shutdown(fake->client_side.transport);
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        stream_transport_shutdown(fake->gateways[i].side.transport);
    assert_true(world_run_until(fake->world, all_gone, fake, ENV_MS(20000)));
    side_free(&fake->client_side);
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        side_free(&fake->gateways[i].side);
    sim_net_destroy(fake->net);
    world_destroy(fake->world);
    fake_destroy_bare(fake);
}

/* ---- the client */

static void client_opened(void *arg, int rc)
{
    struct fake_client *c = arg;
    assert_false(c->opened);
    c->opened = true;
    c->opened_rc = rc;
}

static bool is_opened(void *arg)
{
    return ((struct fake_client *)arg)->opened;
}

void fake_client_start(struct fake_client *c, struct fake *fake, const struct client_config *overrides)
{
    const char *addresses[FAKE_GATEWAYS];
    struct client_config config = overrides ? *overrides : (struct client_config){.volume = "vol"};
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        addresses[i] = fake->gateways[i].address;
    memset(c, 0, sizeof(*c));
    c->fake = fake;
    config.env = fake->client_side.env;
    config.transport = fake->client_side.transport;
    config.addresses = addresses;
    config.address_count = FAKE_GATEWAYS;
    config.opened = client_opened;
    config.arg = c;
    c->client = client_create(&config);
    assert_non_null(c->client);
    assert_false(c->opened);
}

void fake_client_open(struct fake_client *c, struct fake *fake, const struct client_config *overrides)
{
    fake_client_start(c, fake, overrides);
    assert_true(world_run_until(fake->world, is_opened, c, ENV_MS(60000)));
    assert_int_equal(c->opened_rc, 0);
}

static void client_closed(void *arg)
{
    ((struct fake_client *)arg)->closed = true;
}

static bool is_closed(void *arg)
{
    return ((struct fake_client *)arg)->closed;
}

void fake_client_close(struct fake_client *c)
{
    client_close(c->client, client_closed, c);
    assert_false(c->closed);
    assert_true(world_run_until(c->fake->world, is_closed, c, ENV_MS(60000)));
    c->client = NULL;
}

static void io_done(struct client_request *request, int rc)
{
    struct fake_io *io = request->owner;
    assert_int_equal(io->done, 0); /* exactly once */
    io->done++;
    io->rc = rc;
    for (uint32_t i = 0; rc == 0 && i < request->extent_count && i < 64; i++)
        io->extents[io->extent_count++] = request->extents[i];
    for (uint32_t i = 0; rc == 0 && i < request->entry_count && i < 8; i++)
        io->entries[io->entry_count++] = request->entries[i];
}

void fake_submit(struct fake_client *c, struct fake_io *io, enum client_op op, uint64_t offset, uint64_t length,
                 uint8_t *data, uint32_t flags)
{
    memset(io, 0, sizeof(*io));
    io->fake = c->fake;
    io->request = (struct client_request){
        .op = op, .flags = flags, .offset = offset, .length = length, .data = data, .cb = io_done, .owner = io};
    int rc = client_submit(c->client, &io->request);
    assert_int_equal(io->done, 0); /* never inside the call */
    if (rc < 0) {
        io->rc = rc;
        io->done = 1;
    }
}

static bool io_is_done(void *arg)
{
    return ((struct fake_io *)arg)->done > 0;
}

int fake_wait(struct fake_io *io)
{
    assert_true(world_run_until(io->fake->world, io_is_done, io, ENV_MS(60000)));
    return io->rc;
}

int fake_do(struct fake_client *c, enum client_op op, uint64_t offset, uint64_t length, uint8_t *data, uint32_t flags)
{
    struct fake_io io;
    fake_submit(c, &io, op, offset, length, data, flags);
    return fake_wait(&io);
}

void fake_run_ms(struct fake *fake, uint64_t ms)
{
    world_run(fake->world, ENV_MS(ms));
}
