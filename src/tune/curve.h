/* Owns curves as inline SVG. Refuses foreign text: titles and names are ours. */
#ifndef NM_TUNE_CURVE_H
#define NM_TUNE_CURVE_H

#include "base/str.h"

typedef struct nm_curve {
    const char *name, *class;   /* class: "a" or "b", the page's colours */
    const double *x, *y;        /* [count]; what is not finite is left out */
    size_t count;
    bool dots;
} nm_curve;
/* A figure with axes, or nothing where there is no point. unit: of the y axis. */
nm_err nm_curves_svg(nm_str *s, const char *title, const char *unit, const nm_curve *curves, size_t count);

#endif
