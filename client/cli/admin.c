/* SPDX-License-Identifier: Apache-2.0 */
/* admin: one request, as often as it takes.
 *
 *   - call: each address in turn: open, send, answer; "try again" and lost answers begin the next turn; a change carries an id of
 *     its own, by which the cluster carries it out once
 * Failure modes: nobody answers at all (exit 3); the leader refuses (exit 1, its own sentence); time is up.
 */
#include "client/cli/admin.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "client/cli/admin_socket.h"

#define OPEN_MS 2000u /* a node that takes longer to say hello is passed over */
#define PAUSE_MS 100u /* before "try again" is done */
#define LOCAL_MS 500u

long long admin_integer(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

const char *admin_string(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

bool admin_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* Opens, asks, closes. *ret_sent: the request may have arrived. */
static int ask(const char *address, const char *text, uint64_t deadline_ms, uint64_t open_ms, bool *ret_sent,
               json_t **ret_answer, char error[ADMIN_ERROR_MAX])
{
    struct admin_socket s;
    char *answer = NULL;
    size_t length = 0;
    uint64_t open_deadline = admin_now_ms() + open_ms;
    int rc = admin_socket_open(&s, address, open_deadline < deadline_ms ? open_deadline : deadline_ms, error);
    *ret_sent = rc == 0;
    if (rc < 0)
        return rc;
    rc = admin_socket_call(&s, text, strlen(text), deadline_ms, &answer, &length, error);
    admin_socket_close(&s);
    if (rc < 0)
        return rc;
    *ret_answer = json_loadb(answer, length, 0, NULL);
    free(answer);
    if (json_is_object(*ret_answer))
        return 0;
    json_decref(*ret_answer);
    (void)snprintf(error, ADMIN_ERROR_MAX, "its answer is no JSON object");
    return -EBADMSG;
}

struct attempt {
    const char *text;
    uint64_t deadline_ms;
    bool lost;      /* an earlier attempt may have been carried out */
    bool answered;  /* some node spoke to us in this round */
    json_t *answer; /* with "ok": true, or the refusal */
    char error[ADMIN_ERROR_MAX];
};

static bool is_done(const json_t *answer)
{
    long long code = admin_integer(answer, "code");
    return admin_true(answer, "ok") || (code != -EAGAIN && code != -EINPROGRESS);
}

/* Once through the addresses; true: attempt->answer is final. */
static bool one_round(const struct cli *cli, struct attempt *attempt)
{
    attempt->answered = false;
    for (uint32_t i = 0; i < cli->cluster.control_count && admin_now_ms() < attempt->deadline_ms; i++) {
        json_t *answer = NULL;
        bool sent = false;
        uint64_t left = attempt->deadline_ms - admin_now_ms();
        uint64_t open_ms = left / 2 < OPEN_MS && i + 1 < cli->cluster.control_count ? left / 2 : OPEN_MS;
        int rc =
            ask(cli->cluster.control[i], attempt->text, attempt->deadline_ms, open_ms, &sent, &answer, attempt->error);
        attempt->lost = attempt->lost || (rc < 0 && sent);
        attempt->answered = attempt->answered || sent;
        if (rc < 0)
            continue;
        if (is_done(answer)) {
            attempt->answer = answer;
            return true;
        }
        attempt->lost = attempt->lost || admin_integer(answer, "code") == -EINPROGRESS;
        (void)snprintf(attempt->error, sizeof(attempt->error), "%s", admin_string(answer, "error"));
        json_decref(answer);
    }
    return false;
}

/* done: the -errno that is no failure: always, or only if an earlier attempt got lost. */
static int call(const struct cli *cli, json_t *request, int done, bool always, json_t **ret_answer)
{
    char *text = json_dumps(request, JSON_COMPACT);
    struct attempt attempt = {.text = text, .deadline_ms = admin_now_ms() + cli->timeout_ms};
    json_decref(request);
    assert(text && cli->cluster.control_count > 0);
    while (!one_round(cli, &attempt) && attempt.answered && admin_now_ms() + PAUSE_MS < attempt.deadline_ms)
        (void)poll(NULL, 0, PAUSE_MS);
    free(text);
    *ret_answer = NULL;
    if (!attempt.answer && !attempt.answered)
        return cli_fail(cli, CLI_UNREACHABLE, "no control address answers (%s%s: %s); does ashlard run there?",
                        cli->cluster.control[0], cli->cluster.control_count > 1 ? ", ..." : "", attempt.error);
    if (!attempt.answer)
        return cli_fail(cli, CLI_UNREACHABLE, "%s", attempt.error);
    if (admin_true(attempt.answer, "ok")) {
        *ret_answer = attempt.answer;
        return CLI_OK;
    }
    int code = CLI_OK;
    if (!(attempt.lost || always) || done == 0 || admin_integer(attempt.answer, "code") != done)
        code = cli_fail(cli, CLI_FAILED, "%s", admin_string(attempt.answer, "error"));
    json_decref(attempt.answer);
    return code;
}

int admin_read(const struct cli *cli, json_t *request, json_t **ret_answer)
{
    return call(cli, request, 0, /* always= */ false, ret_answer);
}

int admin_find(const struct cli *cli, json_t *request, json_t **ret_answer)
{
    return call(cli, request, -ENOENT, /* always= */ true, ret_answer);
}

/* So that however often it is sent it is carried out once, and a lost answer can be had again. */
static void name_request(json_t *request)
{
    uint8_t id[16];
    char text[2 * sizeof(id) + 1];
    ssize_t got = getrandom(id, sizeof(id), 0);
    assert(got == (ssize_t)sizeof(id)); /* so few bytes always come whole */
    id[0] |= 1;
    for (size_t i = 0; i < sizeof(id); i++)
        (void)snprintf(text + 2 * i, 3, "%02x", id[i]);
    (void)json_object_set_new(request, "request", json_string(text));
}

int admin_change(const struct cli *cli, json_t *request, int done, json_t **ret_answer)
{
    assert(done <= 0);
    name_request(request);
    return call(cli, request, done, /* always= */ false, ret_answer);
}

int admin_list(const struct cli *cli, const char *op, const char *items, json_t **ret_items)
{
    json_t *all = json_array(), *answer = NULL;
    json_int_t after = 0;
    bool more = true;
    while (more) {
        int code = admin_read(cli, json_pack("{s:s, s:I}", "op", op, "after", after), &answer);
        if (code != CLI_OK) {
            json_decref(all);
            return code;
        }
        more = admin_true(answer, "more") && admin_integer(answer, "next") > after;
        after = admin_integer(answer, "next");
        (void)json_array_extend(all, json_object_get(answer, items));
        json_decref(answer);
    }
    *ret_items = all;
    return CLI_OK;
}

int admin_ask_node(const char *address, const char *op, uint64_t timeout_ms, json_t **ret_answer)
{
    char text[64], error[ADMIN_ERROR_MAX];
    bool sent;
    (void)snprintf(text, sizeof(text), "{\"op\":\"%s\"}", op);
    int rc = ask(address, text, admin_now_ms() + timeout_ms, timeout_ms, &sent, ret_answer, error);
    if (rc == 0 && !admin_true(*ret_answer, "ok")) {
        json_decref(*ret_answer);
        rc = -EAGAIN;
    }
    return rc;
}

uint32_t admin_local_node(const struct cli *cli)
{
    struct admin_socket s;
    char error[ADMIN_ERROR_MAX];
    if (strncmp(cli->cluster.control[0], "unix:", 5) != 0 ||
        admin_socket_open(&s, cli->cluster.control[0], admin_now_ms() + LOCAL_MS, error) < 0)
        return 0;
    uint32_t node = s.node;
    admin_socket_close(&s);
    return node;
}
