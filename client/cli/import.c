/* SPDX-License-Identifier: Apache-2.0 */
/* import: `ashlar import`: a stream of `ashlar export`, or a disk image (raw, QCOW2, whatever qemu-img reads), into a volume.
 *
 *   - a complete stream makes the volume; one that builds on an older snapshot wants a volume that is as that snapshot was,
 *     and grows it if the source had grown
 *   - data is written several requests at once, its CRC checked before; at the end a flush, then the snapshot is made here, too, so
 *     that the next stream finds what it builds on
 *   - each 64 MiB a flush, and the position is noted beside a regular file: --resume goes on there
 *   - a volume that exists is gone on with where a position is noted, else written over only if --overwrite says so
 *   - images: image.c
 * Failure modes: a damaged or incomplete stream ends the import; what was written stays, and can be gone on with.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/admin.h"
#include "client/cli/admin_socket.h"
#include "client/cli/commands.h"
#include "client/cli/copy.h"
#include "client/cli/image.h"
#include "client/cli/progress.h"
#include "client/cli/snapshot.h"
#include "client/cli/stream.h"
#include "common/crc32c.h"

#define NOTE_BYTES (64u << 20)
#define BUSY_WAIT_MS 250

struct importing {
    struct cli *cli;
    const char *path, *target;
    int fd;
    bool regular; /* its position can be noted */
    struct stream_head head;
    uint32_t chain;
    uint64_t records, at, position; /* position: bytes of the stream that were read */
    uint64_t unflushed;
    long long volume_id; /* a volume of the same name may be another one */
    bool gone_on;        /* behind a noted position */
    bool made;           /* the volume, by this very import */
    struct ashlar_volume *volume;
    struct copy_ring ring;
    struct progress progress;
};

