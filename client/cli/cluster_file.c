/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_file: finds and reads the cluster file.
 *
 *   - cluster_file_load: which file or list (option, environment, default), then read it, then complete the control addresses
 * Failure modes: one line that names the file and what is missing in it. Sections that other programs read are skipped.
 */
#include "client/cli/cluster_file.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ashlar.h>

struct fields {
    char addresses[CLUSTER_TEXT_MAX], control[CLUSTER_TEXT_MAX];         /* addresses = A,B,... */
    char address_list[CLUSTER_TEXT_MAX], control_list[CLUSTER_TEXT_MAX]; /* address[] = A */
    uint64_t io_timeout_ms, open_timeout_ms;                             /* the library's */
};
static const struct config_item items[] = {
    {"client", "addresses", CONFIG_STRING, offsetof(struct fields, addresses), CLUSTER_TEXT_MAX, "", 0, 0,
     "gateways: unix:PATH or tcp:HOST:PORT, separated by commas, the local one first"},
    {"control", "addresses", CONFIG_STRING, offsetof(struct fields, control), CLUSTER_TEXT_MAX, "", 0, 0,
     "control addresses in the same form; empty: as follows from those of the gateways"},
    {"client", "io_timeout", CONFIG_MS, offsetof(struct fields, io_timeout_ms), 0, "0", 0, 0,
     "a request not answered for so long fails; 0: never"},
    {"client", "open_timeout", CONFIG_MS, offsetof(struct fields, open_timeout_ms), 0, "0", 0, 0,
     "how long attaching may take; 0: 30s"},
};
static const char *const ignored[] = {"cluster", "node", "store", "replica", "memory", "log", NULL};

/* address[] = A, in either section. */
static int take_address(void *arg, const char *section, const char *key, const char *value)
{
    struct fields *fields = arg;
    char *list = strcmp(section, "client") == 0 ? fields->address_list : fields->control_list;
    size_t length = strlen(list);
    if (strcmp(key, "address[]") != 0)
        return -ENOENT;
    if (length + strlen(value) + 2 > CLUSTER_TEXT_MAX)
        return -E2BIG;
    (void)snprintf(list + length, CLUSTER_TEXT_MAX - length, "%s%s", length > 0 ? "," : "", value);
    return 0;
}

static bool is_address_list(const char *text)
{
    return strncmp(text, "unix:", 5) == 0 || strncmp(text, "tcp:", 4) == 0 || strncmp(text, "rdma:", 5) == 0;
}

static int add_control(struct cluster_file *cluster, const char *address, size_t length)
{
    if (length == 0)
        return 0;
    if (length >= CLUSTER_ADDRESS_MAX || cluster->control_count == CLUSTER_ADDRESSES_MAX)
        return -E2BIG;
    memcpy(cluster->control[cluster->control_count], address, length);
    cluster->control[cluster->control_count++][length] = '\0';
    return 0;
}

static int add_beside(struct cluster_file *cluster, const char *address, size_t length)
{
    char text[CLUSTER_ADDRESS_MAX + 16], control[CLUSTER_ADDRESS_MAX + 32];
    if (length >= CLUSTER_ADDRESS_MAX)
        return -E2BIG;
    (void)snprintf(text, sizeof(text), "%.*s", (int)length, address);
    char *colon = strrchr(text, ':'), *slash = strrchr(text, '/');
    if (strncmp(text, "tcp:", 4) == 0 || strncmp(text, "rdma:", 5) == 0) {
        const char *host = strchr(text, ':') + 1;
        long port = colon >= host ? strtol(colon + 1, NULL, 10) : 0;
        if (port <= 0 || port >= 65535)
            return -EINVAL;
        *colon = '\0';
        (void)snprintf(control, sizeof(control), "tcp:%s:%ld", host, port + 1);
    } else if (slash && strcmp(slash, "/data.sock") == 0) {
        *slash = '\0';
        (void)snprintf(control, sizeof(control), "%s/control.sock", text);
    } else {
        return 0; /* a socket of an unusual name: nothing follows from it */
    }
    return add_control(cluster, control, strlen(control));
}

