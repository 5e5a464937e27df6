/* Owns the inside of a trainer. What callers see is in nomoat.h ("Teaching"). */
#ifndef NM_TRAIN_TRAINER_H
#define NM_TRAIN_TRAINER_H

#include "train/pissa.h"
#include "train/step.h"

struct nm_trainer {
    const nm_model *model;
    nm_trainer_options options;
    nm_trainer_info info;
    const nm_optim *optim;
    nm_optim_settings set;
    nm_train_lora lora;
    float scale;
    bool bf16;                  /* arithmetic of the passes: chosen when the trainer is opened */
    bool planned;               /* only: there are no numbers to train */
    nm_pissa pissa;             /* NM_START_PISSA */
    nm_pass *pass;
    int64_t steps;              /* taken */
    double slip;                /* running mean of the logarithm of the anchor's KL: what the rate gives way to */
    nm_sequence *sequence;      /* [batch] */
    float *weight;              /* [batch x max_length] */
};

/* Of the adapter's numbers, gradients and the optimiser's state. */
uint64_t nm_trainer_bytes(const nm_trainer *trainer);

#endif
