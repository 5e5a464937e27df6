/* What a pass through a model's weights costs. */
#include "tune/count.h"

#include <stdio.h>
#include <string.h>

static bool is_float_type(const char *type) { return !strcmp(type, "F32") || !strcmp(type, "F16") || !strcmp(type, "BF16"); }

/* What is multiplied by the rows that want logits alone: the head (a tied embedding serves as one), and the last layer behind its attention. */
static bool is_of_head(const nm_model *model, const char *name, bool untied)
{
    char last[32];
    int n = snprintf(last, sizeof last, "blk.%d.", (int)nm_model_describe(model)->n_layer - 1);
    if (!strncmp(name, last, (size_t)n)) return !strncmp(name + n, "attn_output", 11) || !strncmp(name + n, "ffn_", 4);
    return !strcmp(name, "output.weight") || (!untied && !strcmp(name, "token_embd.weight"));
}

/* Other matrices are multiplied by every row; an embedding that is not the head, too, is only looked up. */
nm_costs nm_count_costs(const nm_model *model, nm_compute compute)
{
    nm_costs c = {0};
    bool untied = false;
    double all = 0;
    size_t n = nm_model_tensor_count(model);
    for (size_t i = 0; i < n; i++) untied |= !strcmp(nm_model_tensor(model, i).name, "output.weight");
    for (size_t i = 0; i < n; i++) {
        nm_tensor_info t = nm_model_tensor(model, i);
        bool embedding = !strcmp(t.name, "token_embd.weight"), looked_up = (embedding && untied) || strstr(t.name, "position_embd");
        bool head = is_of_head(model, t.name, untied);
        all += (double)t.bytes;
        if (t.rank < 2 || looked_up) continue;
        double operations = 2;
        for (int d = 0; d < t.rank; d++) operations *= (double)t.dim[d];
        bool floats = compute == NM_COMPUTE_F32 || is_float_type(t.type);
        *(head ? &c.head_bytes : &c.body_bytes) += (double)t.bytes;
        *(head ? (floats ? &c.head_floats : &c.head_quantised) : (floats ? &c.body_floats : &c.body_quantised)) += operations;
    }
    double packed = (double)nm_model_describe(model)->weight_bytes;
    if (all > 0 && packed > 0) {        /* resident weights differ a little from the file's */
        c.body_bytes *= packed / all;
        c.head_bytes *= packed / all;
    }
    return c;
}

void nm_count_maps(const nm_model *model, double *maps, double *head)
{
    nm_costs c = nm_count_costs(model, NM_COMPUTE_F32);
    *maps = c.body_floats / 2;
    *head = c.head_floats / 2;
}
