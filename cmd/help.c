/* Help, completion and man page, from the tables. */
#include "help.h"

#include <stdio.h>
#include <string.h>

#include "common.h"

enum { HELP_COLUMN = 38, WIDTH = 100, NAME_ROOM = 64 };

/* The spellings of an option, joined by ", "; llama.cpp's single-dash words included. */
static nm_err option_head(nm_str *s, const nm_option *o)
{
    char name[NAME_ROOM];
    for (int i = 0; nm_option_name(o, i, name, sizeof name); i++) NM_TRY(nm_str_printf(s, "%s%s", i ? ", " : "", name));
    return o->value ? nm_str_printf(s, " %s", o->value) : NM_OK;
}

/* Words of a text filled into lines that begin with `indent` spaces; the first line already has `used` columns. */
static nm_err fill(const char *text, int indent, int used)
{
    while (*text) {
        size_t n = strcspn(text, " \n");
        if (used > indent && used + 1 + (int)n > WIDTH) {
            NM_TRY(nm_out_printf("\n%*s", indent, ""));
            used = indent;
        } else if (used > indent) {
            NM_TRY(nm_out_puts(" "));
            used++;
        }
        NM_TRY(nm_out(text, n));
        used += (int)n;
        text += n;
        if (text[0] == '\n') {      /* a paragraph's or a list line's end */
            size_t lines = strspn(text, "\n");
            text += lines;
            if (*text) NM_TRY(nm_out_printf("%s%*s", lines > 1 ? "\n\n" : "\n", indent, ""));
            used = indent;
        }
        text += strspn(text, " ");
    }
    return nm_out_puts("\n");
}

static nm_err print_options(const char *title, const nm_option *table)
{
    if (!table || !table->names) return NM_OK;
    NM_TRY(nm_out_printf("\n%s:\n", title));
    for (const nm_option *o = table; o->names; o++) {
        nm_str head = {0};
        if (!*o->names) {
            NM_TRY(nm_out_printf("\n %s\n", o->help));
            continue;
        }
        nm_err err = option_head(&head, o);
        if (err == NM_OK) err = nm_out_printf("  %-*s", HELP_COLUMN - 2, head.data);
        int used = err == NM_OK ? 2 + (int)head.length : 0;
        nm_str_free(&head);
        NM_TRY(err);
        if (used >= HELP_COLUMN) NM_TRY(nm_out_printf("\n%*s", HELP_COLUMN, ""));
        NM_TRY(fill(o->help, HELP_COLUMN, HELP_COLUMN));
    }
    return NM_OK;
}

nm_err nm_help_command(const nm_command *c)
{
    NM_TRY(nm_out_printf("nomoat %s: %s\n\nUsage: nomoat %s [OPTIONS] %s\n\n", c->name, c->summary, c->name, c->operands));
    if (c->details) NM_TRY(fill(c->details, 0, 0));
    if (c->examples) NM_TRY(nm_out_puts("\nExamples:\n"));
    for (const nm_example *e = c->examples; e && e->line; e++) {
        NM_TRY(nm_out_printf("  %s\n      ", e->line));
        NM_TRY(fill(e->what, 6, 6));
    }
    NM_TRY(print_options("Options", c->options));
    return print_options("Common options", nm_common_options);
}

nm_err nm_help_overview(bool all)
{
    NM_TRY(nm_out_puts("nomoat: run open language models on your own CPU\n\nUsage: nomoat COMMAND [OPTIONS] ...\n\n"));
    for (size_t i = 0; nm_commands[i]; i++) NM_TRY(nm_out_printf("  %-12s %s\n", nm_commands[i]->name, nm_commands[i]->summary));
    NM_TRY(nm_out_puts("\nStart here:\n"
                       "  nomoat run FILE.gguf 'Why is the sky blue?'   one answer from a model file\n"
                       "  nomoat import FILE.gguf --name tiny           give the file a name\n"
                       "  nomoat run tiny                               chat with it; Ctrl-C stops an answer, /bye leaves\n"
                       "\n'nomoat help COMMAND' explains one command with examples.\n"));
    return all ? print_options("Common options", nm_common_options) : NM_OK;
}

/* ---- bash -------------------------------------------------------------------------------------------------------- */

static nm_err completion_words(const nm_option *table)
{
    char name[NAME_ROOM];
    for (const nm_option *o = table; o && o->names; o++)
        for (int i = 0; nm_option_name(o, i, name, sizeof name); i++) NM_TRY(nm_out_printf(" %s", name));
    return NM_OK;
}

/* The patterns of an option's spellings behind a command ("run"), or behind any ("*"). */
static nm_err completion_case(const char *command, const nm_option *o)
{
    char name[NAME_ROOM];
    NM_TRY(nm_out_puts("    "));
    for (int i = 0; nm_option_name(o, i, name, sizeof name); i++) {
        NM_TRY(nm_out_puts(i ? "|" : ""));
        NM_TRY(strcmp(command, "*") ? nm_out_printf("\"%s %s\"", command, name) : nm_out_printf("*\" %s\"", name));
    }
    return nm_out_puts(") ");
}

