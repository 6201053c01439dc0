/* SPDX-License-Identifier: Apache-2.0 */
/* text: formatting for people.
 *
 *   - a table keeps its rows as they came, measures the columns, and prints
 * Failure modes: none but memory; the program has no use for going on without it.
 */
#include "client/cli/text.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 16, GAP = 2 };

struct row {
    enum text_tone tone;
    char *text;
};
struct text_table {
    bool colour;
    size_t count, capacity;
    struct row *rows; /* the first one: heads */
};

const char *text_size(uint64_t bytes, char out[TEXT_SIZE_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit < sizeof(units) / sizeof(units[0]) - 1) {
        value /= 1024;
        unit++;
    }
    bool whole = value >= 100 || value == (double)(uint64_t)value;
    (void)snprintf(out, TEXT_SIZE_MAX, "%.*f %s", whole ? 0 : 1, value, units[unit]);
    return out;
}

const char *text_time(uint64_t nanoseconds, char out[TEXT_SIZE_MAX])
{
    double us = (double)nanoseconds / 1000;
    if (us < 1000)
        (void)snprintf(out, TEXT_SIZE_MAX, "%.0f us", us);
    else if (us < 1e6)
        (void)snprintf(out, TEXT_SIZE_MAX, "%.*f ms", us < 1e5 ? 1 : 0, us / 1000);
    else
        (void)snprintf(out, TEXT_SIZE_MAX, "%.1f s", us / 1e6);
    return out;
}

const char *text_span(uint64_t seconds, char out[TEXT_SIZE_MAX])
{
    unsigned long long s = seconds;
    if (s < 60)
        (void)snprintf(out, TEXT_SIZE_MAX, "%llu s", s);
    else if (s < 3600)
        (void)snprintf(out, TEXT_SIZE_MAX, "%llu min %llu s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(out, TEXT_SIZE_MAX, "%llu h %llu min", s / 3600, s % 3600 / 60);
    else
        (void)snprintf(out, TEXT_SIZE_MAX, "%llu d %llu h", s / 86400, s % 86400 / 3600);
    return out;
}

const char *text_count(double value, char out[TEXT_SIZE_MAX])
{
    if (value < 1000)
        (void)snprintf(out, TEXT_SIZE_MAX, "%.0f", value);
    else if (value < 1e6)
        (void)snprintf(out, TEXT_SIZE_MAX, "%.1fk", value / 1e3);
    else
        (void)snprintf(out, TEXT_SIZE_MAX, "%.1fM", value / 1e6);
    return out;
}

const char *text_on(bool colour, enum text_tone tone)
{
    static const char *const codes[] = {
        [TEXT_PLAIN] = "",       [TEXT_GOOD] = "\x1b[32m", [TEXT_WARN] = "\x1b[33m",
        [TEXT_BAD] = "\x1b[31m", [TEXT_BOLD] = "\x1b[1m",  [TEXT_DIM] = "\x1b[2m",
    };
    return colour ? codes[tone] : "";
}

const char *text_off(bool colour)
{
    return colour ? "\x1b[0m" : "";
}

static void add_row(struct text_table *table, enum text_tone tone, char *text)
{
    if (table->count == table->capacity) {
        table->capacity = table->capacity ? 2 * table->capacity : 16;
        table->rows = realloc(table->rows, table->capacity * sizeof(*table->rows));
        if (!table->rows)
            abort();
    }
    table->rows[table->count++] = (struct row){tone, text};
}

struct text_table *text_table_create(bool colour, const char *heads)
{
    struct text_table *table = calloc(1, sizeof(*table));
    char *text = strdup(heads);
    if (!table || !text)
        abort();
    table->colour = colour;
    add_row(table, TEXT_DIM, text);
    return table;
}

void text_table_row(struct text_table *table, enum text_tone tone, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        abort();
    va_end(args);
    add_row(table, tone, text);
}

static bool is_number(const char *text, size_t length)
{
    return length > 0 && text[0] >= '0' && text[0] <= '9' && memchr(text, '/', length) == NULL;
}

static void measure(const struct text_table *table, size_t *widths, bool *numbers)
{
    for (size_t r = 0; r < table->count; r++) {
        const char *at = table->rows[r].text;
        for (size_t column = 0; column < COLUMNS_MAX; column++) {
            size_t length = strcspn(at, "\t");
            widths[column] = length > widths[column] ? length : widths[column];
            if (r > 0 && length > 0 && !is_number(at, length))
                numbers[column] = false;
            if (!at[length])
                break;
            at += length + 1;
        }
    }
}

static void print_row(const struct text_table *table, const struct row *row, const size_t *widths, const bool *numbers,
                      FILE *file)
{
    const char *at = row->text;
    fputs(text_on(table->colour, row->tone), file);
    for (size_t column = 0; column < COLUMNS_MAX; column++) {
        size_t length = strcspn(at, "\t");
        bool last = !at[length];
        int pad = (int)(widths[column] - length);
        if (numbers[column])
            fprintf(file, "%*s%.*s", pad, "", (int)length, at);
        else
            fprintf(file, "%.*s%*s", (int)length, at, last ? 0 : pad, "");
        if (last)
            break;
        fprintf(file, "%*s", GAP, "");
        at += length + 1;
    }
    fprintf(file, "%s\n", text_off(table->colour));
}

void text_table_print(struct text_table *table, FILE *file)
{
    size_t widths[COLUMNS_MAX] = {0};
    bool numbers[COLUMNS_MAX];
    memset(numbers, true, sizeof(numbers));
    measure(table, widths, numbers);
    assert(table->count > 0);
    for (size_t r = 0; r < table->count; r++) {
        print_row(table, &table->rows[r], widths, numbers, file);
        free(table->rows[r].text);
    }
    free(table->rows);
    free(table);
}
