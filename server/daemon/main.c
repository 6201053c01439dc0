/* SPDX-License-Identifier: Apache-2.0 */
/* main: the command line of ashlard.
 *
 *   ashlard --config FILE [--SECTION.KEY=VALUE...]    the daemon
 *   ashlard store format DIR ...                      makes a store
 * Failure modes: exit status 2 with the usage for a command line that is none, 1 with one line for everything else.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/log.h"
#include "server/daemon/daemon.h"
#include "server/daemon/settings.h"
#include "server/daemon/spare_memory.h"
#include "server/daemon/store_command.h"

#define LOG_MODULE "daemon"
#define STARTED_ANEW "ASHLARD_STARTED_ANEW"

static void print_usage(FILE *stream)
{
    assert(stream);
    (void)fputs("usage: ashlard --config FILE [--SECTION.KEY=VALUE ...]\n" STORE_COMMAND_USAGE
                "       ashlard --help | --version\n",
                stream);
}

static int usage_error(const char *what, const char *word)
{
    assert(what);
    (void)fprintf(stderr, "ashlard: %s '%s'\n", what, word);
    print_usage(stderr);
    return 2;
}

static int print_help(void)
{
    print_usage(stdout);
    (void)fputs("\nKeys of the configuration file, [section] and key = value; flags come after it:\n", stdout);
    settings_print_help(stdout);
    (void)fputs(
        "cluster.voter[] = ID@RAFT_HOST:PORT,CONTROL_HOST:PORT   (file only) 1, 3 or 5 of them, on every node\n",
        stdout);
    int rc = fflush(stdout);
    return rc == 0 ? 0 : 1;
}

static int start_anew(char **argv)
{
    assert(argv[0]);
    log_info("starting anew");
    if (setenv(STARTED_ANEW, "1", 1) < 0)
        return 1;
    (void)execv("/proc/self/exe", argv);
    log_error("cannot start anew error=\"%s\"", strerror(errno));
    return 1;
}

static int run_daemon(const char *config_path, const char *const *assignments, size_t count, char **argv)
{
    static struct settings settings;
    char error[CONFIG_ERROR_MAX], label[16];
    bool again = false;
    int rc = settings_load(&settings, config_path, assignments, count, error);
    if (rc < 0) {
        (void)fprintf(stderr, "ashlard: %s\n", error);
        return 1;
    }
    assert(settings.node > 0);
    (void)snprintf(label, sizeof(label), "%u", settings.node);
    log_init(settings.log_level, label);
    rc = settings.log_file[0] ? log_to_file(settings.log_file) : 0;
    if (rc < 0) {
        (void)fprintf(stderr, "ashlard: log.file: cannot open %s: %s\n", settings.log_file, strerror(-rc));
        return 1;
    }
    spare_memory_init();
    bool started_anew = getenv(STARTED_ANEW) != NULL;
    (void)unsetenv(STARTED_ANEW);
    log_info("ashlard %s starts cluster=%s pid=%d", ASHLAR_VERSION, settings.cluster_name, (int)getpid());
    int status = daemon_run(&settings, started_anew, &again);
    if (again)
        return start_anew(argv);
    log_info("ended status=%d", status);
    return status;
}

int main(int argc, char **argv)
{
    const char *config_path = NULL;
    const char **assignments = calloc((size_t)argc + 1, sizeof(*assignments));
    size_t count = 0;
    if (!assignments)
        return 1;
    if (argc > 1 && strcmp(argv[1], "store") == 0) {
        free(assignments);
        return store_command(argc - 2, argv + 2);
    }
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--help") == 0)
            return print_help();
        if (strcmp(word, "--version") == 0)
            return printf("ashlard %s\n", ASHLAR_VERSION) > 0 ? 0 : 1;
        if (strcmp(word, "--config") == 0) {
            if (++i == argc)
                return usage_error("a file must follow", word);
            config_path = argv[i];
        } else if (strncmp(word, "--config=", 9) == 0) {
            config_path = word + 9;
        } else if (strncmp(word, "--", 2) == 0 && strchr(word, '.') && strchr(word, '=')) {
            assignments[count++] = word + 2;
        } else {
            return usage_error("unknown argument", word);
        }
    }
    assert(count < (size_t)argc);
    if (!config_path)
        return usage_error("missing option", "--config FILE");
    int status = run_daemon(config_path, assignments, count, argv);
    free(assignments);
    return status;
}
