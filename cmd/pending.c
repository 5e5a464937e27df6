/* Stands in for the template engine until src/text has it; goes away with its arrival. */
#include "base/err.h"
#include "nomoat.h"

__attribute__((weak)) nm_err nm_template_open(nm_template **out, const char *source, size_t length, const char *name)
{
    (void)source, (void)length;
    *out = NULL;
    return nm_fail(NM_REFUSED, "%s: chat templates are not built in yet: use --raw", name);
}

__attribute__((weak)) void nm_template_close(nm_template **tmpl) { *tmpl = NULL; }

__attribute__((weak)) nm_err nm_template_render(const nm_template *tmpl, const char *vars, size_t vars_length, const nm_template_options *options,
                                                char **text, size_t *length)
{
    (void)tmpl, (void)vars, (void)vars_length, (void)options, (void)text, (void)length;
    return nm_fail(NM_REFUSED, "chat templates are not built in yet: use --raw");
}
