/* Owns PiSSA (Meng et al. 2024): adapters that begin as the largest singular triplets of their maps, W = U S V', which are subtracted from the map while they
 * are trained. The map itself stays as it is: the first values of the halves lie as a slot of negative scale on top of the stack below. */
#ifndef NM_TRAIN_PISSA_H
#define NM_TRAIN_PISSA_H

#include "train/lora.h"

typedef struct nm_pissa {
    nm_stack stack;             /* what lies below the trained slot */
    int32_t *first;
    nm_slot *slot;
    uint8_t *memory;            /* of the subtracted slots' panels */
    size_t bytes;
} nm_pissa;

/* Starts the maps of `lora` from their triplets, A = sqrt(S / scale) V' and B = U sqrt(S / scale), and makes the stack of `below` (may be NULL; outlives it)
 * and what is subtracted. The same bits for any number of threads and on every machine. cancel may be NULL: it is looked at between maps. */
nm_err nm_pissa_open(nm_pissa *pissa, nm_train_lora *lora, float scale, const nm_stack *below, const volatile sig_atomic_t *cancel);
/* Only what would be: the stack without its numbers, and how many bytes these take. */
nm_err nm_pissa_list(nm_pissa *pissa, const nm_train_lora *lora, float scale, const nm_stack *below);
/* Memory that finding the triplets takes meanwhile, on all threads together. */
size_t nm_pissa_scratch(const nm_train_lora *lora);
void nm_pissa_close(nm_pissa *pissa);
/* The slot that is subtracted from a trained weight. */
const nm_slot *nm_pissa_slot(const nm_pissa *pissa, int32_t weight);

/* The `rank` largest singular triplets of a map, by falling value: u [n][rank], s [rank], v [k][rank]. scratch: nm_triplets_bytes. */
size_t nm_triplets_bytes(const nm_panels *w, int64_t rank);
void nm_triplets(const nm_panels *w, int64_t rank, void *scratch, float *u, float *s, float *v);

#endif
