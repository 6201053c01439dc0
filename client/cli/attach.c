/* SPDX-License-Identifier: Apache-2.0 */
/* attach: `ashlar attach`, `detach`, `attachments`: volumes as NBD servers on unix sockets of this host.
 *
 *   - attach: lock the name, start nbdkit, wait until it serves the volume, print how to use it
 *   - detach: wait until nobody is connected, end that very nbdkit, remove what it left
 * Failure modes: a volume that cannot be attached leaves nothing behind; a process that is not the one attach started is never
 * signalled.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/admin_socket.h"
#include "client/cli/attachment.h"
#include "client/cli/cli.h"
#include "client/cli/commands.h"
#include "client/cli/nbd_probe.h"
#include "client/cli/nbdkit_process.h"
#include "client/cli/text.h"
#include "common/crc32c.h"

#define THREADS_DEFAULT 32u /* requests that nbdkit has in flight at once */
#define CLIENTS_WAIT_MS 3000u
#define PROBE_MS 2000u

struct recipe {
    char uri[2 * PATH_MAX], qemu[4 * PATH_MAX], libvirt[4 * PATH_MAX];
};

/* A URI's query takes a path as it is but for a few characters. */
static void escape_path(const char *path, char *out, size_t size)
{
    size_t n = 0;
    for (; *path && n + 4 < size; path++) {
        if (strchr("%?#&+ \"'<>", *path))
            n += (size_t)sprintf(out + n, "%%%02X", (unsigned char)*path);
        else
            out[n++] = *path;
    }
    out[n] = '\0';
}

/* QEMU's names of nodes begin with a letter, have letters, digits, '-', '.' and '_', and at most 31 characters, of which
 * "-nbd2" may be added. What had to change is told apart by a checksum. */
