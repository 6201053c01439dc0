/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration: a declared table, filled from defaults, then an INI file, then flags.
 *
 * - config_defaults writes every default
 * - config_read_file lets inih cut the lines; each key is looked up, parsed, checked and stored
 * - config_set does the same for one --section.key=value flag
 *
 * Failure: the first problem ends the reading, with one line that names file, line, what is wrong and
 * what would be right. The target may then be half filled; the caller gives up.
 * inih's limits are kept from surprising anybody: read_line refuses lines that it would cut in two and
 * removes the indentation that it would take for a continuation.
 */
#include "common/config.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FRACTION_DIGITS_MAX = 9, LINE_COUNT_MAX = 1 << 16 };

struct unit {
    const char *name;
    uint64_t factor;
};
static const struct unit byte_units[] = {
    {"", 1},           {"b", 1},          {"k", 1ull << 10}, {"m", 1ull << 20},
    {"g", 1ull << 30}, {"t", 1ull << 40}, {"p", 1ull << 50}, {NULL, 0},
};
static const struct unit ms_units[] = {
    {"", 1}, {"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {NULL, 0},
};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

/* What config_read_stream carries through inih. */
struct reader {
    FILE *stream;
    const char *name;
    const struct config_item *items;
    size_t count;
    void *target;
    const char *const *ignore_sections;
    int (*on_list)(void *arg, const char *section, const char *key, const char *value);
    void *list_arg;
    char *error;
    int rc;   /* first failure; set once, ends the reading */
    int line; /* being parsed */
    bool seen[CONFIG_ITEMS_MAX];
};

/* "12", "1.5" followed by one of units, in any case. -EINVAL: malformed, -ERANGE: above 64 bits. */
static int parse_number(const char *text, const struct unit *units, uint64_t *ret_value)
{
    assert(text != NULL);
    assert(units != NULL);
    const char *at = text;
    unsigned __int128 whole = 0;
    uint64_t fraction = 0;
    uint64_t divisor = 1;
    if (*at < '0' || *at > '9')
        return -EINVAL;
    for (; *at >= '0' && *at <= '9'; at++) {
        whole = whole * 10 + (unsigned)(*at - '0');
        if (whole > UINT64_MAX)
            return -ERANGE;
    }
    if (*at == '.') {
        const char *first = ++at;
        for (; *at >= '0' && *at <= '9' && at - first < FRACTION_DIGITS_MAX; at++) {
            fraction = fraction * 10 + (unsigned)(*at - '0');
            divisor *= 10;
        }
        if (at == first)
            return -EINVAL;
    }
    while (units->name != NULL && strcasecmp(units->name, at) != 0)
        units++;
    if (units->name == NULL || (divisor > 1 && units->factor == 1))
        return -EINVAL;
    whole = whole * units->factor + (unsigned __int128)fraction * units->factor / divisor;
    if (whole > UINT64_MAX)
        return -ERANGE;
    *ret_value = (uint64_t)whole;
    return 0;
}

int config_parse_bytes(const char *text, uint64_t *ret_bytes)
{
    assert(text != NULL);
    assert(ret_bytes != NULL);
    return parse_number(text, byte_units, ret_bytes);
}

int config_parse_ms(const char *text, uint64_t *ret_ms)
{
    assert(text != NULL);
    assert(ret_ms != NULL);
    return parse_number(text, ms_units, ret_ms);
}

static int parse_bool(const char *text, bool *ret_value)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    assert(text != NULL);
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *ret_value = strcasecmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return -EINVAL;
}

static const char *type_hint(enum config_type type)
{
    switch (type) {
    case CONFIG_STRING: return "text";
    case CONFIG_U32:
    case CONFIG_U64: return "a whole number";
    case CONFIG_BYTES: return "bytes, such as 4k, 512M, 10G";
    case CONFIG_BOOL: return "true or false";
    case CONFIG_MS: return "a time, such as 250ms, 2s, 10min";
    }
    return "?";
}

static int store_string(const struct config_item *item, uint8_t *field, const char *text)
{
    assert(item->size > 0);
    size_t length = strlen(text);
    if (length >= item->size)
        return -ENAMETOOLONG;
    memset(field, 0, item->size);
    memcpy(field, text, length);
    return 0;
}

