/* SPDX-License-Identifier: Apache-2.0 */
/* config: INI file plus --section.key=value flags, read into a declared table (inih).
 *
 * Concept: a table of config_item says section, key, type, default, bounds and help; file first, then flags.
 * Threading: start-up only. Errors: -errno and one line "FILE:LINE: what; what to do" in the caller's buffer.
 * Ownership: strings are copied into the target struct's fixed char arrays.
 */
#ifndef ASHLAR_COMMON_CONFIG_H
#define ASHLAR_COMMON_CONFIG_H

#include <stddef.h>
#include <stdint.h>

enum config_type {
    CONFIG_STRING,
    CONFIG_U32,
    CONFIG_U64,
    CONFIG_BYTES /* 10G, 512M, 4k */,
    CONFIG_BOOL,
    CONFIG_MS /* 250ms, 2s, 10min */
};

struct config_item {
    const char *section, *key;
    enum config_type type;
    size_t offset; /* into the target struct: char[size], uint32_t, uint64_t, uint64_t, bool, uint64_t (ms) */
    size_t size;   /* CONFIG_STRING: bytes of the array */
    const char *default_value; /* NULL: required */
    uint64_t min, max;         /* numeric bounds, inclusive; max 0: none */
    const char *help;
};

#define CONFIG_ERROR_MAX 256
#define CONFIG_ITEMS_MAX 256
/* Writes every default into target; required items become empty or 0. -EINVAL: a default does not parse (a bug). */
int config_defaults(const struct config_item *items, size_t count, void *target);
/* Unknown sections and keys are errors, unless the section is listed in ignore_sections (NULL-terminated, may be NULL).
 * on_list is called for keys that end in "[]", may be NULL (repeated entries such as voter[] = ...);
 * it returns 0, -ENOENT (no such list) or another -errno (bad value). Any other key given twice is an error. */
int config_read_file(const char *path, const struct config_item *items, size_t count, void *target,
                     const char *const *ignore_sections,
                     int (*on_list)(void *arg, const char *section, const char *key, const char *value), void *list_arg,
                     char error[CONFIG_ERROR_MAX]);
/* The same from an open stream (FILE *); name stands for FILE in errors. A line has at most CONFIG_LINE_MAX bytes. */
#define CONFIG_LINE_MAX 190
int config_read_stream(void *stream, const char *name, const struct config_item *items, size_t count, void *target,
                       const char *const *ignore_sections,
                       int (*on_list)(void *arg, const char *section, const char *key, const char *value),
                       void *list_arg, char error[CONFIG_ERROR_MAX]);
/* After file and flags: -EINVAL if a required item (default NULL) is still empty or 0. */
int config_check_required(const struct config_item *items, size_t count, const void *target,
                          char error[CONFIG_ERROR_MAX]);
int config_set(const struct config_item *items, size_t count, void *target,
               const char *assignment /* section.key=value */, char error[CONFIG_ERROR_MAX]);
int config_parse_bytes(const char *text, uint64_t *ret_bytes); /* "64", "4k", "10G", "1.5T" (powers of 1024) */
int config_parse_ms(const char *text, uint64_t *ret_ms);       /* "250ms", "1.5s", "10min", "1h"; without unit: ms */
void config_print_help(const struct config_item *items, size_t count, void *stream /* FILE* */);

#endif
