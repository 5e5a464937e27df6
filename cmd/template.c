/* nomoat template: renders a chat template with variables from standard input. */
#include <string.h>
#include <strings.h>
#include <time.h>

#include "commands.h"
#include "common.h"
#include "json_in.h"
#include "hub/personas.h"
#include "os/file.h"
#include "stack.h"
#include "talk.h"

enum { TEMPLATE_MOST = 16 << 20 };

typedef struct settings { nm_common common; const char *now, *name; } settings;

static const nm_option options[] = {
    {"--now", "ISO8601", "the time that strftime_now sees, e.g. 2026-01-02T03:04:05 (UTC unless it ends in an offset)",
     offsetof(settings, now), NM_OPTION_TEXT, 0, 0},
    {"--name", "NAME", "another of the model's templates, e.g. tool_use", offsetof(settings, name), NM_OPTION_TEXT, 0, 0},
    {0}
};

/* Exactly `digits` digits at *at, as a number within least..most; -1 and *at unmoved where something else stands there. */
static int take(const char **at, int digits, int least, int most)
{
    int v = 0;
    for (int i = 0; i < digits; i++) {
        char c = (*at)[i];
        if (c < '0' || c > '9') return -1;
        v = v * 10 + c - '0';
    }
    if (v < least || v > most) return -1;
    *at += digits;
    return v;
}

static bool take_char(const char **at, char c)
{
    bool there = **at == c;
    *at += there;
    return there;
}

static int days_of_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

static bool take_date(const char **at, struct tm *t)
{
    int year = take(at, 4, 0, 9999);
    if (year < 0 || !take_char(at, '-')) return false;
    int month = take(at, 2, 1, 12);
    if (month < 0 || !take_char(at, '-')) return false;
    t->tm_mday = take(at, 2, 1, days_of_month(year, month));
    t->tm_year = year - 1900;
    t->tm_mon = month - 1;
    return t->tm_mday > 0;
}

/* "03:04[:05[.678]]"; parts of a second are dropped. */
static bool take_clock(const char **at, struct tm *t)
{
    if ((t->tm_hour = take(at, 2, 0, 23)) < 0 || !take_char(at, ':') || (t->tm_min = take(at, 2, 0, 59)) < 0) return false;
    if (!take_char(at, ':')) return true;
    if ((t->tm_sec = take(at, 2, 0, 59)) < 0) return false;
    if (!take_char(at, '.')) return true;
    size_t digits = strspn(*at, "0123456789");
    *at += digits;
    return digits > 0;
}

/* "Z", "+hh", "+hhmm", "+hh:mm" or nothing, in minutes. */
static bool take_offset(const char **at, int *minutes)
{
    *minutes = 0;
    if (!**at || take_char(at, 'Z')) return true;
    int sign = **at == '-' ? -1 : 1;
    if (!take_char(at, '+') && !take_char(at, '-')) return false;
    int hours = take(at, 2, 0, 23), rest = 0;
    if (hours >= 0 && **at) {
        take_char(at, ':');
        rest = take(at, 2, 0, 59);
    }
    *minutes = sign * (hours * 60 + rest);
    return hours >= 0 && rest >= 0;
}

/* "2026-01-02", "2026-01-02T03:04[:05[.678]][Z|+hh[[:]mm]]" to seconds since 1970. */
static nm_err parse_time(const char *text, int64_t *seconds)
{
    struct tm t = {0};
    int minutes = 0;
    const char *at = text;
    bool good = take_date(&at, &t);
    if (good && *at) good = (take_char(&at, 'T') || take_char(&at, ' ')) && take_clock(&at, &t) && take_offset(&at, &minutes);
    if (!good || *at) return nm_fail(NM_USAGE, "--now: '%s' is no time: give one like 2026-01-02T03:04:05", text);
    *seconds = (int64_t)timegm(&t) - 60 * (int64_t)minutes;
    return NM_OK;
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
    char format[16] = "";
    nm_found_stack found;
    NM_TRY(nm_find_stack(&found, operand, false));
    nm_err opened = set->name ? NM_OK : nm_found_format(&found, format);
    if (opened == NM_OK) opened = nm_open_found(model, &found.model, &set->common, true);
    const char *own = found.persona && !set->name ? found.persona->file.tmpl : NULL;
    bool done = opened == NM_OK && own;
    if (done) opened = nm_template_open(tmpl, own, strlen(own), "the persona's TEMPLATE");
    nm_found_stack_free(&found);
    if (opened != NM_OK || done) return opened;
    const char *text = *format ? nm_format_template(format) : nm_model_template(*model, set->name);
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
    err = nm_text_print(text, length, set->common.json);
out:
    nm_free(text);
    nm_free(input);
    nm_vars_free(&vars);
    nm_template_close(&tmpl);
    nm_model_close(&model);
    return err;
}

const nm_command nm_command_template = {
    .name = "template", .operands = "MODEL{+ADAPTER}|FILE.jinja", .summary = "render a chat template with variables from standard input",
    .details = "Reads one JSON object with the template's variables and writes the text, exactly as transformers would: tools and "
               "documents are none and "
               "add_generation_prompt is false unless given; for a MODEL its special tokens are defined, and an ADAPTER that was taught "
               "in a format of its own (tune --format) brings that; a persona's TEMPLATE comes before both. A template that itself refuses "
               "(raise_exception) ends with exit code 6.",
    .examples = (const nm_example[]){
        {"echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}' | nomoat template tiny",
         "what the model is given to read"},
        {"nomoat template chat.jinja --now 2026-01-02T03:04:05 < vars.json", "a template file, at a fixed time"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