/* A case for each option that takes a value: its words where they are known, files, or nothing. */
static nm_err completion_values(const char *command, const nm_option *table)
{
    for (const nm_option *o = table; o && o->names; o++) {
        if (o->kind == NM_OPTION_FLAG) continue;
        NM_TRY(completion_case(command, o));
        if (o->kind != NM_OPTION_CHOICE) {
            NM_TRY(nm_out_puts(strstr(o->value, "FILE") ? "files=1 ;;\n" : ";;\n"));
            continue;
        }
        NM_TRY(nm_out_puts("words=\""));
        for (const char *v = o->value; *v; v++) NM_TRY(nm_out(*v == '|' ? " " : v, 1));
        NM_TRY(nm_out_puts("\" ;;\n"));
    }
    return NM_OK;
}

/* What stands where no option and no option's value does. compgen expands its words: names that a shell would read otherwise are left out. */
static nm_err completion_operands(void)
{
    NM_TRY(nm_out_puts("      help\\ *) words=\""));
    for (size_t i = 0; nm_commands[i]; i++) NM_TRY(nm_out_printf("%s%s", i ? " " : "", nm_commands[i]->name));
    NM_TRY(nm_out_puts("\" ;;\n      completion\\ *) words=bash ;;\n"
                       "      rm\\ *) words=$(nomoat list --names 2>/dev/null | grep -v '[^A-Za-z0-9._:-]') ;;\n"));     /* the cache's names have a slash */
    for (size_t i = 0; nm_commands[i]; i++) {
        const char *operands = nm_commands[i]->operands;
        if (strstr(operands, "MODEL"))
            NM_TRY(nm_out_printf("      %s\\ *) words=$(nomoat list --names 2>/dev/null | grep -v '[^A-Za-z0-9._:/-]') files=1 ;;\n", nm_commands[i]->name));
        else if (strstr(operands, "FILE")) NM_TRY(nm_out_printf("      %s\\ *) files=1 ;;\n", nm_commands[i]->name));
    }
    return NM_OK;
}

static nm_err completion_options(void)
{
    for (size_t i = 0; nm_commands[i]; i++) {
        if (!nm_commands[i]->options) continue;
        NM_TRY(nm_out_printf("      %s\\ *) words=\"", nm_commands[i]->name));
        NM_TRY(completion_words(nm_commands[i]->options));
        NM_TRY(nm_out_puts("\" ;;\n"));
    }
    NM_TRY(nm_out_puts("      esac\n      words=\"$words"));
    NM_TRY(completion_words(nm_common_options));
    return nm_out_puts("\"\n");
}

/* Readline cuts words at ':' and '=': the pieces of the current one are put together, and of a reply what stands before the last cut is
 * taken off again. "--kv=q" is completed as the value behind --kv. */
static const char completion_head[] =
    "# bash completion for nomoat; generated by 'nomoat completion bash'\n"
    "_nomoat()\n{\n"
    "  local at=$COMP_CWORD last=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} cur prev add='' words='' files='' none=''\n"
    "  cur=$last\n"
    "  while [ \"$at\" -gt 1 ]; do\n"
    "    case $cur in\n"
    "    [:=]*) ;;\n"
    "    *) case ${COMP_WORDS[at-1]} in [:=]) ;; *) break ;; esac ;;\n"
    "    esac\n"
    "    at=$((at - 1))\n    cur=${COMP_WORDS[at]}$cur\n"
    "  done\n"
    "  prev=${COMP_WORDS[at-1]}\n"
    "  case $last in [:=]) last='' ;; -*=*) add=${last%%=*}= last=${last#*=} ;; esac\n"
    "  case $cur in -*=*) prev=${cur%%=*} cur=${cur#*=} ;; esac\n"
    "  if [ \"$at\" -eq 1 ]; then\n"
    "    words=\"help --help --version";