static int store_number(const struct config_item *item, uint8_t *field, const char *text)
{
    const struct unit *units = no_units;
    if (item->type == CONFIG_BYTES)
        units = byte_units;
    else if (item->type == CONFIG_MS)
        units = ms_units;
    uint64_t value;
    int rc = parse_number(text, units, &value);
    if (rc < 0)
        return rc;
    assert(item->max == 0 || item->min <= item->max);
    if (value < item->min || (item->max != 0 && value > item->max))
        return -ERANGE;
    if (item->type == CONFIG_U32) {
        if (value > UINT32_MAX)
            return -ERANGE;
        uint32_t narrow = (uint32_t)value;
        memcpy(field, &narrow, sizeof(narrow));
    } else {
        memcpy(field, &value, sizeof(value));
    }
    return 0;
}

/* -EINVAL: not of this type, -ERANGE: out of bounds, -ENAMETOOLONG: string too long. */
static int store_value(const struct config_item *item, void *target, const char *text)
{
    assert(item != NULL);
    assert(target != NULL);
    uint8_t *field = (uint8_t *)target + item->offset;
    if (item->type == CONFIG_STRING)
        return store_string(item, field, text);
    if (item->type != CONFIG_BOOL)
        return store_number(item, field, text);
    bool value;
    int rc = parse_bool(text, &value);
    if (rc == 0)
        memcpy(field, &value, sizeof(value));
    return rc;
}

static size_t field_bytes(const struct config_item *item)
{
    switch (item->type) {
    case CONFIG_STRING: return item->size;
    case CONFIG_U32: return sizeof(uint32_t);
    case CONFIG_BOOL: return sizeof(bool);
    case CONFIG_U64:
    case CONFIG_BYTES:
    case CONFIG_MS: break;
    }
    return sizeof(uint64_t);
}

int config_defaults(const struct config_item *items, size_t count, void *target)
{
    assert(items != NULL || count == 0);
    assert(target != NULL);
    assert(count <= CONFIG_ITEMS_MAX);
    for (size_t i = 0; i < count; i++) {
        memset((uint8_t *)target + items[i].offset, 0, field_bytes(&items[i]));
        if (items[i].default_value == NULL)
            continue;
        if (store_value(&items[i], target, items[i].default_value) < 0)
            return -EINVAL;
    }
    return 0;
}

int config_check_required(const struct config_item *items, size_t count, const void *target,
                          char error[CONFIG_ERROR_MAX])
{
    assert(items != NULL || count == 0);
    assert(target != NULL);
    for (size_t i = 0; i < count; i++) {
        const struct config_item *item = &items[i];
        if (item->default_value != NULL || item->type == CONFIG_BOOL)
            continue;
        const uint8_t *field = (const uint8_t *)target + item->offset;
        size_t bytes = item->type == CONFIG_STRING ? 1 : field_bytes(item);
        bool set = false;
        for (size_t b = 0; b < bytes; b++)
            set = set || field[b] != 0;
        if (!set) {
            (void)snprintf(error, CONFIG_ERROR_MAX, "\"%s\" in [%s] is required: %s", item->key, item->section,
                           item->help != NULL ? item->help : "set it");
            return -EINVAL;
        }
    }
    return 0;
}

/* Appends as much as fits; returns the new length. */
__attribute__((format(printf, 3, 4))) static size_t append(char *error, size_t length, const char *format, ...)
{
    assert(length < CONFIG_ERROR_MAX);
    va_list args;
    va_start(args, format);
    int added = vsnprintf(error + length, CONFIG_ERROR_MAX - length, format, args);
    va_end(args);
    assert(added >= 0);
    length += (size_t)added;
    return length < CONFIG_ERROR_MAX ? length : CONFIG_ERROR_MAX - 1;
}

static bool section_known(const struct config_item *items, size_t count, const char *section)
{
    assert(items != NULL);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(items[i].section, section) == 0)
            return true;
    }
    return false;
}

static void explain_unknown(const struct config_item *items, size_t count, const char *section, const char *key,
                            char *error, size_t length)
{
    assert(section != NULL);
    assert(key != NULL);
    const char *separator = "";
    if (section_known(items, count, section)) {
        length = append(error, length, "unknown key \"%s\" in [%s]; known keys: ", key, section);
        for (size_t i = 0; i < count; i++) {
            if (strcmp(items[i].section, section) != 0)
                continue;
            length = append(error, length, "%s%s", separator, items[i].key);
            separator = ", ";
        }
        return;
    }
    length = append(error, length, "unknown section [%s]; known sections: ", section);
    for (size_t i = 0; i < count; i++) {
        if (section_known(items, i, items[i].section))
            continue;
        length = append(error, length, "%s%s", separator, items[i].section);
        separator = ", ";
    }
}

