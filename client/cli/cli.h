/* SPDX-License-Identifier: Apache-2.0 */
/* cli: what the commands of `ashlar` share: options, exit codes, output.
 *
 * Concept: main.c reads the command line by a table of commands; a command is one function that prints its result to stdout,
 *   or one line that says what went wrong and what to do to stderr, and returns the exit code.
 * Threading: one thread. Errors: enum cli_exit. Ownership: strings of struct cli live until the process ends.
 */
#ifndef ASHLAR_CLIENT_CLI_CLI_H
#define ASHLAR_CLIENT_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "client/cli/cluster_file.h"

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,      /* the cluster, or this host, refused */
    CLI_USAGE = 2,       /* the command line or a configuration file is wrong */
    CLI_UNREACHABLE = 3, /* no control address answers */
    CLI_DEGRADED = 4,    /* status --check: reachable, but not every replica is in sync */
};

#define CLI_OPTIONS_MAX 10u
#define CLI_TIMEOUT_DEFAULT_MS 20000u

struct cli_option {
    const char *name;
    char letter;          /* 0: none */
    const char *argument; /* NULL: a flag */
    const char *help;
};

struct cli;
struct cli_command {
    const char *name;      /* "volume create" */
    const char *arguments; /* "NAME SIZE" */
    unsigned arguments_min, arguments_max;
    const char *summary; /* one line */
    const char *help;    /* more lines, or NULL */
    struct cli_option options[CLI_OPTIONS_MAX];
    int (*run)(struct cli *cli);
    bool local;  /* needs no cluster file */
    bool hidden; /* another name of a command */
};

struct cli {
    const struct cli_command *command;
    bool json;
    bool colour; /* of stdout */
    uint64_t timeout_ms;
    const char *where; /* --cluster; NULL: by the environment */
    struct cluster_file cluster;
    char **arguments;
    int argument_count;
    const char *values[CLI_OPTIONS_MAX]; /* of the command's options; "" for a given flag; NULL: not given */
};

/* Value of the command's option; NULL: not given. */
const char *cli_option(const struct cli *cli, const char *name);
bool cli_flag(const struct cli *cli, const char *name);
/* CLI_OK (ret untouched if the option is not given), or CLI_USAGE and a line. */
int cli_option_u32(const struct cli *cli, const char *name, uint32_t *ret_value);
int cli_parse_size(const char *what, const char *text, uint64_t *ret_bytes);

/* One line on stderr "ashlar COMMAND: ..."; returns code. */
int cli_fail(const struct cli *cli, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Prints and frees (given). */
int cli_print_json(json_t *value);
/* Asks on the terminal; true without one only if --yes was given. */
bool cli_confirm(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