static int each_address(struct cluster_file *cluster, const char *list,
                        int (*add)(struct cluster_file *cluster, const char *address, size_t length))
{
    int rc = 0;
    for (const char *at = list; rc == 0 && *at;) {
        at += strspn(at, ", \t");
        size_t length = strcspn(at, ", \t");
        if (length > 0)
            rc = is_address_list(at) ? add(cluster, at, length) : -EINVAL;
        at += length;
    }
    return rc;
}

static int default_path(const char *where, char *path)
{
    char joined[CLUSTER_PATH_MAX];
    const char *directory = getenv("ASHLAR_DIR");
    if (!where && directory && *directory) {
        if (snprintf(joined, sizeof(joined), "%s/cluster.conf", directory) >= (int)sizeof(joined))
            return -ENAMETOOLONG;
        where = joined;
    }
    if (!where)
        where = ASHLAR_CONFIG_PATH;
    char *resolved = realpath(where, NULL);
    if (!resolved) { /* the message needs a name */
        (void)snprintf(path, CLUSTER_PATH_MAX, "%s", where);
        return -errno;
    }
    (void)snprintf(path, CLUSTER_PATH_MAX, "%s", resolved);
    free(resolved);
    return 0;
}

static int read_fields(struct cluster_file *cluster, struct fields *fields, char error[CONFIG_ERROR_MAX])
{
    const size_t count = sizeof(items) / sizeof(items[0]);
    int rc = config_defaults(items, count, fields);
    assert(rc == 0);
    rc = config_read_file(cluster->path, items, count, fields, ignored, take_address, fields, error);
    if (rc == 0 && !fields->addresses[0] && !fields->address_list[0]) {
        (void)snprintf(error, CONFIG_ERROR_MAX, "%.160s: no 'addresses' in [client]; name the gateways there",
                       cluster->path);
        rc = -EINVAL;
    }
    return rc;
}

int cluster_file_load(struct cluster_file *cluster, const char *where, char error[CONFIG_ERROR_MAX])
{
    static struct fields fields;
    memset(cluster, 0, sizeof(*cluster));
    memset(&fields, 0, sizeof(fields));
    if (!where || !*where)
        where = getenv("ASHLAR_CLUSTER");
    if (where && is_address_list(where)) {
        if (strlen(where) >= CLUSTER_TEXT_MAX) {
            (void)snprintf(error, CONFIG_ERROR_MAX, "the list of addresses is too long; write a cluster file");
            return -E2BIG;
        }
        strcpy(cluster->given, where);
        strcpy(fields.addresses, where);
    } else {
        int rc = default_path(where && *where ? where : NULL, cluster->path);
        if (rc < 0) {
            (void)snprintf(error, CONFIG_ERROR_MAX, "%.150s: %s; say where the cluster is with --cluster FILE",
                           cluster->path, strerror(-rc));
            return rc;
        }
        rc = read_fields(cluster, &fields, error);
        if (rc < 0)
            return rc;
    }
    bool told = fields.control[0] || fields.control_list[0];
    const char *const lists[] = {told ? fields.control : fields.addresses,
                                 told ? fields.control_list : fields.address_list};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < 2; i++)
        rc = each_address(cluster, lists[i], told ? add_control : add_beside);
    if (rc == 0 && cluster->control_count == 0)
        rc = -EINVAL;
    if (rc < 0)
        (void)snprintf(error, CONFIG_ERROR_MAX,
                       "%.100s: no list of addresses like unix:/run/ashlar/1/control.sock,tcp:HOST:7101: '%.60s'",
                       cluster->path[0] ? cluster->path : "addresses", lists[0][0] ? lists[0] : lists[1]);
    return rc;
}
