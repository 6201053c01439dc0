/* SPDX-License-Identifier: Apache-2.0 */
/* main: the command line of `ashlar`.
 *
 *   - the first words name a command of the table (commands.c); options may stand anywhere
 *   - its options and the global ones go through getopt_long together, then the command runs
 * Failure modes: an unknown command or option ends with one line and exit code 2.
 */
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/commands.h"

static const struct cli_option global_options[] = {
    {"cluster", 'c', "FILE",
     "cluster file, or gateway addresses (default: $ASHLAR_CLUSTER, $ASHLAR_DIR/cluster.conf, "
     "/etc/ashlar/cluster.conf)"},
    {"json", 'j', NULL, "print JSON"},
    {"timeout", 't', "TIME", "give up after this long (default: 20s)"},
    {"colour", 0, "WHEN", "always, never, or auto: when stdout is a terminal"},
    {"help", 'h', NULL, "print this"},
    {"version", 'V', NULL, "print the version"},
};
#define GLOBAL_COUNT (sizeof(global_options) / sizeof(global_options[0]))
enum { OPTION_COMMAND = 1000, OPTION_GLOBAL = 2000 };

static void print_option(const struct cli_option *option)
{
    char shown[64];
    (void)snprintf(shown, sizeof(shown), "%s%c%s --%s%s%s", option->letter ? "-" : " ",
                   option->letter ? option->letter : ' ', option->letter ? "," : " ", option->name,
                   option->argument ? "=" : "", option->argument ? option->argument : "");
    printf("  %-24s %s\n", shown, option->help);
}

static void print_command(const struct cli_command *command)
{
    char shown[96];
    int length = snprintf(shown, sizeof(shown), "%s %s", command->name, command->arguments);
    printf("  %-36s", shown);
    if (length > 36)
        printf("\n%*s", 38, "");
    printf(" %s\n", command->summary);
}

static int print_help(void)
{
    printf("usage: ashlar [OPTIONS] COMMAND ...\n\nWatches and changes an Ashlar cluster.\n\nCommands:\n");
    for (const struct cli_command *command = cli_commands; command->name; command++) {
        if (!command->hidden)
            print_command(command);
    }
    printf("\nOptions of all commands:\n");
    for (size_t i = 0; i < GLOBAL_COUNT; i++)
        print_option(&global_options[i]);
    printf("\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 cluster not reachable, 4 degraded (status --check).\n"
           "More of a command: ashlar COMMAND --help. Manual: ashlar(1).\n");
    return CLI_OK;
}

static int print_command_help(const struct cli_command *command)
{
    printf("usage: ashlar %s %s%s\n\n%s.\n", command->name, command->options[0].name ? "[OPTIONS] " : "",
           command->arguments, command->summary);
    if (command->help)
        printf("\n%s\n", command->help);
    if (command->options[0].name)
        printf("\nOptions:\n");
    for (size_t i = 0; i < CLI_OPTIONS_MAX && command->options[i].name; i++)
        print_option(&command->options[i]);
    printf("\nOptions of all commands: --cluster, --json, --timeout, --colour, --help (see: ashlar --help)\n");
    return CLI_OK;
}

const char *cli_option(const struct cli *cli, const char *name)
{
    for (size_t i = 0; i < CLI_OPTIONS_MAX && cli->command->options[i].name; i++) {
        if (strcmp(cli->command->options[i].name, name) == 0)
            return cli->values[i];
    }
    assert(!"the command has this option");
    return NULL;
}

bool cli_flag(const struct cli *cli, const char *name)
{
    return cli_option(cli, name) != NULL;
}

int cli_fail(const struct cli *cli, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fflush(stdout);
    fprintf(stderr, "ashlar%s%s: ", cli->command ? " " : "", cli->command ? cli->command->name : "");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    return code;
}

int cli_option_u32(const struct cli *cli, const char *name, uint32_t *ret_value)
{
    const char *text = cli_option(cli, name);
    char *end;
    if (!text)
        return CLI_OK;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || value > UINT32_MAX)
        return cli_fail(cli, CLI_USAGE, "--%s=%s: write a number", name, text);
    *ret_value = (uint32_t)value;
    return CLI_OK;
}

int cli_print_json(json_t *value)
{
    int rc = value ? json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : -1;
    json_decref(value);
    (void)putchar('\n');
    return rc == 0 && fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
}

