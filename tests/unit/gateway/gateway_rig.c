/* SPDX-License-Identifier: Apache-2.0 */
/* gateway_rig: see the header. */
#include "tests/unit/gateway/gateway_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/client_body.h"
#include "common/crc32c.h"
#include "common/hello.h"
#include "common/log.h"

#define CLUSTER 0xc1u

static struct rig *the_rig; /* the fakes' functions have no argument of ours */

/* ---- fake replicas */

void replicas_submit(struct replicas *r, struct replica_op *op)
{
    assert_ptr_equal(r, the_rig);
    assert_non_null(op->cb);
    memset(&op->link, 0, sizeof(op->link));
    list_push_back(&the_rig->ops, &op->link);
    the_rig->op_count++;
}

int replicas_extents(struct replicas *r, uint64_t volume, uint32_t shard, uint64_t offset, uint64_t length,
                     struct store_extent *ret_extents, uint32_t max, uint32_t *ret_count)
{
    assert_ptr_equal(r, the_rig);
    assert_true(volume != 0 && shard < 100 && max >= 2 && length >= 8192);
    if (the_rig->extents_rc)
        return the_rig->extents_rc;
    ret_extents[0] = (struct store_extent){.offset = offset, .length = 4096, .state = 1};
    ret_extents[1] = (struct store_extent){.offset = offset + 4096, .length = length - 4096, .state = 0};
    *ret_count = 2;
    return 0;
}

static void extents_told(struct env_task *task)
{
    struct replica_extents *req = list_entry(task, struct replica_extents, task);
    req->cb(req, req->rc);
}

/* Nothing changed. */
void replicas_extents_submit(struct replicas *r, struct replica_extents *req)
{
    assert_ptr_equal(r, the_rig);
    req->count = 1;
    req->extents[0] = (struct store_extent){.offset = req->offset, .length = req->length, .state = STORE_EXTENT_SAME};
    req->rc = req->max > 0 ? 0 : -EINVAL;
    env_defer(the_rig->env, &req->task, extents_told);
}

bool replicas_cut_off(const struct replicas *r)
{
    assert_ptr_equal(r, the_rig);
    return the_rig->cut_off;
}

static bool has_op(void *arg)
{
    return !list_empty(&((struct rig *)arg)->ops);
}

struct replica_op *rig_first_op(struct rig *rig)
{
    assert_true(world_run_until(rig->world, has_op, rig, ENV_MS(2000)));
    return list_entry(rig->ops.next, struct replica_op, link);
}

void rig_complete(struct rig *rig, struct replica_op *op, int rc)
{
    (void)rig;
    list_remove(&op->link);
    if (rc == 0 && op->opcode == WIRE_READ) {
        memset(op->buf->data + op->buf_offset, 0x5a, op->length);
        crc32c_blocks(op->buf->data + op->buf_offset, op->length / WIRE_BLOCK_BYTES, op->crcs);
    }
    op->stage_ns[0] = 1;
    op->stage_ns[1] = 20;
    op->stage_ns[2] = 300;
    op->stage_ns[3] = 400;
    op->cb(op, rc);
}

/* ---- fake peers */

struct fake_msg {
    struct msg msg;
    uint8_t body[4096];
};

static void fake_msg_release(struct msg *msg)
{
    buf_unref(msg->payload);
    free(msg);
}

static struct msg *make_msg(struct rig *rig, const struct wire_header *header, const void *body, const void *payload)
{
    struct fake_msg *fake = calloc(1, sizeof(*fake));
    assert_non_null(fake);
    fake->msg.header = *header;
    fake->msg.release = fake_msg_release;
    fake->msg.received_ns = env_now_ns(rig->env);
    if (header->body_len > 0) {
        assert_true(header->body_len <= sizeof(fake->body));
        memcpy(fake->body, body, header->body_len);
        fake->msg.body = fake->body;
    }
    if (header->payload_len > 0) {
        fake->msg.payload = buf_alloc(rig->bufs, header->payload_len);
        assert_non_null(fake->msg.payload);
        memcpy(fake->msg.payload->data, payload, header->payload_len);
    }
    return &fake->msg;
}

void peers_request(struct peers *peers, uint32_t node, struct wire_header *header, const void *body,
                   struct buf *payload, uint32_t payload_offset, struct peer_request *req)
{
    struct rig *rig = the_rig;
    assert_ptr_equal(peers, rig);
    assert_true(node != RIG_NODE && node <= RIG_NODES);
    assert_int_equal(payload_offset, 0);
    assert_true((body != NULL) == (header->body_len > 0));
    assert_true((payload != NULL) == (header->payload_len > 0));
    memset(&req->link, 0, sizeof(req->link));
    req->node = node;
    rig->sent[rig->sent_count++ % 64] = *header;
    list_push_back(&rig->requests, &req->link);
}

