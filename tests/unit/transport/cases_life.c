/* SPDX-License-Identifier: Apache-2.0 */
/* cases_life: links begin and end as transport.h says: one closed callback each, never inside a call, and silence
 * after it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/transport/socket.h"
#include "common/transport/stream.h"
#include "tests/unit/transport/rig.h"

static bool is_peer_gone(int reason)
{
    return reason == -EPIPE || reason == -ECONNRESET;
}

/* Goal: link_close while frames fly both ways: our reason is 0, the peer's says that we went. */
static void close_in_traffic(struct rig *rig, bool by_acceptor)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    struct endpoint *closer = by_acceptor ? &b : &a, *other = by_acceptor ? &a : &b;
    closer->close_after = 40;
    rig_connect(rig, &a, &b);
    uint64_t end_ms = rig_now_ms() + RIG_DEADLINE_MS;
    while (!a.closed || !b.closed) {
        if (a.link && a.sent < 4000)
            (void)endpoint_send(&a, 33, a.sent % 5 == 0 ? 65536 : 0);
        if (b.link && b.sent < 4000)
            (void)endpoint_send(&b, 33, b.sent % 7 == 0 ? 65536 : 0);
        rig_turn(rig);
        assert_true(rig_now_ms() < end_ms);
    }
    assert_int_equal(closer->reason, 0);
    assert_int_equal(closer->messages, 40);
    assert_true(is_peer_gone(other->reason));
    rig_quiet(rig);
    assert_int_equal(a.closed + b.closed, 2);
}

static void the_connector_closes_in_traffic(struct rig *rig)
{
    close_in_traffic(rig, false);
}

static void the_acceptor_closes_in_traffic(struct rig *rig)
{
    close_in_traffic(rig, true);
}

/* Goal: closed comes later than the call, sends are refused at once, closing again is harmless. */
static void close_is_told_later_and_once(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    link_close(a.link);
    assert_int_equal(a.closed, 0);
    struct wire_header header = {.opcode = WIRE_PING};
    assert_int_equal(link_send(a.link, &header, NULL, NULL, 0), -ENOTCONN);
    link_close(a.link);
    link_pause(a.link, true);
    link_pause(a.link, false);
    rig_until(rig, a.closed && b.closed);
    assert_int_equal(a.reason, 0);
    assert_true(is_peer_gone(b.reason));
}

/* Goal: frames sent before link_close may be lost, but what arrives is whole; both ends close at the same time. */
static void both_ends_close_at_once(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(endpoint_send(&a, 10, 100000), 0);
        assert_int_equal(endpoint_send(&b, 10, 100000), 0);
    }
    link_close(a.link);
    link_close(b.link);
    rig_until(rig, a.closed && b.closed);
    assert_int_equal(a.reason, 0);
    assert_int_equal(b.reason, 0);
}

/* Goal: a connect taken back before it was over ends with closed(0), without connected. */
static void a_connect_can_be_taken_back(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_listen(rig);
    rig->accept_into = &b;
    rig_connect_start(rig, &a, rig->listen_address);
    struct wire_header header = {.opcode = WIRE_PING};
    assert_int_equal(link_send(a.link, &header, NULL, NULL, 0), -ENOTCONN);
    link_close(a.link);
    assert_int_equal(a.closed, 0);
    rig_until(rig, a.closed);
    assert_int_equal(a.connected, 0);
    assert_int_equal(a.reason, 0);
    rig_quiet(rig);
    if (b.link)
        rig_until(rig, b.closed);
}

/* Goal: closing inside the connected callback works; a link whose accept callback sets no owner is closed. */
static void callbacks_may_close(struct rig *rig)
{
    static struct endpoint a, b, c;
    a = (struct endpoint){.close_when_connected = true};
    b = (struct endpoint){0};
    c = (struct endpoint){0};
    rig_listen(rig);
    rig->accept_into = &b;
    rig_connect_start(rig, &a, rig->listen_address);
    rig_until(rig, a.closed && b.closed);
    assert_int_equal(a.connected, 1);
    assert_int_equal(a.reason, 0);
    rig->accept_into = NULL;
    rig_connect_start(rig, &c, rig->listen_address);
    rig_until(rig, c.closed);
    assert_int_equal(rig->accepted, 2);
    assert_true(c.reason < 0);
}

/* Goal: nobody listens: closed(-ECONNREFUSED), later, without connected. After listener_close, too. */
static void nobody_listens(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_listen(rig);
    listener_close(rig->listener);
    rig_quiet(rig);
    rig_connect_start(rig, &a, rig->listen_address);
    rig_until(rig, a.closed);
    assert_int_equal(a.reason, -ECONNREFUSED);
    assert_int_equal(a.connected, 0);
    assert_int_equal(rig->accepted, 0);
    /* the address can be listened on again */
    rig_listen(rig);
    memset(&a, 0, sizeof(a));
    rig_connect(rig, &a, &b);
}

/* Goal: what is no address is refused in the call. */
static void nonsense_addresses_are_refused(struct rig *rig)
{
    static const char *const texts[] = {
        "",      "tcp:",          "tcp:127.0.0.1", "tcp:127.0.0.1:", "tcp:1.2:x", "tcp:1.2.3.4:65536",
        "unix:", "udp:1.2.3.4:5", "sim:",          "sim:0",          "sim:0:5x",  "tcp:[::1:5"};
    static struct endpoint a;
    a = (struct endpoint){0};
    for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_int_equal(transport_connect(rig->a.transport, texts[i], &endpoint_callbacks, &a, &a.link), -EINVAL);
    assert_null(a.link);
    assert_int_equal(stream_transport_live(rig->a.transport), 0);
}