static nm_err print_completion(void)
{
    NM_TRY(nm_out_puts(completion_head));
    for (size_t i = 0; nm_commands[i]; i++) NM_TRY(nm_out_printf(" %s", nm_commands[i]->name));
    NM_TRY(nm_out_puts("\"\n  else\n    case \"$command $prev\" in\n"));
    for (size_t i = 0; nm_commands[i]; i++) NM_TRY(completion_values(nm_commands[i]->name, nm_commands[i]->options));
    NM_TRY(completion_values("*", nm_common_options));
    NM_TRY(nm_out_puts("    *) none=1 ;;\n    esac\n    case \"$none$cur\" in\n    1-*)\n      case \"$command \" in\n"));
    NM_TRY(completion_options());
    NM_TRY(nm_out_puts("      ;;\n    1*)\n      case \"$command \" in\n"));
    NM_TRY(completion_operands());
    return nm_out_puts("      esac\n      ;;\n    esac\n  fi\n"
                       "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                       "  [ -z \"$files\" ] || COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
                       "  COMPREPLY=(\"${COMPREPLY[@]#\"${cur%\"$last\"}\"}\")\n"
                       "  COMPREPLY=(\"${COMPREPLY[@]/#/$add}\")\n}\n"
                       "complete -o filenames -F _nomoat nomoat\n");
}

static int completion(void *settings, int count, char **operands)
{
    (void)settings, (void)count;
    if (strcmp(operands[0], "bash")) return nm_fail(NM_USAGE, "completion: '%s' is not supported: give bash", operands[0]);
    return print_completion();
}

const nm_command nm_command_completion = {
    .name = "completion", .operands = "bash", .summary = "print the completion script for bash",
    .details = "Completes subcommands, options, their words and the names of models.",
    .examples = (const nm_example[]){{"source <(nomoat completion bash)", "in this shell; 'meson install' puts it where bash finds it"},
                                     {0}},
    .settings_size = sizeof(nm_common), .least_operands = 1, .most_operands = 1, .run = completion,
};

/* ---- man --------------------------------------------------------------------------------------------------------- */

/* Text for roff: '\' and '-' escaped, a '.' or "'" at a line's start protected. */
static nm_err roff(const char *text)
{
    bool start = true;
    for (const char *c = text; *c; c++) {
        if (start && (*c == '.' || *c == '\'')) NM_TRY(nm_out_puts("\\&"));
        start = *c == '\n';
        if (c[0] == '\n' && c[1] == '\n') {
            NM_TRY(nm_out_puts("\n.PP"));
            continue;
        }
        if (*c == '\\') NM_TRY(nm_out_puts("\\e"));
        else if (*c == '-') NM_TRY(nm_out_puts("\\-"));
        else NM_TRY(nm_out(c, 1));
    }
    return NM_OK;
}

static nm_err man_options(const nm_option *table)
{
    for (const nm_option *o = table; o && o->names; o++) {
        nm_str head = {0};
        if (!*o->names) {
            NM_TRY(nm_out_printf(".PP\n%s\n", o->help));
            continue;
        }
        nm_err err = option_head(&head, o);
        if (err == NM_OK) err = nm_out_puts(".TP\n.B ");
        if (err == NM_OK) err = roff(head.data);
        nm_str_free(&head);
        NM_TRY(err);
        NM_TRY(nm_out_puts("\n"));
        NM_TRY(roff(o->help));
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static nm_err man_command(const nm_command *c)
{
    NM_TRY(nm_out_printf(".SS nomoat %s\n.B nomoat %s\n[OPTIONS] ", c->name, c->name));
    NM_TRY(roff(c->operands));
    NM_TRY(nm_out_puts("\n.PP\n"));
    NM_TRY(roff(c->details ? c->details : c->summary));
    NM_TRY(nm_out_puts("\n"));
    NM_TRY(man_options(c->options));
    for (const nm_example *e = c->examples; e && e->line; e++) {
        NM_TRY(nm_out_puts(".PP\n.RS\n.nf\n"));
        NM_TRY(roff(e->line));
        NM_TRY(nm_out_puts("\n.fi\n.RE\n"));
        NM_TRY(roff(e->what));
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static int man(void *settings, int count, char **operands)
{
    (void)settings, (void)count, (void)operands;
    NM_TRY(nm_out_printf(".TH NOMOAT 1 \"\" \"nomoat %s\"\n.SH NAME\nnomoat \\- run open language models on your own CPU\n"
                         ".SH SYNOPSIS\n.B nomoat\nCOMMAND [OPTIONS] ...\n.SH COMMANDS\n", nm_version()));
    for (size_t i = 0; nm_commands[i]; i++) NM_TRY(man_command(nm_commands[i]));
    NM_TRY(nm_out_puts(".SH COMMON OPTIONS\n"));
    NM_TRY(man_options(nm_common_options));
    return nm_out_puts(".SH EXIT STATUS\n0 done, 1 failed, 2 usage (also a prompt that does not fit the context), 3 not found, 4 bad or "
                       "corrupt file,\n"
                       "5 out of memory, 6 refused (mismatch or policy), 130 interrupted.\n"
                       ".SH ENVIRONMENT\n.TP\n.B XDG_DATA_HOME, XDG_CACHE_HOME, XDG_STATE_HOME\nwhere models, caches and the chat's "
                       "history are kept\n"
                       ".TP\n.B NOMOAT_PACK_LIMIT\nthe most bytes of packed weights that are kept, as 20G; 0 keeps none\n"
                       ".TP\n.B HF_HOME, HF_HUB_CACHE\nwhere the Hugging Face cache is looked for\n.TP\n.B NO_COLOR\nif set, no colour\n"
                       ".TP\n.B VISUAL, EDITOR\nthe editor of the chat's /edit\n");
}

const nm_command nm_command_man = {
    .name = "man", .operands = "", .summary = "print the manual page",
    .details = "The page is made from the same tables as --help.",
    .examples = (const nm_example[]){{"nomoat man | man -l -", "read it without installing it"}, {0}},
    .settings_size = sizeof(nm_common), .least_operands = 0, .most_operands = 0, .run = man,
};