bool peers_is_up(const struct peers *peers, uint32_t node)
{
    assert_ptr_equal(peers, the_rig);
    return the_rig->up[node];
}

void peers_notify(struct peers *peers, uint32_t node, struct wire_header *header)
{
    assert_ptr_equal(peers, the_rig);
    assert_int_equal(header->opcode, WIRE_SEAL);
    assert_true(node > 0 && node <= RIG_NODES);
    the_rig->seals++;
}

void peers_abandon(struct peers *peers, struct peer_request *req)
{
    assert_ptr_equal(peers, the_rig);
    list_remove(&req->link);
}

void peers_reply(struct peers *peers, const struct peer_source *source, const struct wire_header *request,
                 struct wire_header *reply, const void *body, struct buf *payload, uint32_t payload_offset)
{
    struct rig *rig = the_rig;
    assert_ptr_equal(peers, rig);
    assert_int_equal(payload_offset, 0);
    assert_true(rig->reply_count < 64);
    struct rig_reply *note = &rig->replies[rig->reply_count++];
    note->source = *source;
    note->header = *reply;
    note->request = *request;
    assert_true(reply->body_len <= sizeof(note->body));
    if (reply->body_len > 0)
        memcpy(note->body, body, reply->body_len);
    assert_true((payload != NULL) == (reply->payload_len > 0));
    note->first_byte = payload ? payload->data[0] : 0;
}

static bool has_request(void *arg)
{
    return !list_empty(&((struct rig *)arg)->requests);
}

struct peer_request *rig_first_request(struct rig *rig)
{
    assert_true(world_run_until(rig->world, has_request, rig, ENV_MS(2000)));
    return list_entry(rig->requests.next, struct peer_request, link);
}

const struct wire_header *rig_sent(const struct rig *rig, uint32_t back)
{
    assert_true(rig->sent_count > back);
    return &rig->sent[(rig->sent_count - 1 - back) % 64];
}

void rig_peer_answer(struct rig *rig, struct peer_request *request, int rc, const struct wire_header *header,
                     const void *body, const void *payload)
{
    struct msg *reply = make_msg(rig, header, body, payload);
    bool taken = false;
    list_remove(&request->link);
    reply->header.status = rc;
    request->reply = reply;
    request->taken = &taken;
    request->cb(request, rc);
    if (!taken)
        msg_free(reply);
}

void rig_peer_lost(struct rig *rig, struct peer_request *request)
{
    (void)rig;
    list_remove(&request->link);
    request->reply = NULL;
    request->cb(request, -ENOTCONN);
}

void rig_peer_asks(struct rig *rig, uint32_t node, struct wire_header *header, const void *body, const void *payload)
{
    struct peer_source source = {.node = node, .connection = 77};
    header->request_id = 5;
    gateway_peer_request(rig->gateway, &source, make_msg(rig, header, body, payload));
}

/* ---- fake control */

static void open_session(struct rig *rig, struct bridge_attach *req)
{
    struct map_entry entry = {.kind = MAP_ENTRY_SESSION_OPEN,
                              .node = RIG_NODE,
                              .incarnation = rig->incarnations[RIG_NODE],
                              .flags = req->flags};
    memcpy(entry.name, req->volume_name, sizeof(entry.name));
    memcpy(entry.attachment, req->attachment, sizeof(entry.attachment));
    const struct map_volume *v = rig_find(rig, req->volume_name);
    if (!v) {
        req->cb(req, -ENOENT);
        return;
    }
    entry.volume = v->id;
    uint8_t bytes[4096];
    struct map_result result;
    int len = map_entry_encode(&entry, bytes, sizeof(bytes));
    assert_true(len > 0);
    map_apply(rig->map, map_version(rig->map) + 1, bytes, (size_t)len, &result);
    gateway_map_settled(rig->gateway);
    req->volume = v->id;
    req->session = result.value;
    req->size = v->size;
    req->version = map_version(rig->map);
    req->cb(req, result.rc);
}

struct attach_task {
    struct env_task task;
    struct bridge_attach *req;
};

static void attach_now(struct env_task *task)
{
    struct attach_task *self = list_entry(task, struct attach_task, task);
    struct bridge_attach *req = self->req;
    free(self);
    open_session(the_rig, req);
}

