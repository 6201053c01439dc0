/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without a fuzzer: every corpus file as it is, cut at every length, and with
 * fixed pseudo-random byte changes. The same corpus gives the same inputs on every run.
 *
 * - main walks the folders and files given
 * - replay_file reads one and hands out the variants
 *
 * Fails (exit 1) when a file can not be read or when no input was found at all; a crash or a failed
 * assert of the target ends the process.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { INPUT_BYTES_MAX = 1 << 20, CUTS_MAX = 512, CHANGES_MAX = 512 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t rng_state;

static uint64_t rng_next(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* An exact-size heap copy, so that a sanitizer sees the first byte read past the end. */
static void run_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void run_variants(uint8_t *data, size_t size)
{
    run_copy(data, size);
    size_t cuts = size < CUTS_MAX ? size : CUTS_MAX;
    for (size_t len = 0; len < cuts; len++)
        run_copy(data, len);
    rng_state = 0x9e3779b97f4a7c15u ^ size;
    for (int i = 0; size > 0 && i < CHANGES_MAX; i++) {
        size_t at = (size_t)(rng_next() % size);
        uint8_t old = data[at];
        uint8_t flip = (uint8_t)(1u << (rng_next() % 8));
        data[at] = (uint8_t)((i & 1) ? rng_next() : old ^ (uint64_t)flip);
        run_copy(data, size);
        /* Every eighth change stays, so that later inputs carry several. */
        if ((i & 7) != 7)
            data[at] = old;
    }
}

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return -errno;
    uint8_t *data = malloc(INPUT_BYTES_MAX);
    if (data == NULL)
        abort();
    size_t size = fread(data, 1, INPUT_BYTES_MAX, file);
    int rc = ferror(file) ? -EIO : 0;
    (void)fclose(file);
    if (rc == 0)
        run_variants(data, size);
    free(data);
    return rc;
}

/* Returns the number of files replayed below path, or -errno. */
static int replay_path(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return -errno;
    if (!S_ISDIR(st.st_mode)) {
        int rc = replay_file(path);
        return rc < 0 ? rc : 1;
    }
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0)
        return -errno;
    int files = 0;
    for (int i = 0; i < count; i++) {
        char child[4096];
        int len = snprintf(child, sizeof(child), "%s/%s", path, entries[i]->d_name);
        int rc = 0;
        if (entries[i]->d_name[0] != '.')
            rc = len < (int)sizeof(child) ? replay_path(child) : -ENAMETOOLONG;
        free(entries[i]);
        if (files >= 0)
            files = rc < 0 ? rc : files + rc;
    }
    free(entries);
    return files;
}

int main(int argc, char **argv)
{
    int files = 0;
    for (int i = 1; i < argc; i++) {
        int rc = replay_path(argv[i]);
        if (rc < 0) {
            fprintf(stderr, "%s: %s: %s\n", argv[0], argv[i], strerror(-rc));
            return 1;
        }
        files += rc;
    }
    if (files == 0) {
        fprintf(stderr, "%s: no corpus file found\n", argv[0]);
        return 1;
    }
    printf("%d corpus files replayed\n", files);
    return 0;
}