bool cli_confirm(const struct cli *cli, const char *format, ...)
{
    char line[16];
    va_list args;
    if (cli_flag(cli, "yes") || !isatty(STDIN_FILENO))
        return true;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " [y/N] ");
    return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/* The command that the words name; its words are counted. */
static const struct cli_command *find_command(char **words, int count, int *ret_words)
{
    char two[64] = "";
    if (count > 1)
        (void)snprintf(two, sizeof(two), "%s %s", words[0], words[1]);
    for (const struct cli_command *command = cli_commands; command->name; command++) {
        bool is_two = strchr(command->name, ' ') != NULL;
        if (strcmp(command->name, is_two ? two : words[0]) == 0) {
            *ret_words = is_two ? 2 : 1;
            return command;
        }
    }
    return NULL;
}

static bool asks_for_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* The commands that begin with this word, as in `ashlar snapshot --help`; false: there are none. */
static bool print_group_help(const char *word)
{
    size_t length = strlen(word), found = 0;
    for (const struct cli_command *command = cli_commands; command->name; command++) {
        if (strncmp(command->name, word, length) != 0 || command->name[length] != ' ' || command->hidden)
            continue;
        if (found++ == 0)
            printf("usage: ashlar %s COMMAND ...\n\nCommands:\n", word);
        print_command(command);
    }
    if (found > 0)
        printf("\nMore of a command: ashlar %s COMMAND --help. Manual: ashlar(1).\n", word);
    return found > 0;
}

static int unknown_command(const struct cli *cli, char **words, int count)
{
    size_t length = strlen(words[0]);
    if (count > 1 && asks_for_help(words[1]) && print_group_help(words[0]))
        return CLI_OK;
    fprintf(stderr, "ashlar: no command '%s%s%s'", words[0], count > 1 ? " " : "", count > 1 ? words[1] : "");
    const char *separator = "; there is: ";
    for (const struct cli_command *command = cli_commands; command->name; command++) {
        if (strncmp(command->name, words[0], length) == 0 && command->name[length] == ' ' && !command->hidden) {
            fprintf(stderr, "%s%s", separator, command->name);
            separator = ", ";
        }
    }
    fprintf(stderr, "; see: ashlar --help\n");
    (void)cli;
    return CLI_USAGE;
}

static int take_global(struct cli *cli, const char *name, const char *value)
{
    if (strcmp(name, "cluster") == 0)
        cli->where = value;
    else if (strcmp(name, "json") == 0)
        cli->json = true;
    else if (strcmp(name, "timeout") == 0 && (config_parse_ms(value, &cli->timeout_ms) < 0 || cli->timeout_ms == 0))
        return cli_fail(cli, CLI_USAGE, "--timeout=%s: write a duration like 500ms or 30s", value);
    else if (strcmp(name, "colour") == 0) {
        if (strcmp(value, "auto") != 0 && strcmp(value, "always") != 0 && strcmp(value, "never") != 0)
            return cli_fail(cli, CLI_USAGE, "--colour=%s: always, never or auto", value);
        if (strcmp(value, "auto") != 0)
            cli->colour = strcmp(value, "always") == 0;
    }
    return CLI_OK;
}

/* Short and long options of table, appended for getopt_long. */
static void add_options(const struct cli_option *table, size_t count, int base, struct option *longs,
                        size_t *long_count, char *shorts)
{
    for (size_t i = 0; i < count && table[i].name; i++) {
        longs[(*long_count)++] =
            (struct option){table[i].name, table[i].argument ? required_argument : no_argument, NULL, base + (int)i};
        if (table[i].letter)
            (void)sprintf(shorts + strlen(shorts), "%c%s", table[i].letter, table[i].argument ? ":" : "");
    }
}

/* The option's index behind a short letter; -1: not of this table. */
static int index_of_letter(const struct cli_option *table, size_t count, int letter)
{
    for (size_t i = 0; i < count && table[i].name; i++) {
        if (table[i].letter && table[i].letter == letter)
            return (int)i;
    }
    return -1;
}

