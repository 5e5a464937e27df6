/* Owns what tells the weights that an adapter was made for: a sketch of the dequantised weights, nearly the same for every quantisation
 * of them, and a hash of the tokenizer. Names and metadata lie; these do not. */
#ifndef NM_ADAPTER_IDENTITY_H
#define NM_ADAPTER_IDENTITY_H

#include "base/str.h"
#include "model/model.h"

/* 256 projections tell correlations of 0.95 and 0.98 apart with some ten standard deviations ((1 - r^2) / 16 is 0.006 and 0.002). */
enum { NM_SKETCH = 256 };

typedef struct nm_identity {
    bool known;                     /* false: nothing below was told */
    float sketch[NM_SKETCH];
    uint64_t tokenizer;             /* 0 = none */
    char type[16];                  /* that held most of the base's weights, for messages */
} nm_identity;

nm_err nm_identity_of(nm_identity *out, const nm_model *model);
/* 1 for the same weights, near 1 for other quantisations of them, near 0 for others. */
double nm_identity_correlation(const nm_identity *a, const nm_identity *b);
/* Compares what an adapter says of its base with a model. NM_REFUSED, saying what differs, unless `force`. */
nm_err nm_identity_match(const nm_identity *adapter, const nm_model *model, bool force, nm_match *match, double *correlation);

/* As text, for metadata: keys and values. nm_identity_read takes NULL for an absent value; what it cannot read is NM_BAD_FILE. */
#define NM_KEY_SKETCH "nomoat.sketch"
#define NM_KEY_TOKENIZER "nomoat.tokenizer"
#define NM_KEY_TYPE "nomoat.base_type"
nm_err nm_identity_write(const nm_identity *identity, nm_str *sketch, char tokenizer[17]);
nm_err nm_identity_read(nm_identity *out, const char *sketch, const char *tokenizer, const char *type);

#endif
