/* Owns adapters as data: pairs of half maps with the names that their file uses, read from PEFT and GGUF files, translated between Hugging
 * Face's names and rows and GGUF's, written again. Knows the architecture's configuration where names need it, and no weights: those are
 * adapter.c's. Refuses what is neither plain LoRA nor DoRA of linear maps by name (NM_REFUSED): other kinds would run and give wrong answers. */
#ifndef NM_ADAPTER_LORA_H
#define NM_ADAPTER_LORA_H

#include "adapter/identity.h"
#include "arch/arch.h"
#include "format/json.h"

enum { NM_MOST_RANK = 1 << 14, NM_MOST_SIDE = INT32_MAX };

typedef enum nm_naming { NM_NAMES_HF, NM_NAMES_GGUF } nm_naming;

typedef struct nm_pair {
    char *name;                     /* of the map, without ".weight": "model.layers.0.mlp.up_proj" or "blk.0.ffn_up" */
    bool embedding;                 /* looked up, not multiplied: `in` entries of `out` columns */
    int64_t in, out, rank;
    float *a;                       /* [rank][in]; of an embedding [in][rank] */
    float *b;                       /* [out][rank] */
    float *m;                       /* DoRA's magnitudes [out], or NULL */
    float scale;
} nm_pair;

typedef struct nm_lora {
    char *path;                     /* for messages */
    const char *format;             /* "peft" or "gguf" */
    nm_naming naming;
    char *base, *arch;              /* what the file calls its base; its general.architecture (GGUF); "" where it does not say */
    nm_pair *pair;                  /* sorted by name */
    size_t pairs, capacity;
    nm_identity identity;           /* of the base's weights, as far as the file tells */
    char prompt_format[16];         /* that it was taught in; "" = none told */
} nm_lora;
/* The key of prompt_format in either file's metadata. */
#define NM_KEY_FORMAT "nomoat.format"
/* Takes a name of a format as files tell it; NULL and what is no name count as none. */
void nm_lora_set_format(nm_lora *lora, const char *name);

/* A folder with adapter_config.json and adapter_model.safetensors, the latter itself, or a GGUF file. Every value is finite. */
nm_err nm_lora_read(nm_lora *lora, const char *path);
nm_err nm_lora_read_peft(nm_lora *lora, const char *weights, const char *config);
nm_err nm_lora_read_gguf(nm_lora *lora, const char *path);
void nm_lora_free(nm_lora *lora);

/* A new pair with room for its halves (zero); name is copied. Checks sizes: NM_BAD_FILE naming `what`. */
nm_err nm_lora_add(nm_lora *lora, const char *name, const char *what, bool embedding, int64_t in, int64_t out, int64_t rank, nm_pair **pair);
nm_err nm_pair_add_magnitudes(nm_pair *pair);     /* makes room for them (zero) */
/* NM_REFUSED, naming a map and saying what cannot be done with it, if one is DoRA's. */
nm_err nm_lora_need_plain(const nm_lora *lora, const char *why);
/* Sorts by name; NM_BAD_FILE for two pairs of one name. */
nm_err nm_lora_sort(nm_lora *lora);
const nm_pair *nm_lora_find(const nm_lora *lora, const char *name);     /* NULL if absent; after nm_lora_sort */
/* Of names, shapes, values and scales: the same for the same adapter in either format, once both have GGUF's names. */
uint64_t nm_lora_hash(const nm_lora *lora);

/* Gives names and rows of B the form of the other side (names.c). NM_REFUSED where a name has no counterpart in the architecture. */
nm_err nm_lora_to_gguf(nm_lora *lora, const nm_config *config);
nm_err nm_lora_to_hf(nm_lora *lora, const nm_config *config);
/* A map's name on the other side; allocated (nm_free). */
nm_err nm_name_to_gguf(char **out, const nm_config *config, const char *hf);
nm_err nm_name_to_hf(char **out, const nm_config *config, const char *gguf);

/* An adapter from pairs in memory, which keep the caller's; they take GGUF's names. */
nm_err nm_adapter_make(nm_adapter **out, const nm_model *model, nm_lora *lora);

/* True if a key of PEFT's rank_pattern or alpha_pattern means this module (pattern.c). NM_REFUSED for a regular expression beyond what is read. */
nm_err nm_peft_pattern(const char *pattern, const char *module, bool *matches);

/* Writes a PEFT folder, made if it lacks: each file whole or not at all, and the weights last, so that a folder with weights is complete.
 * Needs Hugging Face's names. card NULL: what the adapter knows of itself. */
nm_err nm_lora_write_peft(const nm_lora *lora, const char *folder, const nm_adapter_card *card);
/* Writes a GGUF LoRA file. Needs GGUF's names. */
nm_err nm_lora_write_gguf(const nm_lora *lora, const char *path, const nm_adapter_card *card);

/* The product B A of a pair as an SVD (svd.c). Re-compresses it to a rank of at most `rank` (0: only measures). */
typedef struct nm_spectrum { double energy, kept, effective_rank; } nm_spectrum;  /* energy: |scale B A|^2; kept: of it; exp of the entropy of the values */
nm_err nm_pair_compress(nm_pair *pair, int64_t rank, nm_spectrum *spectrum);
/* Copies a pair's halves to rank `at` of a wider one of scale 1; B takes factor x scale. */
void nm_pair_append(nm_pair *to, int64_t at, const nm_pair *from, float factor);
double nm_pair_norm(const nm_pair *pair);       /* |scale B A|, Frobenius */

#endif
