/* SPDX-License-Identifier: Apache-2.0 */
/* export: `ashlar export`, `ashlar snapshot diff`: a snapshot, or what changed since an older one, as a stream or as a list.
 *
 *   - the cluster tells extents or changes from its records; only what is data is read, several requests at once
 *   - records are written in ascending order (stream.h), so that a file that broke off can be gone on with (--resume)
 * Failure modes: a node that dies is the library's business; a write error ends the export, what is there can be resumed.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/copy.h"
#include "client/cli/progress.h"
#include "client/cli/snapshot.h"
#include "client/cli/stream.h"
#include "client/cli/text.h"
#include "common/crc32c.h"

#define WINDOW_BYTES (16u << 20)
#define EXTENTS_MAX (WINDOW_BYTES / 4096u)

struct exporting {
    const struct cli *cli;
    struct ashlar_volume *volume;
    struct stream_head head;
    int fd;
    uint32_t chain;
    uint64_t records, at; /* written so far; end of the last range */
    uint64_t data_bytes;
    struct copy_ring ring;
    struct progress progress;
};

static int write_all(int fd, const void *data, size_t length)
{
    const uint8_t *at = data;
    while (length > 0) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

static int put_record(struct exporting *e, uint32_t kind, uint64_t offset, uint64_t length, const uint8_t *data)
{
    struct stream_record record = {.kind = kind, .offset = offset, .length = length};
    uint8_t bytes[STREAM_RECORD_BYTES];
    if (data)
        record.data_crc = crc32c(data, length);
    e->chain = stream_record_encode(&record, e->chain, bytes);
    int rc = write_all(e->fd, bytes, sizeof(bytes));
    if (rc == 0 && data)
        rc = write_all(e->fd, data, length);
    if (rc < 0)
        return cli_fail(e->cli, CLI_FAILED, "cannot write: %s; go on later with --resume", strerror(-rc));
    e->records++;
    e->data_bytes += data ? length : 0;
    return CLI_OK;
}

static bool all_zero(const uint8_t *data, uint64_t length)
{
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

/* The oldest slot goes out. */
static int take_one(struct exporting *e)
{
    struct copy_slot *slot = copy_take(&e->ring);
    assert(slot != NULL);
    if (slot->rc < 0)
        return cli_fail(e->cli, CLI_FAILED, "cannot read at %llu: %s; go on later with --resume",
                        (unsigned long long)slot->offset, strerror(-slot->rc));
    bool zero = (slot->state & ASHLAR_EXTENT_ZERO) || all_zero(slot->data, slot->length);
    int code = CLI_OK;
    if (!zero)
        code = put_record(e, STREAM_DATA, slot->offset, slot->length, slot->data);
    else if (e->head.since != 0) /* in a complete stream zeros are what is not told */
        code = put_record(e, STREAM_ZERO, slot->offset, slot->length, NULL);
    progress_at(&e->progress, slot->offset + slot->length, zero ? 0 : slot->length);
    return code;
}

static int add_piece(struct exporting *e, uint64_t offset, uint64_t length, unsigned state)
{
    struct copy_slot *slot;
    while (!(slot = copy_add(&e->ring))) {
        int code = take_one(e);
        if (code != CLI_OK)
            return code;
    }
    slot->offset = offset;
    slot->length = length;
    slot->state = state;
    if (state & ASHLAR_EXTENT_ZERO)
        return CLI_OK;
    int rc = ashlar_aio_read(e->volume, slot->data, length, offset, copy_done, slot);
    slot->waits = rc == 0;
    slot->rc = rc;
    return CLI_OK;
}

static int add_extent(struct exporting *e, const struct ashlar_extent *extent)
{
    int code = CLI_OK;
    uint64_t at = extent->offset < e->at ? e->at : extent->offset, end = extent->offset + extent->length;
    if (extent->state & ASHLAR_EXTENT_SAME)
        return CLI_OK;
    while (at < end && code == CLI_OK) {
        uint64_t limit = (extent->state & ASHLAR_EXTENT_ZERO) ? end : (at / COPY_BYTES + 1) * COPY_BYTES;
        uint64_t length = (limit < end ? limit : end) - at;
        code = add_piece(e, at, length, extent->state);
        at += length;
    }
    return code;
}

static int export_ranges(struct exporting *e)
{
    struct ashlar_extent *extents = calloc(EXTENTS_MAX, sizeof(*extents));
    int code = extents ? CLI_OK : CLI_FAILED;
    uint64_t at = e->at;
    while (at < e->head.size && code == CLI_OK) {
        uint64_t length = e->head.size - at < WINDOW_BYTES ? e->head.size - at : WINDOW_BYTES;
        size_t count = 0;
        int rc = ashlar_changes(e->volume, (uint32_t)e->head.since, length, at, extents, EXTENTS_MAX, &count);
        if (rc < 0) {
            code = cli_fail(e->cli, CLI_FAILED, "%s", ashlar_error());
            break;
        }
        for (size_t i = 0; i < count && code == CLI_OK; i++) {
            uint64_t end = extents[i].offset + extents[i].length;
            if (end > e->head.size)
                extents[i].length -= end - e->head.size;
            code = add_extent(e, &extents[i]);
            at = extents[i].offset + extents[i].length;
        }
    }
    while (code == CLI_OK && e->ring.count > 0)
        code = take_one(e);
    free(extents);
    return code;
}

/* ---- going on with a file that broke off */

static ssize_t read_all(int fd, void *data, size_t length)
{
    size_t have = 0;
    while (have < length) {
        ssize_t n = read(fd, (uint8_t *)data + have, length - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

/* Reads the records that are whole; the file is cut behind them. 1: it is complete. */
static int skip_written(struct exporting *e)
{
    uint8_t bytes[STREAM_HEAD_BYTES], *data = e->ring.slots[0].data;
    struct stream_head head;
    if (read_all(e->fd, bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes) ||
        stream_head_decode(bytes, &head, &e->chain) < 0 || memcmp(&head, &e->head, sizeof(head)) != 0)
        return -EINVAL;
    off_t good = (off_t)sizeof(bytes);
    for (;;) {
        struct stream_record record;
        uint32_t chain = e->chain;
        if (read_all(e->fd, bytes, STREAM_RECORD_BYTES) != (ssize_t)STREAM_RECORD_BYTES ||
            stream_record_decode(bytes, e->at, e->head.size, &record, &chain) < 0)
            break;
        if (record.kind == STREAM_END)
            return 1;
        if (record.kind == STREAM_DATA && (read_all(e->fd, data, record.length) != (ssize_t)record.length ||
                                           crc32c(data, record.length) != record.data_crc))
            break;
        e->chain = chain;
        e->records++;
        e->data_bytes += record.kind == STREAM_DATA ? record.length : 0;
        e->at = record.offset + record.length;
        good += (off_t)(STREAM_RECORD_BYTES + (record.kind == STREAM_DATA ? record.length : 0));
    }
    if (ftruncate(e->fd, good) != 0 || lseek(e->fd, good, SEEK_SET) != good)
        return -errno;
    return 0;
}

/* ---- the command */

static int open_output(struct exporting *e)
{
    const char *path = e->cli->argument_count > 1 ? e->cli->arguments[1] : "-";
    bool resume = cli_flag(e->cli, "resume");
    uint8_t bytes[STREAM_HEAD_BYTES];
    if (strcmp(path, "-") == 0) {
        if (resume || isatty(STDOUT_FILENO))
            return cli_fail(e->cli, CLI_USAGE, "name a file to write to, or send the stream through a pipe");
        e->fd = STDOUT_FILENO;
    } else {
        e->fd = open(path, O_RDWR | O_CLOEXEC | (resume ? 0 : O_CREAT | O_EXCL), 0600);
        if (e->fd < 0)
            return cli_fail(e->cli, CLI_FAILED, "%s: %s", path, strerror(errno));
    }
    if (resume) {
        int rc = skip_written(e);
        if (rc < 0)
            return cli_fail(e->cli, CLI_FAILED, "%s is no stream of that snapshot", path);
        return rc > 0 ? CLI_DEGRADED : CLI_OK; /* complete: nothing to do */
    }
    e->chain = stream_head_encode(&e->head, bytes);
    int rc = write_all(e->fd, bytes, sizeof(bytes));
    return rc < 0 ? cli_fail(e->cli, CLI_FAILED, "cannot write: %s", strerror(-rc)) : CLI_OK;
}

static int run_export(struct exporting *e)
{
    int code = open_output(e);
    if (code == CLI_DEGRADED)
        return CLI_OK;
    if (code != CLI_OK)
        return code;
    progress_begin(&e->progress, "export", e->head.size, e->cli->json);
    code = export_ranges(e);
    if (code == CLI_OK)
        code = put_record(e, STREAM_END, e->head.size, e->records, NULL);
    if (code == CLI_OK && e->fd != STDOUT_FILENO && fsync(e->fd) != 0)
        code = cli_fail(e->cli, CLI_FAILED, "cannot write: %s", strerror(errno));
    if (code == CLI_OK)
        progress_end(&e->progress);
    return code;
}

/* Looks snapshot and older snapshot up. */
static int find_both(struct cli *cli, struct stream_head *head, const char *from)
{
    struct snapshot_title title, since;
    long long generation = 0, older = 0;
    uint64_t size = 0, ignored = 0, ignored_ms = 0;
    int code = snapshot_title(cli, cli->arguments[0], &title);
    if (code == CLI_OK)
        code = snapshot_find(cli, &title, &generation, &size, &head->created_ms);
    if (code != CLI_OK)
        return code;
    memcpy(head->volume, title.volume, sizeof(head->volume));
    memcpy(head->snapshot, title.snapshot, sizeof(head->snapshot));
    head->generation = (uint64_t)generation;
    head->size = size;
    if (!from)
        return CLI_OK;
    if (strlen(from) >= sizeof(since.snapshot))
        return cli_fail(cli, CLI_USAGE, "--from=%s: no such snapshot", from);
    since = title;
    (void)snprintf(since.snapshot, sizeof(since.snapshot), "%s", from);
    code = snapshot_find(cli, &since, &older, &ignored, &ignored_ms);
    if (code == CLI_OK && older >= generation)
        code = cli_fail(cli, CLI_USAGE, "--from=%s is not older than %s", from, title.snapshot);
    memcpy(head->since_snapshot, since.snapshot, sizeof(head->since_snapshot));
    head->since = (uint64_t)older;
    return code;
}

/* To a pipe nothing is told: the stream goes there. */
static int tell_exported(const struct exporting *e)
{
    const struct stream_head *head = &e->head;
    const char *path = e->cli->arguments[1];
    char shown[TEXT_SIZE_MAX];
    if (e->cli->json)
        return cli_print_json(json_pack("{s:s,s:s,s:s,s:s,s:I,s:I}", "volume", head->volume, "snapshot", head->snapshot,
                                        "from", head->since_snapshot, "file", path, "size", (json_int_t)head->size,
                                        "data_bytes", (json_int_t)e->data_bytes));
    printf("%s@%s is exported to %s (%s of data)\n", head->volume, head->snapshot, path,
           text_size(e->data_bytes, shown));
    return CLI_OK;
}

int command_export(struct cli *cli)
{
    static struct exporting e;
    struct ashlar_cluster *cluster = NULL;
    e = (struct exporting){.cli = cli, .fd = -1};
    int code = find_both(cli, &e.head, cli_option(cli, "from"));
    if (code == CLI_OK)
        code = copy_connect(cli, &cluster);
    if (code != CLI_OK)
        return code;
    if (copy_ring_init(&e.ring) < 0)
        code = cli_fail(cli, CLI_FAILED, "out of memory");
    else if (ashlar_open(cluster, cli->arguments[0], ASHLAR_OPEN_READ_ONLY, &e.volume) < 0)
        code = cli_fail(cli, CLI_FAILED, "%s", ashlar_error());
    if (code == CLI_OK)
        code = run_export(&e);
    copy_ring_close(&e.ring);
    ashlar_close(e.volume);
    ashlar_disconnect(cluster);
    if (e.fd < 0 || e.fd == STDOUT_FILENO)
        return code;
    (void)close(e.fd);
    return code == CLI_OK ? tell_exported(&e) : code;
}

/* ---- diff */

static int print_changes(struct cli *cli, struct ashlar_volume *volume, const struct stream_head *head)
{
    struct ashlar_extent *extents = calloc(EXTENTS_MAX, sizeof(*extents));
    json_t *list = json_array();
    int code = extents ? CLI_OK : CLI_FAILED;
    uint64_t changed = 0;
    for (uint64_t at = 0; at < head->size && code == CLI_OK;) {
        uint64_t length = head->size - at < WINDOW_BYTES ? head->size - at : WINDOW_BYTES;
        size_t count = 0;
        if (ashlar_changes(volume, (uint32_t)head->since, length, at, extents, EXTENTS_MAX, &count) < 0) {
            code = cli_fail(cli, CLI_FAILED, "%s", ashlar_error());
            break;
        }
        for (size_t i = 0; i < count; i++) {
            at = extents[i].offset + extents[i].length;
            if (extents[i].state & (head->since ? ASHLAR_EXTENT_SAME : ASHLAR_EXTENT_HOLE))
                continue;
            const char *what = extents[i].state & ASHLAR_EXTENT_ZERO ? "zero" : "data";
            changed += extents[i].length;
            if (cli->json)
                (void)json_array_append_new(list, json_pack("{s:I,s:I,s:s}", "offset", (json_int_t)extents[i].offset,
                                                            "length", (json_int_t)extents[i].length, "type", what));
            else
                printf("%llu\t%llu\t%s\n", (unsigned long long)extents[i].offset, (unsigned long long)extents[i].length,
                       what);
        }
    }
    free(extents);
    if (code != CLI_OK || !cli->json) {
        json_decref(list);
        return code;
    }
    return cli_print_json(json_pack("{s:s,s:s,s:s,s:I,s:I,s:o}", "volume", head->volume, "snapshot", head->snapshot,
                                    "from", head->since_snapshot, "size", (json_int_t)head->size, "changed_bytes",
                                    (json_int_t)changed, "ranges", list));
}

int command_snapshot_diff(struct cli *cli)
{
    struct ashlar_cluster *cluster = NULL;
    struct ashlar_volume *volume = NULL;
    struct stream_head head = {.size = 0};
    int code = find_both(cli, &head, cli_option(cli, "from"));
    if (code == CLI_OK)
        code = copy_connect(cli, &cluster);
    if (code != CLI_OK)
        return code;
    if (ashlar_open(cluster, cli->arguments[0], ASHLAR_OPEN_READ_ONLY, &volume) < 0)
        code = cli_fail(cli, CLI_FAILED, "%s", ashlar_error());
    if (code == CLI_OK)
        code = print_changes(cli, volume, &head);
    ashlar_close(volume);
    ashlar_disconnect(cluster);
    return code;
}