static void explain_value(const struct config_item *item, const char *value, int rc, char *error, size_t length)
{
    assert(item != NULL);
    assert(rc < 0);
    length = append(error, length, "\"%.40s\" for \"%s\" in [%s] ", value, item->key, item->section);
    if (rc == -ENAMETOOLONG)
        append(error, length, "is too long; at most %zu characters", item->size - 1);
    else if (rc != -ERANGE)
        append(error, length, "is not understood; give %s", type_hint(item->type));
    else if (item->max != 0)
        append(error, length, "is out of bounds; give %" PRIu64 " to %" PRIu64, item->min, item->max);
    else
        append(error, length, "is out of bounds; give at least %" PRIu64, item->min);
}

/* The index of the item, or count. */
static size_t find_item(const struct config_item *items, size_t count, const char *section, const char *key)
{
    assert(items != NULL);
    size_t i = 0;
    while (i < count && (strcmp(items[i].section, section) != 0 || strcmp(items[i].key, key) != 0))
        i++;
    return i;
}

static int take_list_entry(struct reader *reader, const char *section, const char *key, const char *value,
                           size_t length)
{
    int rc = -ENOENT;
    if (reader->on_list != NULL)
        rc = reader->on_list(reader->list_arg, section, key, value);
    assert(rc <= 0);
    if (rc == -ENOENT)
        explain_unknown(reader->items, reader->count, section, key, reader->error, length);
    else if (rc < 0)
        append(reader->error, length, "bad value \"%.60s\" for \"%s\" in [%s]: %s", value, key, section, strerror(-rc));
    return rc;
}

static int take_entry(struct reader *reader, const char *section, const char *key, const char *value)
{
    assert(reader->line > 0);
    size_t length = append(reader->error, 0, "%.100s:%d: ", reader->name, reader->line);
    size_t key_length = strlen(key);
    if (key_length >= 2 && strcmp(key + key_length - 2, "[]") == 0)
        return take_list_entry(reader, section, key, value, length);
    size_t i = find_item(reader->items, reader->count, section, key);
    if (i == reader->count) {
        explain_unknown(reader->items, reader->count, section, key, reader->error, length);
        return -EINVAL;
    }
    if (reader->seen[i]) {
        append(reader->error, length, "\"%s\" in [%s] was given before; keep one", key, section);
        return -EINVAL;
    }
    reader->seen[i] = true;
    int rc = store_value(&reader->items[i], reader->target, value);
    if (rc < 0)
        explain_value(&reader->items[i], value, rc, reader->error, length);
    return rc;
}

/* inih's handler: non-zero is success. */
static int handle_entry(void *arg, const char *section, const char *key, const char *value)
{
    struct reader *reader = arg;
    assert(section != NULL);
    assert(key != NULL);
    if (reader->rc < 0)
        return 0;
    const char *const *ignore = reader->ignore_sections;
    for (; ignore != NULL && *ignore != NULL; ignore++) {
        if (strcmp(*ignore, section) == 0)
            return 1;
    }
    reader->rc = take_entry(reader, section, key, value != NULL ? value : "");
    return reader->rc == 0;
}

static void refuse_line(struct reader *reader, const char *what)
{
    assert(reader->rc == 0);
    size_t length = append(reader->error, 0, "%.100s:%d: ", reader->name, reader->line);
    append(reader->error, length, "%s", what);
    reader->rc = -EINVAL;
}

/* inih's fgets: one line without its indentation, NULL at the end or after a failure. */
static char *read_line(char *line, int size, void *arg)
{
    struct reader *reader = arg;
    assert(size > CONFIG_LINE_MAX + 2);
    if (reader->rc < 0)
        return NULL;
    int length = 0;
    int c;
    reader->line++;
    while ((c = getc(reader->stream)) != EOF && c != '\n') {
        if (length == 0 && (c == ' ' || c == '\t'))
            continue;
        if (c == '\0' || length == CONFIG_LINE_MAX || reader->line > LINE_COUNT_MAX) {
            refuse_line(reader, c == '\0' ? "a NUL byte; this is not a text file"
                                          : "the line or the file is too long; shorten it");
            return NULL;
        }
        line[length++] = (char)c;
    }
    if (c == EOF && ferror(reader->stream)) {
        refuse_line(reader, "read error; check the file system");
        reader->rc = -EIO;
        return NULL;
    }
    if (c == EOF && length == 0)
        return NULL;
    line[length++] = '\n';
    line[length] = '\0';
    return line;
}

