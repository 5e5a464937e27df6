/* Reads any bytes as a PEFT adapter's configuration, beside good weights. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapter/lora.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "os/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One map of rank 2, in a file of this process. */
static const char *weights(void)
{
    static char path[64];
    static const float values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const nm_safe_tensor tensor[2] = {
        {.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", .type = nm_type_of(NM_F32), .rank = 2, .dim = {2, 4}, .data = values},
        {.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", .type = nm_type_of(NM_F32), .rank = 2, .dim = {4, 2}, .data = values}};
    if (*path) return path;
    strcpy(path, "/tmp/nm_fuzz_peft_XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) || nm_safetensors_write(path, tensor, 2, NULL, 0) != NM_OK) abort();
    return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char config[80];
    const char *path = weights();
    nm_lora l;
    if (!*config) {
        strcpy(config, path);
        strcat(config, ".json");
    }
    if (nm_file_write(config, data, size) != NM_OK) abort();
    int64_t alive = nm_mem_alive();
    if (nm_lora_read_peft(&l, path, config) == NM_OK && (l.pairs != 1 || l.pair->rank != 2)) abort();
    nm_lora_free(&l);
    nm_mem_fail_after(size ? data[size / 2] % 16 : 0);
    (void)nm_lora_read_peft(&l, path, config);
    nm_mem_fail_after(-1);
    nm_lora_free(&l);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