/* Goal: the listener may be closed while its links live on. */
static void links_outlive_their_listener(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    listener_close(rig->listener);
    rig_quiet(rig);
    for (int i = 0; i < 20; i++)
        assert_int_equal(endpoint_send(&a, 5, 4096), 0);
    rig_until(rig, b.messages == 20);
}

/* Goal: a shutdown of the transport tells every owner. */
static void shutdown_closes_everything(struct rig *rig)
{
    static struct endpoint a[8], b[8];
    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    for (int i = 0; i < 8; i++) {
        rig_connect(rig, &a[i], &b[i]);
        assert_int_equal(endpoint_send(&a[i], 9, 70000), 0);
    }
    stream_transport_shutdown(rig->b.transport);
    stream_transport_shutdown(rig->b.transport);
    rig_until(rig, stream_transport_live(rig->b.transport) == 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(b[i].closed, 1);
        assert_int_equal(b[i].reason, 0);
        rig_until(rig, a[i].closed);
        assert_true(is_peer_gone(a[i].reason));
    }
}

/* Goal: a listener whose queue is full does not answer: the connect ends with -ETIMEDOUT. TCP only; unix sockets
 * refuse. Method: a backlog of 0 takes one connection, then drops. */
static void an_unanswered_connect_times_out(struct rig *rig)
{
    enum { FILLERS = 4 };
    struct socket_address address;
    static struct endpoint a;
    a = (struct endpoint){0};
    char text[SOCKET_ADDRESS_CHARS];
    if (strncmp(rig->listen_address, "tcp:", 4) != 0)
        return;
    assert_int_equal(socket_address_parse(rig->listen_address, &address), 0);
    int listener = socket_listen(&address, /* nonblocking= */ true);
    assert_true(listener >= 0);
    assert_int_equal(listen(listener, 0), 0);
    int fds[FILLERS];
    for (int i = 0; i < FILLERS; i++) {
        fds[i] = socket_create(&address, /* nonblocking= */ true);
        assert_true(fds[i] >= 0);
        (void)connect(fds[i], &address.any, address.bytes);
    }
    socket_address_format(&address, text);
    stream_transport_set_connect_timeout(rig->a.transport, ENV_MS(50));
    rig_connect_start(rig, &a, text);
    rig_until(rig, a.closed);
    assert_int_equal(a.reason, -ETIMEDOUT);
    assert_int_equal(a.connected, 0);
    for (int i = 0; i < FILLERS; i++)
        (void)close(fds[i]);
    (void)close(listener);
}

static void never_accepts(struct listener *listener, void *arg, struct link *link)
{
    (void)listener;
    (void)arg;
    (void)link;
    fail_msg("accepted");
}

/* Goal: a unix path is taken over if nobody listens on it, and only then; other files are left alone. */
static void only_stale_unix_paths_are_taken_over(struct rig *rig)
{
    struct socket_address address;
    struct listener *second = NULL;
    if (strncmp(rig->listen_address, "unix:", 5) != 0)
        return;
    assert_int_equal(socket_address_parse(rig->listen_address, &address), 0);
    int fd = socket_listen(&address, true);
    assert_true(fd >= 0);
    (void)close(fd); /* as a killed process leaves it */
    assert_int_equal(access(address.un.sun_path, F_OK), 0);
    static struct endpoint a, b, refused;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    refused = (struct endpoint){0};
    rig_connect_start(rig, &refused, rig->listen_address);
    rig_until(rig, refused.closed);
    assert_int_equal(refused.reason, -ECONNREFUSED);
    rig_connect(rig, &a, &b);
    assert_int_equal(transport_listen(rig->b.transport, rig->listen_address, never_accepts, NULL, &second),
                     -EADDRINUSE);
    assert_int_equal(endpoint_send(&a, 5, 5), 0);
    rig_until(rig, b.messages == 1);
    char file[200], text[220];
    (void)snprintf(file, sizeof(file), "%s/file", rig->folder);
    (void)snprintf(text, sizeof(text), "unix:%s", file);
    fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(transport_listen(rig->b.transport, text, never_accepts, NULL, &second), -EADDRINUSE);
    assert_int_equal(unlink(file), 0); /* still there */
}

const struct rig_case life_cases[] = {
    {"the_connector_closes_in_traffic", the_connector_closes_in_traffic, 0, false},
    {"the_acceptor_closes_in_traffic", the_acceptor_closes_in_traffic, 0, false},
    {"close_is_told_later_and_once", close_is_told_later_and_once, 0, false},
    {"both_ends_close_at_once", both_ends_close_at_once, 0, false},
    {"a_connect_can_be_taken_back", a_connect_can_be_taken_back, 0, false},
    {"callbacks_may_close", callbacks_may_close, 0, false},
    {"nobody_listens", nobody_listens, 0, false},
    {"nonsense_addresses_are_refused", nonsense_addresses_are_refused, 0, false},
    {"links_outlive_their_listener", links_outlive_their_listener, 0, false},
    {"shutdown_closes_everything", shutdown_closes_everything, 0, false},
    {"an_unanswered_connect_times_out", an_unanswered_connect_times_out, 0, true},
    {"only_stale_unix_paths_are_taken_over", only_stale_unix_paths_are_taken_over, 0, true},
};
const unsigned life_case_count = sizeof(life_cases) / sizeof(life_cases[0]);