int config_read_stream(void *stream, const char *name, const struct config_item *items, size_t count, void *target,
                       const char *const *ignore_sections,
                       int (*on_list)(void *arg, const char *section, const char *key, const char *value),
                       void *list_arg, char error[CONFIG_ERROR_MAX])
{
    assert(stream != NULL);
    assert(items != NULL || count == 0);
    assert(count <= CONFIG_ITEMS_MAX);
    assert(target != NULL);
    assert(error != NULL);
    struct reader reader = {
        .stream = stream,
        .name = name,
        .items = items,
        .count = count,
        .target = target,
        .ignore_sections = ignore_sections,
        .on_list = on_list,
        .list_arg = list_arg,
        .error = error,
    };
    ini_stop_on_first_error = true;
    int first_bad = ini_parse_stream(read_line, &reader, handle_entry, &reader);
    if (reader.rc == 0 && first_bad > 0) {
        reader.line = first_bad;
        refuse_line(&reader, "neither \"key = value\" nor \"[section]\"");
    } else if (reader.rc == 0 && first_bad < 0) {
        reader.line = 0;
        refuse_line(&reader, "out of memory");
        reader.rc = -ENOMEM;
    }
    if (reader.rc == 0)
        error[0] = '\0';
    return reader.rc;
}

int config_read_file(const char *path, const struct config_item *items, size_t count, void *target,
                     const char *const *ignore_sections,
                     int (*on_list)(void *arg, const char *section, const char *key, const char *value), void *list_arg,
                     char error[CONFIG_ERROR_MAX])
{
    assert(path != NULL);
    assert(error != NULL);
    FILE *stream = fopen(path, "re");
    if (stream == NULL) {
        int rc = -errno;
        assert(rc < 0);
        (void)snprintf(error, CONFIG_ERROR_MAX, "%.150s:0: can not be opened: %s", path, strerror(-rc));
        return rc;
    }
    int rc = config_read_stream(stream, path, items, count, target, ignore_sections, on_list, list_arg, error);
    (void)fclose(stream);
    return rc;
}

int config_set(const struct config_item *items, size_t count, void *target, const char *assignment,
               char error[CONFIG_ERROR_MAX])
{
    assert(items != NULL || count == 0);
    assert(target != NULL);
    assert(assignment != NULL);
    assert(error != NULL);
    size_t length = append(error, 0, "flag \"%.60s\": ", assignment);
    const char *equals = strchr(assignment, '=');
    const char *dot = strchr(assignment, '.');
    char section[64];
    char key[64];
    if (equals == NULL || dot == NULL || dot > equals || (size_t)(dot - assignment) >= sizeof(section) ||
        (size_t)(equals - dot) > sizeof(key)) {
        append(error, length, "not of the form section.key=value");
        return -EINVAL;
    }
    (void)snprintf(section, sizeof(section), "%.*s", (int)(dot - assignment), assignment);
    (void)snprintf(key, sizeof(key), "%.*s", (int)(equals - dot - 1), dot + 1);
    size_t i = find_item(items, count, section, key);
    if (i == count) {
        explain_unknown(items, count, section, key, error, length);
        return -EINVAL;
    }
    int rc = store_value(&items[i], target, equals + 1);
    if (rc < 0)
        explain_value(&items[i], equals + 1, rc, error, length);
    else
        error[0] = '\0';
    return rc;
}

void config_print_help(const struct config_item *items, size_t count, void *stream)
{
    assert(items != NULL || count == 0);
    assert(stream != NULL);
    for (size_t i = 0; i < count; i++) {
        const struct config_item *item = &items[i];
        fprintf(stream, "  --%s.%s=%s\n", item->section, item->key, type_hint(item->type));
        fprintf(stream, "        %s ", item->help != NULL ? item->help : "");
        if (item->default_value == NULL)
            fprintf(stream, "(required)\n");
        else
            fprintf(stream, "(default: %s)\n", item->default_value);
    }
}