static void control_attach(struct bridge_to_control *b, struct bridge_attach *req)
{
    struct rig *rig = the_rig;
    assert_ptr_equal(b, &rig->control);
    if (rig->hold_attach) {
        assert_true(rig->attach_count < 16);
        rig->attaches[rig->attach_count++] = req;
        return;
    }
    struct attach_task *task = calloc(1, sizeof(*task));
    assert_non_null(task);
    task->req = req;
    env_defer(rig->env, &task->task, attach_now);
}

static void control_detach(struct bridge_to_control *b, uint64_t volume, uint64_t session)
{
    assert_ptr_equal(b, &the_rig->control);
    assert_true(volume != 0);
    the_rig->detach_count++;
    the_rig->detached_session = session;
}

static const struct bridge_to_control_ops control_ops = {.attach = control_attach, .detach = control_detach};

/* ---- the map */

static void on_volume(void *arg, const struct map_volume *volume)
{
    struct rig *rig = arg;
    gateway_volume_changed(rig->gateway, volume);
}

static void on_removed(void *arg, uint64_t volume)
{
    struct rig *rig = arg;
    gateway_volume_removed(rig->gateway, volume);
}

static void on_shard(void *arg, const struct map_volume *volume, const struct map_shard *shard)
{
    struct rig *rig = arg;
    gateway_shard_changed(rig->gateway, volume, shard);
}

void rig_apply(struct rig *rig, struct map_entry *entry, int rc)
{
    static uint8_t bytes[MAP_ENTRY_BYTES_MAX];
    struct map_result result;
    int len = map_entry_encode(entry, bytes, sizeof(bytes));
    assert_true(len > 0);
    map_apply(rig->map, map_version(rig->map) + 1, bytes, (size_t)len, &result);
    assert_int_equal(result.rc, rc);
    if (entry->kind == MAP_ENTRY_NODE_REGISTER)
        rig->incarnations[entry->node] = result.value;
    if (rig->gateway)
        gateway_map_settled(rig->gateway);
}

const struct map_volume *rig_find(const struct rig *rig, const char *name)
{
    return map_volume_by_name(rig->map, name);
}

void rig_volume(struct rig *rig, const char *name, uint32_t shards, uint32_t home)
{
    struct map_weight weights[RIG_NODES];
    struct map_entry entry = {.kind = MAP_ENTRY_VOLUME_CREATE,
                              .size = shards * RIG_SHARD_BYTES,
                              .shard_bytes = RIG_SHARD_BYTES,
                              .replicas = 3,
                              .min_replicas = 1,
                              .home = home,
                              .weights = weights,
                              .weight_count = RIG_NODES};
    for (uint32_t i = 0; i < RIG_NODES; i++)
        weights[i] = (struct map_weight){.node = i + 1, .free_bytes = 1ull << 40};
    (void)snprintf(entry.name, sizeof(entry.name), "%s", name);
    rig_apply(rig, &entry, 0);
    assert_int_equal(rig_find(rig, name)->shards[0].primary, home);
}

void rig_move(struct rig *rig, const char *name, uint32_t shard, uint32_t to)
{
    const struct map_volume *v = rig_find(rig, name);
    uint32_t from = v->shards[shard].primary;
    struct map_entry entry = {.kind = MAP_ENTRY_PRIMARY_MOVE,
                              .node = from,
                              .incarnation = rig->incarnations[from],
                              .volume = v->id,
                              .shard = shard,
                              .epoch = v->shards[shard].epoch,
                              .to_node = to};
    rig_apply(rig, &entry, 0);
}

void rig_activate(struct rig *rig, const char *name, uint32_t shard)
{
    const struct map_volume *v = rig_find(rig, name);
    struct map_active active = {.volume = v->id, .shard = shard, .epoch = v->shards[shard].epoch};
    uint32_t primary = v->shards[shard].primary;
    struct map_entry entry = {.kind = MAP_ENTRY_EPOCH_ACTIVE,
                              .node = primary,
                              .incarnation = rig->incarnations[primary],
                              .actives = &active,
                              .active_count = 1};
    rig_apply(rig, &entry, 0);
}

void rig_node_down(struct rig *rig, uint32_t node)
{
    struct map_entry entry = {.kind = MAP_ENTRY_NODE_DOWN, .node = node, .incarnation = rig->incarnations[node]};
    rig_apply(rig, &entry, 0);
}

