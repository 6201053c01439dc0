/* SPDX-License-Identifier: Apache-2.0 */
/* image: `ashlar import` of raw, QCOW2 and other images, through qemu-img and an NBD attachment.
 *
 *   qemu-img info -> volume-create -> ashlar attach -> qemu-img convert -n -p -> ashlar detach
 *
 * Failure modes: qemu-img missing or unwilling: its own words; the volume stays, so that nothing is lost by mistake.
 */
#include "client/cli/image.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/admin.h"

extern char **environ;

#define OUTPUT_MAX (64u * 1024u)

static int add_number(const struct cli *cli, const char *option, const char *key, json_t *request)
{
    uint32_t value = UINT32_MAX;
    int code = cli_option_u32(cli, option, &value);
    if (code == CLI_OK && value != UINT32_MAX)
        (void)json_object_set_new(request, key, json_integer(value));
    return code;
}

int import_make_volume(const struct cli *cli, const char *name, uint64_t size, bool exists_ok, json_t **ret_answer)
{
    json_t *request = json_pack("{s:s, s:s, s:I, s:I}", "op", "volume-create", "name", name, "size", (json_int_t)size,
                                "home", (json_int_t)admin_local_node(cli));
    int code = request ? CLI_OK : cli_fail(cli, CLI_USAGE, "'%s' is no name of a volume", name);
    if (code == CLI_OK)
        code = add_number(cli, "replicas", "replicas", request);
    if (code == CLI_OK)
        code = add_number(cli, "min-replicas", "min_replicas", request);
    if (code == CLI_OK)
        code = add_number(cli, "home", "home", request);
    json_t *known = NULL;
    if (code == CLI_OK)
        code = admin_find(cli, json_pack("{s:s, s:s}", "op", "volume-info", "name", name), &known);
    if (known) {
        if (!exists_ok)
            code = cli_fail(cli, CLI_FAILED,
                            "a volume of that name exists: --overwrite writes it anew, --resume goes on with an import "
                            "that broke off");
        else if ((uint64_t)admin_integer(json_object_get(known, "volume"), "size") < size)
            code = cli_fail(cli, CLI_FAILED, "%s is smaller than what is to be imported", name);
        json_decref(known);
        json_decref(request);
        return code;
    }
    if (code == CLI_OK)
        code = admin_change(cli, json_incref(request), 0, ret_answer);
    json_decref(request);
    return code;
}

/* Runs a program; output: what it writes to its descriptor fd; NULL: it writes where we do. Its exit status, or -errno. */
static int run(char *const argv[], int fd, char output[OUTPUT_MAX])
{
    posix_spawn_file_actions_t actions;
    int ends[2] = {-1, -1}, status = 0;
    pid_t pid;
    if (output && pipe(ends) != 0)
        return -errno;
    (void)posix_spawn_file_actions_init(&actions);
    if (output) {
        (void)posix_spawn_file_actions_adddup2(&actions, ends[1], fd);
        (void)posix_spawn_file_actions_addclose(&actions, ends[0]);
        (void)posix_spawn_file_actions_addclose(&actions, ends[1]);
    }
    int rc = posix_spawnp(&pid, argv[0], &actions, /* attr= */ NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    size_t have = 0;
    if (output) {
        (void)close(ends[1]);
        ssize_t n;
        while (rc == 0 && have + 1 < OUTPUT_MAX && (n = read(ends[0], output + have, OUTPUT_MAX - 1 - have)) > 0)
            have += (size_t)n;
        output[have] = '\0';
        (void)close(ends[0]);
    }
    if (rc != 0)
        return -rc;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int find_format(const struct cli *cli, const char *path, const char *given, char format[32], uint64_t *ret_size)
{
    static char output[OUTPUT_MAX];
    char *const plain[] = {"qemu-img", "info", "--output=json", (char *)(uintptr_t)path, NULL};
    char *const forced[] = {
        "qemu-img", "info", "--output=json", "-f", (char *)(uintptr_t)given, (char *)(uintptr_t)path, NULL};
    int rc = run(given ? forced : plain, STDOUT_FILENO, output);
    if (rc == -ENOENT)
        return cli_fail(cli, CLI_FAILED, "qemu-img is not installed (Debian package qemu-utils)");
    json_t *info = rc == 0 ? json_loads(output, 0, NULL) : NULL;
    if (!info)
        return cli_fail(cli, CLI_FAILED, "qemu-img cannot read %s", path);
    (void)snprintf(format, 32, "%s", admin_string(info, "format"));
    *ret_size = (uint64_t)admin_integer(info, "virtual-size");
    json_decref(info);
    *ret_size = (*ret_size + 4095) / 4096 * 4096;
    return *ret_size > 0 ? CLI_OK : cli_fail(cli, CLI_FAILED, "%s is empty", path);
}

static int convert(const struct cli *cli, const char *target, const char *path, const char *format, const char *uri)
{
    char *const argv[] = {"qemu-img",
                          "convert",
                          "-n",
                          cli->json || !isatty(STDERR_FILENO) ? "-q" : "-p",
                          "-f",
                          (char *)(uintptr_t)format,
                          "-O",
                          "raw",
                          "-W",
                          "-m",
                          "8",
                          (char *)(uintptr_t)path,
                          (char *)(uintptr_t)uri,
                          NULL};
    static char said[OUTPUT_MAX];
    int rc = run(argv, STDERR_FILENO, said);
    if (rc == 0)
        return CLI_OK;
    said[strcspn(said, "\n")] = '\0'; /* one line for each request that failed: the first will do */
    return cli_fail(cli, CLI_FAILED, "%s is not complete: %s", target, said[0] ? said : "qemu-img convert failed");
}

int import_image(struct cli *cli, const char *path, const char *target, const char *format)
{
    static char output[OUTPUT_MAX];
    char found[32];
    uint64_t size = 0;
    json_t *answer = NULL;
    const char *where = cli->cluster.path[0] ? cli->cluster.path : cli->cluster.given;
    int code = find_format(cli, path, format, found, &size);
    if (code == CLI_OK)
        code = import_make_volume(cli, target, size, cli_flag(cli, "overwrite"), &answer);
    json_decref(answer);
    if (code != CLI_OK)
        return code;
    char *const attach[] = {"/proc/self/exe",          "--cluster", (char *)(uintptr_t)where, "--json", "attach",
                            (char *)(uintptr_t)target, NULL};
    char *const detach[] = {"/proc/self/exe",          "--cluster", (char *)(uintptr_t)where, "--json", "detach",
                            (char *)(uintptr_t)target, NULL};
    json_t *attached = run(attach, STDOUT_FILENO, output) == 0 ? json_loads(output, 0, NULL) : NULL;
    if (!attached)
        return cli_fail(cli, CLI_FAILED, "%s cannot be attached on this host", target);
    code = convert(cli, target, path, found, admin_string(attached, "uri"));
    json_decref(attached);
    if (run(detach, STDOUT_FILENO, output) != 0 && code == CLI_OK)
        code = cli_fail(cli, CLI_FAILED, "%s cannot be detached", target);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        return cli_print_json(json_pack("{s:s,s:s,s:I}", "volume", target, "format", found, "size", (json_int_t)size));
    printf("%s is imported from %s (%s)\n", target, path, found);
    return CLI_OK;
}
