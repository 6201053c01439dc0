/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_smoke: proof that librdmacm and verbs work here, between two addresses of one machine.
 *
 * Happy path, server and client being two processes:
 * - connect through rdma_cm, each side's buffer address and key travelling as private data;
 * - SEND and RECV, inline where the device can; a large RDMA WRITE WITH IMM; a large RDMA READ, compared;
 * - a ping-pong, its wakeups by completion events and rdma_cm events under one epoll;
 * - disconnect, and every object destroyed without complaint.
 *
 * Failure modes: whatever does not work is named with its line, and the status is 1; a wait of 10 s is a failure.
 *
 * usage: verbs_smoke SERVER_IP CLIENT_IP [ROUNDS]
 * $RDMA_ACK_TIMEOUT is the exponent of the local ACK time-out (4.096 us * 2^n); rdma_cm's default is seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES (1u << 20)
#define RECEIVE_BYTES 256u
#define RECEIVE_COUNT 64u
#define WRITE_BYTES 300000u
#define WRITE_OFFSET 4096u
#define READ_BYTES 100000u
#define READ_OFFSET (BUFFER_BYTES / 2)
#define IMMEDIATE 0xabcd1234u
#define PORT 7471
#define INLINE_BYTES 64u
#define WAIT_MS 10000
#define ROUNDS_MAX 1000000l

/* What each side tells the other: where it may read and write. Both are this program: host byte order. */
struct peer {
    uint64_t address;
    uint32_t key;
    uint32_t length;
};

struct side {
    struct rdma_event_channel *events;
    struct rdma_cm_id *listener;
    struct rdma_cm_id *id;
    struct ibv_pd *pd;
    struct ibv_comp_channel *completions;
    struct ibv_cq *cq;
    struct ibv_mr *buffer_mr;
    struct ibv_mr *receive_mr;
    uint8_t *buffer;
    char *receive; /* [RECEIVE_COUNT] of RECEIVE_BYTES */
    int epoll;
    unsigned inline_bytes;
    struct peer peer;
};

static const char *side_name = "?";

