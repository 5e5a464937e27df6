/* The forecast of `nomoat tune --plan`, as it is printed. */
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "tune.h"

static nm_err print_parts(const nm_tune_forecast *f)
{
    char text[8][32];
    return nm_out_printf("          of it: steps %s, anchor %s, optimiser %s, validation %s, meter %s, saving %s, answers %s, opening %s\n", nm_duration_text(f->training, text[0]),
        nm_duration_text(f->anchor, text[1]), nm_duration_text(f->update, text[2]), nm_duration_text(f->validation, text[3]), nm_duration_text(f->meter, text[4]),
        nm_duration_text(f->saving, text[5]), nm_duration_text(f->answers, text[7]), nm_duration_text(f->begin, text[6]));
}

static nm_err print_choice(const nm_tune_plan_report *p, const nm_tune_choice *c)
{
    char time[32], memory[32];
    const nm_tune_forecast *f = &c->forecast, *now = &p->now;
    NM_TRY(nm_out_printf("%-44s %8s %10s", c->name, nm_duration_text(f->seconds, time), nm_bytes_text(f->peak, memory)));
    if (f->steps != now->steps) NM_TRY(nm_out_printf("  %lld steps", (long long)f->steps));
    if (f->cut != now->cut) NM_TRY(nm_out_printf("  %llu rows cut", (unsigned long long)f->cut));
    if (strcmp(f->recomputed, now->recomputed)) NM_TRY(nm_out_printf("  computed again: %s", f->recomputed));
    return nm_out_puts("\n");
}

static nm_err print_plan(const nm_tune_plan_report *p)
{
    const nm_tune_forecast *f = &p->now;
    char time[32], peak[32], beside[32];
    NM_TRY(nm_out_printf("steps     %lld (%.3g epochs)\ntokens    %.0f, %.0f of them trained\n", (long long)f->steps, f->epochs, f->tokens, f->trained));
    NM_TRY(nm_out_printf("speed     %.0f tokens/s\ntime      %s, if it is not stopped early\n", f->tokens / f->training, nm_duration_text(f->seconds, time)));
    NM_TRY(print_parts(f));
    NM_TRY(nm_out_printf("memory    %s at most, model and program included; %s of it to train (%d tokens a pass, in %s, computed again: %s)\n\n", nm_bytes_text(f->peak, peak),
        nm_bytes_text(f->bytes, beside), f->pass_rows, f->arithmetic, f->recomputed));
    NM_TRY(nm_out_printf("%-44s %8s %10s\n", "instead", "time", "memory"));
    for (size_t i = 0; i < p->choices; i++) NM_TRY(print_choice(p, &p->choice[i]));
    return NM_OK;
}

static nm_err json_forecast(nm_str *s, const nm_tune_forecast *f)
{
    NM_TRY(nm_str_printf(s, "\"steps\": %lld, \"epochs\": %.4g, \"tokens\": %.0f, \"trained\": %.0f, \"cut\": %llu, ", (long long)f->steps, f->epochs, f->tokens, f->trained,
        (unsigned long long)f->cut));
    return nm_str_printf(s, "\"tokens_per_second\": %.1f, \"seconds\": %.1f, \"bytes\": %llu, \"peak_bytes\": %llu, \"pass_tokens\": %d, "
        "\"arithmetic\": \"%s\", \"recomputed\": \"%s\"",
        f->training > 0 ? f->tokens / f->training : 0, f->seconds, (unsigned long long)f->bytes, (unsigned long long)f->peak, f->pass_rows, f->arithmetic,
        f->recomputed);
}

static nm_err json_plan(nm_str *s, const nm_tune_plan_report *p)
{
    const nm_tune_forecast *f = &p->now;
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(json_forecast(s, f));
    NM_TRY(nm_str_printf(s, ", \"parts\": {\"opening\": %.2f, \"steps\": %.2f, \"anchor\": %.2f, \"optimizer\": %.2f, \"validation\": %.2f, \"meter\": %.2f, \"saving\": %.2f, "
        "\"answers\": %.2f}",
        f->begin, f->training, f->anchor, f->update, f->validation, f->meter, f->saving, f->answers));
    NM_TRY(nm_str_puts(s, ", \"instead\": ["));
    for (size_t i = 0; i < p->choices; i++) {
        NM_TRY(nm_str_printf(s, "%s{\"change\": \"%s\", ", i ? ", " : "", p->choice[i].name));
        NM_TRY(json_forecast(s, &p->choice[i].forecast));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_puts(s, "]}");
}

nm_err nm_tune_print_plan(const nm_tune_plan_report *plan, bool json)
{
    nm_str s = {0};
    return json ? nm_json_print(&s, json_plan(&s, plan)) : print_plan(plan);
}
