/* SPDX-License-Identifier: Apache-2.0 */
/* settings: where the gateways are: from the caller, the environment, or a cluster file.
 *
 * - `where` with a scheme ("tcp:", "unix:", "rdma:", "sim:") is a list of addresses, else the path of a cluster file
 * - NULL: $ASHLAR_CLUSTER, else ASHLAR_CONFIG_PATH
 * - cluster file: [client] addresses = A,B,...  address[] = A  io_timeout = 30s  open_timeout = 30s
 *
 * Failure: -errno and a sentence that names the file and line.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/edge.h"
#include "common/config.h"

#define OPEN_TIMEOUT_MS_DEFAULT 30000u

static _Thread_local char error_text[320];

int edge_error(int rc, const char *format, ...)
{
    va_list args;
    assert(rc <= 0);
    va_start(args, format);
    (void)vsnprintf(error_text, sizeof(error_text), format, args);
    va_end(args);
    return rc;
}

void edge_error_clear(void)
{
    error_text[0] = '\0';
}

const char *ashlar_error(void)
{
    return error_text;
}

const char *ashlar_version(void)
{
    return ASHLAR_VERSION;
}

/* ---- addresses */

static bool is_address(const char *text)
{
    static const char *const schemes[] = {"tcp:", "unix:", "rdma:", "sim:"};
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strncmp(text, schemes[i], strlen(schemes[i])) == 0)
            return true;
    }
    return false;
}

static int add_address(struct edge_settings *settings, const char *text, size_t len)
{
    while (len > 0 && (text[0] == ' ' || text[0] == '\t')) {
        text++;
        len--;
    }
    while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    if (len == 0)
        return 0;
    if (len >= CLIENT_ADDRESS_MAX || !is_address(text))
        return edge_error(-EINVAL, "not a gateway address: '%.*s'; write tcp:HOST:PORT or unix:PATH", (int)len, text);
    if (settings->address_count == CLIENT_GATEWAYS_MAX)
        return edge_error(-E2BIG, "more than %u gateway addresses", CLIENT_GATEWAYS_MAX);
    char *to = settings->addresses[settings->address_count++];
    memcpy(to, text, len);
    to[len] = '\0';
    return 0;
}

static int add_addresses(struct edge_settings *settings, const char *text)
{
    for (;;) {
        size_t len = strcspn(text, ",");
        int rc = add_address(settings, text, len);
        if (rc < 0)
            return rc;
        if (text[len] == '\0')
            return 0;
        text += len + 1;
    }
}

/* ---- the cluster file */

struct file_values {
    char addresses[256];
    uint64_t io_timeout_ms, open_timeout_ms;
};

static const struct config_item file_items[] = {
    {"client", "addresses", CONFIG_STRING, offsetof(struct file_values, addresses), 256, "", 0, 0,
     "gateway addresses, separated by commas, the local one first"},
    {"client", "io_timeout", CONFIG_MS, offsetof(struct file_values, io_timeout_ms), 0, "0", 0, 0,
     "a request fails after this time; 0: never"},
    {"client", "open_timeout", CONFIG_MS, offsetof(struct file_values, open_timeout_ms), 0, "0", 0, 0,
     "attaching fails after this time"},
};
#define FILE_ITEMS (sizeof(file_items) / sizeof(file_items[0]))

static int file_list(void *arg, const char *section, const char *key, const char *value)
{
    if (strcmp(section, "client") != 0 || strcmp(key, "address[]") != 0)
        return -ENOENT;
    return add_address(arg, value, strlen(value));
}

static int read_file(struct edge_settings *settings, const char *path)
{
    /* A daemon's file may hold a [client] section, too. */
    static const char *const others[] = {"cluster", "node",      "store",   "network", "raft", "control",
                                         "data",    "placement", "gateway", "replica", "log",  "tls",
                                         "metrics", "limits",    "memory",  NULL};
    struct file_values values;
    char error[CONFIG_ERROR_MAX] = "";
    int rc = config_defaults(file_items, FILE_ITEMS, &values);
    assert(rc == 0);
    rc = config_read_file(path, file_items, FILE_ITEMS, &values, others, file_list, settings, error);
    if (rc < 0)
        return edge_error(rc, "%s", error[0] ? error : strerror(-rc));
    rc = add_addresses(settings, values.addresses);
    if (settings->io_timeout_ms == 0)
        settings->io_timeout_ms = values.io_timeout_ms;
    if (settings->open_timeout_ms == 0)
        settings->open_timeout_ms = values.open_timeout_ms;
    return rc;
}

int edge_settings_read(const struct ashlar_options *options, struct edge_settings *ret_settings)
{
    const char *where = options ? options->where : NULL;
    if (!where || where[0] == '\0')
        where = getenv("ASHLAR_CLUSTER");
    if (!where || where[0] == '\0')
        where = ASHLAR_CONFIG_PATH;
    memset(ret_settings, 0, sizeof(*ret_settings));
    if (options) {
        ret_settings->io_timeout_ms = options->io_timeout_ms;
        ret_settings->open_timeout_ms = options->open_timeout_ms;
    }
    int rc = is_address(where) ? add_addresses(ret_settings, where) : read_file(ret_settings, where);
    if (rc < 0)
        return rc;
    if (ret_settings->address_count == 0)
        return edge_error(-EINVAL, "%s names no gateway: write addresses = tcp:HOST:PORT,... below [client]", where);
    if (ret_settings->open_timeout_ms == 0)
        ret_settings->open_timeout_ms = OPEN_TIMEOUT_MS_DEFAULT;
    return 0;
}