#define CHECK(x)                                                                          \
    do {                                                                                  \
        if (!(x)) {                                                                       \
            fprintf(stderr, "%s:%d: %s: %s\n", side_name, __LINE__, #x, strerror(errno)); \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void watch(struct side *s, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
    CHECK(epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void open_side(struct side *s)
{
    CHECK((s->epoll = epoll_create1(0)) >= 0);
    CHECK((s->events = rdma_create_event_channel()) != NULL);
    watch(s, s->events->fd);
}

static struct sockaddr_in address_of(const char *ip, uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

    CHECK(inet_pton(AF_INET, ip, &address.sin_addr) == 1);
    return address;
}

static struct rdma_cm_event *await_event(struct side *s, enum rdma_cm_event_type wanted)
{
    struct rdma_cm_event *event;

    while (rdma_get_cm_event(s->events, &event) != 0) {
        struct epoll_event ready;

        CHECK(errno == EAGAIN);
        CHECK(epoll_wait(s->epoll, &ready, 1, WAIT_MS) > 0);
        if (s->completions && ready.data.fd == s->completions->fd) {
            struct ibv_cq *cq;
            void *context;

            /* Not what is waited for: take the event, re-arm; await_completion() polls before it sleeps. */
            while (ibv_get_cq_event(s->completions, &cq, &context) == 0)
                ibv_ack_cq_events(cq, 1);
            CHECK(ibv_req_notify_cq(s->cq, 0) == 0);
        }
    }
    if (event->event != wanted) {
        fprintf(stderr, "%s: %s (status %d) instead of %s\n", side_name, rdma_event_str(event->event), event->status,
                rdma_event_str(wanted));
        exit(1);
    }
    return event;
}

static void await_and_ack(struct side *s, enum rdma_cm_event_type wanted)
{
    CHECK(rdma_ack_cm_event(await_event(s, wanted)) == 0);
}

static void post_receive(struct side *s, uint64_t slot)
{
    struct ibv_sge piece = {
        .addr = (uintptr_t)s->receive + slot * RECEIVE_BYTES, .length = RECEIVE_BYTES, .lkey = s->receive_mr->lkey};
    struct ibv_recv_wr work = {.wr_id = slot, .sg_list = &piece, .num_sge = 1};
    struct ibv_recv_wr *bad;

    CHECK(ibv_post_recv(s->id->qp, &work, &bad) == 0);
}

static void post(struct side *s, enum ibv_wr_opcode opcode, uint32_t offset, uint32_t length, uint32_t peer_offset)
{
    struct ibv_sge piece = {.addr = (uintptr_t)s->buffer + offset, .length = length, .lkey = s->buffer_mr->lkey};
    struct ibv_send_wr work = {.sg_list = &piece,
                               .num_sge = 1,
                               .opcode = opcode,
                               .send_flags = IBV_SEND_SIGNALED,
                               .imm_data = htonl(IMMEDIATE)};
    struct ibv_send_wr *bad;

    if (opcode == IBV_WR_SEND && length <= s->inline_bytes)
        work.send_flags |= IBV_SEND_INLINE;
    work.wr.rdma.remote_addr = s->peer.address + peer_offset;
    work.wr.rdma.rkey = s->peer.key;
    CHECK(ibv_post_send(s->id->qp, &work, &bad) == 0);
}

static void create_queue_pair(struct side *s)
{
    struct ibv_qp_init_attr attr = {.send_cq = s->cq,
                                    .recv_cq = s->cq,
                                    .qp_type = IBV_QPT_RC,
                                    .cap = {.max_send_wr = 128,
                                            .max_recv_wr = 128,
                                            .max_send_sge = 2,
                                            .max_recv_sge = 2,
                                            .max_inline_data = INLINE_BYTES}};

    if (rdma_create_qp(s->id, s->pd, &attr) != 0) {
        attr.cap.max_inline_data = 0;
        CHECK(rdma_create_qp(s->id, s->pd, &attr) == 0);
    }
    s->inline_bytes = attr.cap.max_inline_data;
}

/* Everything between a known device and a connection. */
static void prepare(struct side *s)
{
    const char *exponent = getenv("RDMA_ACK_TIMEOUT");
    unsigned access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;

    if (exponent) {
        uint8_t ack_timeout = (uint8_t)atoi(exponent);

        CHECK(rdma_set_option(s->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout, sizeof(ack_timeout)) ==
              0);
    }
    CHECK((s->pd = ibv_alloc_pd(s->id->verbs)) != NULL);
    CHECK((s->completions = ibv_create_comp_channel(s->id->verbs)) != NULL);
    CHECK((s->cq = ibv_create_cq(s->id->verbs, 256, NULL, s->completions, 0)) != NULL);
    watch(s, s->completions->fd);
    CHECK(ibv_req_notify_cq(s->cq, 0) == 0);
    create_queue_pair(s);
    CHECK((s->buffer = aligned_alloc(4096, BUFFER_BYTES)) != NULL);
    CHECK((s->receive = aligned_alloc(4096, RECEIVE_COUNT * RECEIVE_BYTES)) != NULL);
    memset(s->buffer, 0, BUFFER_BYTES);
    CHECK((s->buffer_mr = ibv_reg_mr(s->pd, s->buffer, BUFFER_BYTES, access)) != NULL);
    CHECK((s->receive_mr = ibv_reg_mr(s->pd, s->receive, RECEIVE_COUNT * RECEIVE_BYTES, IBV_ACCESS_LOCAL_WRITE)) !=
          NULL);
    for (uint64_t slot = 0; slot < RECEIVE_COUNT; slot++)
        post_receive(s, slot);
    printf("%s: device %s, inline %u\n", side_name, s->id->verbs->device->name, s->inline_bytes);
}

static struct ibv_wc await_completion(struct side *s)
{
    for (;;) {
        struct epoll_event ready;
        struct ibv_wc wc;
        int count;

        CHECK((count = ibv_poll_cq(s->cq, 1, &wc)) >= 0);
        if (count > 0 && wc.status != IBV_WC_SUCCESS) {
            fprintf(stderr, "%s: completion: %s\n", side_name, ibv_wc_status_str(wc.status));
            exit(1);
        }
        if (count > 0)
            return wc;
        CHECK(epoll_wait(s->epoll, &ready, 1, WAIT_MS) > 0);
        if (ready.data.fd == s->events->fd) {
            await_and_ack(s, RDMA_CM_EVENT_ESTABLISHED); /* may come after the first data */
        } else {
            struct ibv_cq *cq;
            void *context;

            while (ibv_get_cq_event(s->completions, &cq, &context) == 0)
                ibv_ack_cq_events(cq, 1);
            CHECK(ibv_req_notify_cq(s->cq, 0) == 0); /* re-armed before the next poll: no event is missed */
        }
    }
}

/* Waits for that many completions of sends, and for one receive if wanted; returns the receive. */
static struct ibv_wc await_both(struct side *s, int sends, bool receive)
{
    struct ibv_wc received = {0};

    while (sends > 0 || receive) {
        struct ibv_wc wc = await_completion(s);

        if (wc.opcode & IBV_WC_RECV) {
            CHECK(receive);
            receive = false;
            received = wc;
        } else {
            CHECK(sends > 0);
            sends--;
        }
    }
    return received;
}

static void send_text(struct side *s, const char *text)
{
    size_t length = strlen(text) + 1;

    memcpy(s->buffer, text, length);
    post(s, IBV_WR_SEND, 0, (uint32_t)length, 0);
}

static void check_text(struct side *s, struct ibv_wc received, const char *text)
{
    CHECK(strcmp(s->receive + received.wr_id * RECEIVE_BYTES, text) == 0);
    post_receive(s, received.wr_id);
}

static uint8_t pattern_byte(uint32_t *state)
{
    *state = *state * 1103515245u + 12345u;
    return (uint8_t)(*state >> 16);
}

static void pattern_fill(uint8_t *bytes, size_t length, uint32_t seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = pattern_byte(&seed);
}

static bool pattern_matches(const uint8_t *bytes, size_t length, uint32_t seed)
{
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != pattern_byte(&seed))
            return false;
    return true;
}

static struct rdma_conn_param connection(struct side *s, struct peer *ret_own)
{
    *ret_own = (struct peer){(uintptr_t)s->buffer, s->buffer_mr->rkey, BUFFER_BYTES};
    return (struct rdma_conn_param){.private_data = ret_own,
                                    .private_data_len = sizeof(*ret_own),
                                    .responder_resources = 4,
                                    .initiator_depth = 4,
                                    .retry_count = 7,
                                    .rnr_retry_count = 7};
}

static void learn_peer(struct side *s, const struct rdma_cm_event *event)
{
    CHECK(event->param.conn.private_data_len >= sizeof(s->peer));
    memcpy(&s->peer, event->param.conn.private_data, sizeof(s->peer));
    CHECK(s->peer.length == BUFFER_BYTES);
}

static void close_side(struct side *s)
{
    rdma_destroy_qp(s->id);
    CHECK(ibv_dereg_mr(s->buffer_mr) == 0);
    CHECK(ibv_dereg_mr(s->receive_mr) == 0);
    CHECK(ibv_destroy_cq(s->cq) == 0);
    CHECK(ibv_destroy_comp_channel(s->completions) == 0);
    CHECK(ibv_dealloc_pd(s->pd) == 0);
    CHECK(rdma_destroy_id(s->id) == 0);
    if (s->listener)
        CHECK(rdma_destroy_id(s->listener) == 0);
    rdma_destroy_event_channel(s->events);
    close(s->epoll);
    free(s->buffer);
    free(s->receive);
    printf("%s: clean end\n", side_name);
}

static void listen_and_accept(struct side *s, const char *ip, int ready_fd)
{
    struct sockaddr_in address = address_of(ip, PORT);
    struct rdma_conn_param parameters;
    struct rdma_cm_event *event;
    struct peer own;

    CHECK(rdma_create_id(s->events, &s->listener, NULL, RDMA_PS_TCP) == 0);
    CHECK(rdma_bind_addr(s->listener, (struct sockaddr *)&address) == 0);
    CHECK(rdma_listen(s->listener, 8) == 0);
    CHECK(write(ready_fd, "x", 1) == 1);
    event = await_event(s, RDMA_CM_EVENT_CONNECT_REQUEST);
    s->id = event->id;
    learn_peer(s, event);
    CHECK(rdma_ack_cm_event(event) == 0);
    prepare(s);
    pattern_fill(s->buffer + READ_OFFSET, READ_BYTES, 42);
    parameters = connection(s, &own);
    CHECK(rdma_accept(s->id, &parameters) == 0);
    await_and_ack(s, RDMA_CM_EVENT_ESTABLISHED);
}

static void run_server(const char *ip, long rounds, int ready_fd)
{
    struct side s = {0};
    struct ibv_wc wc;

    side_name = "server";
    open_side(&s);
    listen_and_accept(&s, ip, ready_fd);
    check_text(&s, await_both(&s, 0, true), "hello");
    send_text(&s, "welcome");
    await_both(&s, 1, false);
    wc = await_both(&s, 0, true);
    CHECK(wc.opcode == IBV_WC_RECV_RDMA_WITH_IMM && (wc.wc_flags & IBV_WC_WITH_IMM));
    CHECK(ntohl(wc.imm_data) == IMMEDIATE && wc.byte_len == WRITE_BYTES);
    CHECK(pattern_matches(s.buffer + WRITE_OFFSET, WRITE_BYTES, 7));
    post_receive(&s, wc.wr_id);
    send_text(&s, "wrote");
    await_both(&s, 1, false);
    check_text(&s, await_both(&s, 0, true), "read");
    for (long i = 0; i < rounds; i++) {
        check_text(&s, await_both(&s, 0, true), "ping");
        send_text(&s, "pong");
        await_both(&s, 1, false);
    }
    await_and_ack(&s, RDMA_CM_EVENT_DISCONNECTED);
    CHECK(rdma_disconnect(s.id) == 0);
    close_side(&s);
}

static void connect_to(struct side *s, const char *server_ip, const char *own_ip)
{
    struct sockaddr_in server = address_of(server_ip, PORT);
    struct sockaddr_in own = address_of(own_ip, 0);
    struct rdma_conn_param parameters;
    struct rdma_cm_event *event;
    struct peer told;

    CHECK(rdma_create_id(s->events, &s->id, NULL, RDMA_PS_TCP) == 0);
    /* The source is bound, or rdma_cm would loop back on the server's own device. */
    CHECK(rdma_resolve_addr(s->id, (struct sockaddr *)&own, (struct sockaddr *)&server, 2000) == 0);
    await_and_ack(s, RDMA_CM_EVENT_ADDR_RESOLVED);
    CHECK(rdma_resolve_route(s->id, 2000) == 0);
    await_and_ack(s, RDMA_CM_EVENT_ROUTE_RESOLVED);
    prepare(s);
    parameters = connection(s, &told);
    CHECK(rdma_connect(s->id, &parameters) == 0);
    event = await_event(s, RDMA_CM_EVENT_ESTABLISHED);
    learn_peer(s, event);
    CHECK(rdma_ack_cm_event(event) == 0);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void ping(struct side *s, long rounds)
{
    double *times_us = calloc((size_t)rounds, sizeof(times_us[0]));

    CHECK(times_us != NULL);
    for (long i = 0; i < rounds; i++) {
        double begin_us = now_us();

        send_text(s, "ping");
        check_text(s, await_both(s, 1, true), "pong");
        times_us[i] = now_us() - begin_us;
    }
    qsort(times_us, (size_t)rounds, sizeof(times_us[0]), by_value);
    printf("client: %ld round trips, median %.1f us, p99 %.1f us\n", rounds, times_us[rounds / 2],
           times_us[rounds * 99 / 100]);
    free(times_us);
}

static void run_client(const char *server_ip, const char *own_ip, long rounds)
{
    struct side s = {0};

    side_name = "client";
    open_side(&s);
    connect_to(&s, server_ip, own_ip);
    send_text(&s, "hello");
    check_text(&s, await_both(&s, 1, true), "welcome");
    printf("client: send and receive ok\n");
    pattern_fill(s.buffer + WRITE_OFFSET, WRITE_BYTES, 7);
    post(&s, IBV_WR_RDMA_WRITE_WITH_IMM, WRITE_OFFSET, WRITE_BYTES, WRITE_OFFSET);
    check_text(&s, await_both(&s, 1, true), "wrote");
    printf("client: write with immediate ok\n");
    post(&s, IBV_WR_RDMA_READ, 0, READ_BYTES, READ_OFFSET);
    await_both(&s, 1, false);
    CHECK(pattern_matches(s.buffer, READ_BYTES, 42));
    printf("client: read ok\n");
    send_text(&s, "read");
    await_both(&s, 1, false);
    ping(&s, rounds);
    CHECK(rdma_disconnect(s.id) == 0);
    await_and_ack(&s, RDMA_CM_EVENT_DISCONNECTED);
    close_side(&s);
}

int main(int argc, char **argv)
{
    long rounds = argc > 3 ? atol(argv[3]) : 200;
    int ready[2];
    int status;
    pid_t child;
    char byte;

    if (argc < 3 || argc > 4 || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: verbs_smoke SERVER_IP CLIENT_IP [ROUNDS]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    CHECK(pipe(ready) == 0);
    CHECK((child = fork()) >= 0);
    if (child == 0) {
        close(ready[0]);
        run_server(argv[1], rounds, ready[1]);
        return 0;
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    run_client(argv[1], argv[2], rounds);
    CHECK(waitpid(child, &status, 0) == child);
    return status == 0 ? 0 : 1;
}