void rig_session(struct rig *rig, const char *name, uint8_t attachment)
{
    const struct map_volume *v = rig_find(rig, name);
    struct map_entry entry = {.kind = MAP_ENTRY_SESSION_OPEN,
                              .node = 2,
                              .incarnation = rig->incarnations[2],
                              .volume = v->id,
                              .flags = MAP_SESSION_FORCE};
    memset(entry.attachment, attachment, sizeof(entry.attachment));
    rig_apply(rig, &entry, 0);
}

void rig_delete(struct rig *rig, const char *name)
{
    struct map_entry entry = {.kind = MAP_ENTRY_VOLUME_DELETE, .volume = rig_find(rig, name)->id, .flags = MAP_FORCE};
    rig_apply(rig, &entry, 0);
}

void rig_loss(struct rig *rig, const char *name)
{
    struct map_entry entry = {.kind = MAP_ENTRY_FORCE_PROMOTE,
                              .volume = rig_find(rig, name)->id,
                              .shard = UINT32_MAX,
                              .node = 1,
                              .incarnation = rig->incarnations[1],
                              .to_node = 1,
                              .flags = MAP_FORCE};
    rig_apply(rig, &entry, 0);
}

static void fill_map(struct rig *rig)
{
    struct map_entry init = {.kind = MAP_ENTRY_CLUSTER_INIT, .cluster_id = CLUSTER};
    rig_apply(rig, &init, 0);
    for (uint32_t id = 1; id <= RIG_NODES; id++) {
        struct map_entry entry = {.kind = MAP_ENTRY_NODE_REGISTER, .node = id};
        entry.node_info.id = id;
        entry.node_info.store_uuid[0] = (uint8_t)id;
        entry.node_info.capacity_bytes = 1ull << 40;
        (void)snprintf(entry.node_info.data_address, sizeof(entry.node_info.data_address), "tcp:10.0.0.%u:7100", id);
        (void)snprintf(entry.node_info.host, sizeof(entry.node_info.host), "host%u", id);
        rig_apply(rig, &entry, 0);
        rig->up[id] = id != RIG_NODE;
    }
}

/* ---- the daemon's accept dispatch */

static void accept_message(struct link *link, void *owner, struct msg *msg)
{
    struct rig *rig = owner;
    gateway_accept(rig->gateway, link, msg);
}

static void accept_closed(struct link *link, void *owner, int reason)
{
    (void)link;
    (void)owner;
    (void)reason;
}

static const struct link_callbacks accept_callbacks = {.message = accept_message, .closed = accept_closed};

static void accepted(struct listener *listener, void *arg, struct link *link)
{
    (void)listener;
    link_set_owner(link, &accept_callbacks, arg);
}

/* ---- clients */

static void client_connected(struct link *link, void *owner)
{
    (void)link;
    ((struct rig_client *)owner)->connected = true;
}

static void client_message(struct link *link, void *owner, struct msg *msg)
{
    struct rig_client *client = owner;
    (void)link;
    assert_true(client->msg_count < RIG_MSGS);
    client->msgs[client->msg_count++] = msg;
}

static void client_closed(struct link *link, void *owner, int reason)
{
    struct rig_client *client = owner;
    (void)link;
    client->closed = true;
    client->reason = reason;
}

static const struct link_callbacks client_callbacks = {
    .connected = client_connected, .message = client_message, .closed = client_closed};

static bool is_connected(void *arg)
{
    return ((struct rig_client *)arg)->connected;
}

struct rig_client *rig_connect_raw(struct rig *rig)
{
    struct rig_client *client = calloc(1, sizeof(*client));
    char address[64];
    assert_non_null(client);
    client->rig = rig;
    client->next_id = 100;
    (void)snprintf(address, sizeof(address), "sim:%d:7100", rig->node);
    assert_int_equal(transport_connect(rig->client_transport, address, &client_callbacks, client, &client->link), 0);
    assert_true(world_run_until(rig->world, is_connected, client, ENV_MS(2000)));
    return client;
}

uint64_t rig_send(struct rig_client *client, struct wire_header *header, const void *body, const void *payload)
{
    struct buf *buf = NULL;
    if (header->payload_len > 0) {
        buf = buf_alloc(client->rig->client_bufs, header->payload_len);
        assert_non_null(buf);
        memcpy(buf->data, payload, header->payload_len);
    }
    header->request_id = ++client->next_id;
    (void)link_send(client->link, header, body, buf, 0);
    buf_unref(buf);
    return header->request_id;
}