/* Reads all options; afterwards argv[optind...] are the words. command NULL: not known yet, unknown options are left alone. */
static int read_options(struct cli *cli, int argc, char **argv, const struct cli_command *command)
{
    struct option longs[GLOBAL_COUNT + CLI_OPTIONS_MAX + 1] = {0};
    char shorts[3 * (GLOBAL_COUNT + CLI_OPTIONS_MAX) + 4] = ":";
    size_t count = 0;
    int c;
    add_options(command->options, CLI_OPTIONS_MAX, OPTION_COMMAND, longs, &count, shorts);
    add_options(global_options, GLOBAL_COUNT, OPTION_GLOBAL, longs, &count, shorts);
    optind = 1;
    while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (c == '?' || c == ':') {
            fprintf(stderr,
                    c == ':' ? "ashlar %s: option '%s' wants a value; see: ashlar %s --help\n"
                             : "ashlar %s: unknown option '%s'; see: ashlar %s --help\n",
                    command->name, argv[optind - 1], command->name);
            return CLI_USAGE;
        }
        int own = c >= OPTION_COMMAND && c < OPTION_GLOBAL ? c - OPTION_COMMAND
                  : c < OPTION_COMMAND                     ? index_of_letter(command->options, CLI_OPTIONS_MAX, c)
                                                           : -1;
        if (own >= 0) {
            cli->values[own] = optarg ? optarg : "";
            continue;
        }
        int global = c >= OPTION_GLOBAL ? c - OPTION_GLOBAL : index_of_letter(global_options, GLOBAL_COUNT, c);
        assert(global >= 0 && (size_t)global < GLOBAL_COUNT);
        if (strcmp(global_options[global].name, "help") == 0)
            exit(print_command_help(command));
        int code = take_global(cli, global_options[global].name, optarg);
        if (code != CLI_OK)
            return code;
    }
    return CLI_OK;
}

/* The words before any option of a command are needed to know its options: skip global ones by hand. */
static int first_word(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-' || argv[i][1] == '\0')
            return i;
        if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
            printf("ashlar %s\n", ASHLAR_VERSION);
            exit(CLI_OK);
        }
        if (asks_for_help(argv[i]))
            exit(print_help());
        bool wants_value = strcmp(argv[i], "--cluster") == 0 || strcmp(argv[i], "-c") == 0 ||
                           strcmp(argv[i], "--timeout") == 0 || strcmp(argv[i], "-t") == 0 ||
                           strcmp(argv[i], "--colour") == 0;
        if (wants_value)
            i++;
    }
    return argc;
}

/* Moves the command's words to the end, so that what is left for the arguments is what getopt leaves after them. */
static void drop_words(int *argc, char **argv, int at, int words)
{
    memmove(argv + at, argv + at + words, (size_t)(*argc - at - words + 1) * sizeof(*argv));
    *argc -= words;
}

static int check_arguments(const struct cli *cli)
{
    const struct cli_command *command = cli->command;
    unsigned count = (unsigned)cli->argument_count;
    if (count >= command->arguments_min && count <= command->arguments_max)
        return CLI_OK;
    if (count > command->arguments_max)
        return cli_fail(cli, CLI_USAGE, "too many arguments: '%s'; usage: ashlar %s %s",
                        cli->arguments[command->arguments_max], command->name, command->arguments);
    return cli_fail(cli, CLI_USAGE, "arguments are missing; usage: ashlar %s %s", command->name, command->arguments);
}

int main(int argc, char **argv)
{
    static struct cli cli = {.timeout_ms = CLI_TIMEOUT_DEFAULT_MS};
    char error[CONFIG_ERROR_MAX] = "";
    int words = 0, at = first_word(argc, argv);
    if (at >= argc) {
        fprintf(stderr, "ashlar: no command; see: ashlar --help\n");
        return CLI_USAGE;
    }
    const struct cli_command *command = find_command(argv + at, argc - at, &words);
    if (!command)
        return unknown_command(&cli, argv + at, argc - at);
    cli.command = command;
    cli.colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    drop_words(&argc, argv, at, words);
    int code = read_options(&cli, argc, argv, command);
    if (code != CLI_OK)
        return code;
    cli.arguments = argv + optind;
    cli.argument_count = argc - optind;
    code = check_arguments(&cli);
    int rc = cluster_file_load(&cli.cluster, cli.where, error);
    if (code == CLI_OK && !command->local && rc < 0)
        code = cli_fail(&cli, CLI_USAGE, "%s", error);
    if (code == CLI_OK)
        code = command->run(&cli);
    if (fflush(stdout) != 0 || ferror(stdout))
        return code == CLI_OK ? CLI_FAILED : code;
    return code;
}
