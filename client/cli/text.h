/* SPDX-License-Identifier: Apache-2.0 */
/* text: numbers as people read them, tables, colour.
 *
 * Concept: text_size and its kin write into the caller's array and return it; a table takes rows of cells separated by tabs and
 *   prints them in aligned columns, numbers to the right.
 * Threading: one thread. Errors: out of memory ends the program. Ownership: a table is the caller's until text_table_print.
 */
#ifndef ASHLAR_CLIENT_CLI_TEXT_H
#define ASHLAR_CLIENT_CLI_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TEXT_SIZE_MAX 32

enum text_tone { TEXT_PLAIN, TEXT_GOOD, TEXT_WARN, TEXT_BAD, TEXT_BOLD, TEXT_DIM };

const char *text_size(uint64_t bytes, char out[TEXT_SIZE_MAX]);       /* 1.5 GiB */
const char *text_time(uint64_t nanoseconds, char out[TEXT_SIZE_MAX]); /* 350 us, 1.2 ms */
const char *text_span(uint64_t seconds, char out[TEXT_SIZE_MAX]);     /* 3 min 20 s */
const char *text_count(double value, char out[TEXT_SIZE_MAX]);        /* 950, 12.3k, 4.1M */
/* Escape sequences, empty without colour. */
const char *text_on(bool colour, enum text_tone tone);
const char *text_off(bool colour);

struct text_table;
struct text_table *text_table_create(bool colour, const char *heads);
void text_table_row(struct text_table *table, enum text_tone tone, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void text_table_print(struct text_table *table, FILE *file); /* ends the table */

#endif
