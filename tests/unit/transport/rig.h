/* SPDX-License-Identifier: Apache-2.0 */
/* rig: two sides of a transport in one test, and endpoints that count what they are told.
 *
 * Concept: a kind says which loop the connecting side and the listening side run on and which address is used; every
 *   case of the conformance suite runs on every kind. Threading: one thread turns both loops.
 * Endpoints are static in the cases: rig_close, after the case, still tells them that their links closed.
 * Errors: a failed expectation fails the test. Ownership: rig_close checks that nothing is left: links, messages,
 *   buffers, descriptors.
 */
#ifndef ASHLAR_TESTS_UNIT_TRANSPORT_RIG_H
#define ASHLAR_TESTS_UNIT_TRANSPORT_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/env.h"
#include "common/transport.h"

enum rig_loop {
    RIG_RING,
    RIG_UV,
    RIG_SIM,
    RIG_RDMA,
    RIG_RDMA_PLAIN, /* without memory windows */
    RIG_RDMA_SPIN,  /* looks for completions for RIG_SPIN_US before it sleeps */
};
#define RIG_SPIN_US 50000u

struct rig_kind {
    const char *name;
    enum rig_loop connector, acceptor;
    const char *address; /* of listen; NULL: a unix path in the rig's folder */
};

struct rig_side {
    enum rig_loop loop;
    struct ring_loop *ring;
    struct uv_loop_s *uv;
    struct env *env;
    struct buf_pool *bufs;
    struct transport *transport;
    int node;
};

#define RIG_HELD_MAX 64
#define RIG_BUFS_BYTES (16u << 20)

struct endpoint {
    struct rig *rig;
    struct link *link; /* NULL after closed */
    int connected, closed, reason, writable;
    uint64_t messages;
    uint64_t sent, bytes;
    /* behaviour */
    uint64_t close_after; /* close inside the message callback of that number; 0: never */
    uint64_t pause_after; /* pause inside it */
    bool hold;            /* keep messages in held[] */
    bool no_check;        /* content is not a pattern */
    bool close_when_connected;
    struct msg *held[RIG_HELD_MAX];
    unsigned held_count;
};

struct rig {
    const struct rig_kind *kind;
    struct rig_side a, b; /* a connects, b accepts */
    struct world *world;
    struct sim_net *net;
    char folder[64];
    char listen_address[200];
    struct listener *listener;
    struct endpoint *accept_into; /* gets the next accepted link; NULL: the link gets no owner */
    int accepted;
    int descriptors; /* open before the rig */
};

extern const struct link_callbacks endpoint_callbacks;

struct rig *rig_open(const struct rig_kind *kind, uint32_t bufs_bytes);
void rig_close(struct rig *rig);
bool rig_is_raw(const struct rig *rig); /* a raw socket can talk to it */
/* Two addresses with RDMA devices, from $ASHLAR_TEST_RDMA ("10.77.0.1,10.77.0.2"); false: none are given. */
bool rig_rdma_hosts(char listen[64], char connect[64]);
void rig_turn(struct rig *rig);
void rig_never(const struct rig *rig, const char *condition); /* fails, and shows where the links stand */
void rig_listen(struct rig *rig);
/* Both ends of a new link, connected. */
void rig_connect(struct rig *rig, struct endpoint *a, struct endpoint *b);
void rig_connect_start(struct rig *rig, struct endpoint *a, const char *address);
int rig_raw_connect(struct rig *rig); /* a blocking descriptor connected to the listener */
uint64_t rig_now_ms(void);

/* Sends the frame that is number endpoint->sent of a pattern; the receiving endpoint checks it. */
int endpoint_send(struct endpoint *endpoint, uint32_t body_bytes, uint32_t payload_bytes);
void endpoint_release(struct endpoint *endpoint); /* frees what it holds */

#define RIG_DEADLINE_MS 30000u
#define rig_until(rig, condition)                             \
    do {                                                      \
        uint64_t rig_end_ms = rig_now_ms() + RIG_DEADLINE_MS; \
        while (!(condition)) {                                \
            rig_turn(rig);                                    \
            if (rig_now_ms() > rig_end_ms)                    \
                rig_never(rig, #condition);                   \
        }                                                     \
    } while (0)
/* Lets whatever wants to happen happen. */
#define RIG_QUIET_TURNS 50
#define rig_quiet(rig)                                     \
    do {                                                   \
        for (int turn = 0; turn < RIG_QUIET_TURNS; turn++) \
            rig_turn(rig);                                 \
    } while (0)

/* The suite's cases: each file has its list. */
struct rig_case {
    const char *name;
    void (*run)(struct rig *rig);
    uint32_t bufs_bytes; /* 0: RIG_BUFS_BYTES */
    bool raw_only;
};
extern const struct rig_case traffic_cases[], life_cases[], hostile_cases[];
extern const unsigned traffic_case_count, life_case_count, hostile_case_count;
#if ASHLAR_HAVE_RDMA
extern const struct rig_case rdma_cases[]; /* of kinds with memory windows on both sides, if the devices have them */
extern const unsigned rdma_case_count;
extern const struct rig_case spin_cases[]; /* of kinds with RDMA */
extern const unsigned spin_case_count;
#endif

#endif
