/* The settings of a run: what is so unless it is said otherwise, and their names. */
#include "tune/tune.h"

#include <string.h>

#include "base/err.h"

const nm_tune_settings nm_tune_defaults = NM_TUNE_DEFAULTS;

#define HEADING(text)
#define SETTING(names, value, help, member, kind, least, most) {names, value, help, offsetof(nm_tune_settings, member), kind, least, most},
#define COMMAND(names, value, help, member, kind, least, most)
const nm_option nm_tune_options[] = {
#include "tune/settings.def"
    {0}
};

/* ---- Names in texts ------------------------------------------------------------------------------------------------------------------------- */

static bool begins_word(const char *line, const char *at) { return at == line || strchr(" '\"(:;,", at[-1]); }

/* The first long spelling, without dashes. */
static const char *plain_name(const nm_option *o, char out[NM_OPTION_NAME_MOST])
{
    for (int i = 0; nm_option_name(o, i, out, NM_OPTION_NAME_MOST); i++)
        if (!strncmp(out, "--", 2)) return out + 2;
    return out;
}

nm_err nm_tune_spell(nm_str *s, const char *line, nm_err (*name)(nm_str *s, const char *option))
{
    char plain[NM_OPTION_NAME_MOST];
    for (const char *at = line; *at;) {
        size_t n = !strncmp(at, "--", 2) && begins_word(line, at) ? 2 + strspn(at + 2, "abcdefghijklmnopqrstuvwxyz0123456789-") : 0;
        const nm_option *o = n ? nm_option_find(nm_tune_options, at, n) : NULL;
        NM_TRY(o ? name(s, plain_name(o, plain)) : nm_str_append(s, at, n ? n : 1));
        at += n ? n : 1;
    }
    return nm_str_puts(s, "");
}
