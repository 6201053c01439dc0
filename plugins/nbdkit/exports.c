/* SPDX-License-Identifier: Apache-2.0 */
/* exports: one library handle a volume, shared by the connections.
 *
 *   - exports_start: ashlar_connect, once a process, after fork
 *   - exports_get: the handle that is there, else ashlar_open; exports_put: the last one closes it
 *   - exports_stop: ashlar_close of the kept ones, ashlar_disconnect
 * Failure modes: a volume that cannot be attached fails the connection that asked for it, in one sentence, and is tried anew
 * by the next one.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "plugins/nbdkit/exports.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ashlar_cluster *cluster; /* set before the first connection */
static struct exported *exports;       /* under lock */

static void unlock(pthread_mutex_t **mutex)
{
    (void)pthread_mutex_unlock(*mutex);
}
#define HOLD_LOCK()                                                         \
    __attribute__((cleanup(unlock), unused)) pthread_mutex_t *held = &lock; \
    (void)pthread_mutex_lock(held)

int exports_start(const struct ashlar_options *options)
{
    assert(!cluster);
    int rc = ashlar_connect(options, &cluster);
    if (rc < 0)
        nbdkit_error("cannot use the cluster: %s", ashlar_error());
    return rc;
}

static void export_close(struct exported *exported)
{
    ashlar_close(exported->volume);
    free(exported);
}

void exports_stop(void)
{
    while (exports) {
        struct exported *exported = exports;
        exports = exported->next;
        export_close(exported);
    }
    ashlar_disconnect(cluster);
    cluster = NULL;
}

static int export_open(const char *name, unsigned flags, struct exported **ret_export)
{
    assert(strlen(name) < ASHLAR_TITLE_MAX);
    struct exported *exported = calloc(1, sizeof(*exported));
    if (!exported)
        return -ENOMEM;
    strcpy(exported->name, name);
    exported->read_only = flags & ASHLAR_OPEN_READ_ONLY;
    int rc = ashlar_open(cluster, name, flags, &exported->volume);
    if (rc < 0) {
        free(exported);
        return rc;
    }
    exported->next = exports;
    exports = exported;
    *ret_export = exported;
    return 0;
}

static void open_failed(const char *name, int rc)
{
    const char *why = ashlar_error();
    switch (rc) {
    case -ENOENT:
        if (strchr(name, '@'))
            nbdkit_error("there is no snapshot '%s'; see: ashlar snapshot ls %.*s", name, (int)strcspn(name, "@"),
                         name);
        else
            nbdkit_error("there is no volume '%s'; see: ashlar volume ls", name);
        break;
    case -EBUSY:
        nbdkit_error(
            "volume '%s' is attached elsewhere: detach it there, or take it over with force=true; of a client that "
            "died its gateway lets go after some seconds",
            name);
        break;
    default: nbdkit_error("volume '%s' cannot be attached: %s", name, *why ? why : strerror(-rc)); break;
    }
}

int exports_get(const char *name, unsigned flags, bool keep, struct exported **ret_export)
{
    HOLD_LOCK();
    struct exported *exported = exports;
    while (exported && strcmp(exported->name, name) != 0)
        exported = exported->next;
    if (exported && exported->read_only && !(flags & ASHLAR_OPEN_READ_ONLY)) {
        nbdkit_error("volume '%s' is attached read-only by another connection of this process", name);
        return -EBUSY;
    }
    if (!exported) {
        int rc = export_open(name, flags, &exported);
        if (rc < 0) {
            open_failed(name, rc);
            return rc;
        }
    }
    exported->kept = exported->kept || keep;
    exported->refs++;
    *ret_export = exported;
    return 0;
}

void exports_put(struct exported *exported)
{
    HOLD_LOCK();
    assert(exported->refs > 0);
    if (--exported->refs > 0 || exported->kept)
        return;
    struct exported **at = &exports;
    while (*at != exported)
        at = &(*at)->next;
    *at = exported->next;
    export_close(exported);
}

int exports_list(struct ashlar_volume_info **ret_infos, size_t *ret_count)
{
    int rc = ashlar_list(cluster, ret_infos, ret_count);
    if (rc < 0)
        nbdkit_error("the cluster does not tell its volumes: %s", ashlar_error());
    return rc;
}
