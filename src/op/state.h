/* Owns the shape of what a session remembers: which layers keep what, and how a page of 64 positions is laid out. Refuses to
 * allocate: pages belong to model/kv. */
#ifndef NM_OP_STATE_H
#define NM_OP_STATE_H

#include "kernel/kernel.h"

enum { NM_MAX_GROUPS = 4 };     /* kinds of layers by window: full attention, and up to three window lengths */

/* One KV store. A slot is not a layer: later layers may read the slot of an earlier one. */
typedef struct nm_kv_slot {
    int32_t group;              /* which page list */
    int32_t heads, d_k, d_v;
    size_t offset;              /* of head 0 within a page */
    size_t head_bytes, v_offset;    /* from head to head; from a head's K to its V */
} nm_kv_slot;

typedef struct nm_kv_group {
    int32_t window;             /* keys a query sees, itself included; 0 = all */
    size_t page_bytes;
} nm_kv_group;

typedef struct nm_kv_layout {
    nm_kv_type type;
    int32_t groups, slots;
    nm_kv_group group[NM_MAX_GROUPS];
    nm_kv_slot *slot;           /* [slots] */
} nm_kv_layout;

/* One session's part of a pass. Pages cover positions [0, start + rows); NULL where a window has dropped them. */
typedef struct nm_seq {
    int32_t row, rows;          /* rows [row, row + rows) of the batch */
    int32_t start;              /* position of the first of them */
    uint8_t *const *pages[NM_MAX_GROUPS];
} nm_seq;

#endif
