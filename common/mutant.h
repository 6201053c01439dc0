/* SPDX-License-Identifier: Apache-2.0 */
/* mutant: known-bad switches, each at the line whose rule it breaks. The simulator must catch every one of them (tests/sim/mutants),
 * which is what its silence over the real code is worth.
 *
 * Concept: MUTANT(name) is false, at compile time, unless the build has ASHLAR_MUTANTS; then $ASHLAR_MUTANT names the one that is on,
 *   or several, joined by '+': a line that another one backs up does harm only when both are broken.
 * Threading: any. Errors: none. Ownership: none taken.
 */
#ifndef ASHLAR_COMMON_MUTANT_H
#define ASHLAR_COMMON_MUTANT_H

#ifdef ASHLAR_MUTANTS
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool mutant_is_on(const char *name)
{
    static const char *wanted;
    static bool asked;
    if (!asked)
        wanted = getenv("ASHLAR_MUTANT");
    asked = true;
    size_t length = strlen(name);
    for (const char *at = wanted; at; at = strchr(at, '+')) {
        at += *at == '+';
        if (strncmp(at, name, length) == 0 && (at[length] == '\0' || at[length] == '+'))
            return true;
    }
    return false;
}
#define MUTANT(name) mutant_is_on(#name)
#else
#define MUTANT(name) 0
#endif

#endif
