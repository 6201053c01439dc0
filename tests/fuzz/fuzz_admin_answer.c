/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what `ashlar` makes of the answers to its admin requests.
 *
 * The first byte picks a command and whether it prints JSON; every further line is one answer, and they are given in turn, again and
 * again. The command itself runs, from its requests to what it prints; only the socket, the clock and waiting are stand-ins. It ends, with
 * one of its exit codes, whatever the answers say.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/admin_socket.h"
#include "client/cli/commands.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TIMEOUT_MS = 200, CLOCK_STEP_MS = 20, CALLS_MAX = 100000 };

struct tried {
    int (*run)(struct cli *cli);
    const char *arguments[3];
};

static const struct tried commands[] = {
    {command_status, {NULL}},           {command_top, {NULL}},
    {command_node_list, {NULL}},        {command_node_info, {"1"}},
    {command_node_out, {"1"}},          {command_volume_list, {NULL}},
    {command_volume_info, {"v"}},       {command_volume_create, {"v", "1073741824"}},
    {command_volume_remove, {"v"}},     {command_volume_resize, {"v", "1073741824"}},
    {command_session_list, {NULL}},     {command_session_close, {"v"}},
    {command_snapshot_create, {"v@s"}}, {command_snapshot_list, {"v"}},
    {command_snapshot_remove, {"v@s"}}, {command_clone, {"v@s", "w"}},
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]), JSON_FLAG = 0x80 };

static const uint8_t *answers, *next_answer, *answers_end;
static uint64_t clock_ms;
static unsigned calls;

/* ---- the socket, the clock ---- */

uint64_t admin_now_ms(void)
{
    clock_ms += CLOCK_STEP_MS;
    return clock_ms;
}

int admin_socket_open(struct admin_socket *s, const char *address, uint64_t deadline_ms, char error[ADMIN_ERROR_MAX])
{
    (void)deadline_ms;
    *s = (struct admin_socket){.fd = -1, .node = 1};
    error[0] = '\0';
    return *address ? 0 : -EINVAL;
}

void admin_socket_close(struct admin_socket *s)
{
    s->fd = -1;
}

int admin_socket_call(struct admin_socket *s, const char *request, size_t length, uint64_t deadline_ms,
                      char **ret_answer, size_t *ret_length, char error[ADMIN_ERROR_MAX])
{
    (void)s;
    (void)deadline_ms;
    assert(length == strlen(request) && calls++ < CALLS_MAX); /* whoever asks so often never ends */
    if (answers == answers_end) {
        (void)snprintf(error, ADMIN_ERROR_MAX, "no answer");
        return -ETIMEDOUT;
    }
    if (next_answer == answers_end)
        next_answer = answers;
    const uint8_t *end = memchr(next_answer, '\n', (size_t)(answers_end - next_answer));
    size_t bytes = (size_t)((end ? end : answers_end) - next_answer);
    *ret_answer = malloc(bytes + 1);
    assert(*ret_answer);
    memcpy(*ret_answer, next_answer, bytes);
    *ret_length = bytes;
    next_answer = end ? end + 1 : answers_end;
    return 0;
}

/* Nobody waits for time that does not pass. */
int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    (void)fds;
    (void)count;
    (void)timeout;
    return 0;
}

/* ---- the command line ---- */

const char *cli_option(const struct cli *cli, const char *name)
{
    (void)cli;
    return strcmp(name, "once") == 0 || strcmp(name, "yes") == 0 ? "" : NULL;
}

bool cli_flag(const struct cli *cli, const char *name)
{
    return cli_option(cli, name) != NULL;
}

int cli_option_u32(const struct cli *cli, const char *name, uint32_t *ret_value)
{
    (void)cli;
    (void)name;
    (void)ret_value;
    return CLI_OK;
}

int cli_fail(const struct cli *cli, int code, const char *format, ...)
{
    char line[1024];
    va_list args;
    (void)cli;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    return code;
}

int cli_print_json(json_t *value)
{
    int rc = value ? json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : -1;
    json_decref(value);
    return rc == 0 ? CLI_OK : CLI_FAILED;
}

bool cli_confirm(const struct cli *cli, const char *format, ...)
{
    (void)format;
    return cli_flag(cli, "yes");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *nowhere;
    static struct cli cli;
    FILE *out = stdout;
    if (size == 0)
        return 0;
    if (!nowhere)
        nowhere = fopen("/dev/null", "we");
    assert(nowhere != NULL);
    const struct tried *tried = &commands[(data[0] & (JSON_FLAG - 1)) % COMMANDS];
    char *arguments[3] = {NULL};
    cli = (struct cli){.json = (data[0] & JSON_FLAG) != 0, .timeout_ms = TIMEOUT_MS, .arguments = arguments};
    cli.cluster.control_count = 1;
    (void)snprintf(cli.cluster.control[0], sizeof(cli.cluster.control[0]), "127.0.0.1:1");
    for (; tried->arguments[cli.argument_count]; cli.argument_count++)
        arguments[cli.argument_count] = strdup(tried->arguments[cli.argument_count]);
    answers = next_answer = data + 1;
    answers_end = data + size;
    calls = 0;
    stdout = nowhere;
    int code = tried->run(&cli);
    stdout = out;
    assert(code >= CLI_OK && code <= CLI_DEGRADED);
    for (int i = 0; i < cli.argument_count; i++)
        free(arguments[i]);
    return 0;
}