struct rig_client *rig_connect(struct rig *rig)
{
    struct rig_client *client = rig_connect_raw(rig);
    struct hello hello = {.version_min = 1, .version_max = 1, .role = HELLO_CLIENT}, theirs;
    uint8_t body[HELLO_BYTES];
    struct wire_header header = {.opcode = WIRE_HELLO, .body_len = sizeof(body)};
    hello_encode(&hello, body);
    struct msg *msg = rig_answer(client, rig_send(client, &header, body, NULL));
    assert_int_equal(msg->header.status, 0);
    assert_int_equal(hello_decode(msg->body, msg->header.body_len, &theirs), 0);
    assert_int_equal(theirs.inflight_bytes_max, RIG_INFLIGHT_BYTES);
    assert_int_equal(theirs.inflight_count_max, RIG_INFLIGHT_COUNT);
    assert_int_equal(theirs.cluster_id, CLUSTER);
    msg_free(msg);
    return client;
}

struct rig_client *rig_attach(struct rig *rig, const char *name, uint8_t attachment, uint32_t flags)
{
    struct rig_client *client = rig_connect(rig);
    struct client_attach attach = {.name = ""};
    uint8_t body[CLIENT_ATTACH_SNAPSHOT_BYTES];
    struct wire_header header = {.opcode = WIRE_ATTACH, .flags = flags, .body_len = CLIENT_ATTACH_BYTES};
    (void)snprintf(attach.name, sizeof(attach.name), "%s", name);
    memset(attach.attachment, attachment, sizeof(attach.attachment));
    client_attach_encode(&attach, body);
    uint64_t id = rig_send(client, &header, body, NULL);
    if (rig->hold_attach)
        return client;
    struct msg *msg = rig_answer(client, id);
    assert_int_equal(msg->header.status, 0);
    assert_int_equal(msg->header.length, rig_find(rig, name)->size);
    client->session = msg->header.session;
    client->volume = msg->header.volume;
    assert_true(client->session != 0);
    msg_free(msg);
    return client;
}

void rig_hang_up(struct rig_client *client)
{
    struct rig *rig = client->rig;
    if (!client->closed)
        link_close(client->link);
    rig_run_ms(rig, 5);
    assert_true(client->closed);
    for (uint32_t i = 0; i < client->msg_count; i++)
        msg_free(client->msgs[i]);
    free(client);
}

static struct msg *take(struct rig_client *client, uint64_t id)
{
    for (uint32_t i = 0; i < client->msg_count; i++) {
        struct msg *msg = client->msgs[i];
        if (msg->header.request_id != id)
            continue;
        memmove(&client->msgs[i], &client->msgs[i + 1], (client->msg_count - i - 1) * sizeof(client->msgs[0]));
        client->msg_count--;
        return msg;
    }
    return NULL;
}

struct msg *rig_answer(struct rig_client *client, uint64_t id)
{
    struct msg *msg = NULL;
    for (int i = 0; i < 20000 && !msg && !client->closed; i++) {
        rig_run_ms(client->rig, 1);
        msg = take(client, id);
    }
    assert_non_null(msg);
    return msg;
}

int rig_status(struct rig_client *client, uint64_t id)
{
    struct msg *msg = rig_answer(client, id);
    int status = msg->header.status;
    msg_free(msg);
    return status;
}

bool rig_answered(struct rig_client *client, uint64_t id)
{
    rig_run_ms(client->rig, 20);
    struct msg *msg = take(client, id);
    msg_free(msg);
    return msg != NULL;
}

uint64_t rig_op(struct rig_client *client, uint16_t opcode, uint64_t offset, uint64_t length)
{
    struct wire_header header = {.opcode = opcode, .session = client->session, .offset = offset, .length = length};
    return rig_send(client, &header, NULL, NULL);
}

uint64_t rig_read(struct rig_client *client, uint64_t offset, uint64_t length)
{
    return rig_op(client, WIRE_READ, offset, length);
}

uint64_t rig_write(struct rig_client *client, uint64_t offset, uint64_t length, uint8_t fill)
{
    static uint8_t data[WIRE_PAYLOAD_MAX];
    uint32_t crcs[WIRE_BLOCKS_MAX];
    memset(data, fill, length);
    crc32c_blocks(data, (uint32_t)(length / WIRE_BLOCK_BYTES), crcs);
    if (length < WIRE_BLOCK_BYTES)
        crcs[0] = crc32c(data, length);
    struct wire_header header = {
        .opcode = WIRE_WRITE,
        .session = client->session,
        .offset = offset,
        .length = length,
        .body_len = length < WIRE_BLOCK_BYTES ? 4 : (uint32_t)(length / WIRE_BLOCK_BYTES * 4),
        .payload_len = (uint32_t)length,
    };
    return rig_send(client, &header, crcs, data);
}

