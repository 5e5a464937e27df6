/* The settings of a run: what is so unless it is said otherwise, and their names. */
#include "tune/tune.h"

const nm_tune_settings nm_tune_defaults = NM_TUNE_DEFAULTS;

#define HEADING(text)
#define SETTING(names, value, help, member, kind, least, most) {names, value, help, offsetof(nm_tune_settings, member), kind, least, most},
#define COMMAND(names, value, help, member, kind, least, most)
const nm_option nm_tune_options[] = {
#include "tune/settings.def"
    {0}
};
