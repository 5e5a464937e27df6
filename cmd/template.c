/* nomoat template: renders a chat template with variables from standard input. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "commands.h"
#include "common.h"
#include "json_in.h"
#include "os/file.h"
#include "talk.h"

enum { TEMPLATE_MOST = 16 << 20 };

typedef struct settings { nm_common common; const char *now, *name; } settings;

static const nm_option options[] = {
    {"--now", "ISO8601", "the time that strftime_now sees, e.g. 2026-01-02T03:04:05 (UTC unless it ends in an offset)",
     offsetof(settings, now), NM_OPTION_TEXT, 0, 0},
    {"--name", "NAME", "another of the model's templates, e.g. tool_use", offsetof(settings, name), NM_OPTION_TEXT, 0, 0},
    {0}
};

/* "2026-01-02", "2026-01-02T03:04[:05[.678]][Z|+hh[:]mm]" to seconds since 1970. */
static nm_err parse_time(const char *text, int64_t *seconds)
{
    struct tm t = {0};
    int n = 0, hours = 0, minutes = 0;
    const char *at = text;
    if (sscanf(at, "%4d-%2d-%2d%n", &t.tm_year, &t.tm_mon, &t.tm_mday, &n) != 3) goto bad;
    at += n;
    if (*at == 'T' || *at == ' ') {
        if (sscanf(++at, "%2d:%2d%n", &t.tm_hour, &t.tm_min, &n) != 2) goto bad;
        at += n;
        if (*at == ':' && sscanf(at, ":%2d%n", &t.tm_sec, &n) == 1) at += n;
        if (*at == '.') at += 1 + strspn(at + 1, "0123456789");
        if (*at == 'Z') at++;
        else if (*at == '+' || *at == '-') {
            int sign = *at == '-' ? -1 : 1;
            if (sscanf(++at, "%2d%n", &hours, &n) != 1) goto bad;
            at += n;
            at += *at == ':';
            if (*at && (sscanf(at, "%2d%n", &minutes, &n) != 1 || *(at += n))) goto bad;
            minutes = sign * (hours * 60 + minutes);
        }
    }
    if (*at || t.tm_mon < 1 || t.tm_mon > 12 || t.tm_mday < 1 || t.tm_mday > 31 
        || t.tm_hour < 0 || t.tm_hour > 23 || t.tm_min < 0 || t.tm_min > 59
        || t.tm_sec < 0 || t.tm_sec > 60) goto bad;
    t.tm_year -= 1900;
    t.tm_mon -= 1;
    *seconds = (int64_t)timegm(&t) - 60 * (int64_t)minutes;
    return NM_OK;
bad:
    return nm_fail(NM_USAGE, "--now: '%s' is no time: give one like 2026-01-02T03:04:05", text);
}

static bool is_template_file(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (!strcasecmp(dot, ".jinja") || !strcasecmp(dot, ".jinja2") || !strcasecmp(dot, ".j2"));
}

/* The template, and the model it is of: NULL for a file. */
static nm_err open_template(nm_template **tmpl, nm_model **model, const settings *set, const char *operand)
{
    char *source;
    size_t length;
    if (is_template_file(operand)) {
        NM_TRY(nm_file_read(operand, TEMPLATE_MOST, &source, &length));
        nm_err err = nm_template_open(tmpl, source, length, operand);
        nm_free(source);
        return err;
    }
    NM_TRY(nm_open_model(model, NULL, operand, &set->common, true));
    const char *text = nm_model_template(*model, set->name);
    if (text) return nm_template_open(tmpl, text, strlen(text), operand);
    if (set->name) return nm_fail(NM_NOT_FOUND, "%s: the model has no template called '%s'", operand, set->name);
    return nm_fail(NM_NOT_FOUND, "%s: the model has no chat template: give a file NAME.jinja", operand);
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_template_options how = {.now = INT64_MIN, .cancel = &nm_interrupted};
    nm_template *tmpl = NULL;
    nm_model *model = NULL;
    nm_vars vars = {0};
    char *input = NULL, *text = NULL;
    size_t length;
    nm_err err = NM_OK;
    (void)count;
    if (set->now) NM_GOTO(parse_time(set->now, &how.now));
    NM_GOTO(open_template(&tmpl, &model, set, operands[0]));
    NM_GOTO(nm_read_stdin(&input, &length, "the variables as a JSON object"));
    NM_GOTO(nm_vars_begin(&vars, input, length, "standard input"));
    NM_GOTO(nm_talk_default_vars(&vars, model ? nm_model_tokenizer(model) : NULL));
    NM_GOTO(nm_vars_default(&vars, "add_generation_prompt", "false"));
    NM_GOTO(nm_vars_end(&vars));
    nm_interrupts_catch();
    NM_GOTO(nm_template_render(tmpl, vars.text.data, vars.text.length, &how, &text, &length));
    NM_GOTO(nm_out_text(text, length));
    err = nm_out_text_end();
out:
    nm_free(text);
    nm_free(input);
    nm_vars_free(&vars);
    nm_template_close(&tmpl);
    nm_model_close(&model);
    return err;
}

const nm_command nm_command_template = {
    .name = "template", .operands = "MODEL|FILE.jinja", .summary = "render a chat template with variables from standard input",
    .details = "Reads one JSON object with the template's variables and writes the text, exactly as transformers would: tools and "
               "documents are none and "
               "add_generation_prompt is false unless given; for a MODEL its special tokens are defined. A template that itself refuses "
               "(raise_exception) ends with exit code 6.",
    .examples = (const nm_example[]){
        {"echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}' | nomoat template tiny",
         "what the model is given to read"},
        {"nomoat template chat.jinja --now 2026-01-02T03:04:05 < vars.json", "a template file, at a fixed time"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
