/* SPDX-License-Identifier: Apache-2.0 */
/* store_command: the command lines `ashlard store format` and `ashlard store check`.
 *
 *   - words are parsed into a struct, then store_tool.c does the work
 * Failure modes: a word that is none, a value out of bounds: the usage and status 2.
 */
#include "server/daemon/store_command.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/config.h"
#include "common/log.h"
#include "server/daemon/settings.h"
#include "server/daemon/store_tool.h"

#define NODE_MAX 256u

static int usage_error(const char *what, const char *word)
{
    assert(what && word);
    (void)fprintf(stderr, "ashlard store: %s '%s'\nusage:\n%s", what, word, STORE_COMMAND_USAGE);
    return 2;
}

/* The value of `--name VALUE` or `--name=VALUE` at *index; NULL: another word. Advances *index over a separate value. */
static const char *option(int argc, char **argv, int *index, const char *name)
{
    const char *word = argv[*index];
    size_t length = strlen(name);
    assert(word);
    assert(*index < argc);
    if (strncmp(word, name, length) != 0)
        return NULL;
    if (word[length] == '=')
        return word + length + 1;
    if (word[length] != '\0' || *index + 1 == argc)
        return NULL;
    return argv[++*index];
}

static bool parse_node(const char *text, uint32_t *ret_node)
{
    char *end;
    unsigned long node = strtoul(text, &end, 10);
    if (end == text || *end || node == 0 || node > NODE_MAX)
        return false;
    *ret_node = (uint32_t)node;
    assert(*ret_node > 0);
    return true;
}

static int parse_format(int argc, char **argv, struct store_tool_format *ret_format)
{
    const char *value;
    assert(ret_format);
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if ((value = option(argc, argv, &i, "--size"))) {
            if (config_parse_bytes(value, &ret_format->bytes) < 0)
                return usage_error("no size:", value);
        } else if ((value = option(argc, argv, &i, "--device"))) {
            ret_format->drive = value;
        } else if ((value = option(argc, argv, &i, "--node"))) {
            if (!parse_node(value, &ret_format->identity.node))
                return usage_error("no node number:", value);
        } else if ((value = option(argc, argv, &i, "--cluster"))) {
            if (!value[0] || strlen(value) >= SETTINGS_NAME_MAX)
                return usage_error("no name of a cluster:", value);
            ret_format->identity.cluster_id = settings_cluster_id(value);
        } else if (strcmp(word, "--force") == 0) {
            ret_format->force = true;
        } else if (word[0] != '-' && !ret_format->directory) {
            ret_format->directory = word;
        } else {
            return usage_error("unknown argument", word);
        }
    }
    if (!ret_format->directory || !ret_format->identity.node || !ret_format->identity.cluster_id)
        return usage_error("missing:", "DIR, --node and --cluster");
    if (!ret_format->bytes && !ret_format->drive)
        return usage_error("missing:", "--size or --device");
    return 0;
}

static int format(int argc, char **argv)
{
    struct store_tool_format format = {.directory = NULL};
    int status = parse_format(argc, argv, &format);
    if (status != 0)
        return status;
    ssize_t n = getrandom(format.identity.uuid, sizeof(format.identity.uuid), 0);
    assert(n == (ssize_t)sizeof(format.identity.uuid));
    int rc = store_tool_format(&format);
    if (rc < 0) {
        (void)fprintf(stderr, "ashlard: cannot format %s: %s\n", format.directory, strerror(-rc));
        return 1;
    }
    (void)printf("formatted %s for node %u\n", format.directory, format.identity.node);
    return 0;
}

static int check(int argc, char **argv)
{
    struct store_tool_check check = {.directory = NULL};
    assert(argc >= 0);
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            check.json = true;
        else if (strcmp(argv[i], "--digest") == 0)
            check.digest = true;
        else if (argv[i][0] != '-' && !check.directory)
            check.directory = argv[i];
        else
            return usage_error("unknown argument", argv[i]);
    }
    if (!check.directory)
        return usage_error("missing:", "DIR");
    if (check.json && check.digest)
        return usage_error("not together:", "--json --digest");
    return (int)store_tool_check(&check, stdout);
}

int store_command(int argc, char **argv)
{
    assert(argc >= 0 && argv);
    log_init(LOG_WARN, NULL);
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0)
            return printf("usage:\n%s", STORE_COMMAND_USAGE) > 0 && fflush(stdout) == 0 ? 0 : 1;
    }
    if (argc > 0 && strcmp(argv[0], "format") == 0)
        return format(argc - 1, argv + 1);
    if (argc > 0 && strcmp(argv[0], "check") == 0)
        return check(argc - 1, argv + 1);
    return usage_error("unknown command", argc > 0 ? argv[0] : "");
}
