/* Curves as inline SVG, for the report of `nomoat tune`. Colours are the page's (classes a, b and text), so that they follow its scheme. */
#include <math.h>

#include "base/err.h"
#include "tune/curve.h"

enum { WIDTH = 720, HEIGHT = 250, LEFT = 62, RIGHT = 16, TOP = 14, BOTTOM = 40, TICKS = 5 };

typedef struct scale { double low, high, step; int from, to; } scale;      /* values from..to become places; ticks every `step` */

/* Ticks at 1, 2 or 5 times a power of ten. */
static scale make_scale(double low, double high, int from, int to)
{
    if (!(high > low)) high = low + (low != 0 ? fabs(low) * 0.1 : 1);
    double raw = (high - low) / TICKS, power = pow(10, floor(log10(raw))), part = raw / power, step = (part > 5 ? 10 : part > 2 ? 5 : part > 1 ? 2 : 1) * power;
    return (scale){floor(low / step) * step, ceil(high / step) * step, step, from, to};
}

static double place(const scale *s, double v) { return s->from + (v - s->low) / (s->high - s->low) * (s->to - s->from); }

static void widen(double v, double *low, double *high)
{
    if (!isfinite(v)) return;
    *low = fmin(*low, v);
    *high = fmax(*high, v);
}

static nm_err put_axes(nm_str *s, const scale *x, const scale *y, const char *unit)
{
    for (double v = y->low; v <= y->high + y->step * 1e-6; v += y->step) {
        double at = place(y, v);
        NM_TRY(nm_str_printf(s, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDTH - RIGHT, at, at));
        NM_TRY(nm_str_printf(s, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", LEFT - 8, at + 4, fabs(v) < y->step / 1e6 ? 0 : v));
    }
    for (double v = x->low; v <= x->high + x->step * 1e-6; v += x->step)
        NM_TRY(nm_str_printf(s, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", place(x, v), HEIGHT - BOTTOM + 18, v));
    NM_TRY(nm_str_printf(s, "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n", LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM));
    NM_TRY(nm_str_printf(s, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4));
    int middle = (TOP + HEIGHT - BOTTOM) / 2;
    return nm_str_printf(s, "<text x=\"14\" y=\"%d\" text-anchor=\"middle\" transform=\"rotate(-90 14 %d)\">%s</text>\n", middle, middle, unit);
}

static nm_err put_line(nm_str *s, const nm_curve *c, const scale *x, const scale *y)
{
    NM_TRY(nm_str_printf(s, "<polyline class=\"%s\" points=\"", c->class));
    for (size_t i = 0; i < c->count; i++)
        if (isfinite(c->y[i])) NM_TRY(nm_str_printf(s, "%.1f,%.1f ", place(x, c->x[i]), place(y, c->y[i])));
    NM_TRY(nm_str_puts(s, "\"/>\n"));
    for (size_t i = 0; c->dots && i < c->count; i++)
        if (isfinite(c->y[i])) NM_TRY(nm_str_printf(s, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>step %.0f: %.4f</title></circle>\n", c->class,
            place(x, c->x[i]), place(y, c->y[i]), c->x[i], c->y[i]));
    return NM_OK;
}

nm_err nm_curves_svg(nm_str *s, const char *title, const char *unit, const nm_curve *curves, size_t count)
{
    double low_x = 0, high_x = 1, low = INFINITY, high = -INFINITY;
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < curves[k].count; i++) {
            widen(curves[k].x[i], &low_x, &high_x);
            widen(curves[k].y[i], &low, &high);
        }
    if (!isfinite(low)) return NM_OK;
    if (low >= 0 && low < high / 2) low = 0;
    scale x = make_scale(low_x, high_x, LEFT, WIDTH - RIGHT), y = make_scale(low, high, HEIGHT - BOTTOM, TOP);
    x.high = high_x;        /* the last step at the right edge */
    NM_TRY(nm_str_printf(s, "<figure><figcaption>%s", title));
    for (size_t k = 0; k < count; k++) NM_TRY(nm_str_printf(s, " <span class=\"key %s\"></span>%s", curves[k].class, curves[k].name));
    NM_TRY(nm_str_printf(s, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s over steps\">\n", WIDTH, HEIGHT, title));
    NM_TRY(put_axes(s, &x, &y, unit));
    for (size_t k = 0; k < count; k++) NM_TRY(put_line(s, &curves[k], &x, &y));
    return nm_str_puts(s, "</svg></figure>\n");
}
