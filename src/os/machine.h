/* Owns what the machine grants this process: processor cores and memory, within affinity, control groups (v1 and v2) and limits of
 * the shell. Refuses to guess high: where a fact cannot be read, the smaller reading counts. Knows nothing of instruction sets (cpu/). */
#ifndef NM_OS_MACHINE_H
#define NM_OS_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

/* Physical cores that have a CPU in the process's affinity mask, at most the whole CPUs of the control group's quota; 1 or more. */
int nm_machine_cores(void);

/* Bytes that can be taken now without swapping: what the kernel calls available, within the room left by every control group above
 * the process (cached file pages count as free) and by the limit on address space. 0 if unknown. */
uint64_t nm_machine_memory_available(void);
/* Bytes of memory, at most the smallest limit of the process's control groups. 0 if unknown. */
uint64_t nm_machine_memory_total(void);
/* Bytes of this process that are in memory now, files it has mapped included. 0 if unknown. */
uint64_t nm_machine_resident(void);
/* The most that was so at any time since the process began. 0 if unknown. */
uint64_t nm_machine_resident_peak(void);

/* The same with /proc and /sys looked up below `root` ("" is the real system), for tests. cpus[i]: the affinity mask holds CPU i. */
int nm_machine_cores_at(const char *root, const bool *cpus, int n_cpus);
uint64_t nm_machine_memory_available_at(const char *root);
uint64_t nm_machine_memory_total_at(const char *root);

#endif