static int read_exactly(struct importing *im, void *data, size_t length)
{
    size_t have = 0;
    while (have < length) {
        ssize_t n = read(im->fd, (uint8_t *)data + have, length - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return cli_fail(im->cli, CLI_FAILED, "%s: %s", im->path, strerror(errno));
        if (n == 0)
            return cli_fail(im->cli, CLI_FAILED, "%s ends too early: the stream is not complete", im->path);
        have += (size_t)n;
    }
    im->position += length;
    return CLI_OK;
}

static int take_one(struct importing *im)
{
    struct copy_slot *slot = copy_take(&im->ring);
    assert(slot != NULL);
    if (slot->rc < 0)
        return cli_fail(im->cli, CLI_FAILED, "cannot write at %llu: %s", (unsigned long long)slot->offset,
                        strerror(-slot->rc));
    return CLI_OK;
}

static int take_all(struct importing *im)
{
    int code = CLI_OK;
    while (im->ring.count > 0 && code == CLI_OK)
        code = take_one(im);
    return code;
}

/* ---- where to go on ---- */

static void note_path(const struct importing *im, char path[4096])
{
    (void)snprintf(path, 4096, "%s.%s.import", im->path, im->target);
}

/* Everything before the position is durable in the volume. */
static int make_durable(struct importing *im)
{
    int code = take_all(im);
    if (code == CLI_OK && ashlar_flush(im->volume) < 0)
        code = cli_fail(im->cli, CLI_FAILED, "%s", ashlar_error());
    im->unflushed = 0;
    return code;
}

static int note_position(struct importing *im)
{
    char path[4096];
    int code = make_durable(im);
    if (code != CLI_OK || !im->regular)
        return code;
    note_path(im, path);
    json_t *note =
        json_pack("{s:I,s:I,s:I,s:I,s:I}", "position", (json_int_t)im->position, "records", (json_int_t)im->records,
                  "at", (json_int_t)im->at, "chain", (json_int_t)im->chain, "volume", (json_int_t)im->volume_id);
    (void)json_dump_file(note, path, JSON_COMPACT); /* without it the next try begins anew */
    json_decref(note);
    return CLI_OK;
}

static int go_on(struct importing *im)
{
    char path[4096];
    note_path(im, path);
    json_t *note = im->regular ? json_load_file(path, 0, NULL) : NULL;
    if (!note)
        return CLI_OK; /* from the beginning */
    uint64_t position = (uint64_t)admin_integer(note, "position");
    if (position >= STREAM_HEAD_BYTES && admin_integer(note, "volume") == im->volume_id &&
        lseek(im->fd, (off_t)position, SEEK_SET) == (off_t)position) {
        im->position = position;
        im->records = (uint64_t)admin_integer(note, "records");
        im->at = (uint64_t)admin_integer(note, "at");
        im->chain = (uint32_t)admin_integer(note, "chain");
        im->gone_on = true;
    }
    json_decref(note);
    return CLI_OK;
}

/* ---- records ---- */

static int put_data(struct importing *im, const struct stream_record *record)
{
    struct copy_slot *slot;
    int code = CLI_OK;
    while (!(slot = copy_add(&im->ring))) {
        code = take_one(im);
        if (code != CLI_OK)
            return code;
    }
    slot->offset = record->offset;
    slot->length = record->length;
    code = read_exactly(im, slot->data, record->length);
    if (code == CLI_OK && crc32c(slot->data, record->length) != record->data_crc)
        code = cli_fail(im->cli, CLI_FAILED, "%s is damaged: the data for offset %llu does not match its checksum",
                        im->path, (unsigned long long)record->offset);
    if (code != CLI_OK)
        return code;
    int rc = ashlar_aio_write(im->volume, slot->data, record->length, record->offset, 0, copy_done, slot);
    slot->waits = rc == 0;
    slot->rc = rc;
    return CLI_OK;
}

static int put_zeros(struct importing *im, const struct stream_record *record)
{
    for (uint64_t at = 0; at < record->length;) {
        uint64_t left = record->length - at, length = left < (1u << 30) ? left : 1u << 30;
        if (ashlar_zero(im->volume, length, record->offset + at, 0) < 0)
            return cli_fail(im->cli, CLI_FAILED, "%s", ashlar_error());
        at += length;
    }
    return CLI_OK;
}

static int take_records(struct importing *im)
{
    for (;;) {
        uint8_t bytes[STREAM_RECORD_BYTES];
        struct stream_record record;
        int code = read_exactly(im, bytes, sizeof(bytes));
        if (code != CLI_OK)
            return code;
        if (stream_record_decode(bytes, im->at, im->head.size, &record, &im->chain) < 0)
            return cli_fail(im->cli, CLI_FAILED, "%s is damaged behind byte %llu", im->path,
                            (unsigned long long)(im->position - sizeof(bytes)));
        if (record.kind == STREAM_END) {
            if (record.length != im->records)
                return cli_fail(im->cli, CLI_FAILED, "%s is not complete: records are missing", im->path);
            return make_durable(im);
        }
        code = record.kind == STREAM_DATA ? put_data(im, &record) : put_zeros(im, &record);
        if (code != CLI_OK)
            return code;
        im->records++;
        im->at = record.offset + record.length;
        uint64_t data = record.kind == STREAM_DATA ? record.length : 0;
        progress_at(&im->progress, im->at, data);
        im->unflushed += data;
        if (im->unflushed >= NOTE_BYTES)
            code = note_position(im);
        if (code != CLI_OK)
            return code;
    }
}

/* ---- the volume ---- */

static int make_volume(struct importing *im)
{
    json_t *answer = NULL;
    bool exists_ok = cli_flag(im->cli, "resume") || cli_flag(im->cli, "overwrite");
    int code = import_make_volume(im->cli, im->target, im->head.size, exists_ok, &answer);
    im->made = code == CLI_OK && answer != NULL;
    json_decref(answer);
    return code;
}

/* A complete stream begins: in a volume that holds zeros only. What exists is nobody's to lose by mistake. */
static int begin_complete(struct importing *im)
{
    assert(im->head.since == 0 && !im->gone_on);
    if (!im->made && !cli_flag(im->cli, "overwrite"))
        return cli_fail(im->cli, CLI_FAILED,
                        "%s exists, and no unfinished import of %s into it is noted: --overwrite writes it anew, "
                        "whatever it holds",
                        im->target, im->path);
    struct stream_record all = {.kind = STREAM_ZERO, .length = ashlar_size(im->volume)};
    int code = im->made ? CLI_OK : put_zeros(im, &all);
    return code == CLI_OK ? note_position(im) : code; /* from here on it is an unfinished import */
}

static int learn_volume(struct importing *im)
{
    json_t *answer = NULL;
    int code = admin_read(im->cli, json_pack("{s:s, s:s}", "op", "volume-info", "name", im->target), &answer);
    if (code == CLI_OK)
        im->volume_id = admin_integer(json_object_get(answer, "volume"), "id");
    json_decref(answer);
    return code;
}

/* The volume must be as the older snapshot was, or as an import of this stream left it. */
static int check_base(struct importing *im)
{
    struct snapshot_title title = {.volume = ""};
    long long generation = 0;
    uint64_t size = 0, created_ms = 0;
    (void)snprintf(title.volume, sizeof(title.volume), "%s", im->target);
    memcpy(title.snapshot, im->head.since_snapshot, sizeof(title.snapshot));
    int code = snapshot_find(im->cli, &title, &generation, &size, &created_ms);
    if (code != CLI_OK)
        return code;
    static struct ashlar_extent extents[4096];
    bool begun = im->gone_on; /* a pipe's position is noted nowhere */
    begun = begun || (cli_flag(im->cli, "resume") && cli_flag(im->cli, "overwrite") && !im->regular);
    for (uint64_t at = 0; at < size && !begun;) {
        uint64_t length = size - at < (16u << 20) ? size - at : 16u << 20;
        size_t count = 0;
        if (ashlar_changes(im->volume, (uint32_t)generation, length, at, extents, 4096, &count) < 0)
            return cli_fail(im->cli, CLI_FAILED, "%s", ashlar_error());
        for (size_t i = 0; i < count; i++) {
            if (!(extents[i].state & ASHLAR_EXTENT_SAME))
                return cli_fail(im->cli, CLI_FAILED,
                                "%s was written since %s@%s, on which the stream builds; see: ashlar snapshot rollback",
                                im->target, im->target, title.snapshot);
            at = extents[i].offset + extents[i].length;
        }
    }
    return CLI_OK;
}

/* The stream's volume has grown since: so does this one. */
static int grow(struct importing *im)
{
    json_t *answer = NULL;
    uint64_t size = 0;
    if (ashlar_size(im->volume) >= im->head.size)
        return CLI_OK;
    int code = admin_change(
        im->cli,
        json_pack("{s:s, s:s, s:I}", "op", "volume-resize", "name", im->target, "size", (json_int_t)im->head.size), 0,
        &answer);
    json_decref(answer);
    if (code == CLI_OK && (ashlar_size_now(im->volume, &size) < 0 || size < im->head.size))
        code = cli_fail(im->cli, CLI_FAILED, "%s did not grow: %s", im->target, ashlar_error());
    return code;
}

static int make_snapshot(struct importing *im)
{
    json_t *answer = NULL;
    int code = admin_change(im->cli,
                            json_pack("{s:s, s:[s], s:s, s:I}", "op", "snapshot-create", "volumes", im->target,
                                      "snapshot", im->head.snapshot, "created_ms", (json_int_t)im->head.created_ms),
                            -EEXIST, &answer);
    json_decref(answer);
    return code;
}

/* ---- the command ---- */

/* Of an import that was killed the gateway lets go after some seconds: who goes on with it waits for that. */
static int open_target(struct importing *im, struct ashlar_cluster *cluster)
{
    uint64_t until_ms = admin_now_ms() + im->cli->timeout_ms;
    int rc = ashlar_open(cluster, im->target, 0, &im->volume);
    while (rc == -EBUSY && cli_flag(im->cli, "resume") && admin_now_ms() < until_ms) {
        (void)poll(NULL, 0, BUSY_WAIT_MS);
        rc = ashlar_open(cluster, im->target, 0, &im->volume);
    }
    return rc;
}

static int take_stream(struct importing *im, struct ashlar_cluster *cluster)
{
    char path[4096];
    int code = im->head.since == 0 ? make_volume(im) : CLI_OK;
    if (code != CLI_OK)
        return code;
    if (open_target(im, cluster) < 0)
        return cli_fail(im->cli, CLI_FAILED, "%s", ashlar_error());
    code = learn_volume(im);
    if (code == CLI_OK && cli_flag(im->cli, "resume"))
        code = go_on(im);
    if (code == CLI_OK && im->head.since != 0)
        code = check_base(im);
    if (code == CLI_OK && im->head.since != 0)
        code = grow(im);
    if (code == CLI_OK && im->head.since != 0 && !im->gone_on)
        code = note_position(im); /* from here on the volume is not as the snapshot was */
    if (code == CLI_OK && im->head.since == 0 && !im->gone_on)
        code = begin_complete(im);
    progress_begin(&im->progress, "import", im->head.size, im->cli->json);
    if (code == CLI_OK)
        code = take_records(im);
    if (code != CLI_OK)
        return code;
    progress_end(&im->progress);
    code = make_snapshot(im);
    note_path(im, path);
    if (code == CLI_OK && im->regular)
        (void)unlink(path);
    return code;
}

static int open_stream(struct importing *im, uint8_t head[STREAM_HEAD_BYTES])
{
    struct stat info;
    im->fd = strcmp(im->path, "-") == 0 ? STDIN_FILENO : open(im->path, O_RDONLY | O_CLOEXEC);
    if (im->fd < 0 || fstat(im->fd, &info) != 0)
        return cli_fail(im->cli, CLI_FAILED, "%s: %s", im->path, strerror(errno));
    im->regular = S_ISREG(info.st_mode) && im->fd != STDIN_FILENO;
    return read_exactly(im, head, STREAM_HEAD_BYTES);
}

int command_import(struct cli *cli)
{
    static struct importing im;
    struct ashlar_cluster *cluster = NULL;
    uint8_t head[STREAM_HEAD_BYTES];
    im = (struct importing){.cli = cli, .path = cli->arguments[0], .target = cli->arguments[1], .fd = -1};
    const char *format = cli_option(cli, "format");
    if (format && strcmp(format, "stream") != 0)
        return import_image(cli, im.path, im.target, format);
    int code = open_stream(&im, head);
    if (code != CLI_OK)
        return code;
    int rc = stream_head_decode(head, &im.head, &im.chain);
    if (rc < 0 && !format && im.fd != STDIN_FILENO) {
        (void)close(im.fd);
        return import_image(cli, im.path, im.target, /* format= */ NULL);
    }
    if (rc < 0)
        return cli_fail(cli, CLI_FAILED, "%s is no stream of ashlar export%s", im.path,
                        rc == -EPROTONOSUPPORT ? " that this version knows" : "");
    code = copy_connect(cli, &cluster);
    if (code == CLI_OK && copy_ring_init(&im.ring) < 0)
        code = cli_fail(cli, CLI_FAILED, "out of memory");
    if (code == CLI_OK)
        code = take_stream(&im, cluster);
    copy_ring_close(&im.ring);
    ashlar_close(im.volume);
    ashlar_disconnect(cluster);
    if (code == CLI_OK && !cli->json)
        printf("%s is imported; its snapshot %s@%s is made\n", im.target, im.target, im.head.snapshot);
    return code == CLI_OK && cli->json ? cli_print_json(json_pack("{s:s,s:s,s:I}", "volume", im.target, "snapshot",
                                                                  im.head.snapshot, "size", (json_int_t)im.head.size))
                                       : code;
}