/* ---- create, destroy */

void rig_run_ms(struct rig *rig, uint64_t ms)
{
    world_run(rig->world, ENV_MS(ms));
}

static void drop_line(void *arg, enum log_level level, const char *module, const char *line)
{
    (void)arg;
    (void)level;
    (void)module;
    (void)line;
}

struct rig *rig_create(uint64_t seed)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    char address[64];
    assert_non_null(rig);
    log_set_hook(drop_line, NULL);
    the_rig = rig;
    rig->world = world_create(seed);
    rig->net = sim_net_create(rig->world, &(struct sim_net_config){.tail_permille = 0});
    rig->node = world_node_add(rig->world);
    rig->client_node = world_node_add(rig->world);
    rig->env = world_env_create(rig->world, rig->node);
    rig->client_env = world_env_create(rig->world, rig->client_node);
    rig->bufs = buf_pool_create(RIG_POOL_BYTES);
    rig->client_bufs = buf_pool_create(64u << 20);
    assert_true(rig->bufs && rig->client_bufs);
    assert_int_equal(transport_sim_create(rig->net, rig->node, rig->env, rig->bufs, &rig->transport), 0);
    assert_int_equal(
        transport_sim_create(rig->net, rig->client_node, rig->client_env, rig->client_bufs, &rig->client_transport), 0);
    list_head_init(&rig->ops);
    list_head_init(&rig->requests);
    rig->map = map_create();
    assert_non_null(rig->map);
    fill_map(rig);
    rig->control.ops = &control_ops;
    struct gateway_config config = {
        .env = rig->env,
        .peers = (struct peers *)(void *)rig,
        .replicas = (struct replicas *)(void *)rig,
        .pool = rig->bufs,
        .map = rig->map,
        .control = &rig->control,
        .node = RIG_NODE,
        .incarnation = rig->incarnations[RIG_NODE],
        .inflight_bytes_max = RIG_INFLIGHT_BYTES,
        .inflight_count_max = RIG_INFLIGHT_COUNT,
    };
    rig->gateway = gateway_create(&config);
    assert_non_null(rig->gateway);
    map_set_observer(rig->map, &(struct map_observer){.volume_changed = on_volume,
                                                      .volume_removed = on_removed,
                                                      .shard_changed = on_shard,
                                                      .arg = rig});
    (void)snprintf(address, sizeof(address), "sim:%d:7100", rig->node);
    assert_int_equal(transport_listen(rig->transport, address, accepted, rig, &rig->listener), 0);
    return rig;
}

static void gateway_closed(void *arg)
{
    ((struct rig *)arg)->gateway_closed = true;
}

void rig_close_gateway(struct rig *rig)
{
    map_set_observer(rig->map, &(struct map_observer){.arg = NULL});
    gateway_close(rig->gateway, gateway_closed, rig);
    assert_false(rig->gateway_closed);
    rig->gateway = NULL;
}

static bool all_gone(void *arg)
{
    struct rig *rig = arg;
    return stream_transport_live(rig->transport) == 0 && stream_transport_live(rig->client_transport) == 0;
}

static void pool_free(struct buf_pool *pool)
{
    struct buf_pool_stats stats;
    buf_pool_stats(pool, &stats);
    assert_int_equal(stats.used_bytes, 0);
    buf_pool_destroy(pool);
}

void rig_destroy(struct rig *rig)
{
    if (rig->gateway)
        rig_close_gateway(rig);
    rig_run_ms(rig, 50);
    while (!list_empty(&rig->ops))
        rig_complete(rig, list_entry(rig->ops.next, struct replica_op, link), -ECANCELED);
    rig_run_ms(rig, 50);
    assert_true(rig->gateway_closed);
    assert_true(list_empty(&rig->ops) && list_empty(&rig->requests));
    stream_transport_shutdown(rig->transport);
    stream_transport_shutdown(rig->client_transport);
    assert_true(world_run_until(rig->world, all_gone, rig, ENV_MS(20000)));
    transport_sim_destroy(rig->transport);
    transport_sim_destroy(rig->client_transport);
    pool_free(rig->bufs);
    pool_free(rig->client_bufs);
    map_destroy(rig->map);
    sim_net_destroy(rig->net);
    world_destroy(rig->world);
    free(rig);
    the_rig = NULL;
}
