/* Presets of `nomoat tune --recipe`: what well-known adapters and models were taught with, as their authors published it. A row is an option of the same
 * table as everything else; the command line and a configuration file win over it.
 *
 * Rows cite their places:
 *   [A]  github.com/tloen/alpaca-lora at 8bb8579, finetune.py: the defaults of train() and the TrainingArguments below them. (Its "official weights" of
 *        26 March 2023 differ: README.md there has rank 16, four projections, ten epochs, length 512.)
 *   [V]  github.com/lm-sys/FastChat: the table and the command under "Fine-tuning Vicuna-7B with Local GPUs" in README.md, scripts/train_vicuna_7b.sh.
 *   [VL] the same, fastchat/train/train_lora.py (rank, alpha, dropout, maps) and scripts/train_lora.sh (rate, schedule).
 *   [K]  bair.berkeley.edu/blog/2023/04/03/koala (two epochs of full fine-tuning; no rate or batch is told) and docs/koala.md of
 *        github.com/young-geng/EasyLM (sequences of 2,048 tokens).
 *   [Q]  github.com/artidoro/qlora at 7f4e95a, scripts/finetune_guanaco_7b.sh, and Dettmers et al. 2023 (arXiv 2305.14314), section 5 and appendix B. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "tune.h"

typedef struct row { const char *option, *value; } row;

static const row alpaca_lora[] = {
    {"format", "alpaca"}, {"train-on", "all"},      /* [A] prompt_template_name; train_on_inputs = True */
    {"max-length", "256"},                          /* [A] cutoff_len */
    {"rank", "8"}, {"alpha", "16"}, {"dropout", "0.05"}, {"targets", "q_proj,v_proj"},      /* [A] lora_* */
    {"lr", "3e-4"}, {"schedule", "linear"}, {"warmup", "100"}, {"weight-decay", "0"}, {"clip", "1"}, {"optimizer", "adamw"},     /* [A]; transformers' own */
    {"batch", "128"}, {"epochs", "3"},              /* [A] */
    {0}
};
static const row vicuna[] = {
    {"format", "vicuna"}, {"train-on", "assistant"},    /* [V] fastchat/train/train.py masks all but the assistant's turns */
    {"max-length", "2048"},                             /* [V] */
    {"rank", "8"}, {"alpha", "16"}, {"dropout", "0.05"}, {"targets", "q_proj,v_proj"},      /* [VL] */
    {"lr", "2e-5"}, {"schedule", "cosine"}, {"warmup", "0.03"}, {"weight-decay", "0"}, {"clip", "1"}, {"optimizer", "adamw"},    /* [V], [VL] */
    {"batch", "128"}, {"epochs", "3"},                  /* [V] */
    {0}
};
static const row koala[] = {
    {"train-on", "assistant"}, {"max-length", "2048"}, {"epochs", "2"},     /* [K] */
    {0}
};
static const row qlora[] = {
    {"train-on", "assistant"},                      /* [Q] train_on_source is off */
    {"max-length", "528"},                          /* [Q] source_max_len 16 and target_max_len 512 */
    {"rank", "64"}, {"alpha", "16"}, {"dropout", "0.1"}, {"targets", "all-linear"},     /* [Q] lora_modules all */
    {"lr", "2e-4"}, {"schedule", "constant"}, {"warmup", "0.03"}, {"weight-decay", "0"}, {"clip", "0.3"}, {"optimizer", "adamw"},    /* [Q] */
    {"batch", "16"}, {"epochs", "3"},               /* [Q] 1,875 steps of 16, which is three times over OASST1's 9,846 conversations */
    {0}
};

/* What was more, or other, than an adapter of this program can be. */
static const struct { const char *name; const row *rows; const char *remark; } recipes[] = {
    {"alpaca-lora", alpaca_lora, NULL},
    {"vicuna", vicuna, "Vicuna trained all weights; rank, alpha, dropout and maps are those of FastChat's own LoRA script, at the same rate"},
    {"koala", koala, "Koala trained all weights and told no rate: what is trained and how fast are nomoat's defaults, and the format is the model's own"},
    {"qlora", qlora, "QLoRA's base in NF4 is here the file as it is quantised"},
};

const char *nm_tune_recipe_name(int32_t index) { return index > 0 ? recipes[index - 1].name : NULL; }

static nm_err apply(nm_beneath *b, int32_t index, nm_str *said)
{
    const char *name = recipes[index].name;
    bool any = false;
    NM_TRY(nm_str_printf(said, "recipe %s:", name));
    for (const row *r = recipes[index].rows; r->option; r++) {
        bool taken;
        NM_TRY(nm_beneath_set(b, r->option, r->value, name, &taken));
        if (!taken) continue;
        NM_TRY(nm_str_printf(said, "%s %s %s", any ? "," : "", r->option, r->value));
        any = true;
    }
    if (!any) NM_TRY(nm_str_puts(said, " all of it was given otherwise"));
    return recipes[index].remark ? nm_str_printf(said, ". %s", recipes[index].remark) : NM_OK;
}

nm_err nm_tune_recipe(nm_beneath *b, int32_t index, const char **said)
{
    nm_str s = {0};
    nm_err err = apply(b, index - 1, &s);
    if (err != NM_OK) {
        nm_str_free(&s);
        return err;
    }
    *said = nm_str_take(&s, NULL);
    return nm_beneath_keep(b, (char *)*said);
}
