/* Codebooks of the IQ formats (iq_grids.c, generated). A row is one choice of 8 or 4 values. Nothing outside src/quant includes it. */
#ifndef NM_QUANT_IQ_GRIDS_H
#define NM_QUANT_IQ_GRIDS_H

#include <stdint.h>

extern const int8_t nm_iq1_grid[2048][8];       /* IQ1_S and IQ1_M: -1, 0, 1 */
extern const int8_t nm_iq2_xxs_grid[256][8];    /* IQ2: 8, 25, 43 */
extern const int8_t nm_iq2_xs_grid[512][8];
extern const int8_t nm_iq2_s_grid[1024][8];
extern const int8_t nm_iq3_xxs_grid[256][4];    /* 4 to 62 */
extern const int8_t nm_iq3_s_grid[512][4];      /* odd, 1 to 15 */

#endif