static void node_name(const char *volume, char out[32])
{
    static const char known[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    size_t length = strlen(volume);
    bool fits =
        length <= 24 && strspn(volume, known) == length && strspn(volume, known) > 0 && strspn(volume, known + 52) == 0;
    if (fits) {
        (void)snprintf(out, 32, "%s", volume);
        return;
    }
    (void)snprintf(out, 32, "v-%.14s-%08x", volume, crc32c(volume, length));
    for (char *at = out; *at; at++)
        *at = strchr(known, *at) ? *at : '.';
}

static void make_recipe(const struct attachment *a, struct recipe *ret_recipe)
{
    char path[3 * PATH_MAX], node[32];
    node_name(a->name, node);
    escape_path(a->socket, path, sizeof(path));
    (void)snprintf(ret_recipe->uri, sizeof(ret_recipe->uri), "nbd+unix:///?socket=%.8000s", path);
    const char *read_only = a->read_only ? ",read-only=on" : "";
    /* raw above nbd: what the guest uses stays when it moves to another connection (nbdkit-ashlar-plugin(1)) */
    (void)snprintf(
        ret_recipe->qemu, sizeof(ret_recipe->qemu),
        "-blockdev driver=nbd,node-name=%s-nbd,server.type=unix,server.path=%s,cache.direct=on,discard=unmap%s"
        " -blockdev driver=raw,node-name=%s,file=%s-nbd,cache.direct=on,discard=unmap%s"
        " -device virtio-blk-pci,drive=%s,logical_block_size=4096,physical_block_size=4096",
        node, a->socket, read_only, node, node, read_only, node);
    (void)snprintf(ret_recipe->libvirt, sizeof(ret_recipe->libvirt),
                   "<disk type='network' device='disk'>\n"
                   "  <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n"
                   "  <source protocol='nbd'><host transport='unix' socket='%s'/></source>\n"
                   "  <target dev='vda' bus='virtio'/>\n"
                   "  <blockio logical_block_size='4096' physical_block_size='4096'/>\n%s</disk>",
                   a->socket, a->read_only ? "  <readonly/>\n" : "");
}

static int print_attached(const struct cli *cli, const struct attachment *a, uint64_t size)
{
    static struct recipe recipe;
    make_recipe(a, &recipe);
    if (cli->json)
        return cli_print_json(json_pack("{s:s, s:s, s:s, s:I, s:i, s:b, s:s, s:s}", "volume", a->name, "uri",
                                        recipe.uri, "socket", a->socket, "size", (json_int_t)size, "pid", (int)a->pid,
                                        "read_only", a->read_only, "qemu", recipe.qemu, "libvirt", recipe.libvirt));
    char shown[TEXT_SIZE_MAX];
    printf("%s (%s%s) is attached:\n\n  %s\n\nQEMU:\n\n  %s\n\nlibvirt:\n\n%s\n", a->name, text_size(size, shown),
           a->read_only ? ", read-only" : "", recipe.uri, recipe.qemu, recipe.libvirt);
    return CLI_OK;
}

static int load_and_lock(const struct cli *cli, struct attachment *a)
{
    int rc = attachment_load(a, cli->cluster.path, cli->arguments[0]);
    if (rc == 0)
        rc = attachment_lock(a);
    if (rc == 0) { /* the files may have changed until we had the lock */
        int lock_fd = a->lock_fd;
        rc = attachment_load(a, cli->cluster.path, cli->arguments[0]);
        a->lock_fd = lock_fd;
    }
    if (rc == -EINVAL)
        return cli_fail(cli, CLI_USAGE, "'%s' is no name of a volume", cli->arguments[0]);
    if (rc == -EBUSY)
        return cli_fail(cli, CLI_FAILED, "another attach or detach of '%s' is running", a->name);
    if (rc < 0)
        return cli_fail(cli, CLI_FAILED, "%s: %s", a->directory, strerror(-rc));
    return CLI_OK;
}

static int choose_socket(const struct cli *cli, struct attachment *a)
{
    const char *given = cli_option(cli, "socket");
    if (given && given[0] != '/')
        return cli_fail(cli, CLI_USAGE, "--socket=%s: write an absolute path", given);
    if (given)
        (void)snprintf(a->socket, sizeof(a->socket), "%s", given);
    if (strlen(a->socket) > 107)
        return cli_fail(cli, CLI_FAILED, "%s: longer than the 107 bytes of a socket's path; choose one with --socket",
                        a->socket);
    struct stat info;
    if (lstat(a->socket, &info) == 0) {
        if (!S_ISSOCK(info.st_mode))
            return cli_fail(cli, CLI_FAILED, "%s is there already, and is no socket", a->socket);
        uint64_t size;
        int rc = nbd_probe(a->socket, admin_now_ms() + PROBE_MS, &size);
        if (rc != -ECONNREFUSED)
            return cli_fail(cli, CLI_FAILED, "another server listens on %s", a->socket);
        (void)unlink(a->socket);
    }
    return CLI_OK;
}

static int start(struct cli *cli, struct attachment *a)
{
    char why[NBDKIT_WHY_MAX];
    uint64_t size = 0;
    struct nbdkit_start options = {
        .cluster_path = cli->cluster.path[0] ? cli->cluster.path : NULL,
        .addresses = cli->cluster.given,
        .io_timeout = cli_option(cli, "io-timeout"),
        .read_only = cli_flag(cli, "read-only") || strchr(cli->arguments[0], '@') != NULL, /* a snapshot */
        .force = cli_flag(cli, "force"),
        .threads = THREADS_DEFAULT,
        .deadline_ms = admin_now_ms() + cli->timeout_ms,
    };
    int code = cli_option_u32(cli, "threads", &options.threads);
    if (code == CLI_OK)
        code = choose_socket(cli, a);
    if (code != CLI_OK)
        return code;
    if (options.threads == 0 || options.threads > 1024)
        return cli_fail(cli, CLI_USAGE, "--threads: 1 to 1024");
    int rc = nbdkit_process_start(a, &options, &size, why);
    if (rc < 0)
        return cli_fail(cli, rc == -ETIMEDOUT ? CLI_UNREACHABLE : CLI_FAILED, "%s", why[0] ? why : strerror(-rc));
    return print_attached(cli, a, size);
}

int command_attach(struct cli *cli)
{
    static struct attachment a;
    static struct recipe recipe;
    int code = load_and_lock(cli, &a);
    if (code != CLI_OK)
        return code;
    if (attachment_alive(&a)) {
        make_recipe(&a, &recipe);
        code = cli_fail(cli, CLI_FAILED, "'%s' is attached on this host already, at %s; detach it first", a.name,
                        recipe.uri);
    } else {
        a.pid = 0;
        code = start(cli, &a);
        if (a.pid == 0)
            attachment_remove(&a);
    }
    attachment_unlock(&a);
    return code;
}

static int stop(struct cli *cli, struct attachment *a)
{
    bool force = cli_flag(cli, "force");
    uint64_t deadline_ms = admin_now_ms() + cli->timeout_ms, clients_ms = admin_now_ms() + CLIENTS_WAIT_MS;
    uint32_t clients = attachment_clients(a);
    while (clients > 0 && !force && admin_now_ms() < clients_ms) {
        (void)poll(NULL, 0, 10);
        clients = attachment_clients(a);
    }
    if (clients > 0 && !force)
        return cli_fail(cli, CLI_FAILED, "'%s' is in use by %u connections; stop them first, or use --force", a->name,
                        clients);
    int rc = nbdkit_process_stop(a, force, deadline_ms);
    if (rc == -ETIMEDOUT)
        return cli_fail(cli, CLI_FAILED,
                        "nbdkit (process %d) still has requests that wait for the cluster; mend it, or "
                        "use --force",
                        (int)a->pid);
    if (rc < 0)
        return cli_fail(cli, CLI_FAILED, "process %d: %s", (int)a->pid, strerror(-rc));
    attachment_remove(a);
    return cli->json ? cli_print_json(json_pack("{s:s, s:b}", "volume", a->name, "detached", 1)) : CLI_OK;
}

int command_detach(struct cli *cli)
{
    static struct attachment a;
    int code = load_and_lock(cli, &a);
    if (code != CLI_OK)
        return code;
    if (attachment_alive(&a)) {
        code = stop(cli, &a);
    } else {
        bool stale = a.pid > 0;
        attachment_remove(&a);
        code = stale
                   ? cli_fail(cli, CLI_FAILED, "the nbdkit of '%s' had ended already; what it left is removed", a.name)
                   : cli_fail(cli, CLI_FAILED,
                              "'%s' is not attached on this host; see: ashlar attachments ls, ashlar "
                              "session ls",
                              a.name);
    }
    attachment_unlock(&a);
    return code;
}

static int list_one(const struct attachment *a, void *arg)
{
    static struct recipe recipe;
    make_recipe(a, &recipe);
    json_t *entry = json_pack("{s:s, s:s, s:s, s:i, s:b, s:i, s:b}", "volume", a->name, "uri", recipe.uri, "socket",
                              a->socket, "pid", (int)a->pid, "read_only", a->read_only, "connections",
                              (int)attachment_clients(a), "alive", attachment_alive(a));
    return json_array_append_new(arg, entry) < 0 ? -ENOMEM : 0;
}

int command_attachments(struct cli *cli)
{
    json_t *list = json_array(), *entry;
    size_t i;
    int rc = attachment_each(cli->cluster.path, list_one, list);
    if (rc < 0) {
        json_decref(list);
        return cli_fail(cli, CLI_FAILED, "%s", strerror(-rc));
    }
    if (cli->json)
        return cli_print_json(json_pack("{s:o}", "attachments", list));
    struct text_table *table = text_table_create(cli->colour, "VOLUME\tPID\tCONNECTIONS\tMODE\tURI");
    json_array_foreach(list, i, entry)
    {
        bool alive = json_is_true(json_object_get(entry, "alive"));
        text_table_row(table, alive ? TEXT_PLAIN : TEXT_BAD, "%s\t%lld\t%lld\t%s\t%s",
                       json_string_value(json_object_get(entry, "volume")),
                       (long long)json_integer_value(json_object_get(entry, "pid")),
                       (long long)json_integer_value(json_object_get(entry, "connections")),
                       !alive                                              ? "ended"
                       : json_is_true(json_object_get(entry, "read_only")) ? "read-only"
                                                                           : "read-write",
                       json_string_value(json_object_get(entry, "uri")));
    }
    json_decref(list);
    text_table_print(table, stdout);
    return CLI_OK;
}
