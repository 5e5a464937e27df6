/* Owns nomoat's stores of models and adapters, their names and those of stacks, and where names are looked up: the store, then the Hugging Face
 * cache (read-only). Refuses to fetch anything, to leave a model half-written under its name, and to look inside a model's file.
 *
 * On the disk: DATA/models/NAME/ holds the model's GGUF file or files, named after the originals, and SHA256SUMS, which sha256sum -c reads.
 * A model gets there as a copy-on-write clone (reflink) where the file system has them, else as a hard link, else as a copy. Through a
 * hard link whoever writes into the original file changes the stored one as well: doctor --verify shows it. Changes of the store are
 * made in a folder ".tmp-..." under a lock and take effect by one rename. */
#ifndef NM_HUB_STORE_H
#define NM_HUB_STORE_H

#include "nomoat.h"

typedef enum nm_place { NM_PLACE_PATH, NM_PLACE_STORE, NM_PLACE_HF_CACHE } nm_place;

typedef struct nm_found {
    char *name;         /* as to be typed: "NAME", "org/name", "org/name:file.gguf", or the path */
    char *path;         /* the GGUF file, the first one of a split */
    nm_place place;
    uint64_t bytes;     /* of all its files */
    int files;
    char sha256[65];    /* of the first file where it is recorded, else "" */
} nm_found;
void nm_found_free(nm_found *found);

/* MODEL[:TAG] to a file. An existing path wins (":latest" behind one is ignored, too); then a name in the store (":latest" ignored, letter case only where it decides);
 * then "org/name", "org/name:TAG", "org/name:FILE" or "org/name/FILE" in the Hugging Face cache. NM_NOT_FOUND; NM_USAGE where several
 * files fit. */
nm_err nm_model_find(nm_found *out, const char *model);

typedef struct nm_found_adapter {
    char *name, *path;  /* as for models; the path is a PEFT folder or a GGUF file */
    char *base;         /* what it calls its base; "" if it does not say */
    nm_place place;
    uint64_t bytes;
    float scale;        /* in a stack; else 1. Of a range the lower end */
    float scale_to;     /* its higher end; as scale where one number was given */
} nm_found_adapter;
void nm_found_adapter_free(nm_found_adapter *adapter);
void nm_found_adapters_free(nm_found_adapter *list, size_t count);
/* An existing path wins; then a name in the store of adapters, DATA/adapters (":latest" ignored, letter case only where it decides). */
nm_err nm_adapter_find(nm_found_adapter *out, const char *name);
/* The stored adapters, sorted; *list is allocated. */
nm_err nm_adapter_list(nm_found_adapter **list, size_t *count);
/* Where the store of adapters is; it need not exist. *path is allocated (nm_free). */
nm_err nm_adapter_folder(char **path);

typedef struct nm_found_stack {
    nm_found model;
    nm_found_adapter *adapter;
    size_t count, capacity;
    bool ranges;        /* a scale may be LOW..HIGH; elsewhere that is NM_USAGE */
    struct nm_persona *persona;     /* that MODEL is (personas.h); NULL: it is a model */
    size_t persona_adapters;        /* the first so many adapters are the persona's */
} nm_found_stack;
/* MODEL[:TAG]{+ADAPTER[=SCALE]}; "ADAPTER:0.8" is a scale, too, unless an adapter has that name. Paths may hold '+': the longest that exists wins.
 * MODEL may be a persona, where no model has the name: its own model and adapters then, and what stands behind it on top.
 * ranges: takes ADAPTER=LOW..HIGH, too. */
nm_err nm_stack_find(nm_found_stack *out, const char *text, bool ranges);
/* The same of a persona, which is taken over, also on failure. */
nm_err nm_persona_stack(nm_found_stack *out, struct nm_persona *persona);
/* "ADAPTER[=SCALE]{+ADAPTER[=SCALE]}" on top of it; and one adapter, with or without a scale in its text. */
nm_err nm_found_stack_add(nm_found_stack *stack, const char *adapters);
nm_err nm_found_stack_push(nm_found_stack *stack, const char *adapter, bool scaled);
void nm_found_stack_free(nm_found_stack *stack);

/* What could not be read, and why, in one line. */
typedef void (*nm_skipped_fn)(const char *why);
/* Everything that has a name, store first, each part sorted. An entry that cannot be read is left out, and `skipped` (may be NULL) is told.
 * *out is allocated; nm_found_list_free. */
nm_err nm_found_list(nm_found **out, size_t *count, nm_skipped_fn skipped);
void nm_found_list_free(nm_found *list, size_t count);

typedef enum nm_stored_as { NM_STORED_CLONE, NM_STORED_LINK, NM_STORED_COPY } nm_stored_as;
/* Called while another process changes the store, some twenty times a second; true gives up (NM_INTERRUPTED). */
typedef bool (*nm_wait_fn)(void);
typedef struct nm_import_options {
    bool copy;          /* neither clone nor link */
    bool replace;       /* put it in the place of a model of that name */
    nm_progress_fn progress;    /* bytes copied and hashed; true ends it with NM_INTERRUPTED; may be NULL */
    void *progress_arg;
    nm_wait_fn wait;    /* may be NULL */
} nm_import_options;
/* "NAME:latest" is NAME. NM_USAGE for what cannot be a name in a store. *out: nm_free. */
nm_err nm_store_plain_name(char **out, const char *name);
/* Takes a GGUF file (with the other parts of a split), or the only one in a folder, into the store. name NULL: from the file's name.
 * NM_USAGE: a bad name, a second part of a split, several models in a folder; NM_REFUSED: the name is taken. */
nm_err nm_store_import(nm_found *out, nm_stored_as *as, const char *path, const char *name, const nm_import_options *options);
/* The GGUF file that import would take: path itself, or the only one in the folder. *file is allocated (nm_free). */
nm_err nm_store_source(char **file, const char *path);
/* Whether nm_store_remove could: NM_NOT_FOUND; NM_USAGE for what is no name; NM_REFUSED for a model of the Hugging Face cache. */
nm_err nm_store_check(const char *name);
/* The name may differ in letter case, as for nm_model_find. */
nm_err nm_store_remove(const char *name, nm_wait_fn wait);      /* wait may be NULL */
/* Hashes the files of a stored model again. NM_BAD_FILE: one differs or is missing; NM_REFUSED: no hash is recorded. */
nm_err nm_store_verify(const nm_found *stored, nm_progress_fn progress, void *arg);
/* Where the store is; it need not exist. *path is allocated (nm_free). */
nm_err nm_store_folder(char **path);

/* Whether a path is an adapter rather than a model: a folder with adapter_config.json, a .safetensors file beside one, or a GGUF file whose
 * general.type is "adapter". */
bool nm_adapter_is(const char *path);
/* Takes such an adapter into the store of adapters; name NULL: from the folder's or the GGUF file's name. NM_USAGE: a bad name; NM_REFUSED:
 * the name is taken; NM_NOT_FOUND: weights or configuration are missing. What is in the files is not looked at. */
nm_err nm_adapter_import(nm_found_adapter *out, nm_stored_as *as, const char *path, const char *name, const nm_import_options *options);
/* NM_NOT_FOUND. The name may differ in letter case. */
nm_err nm_adapter_remove(const char *name, nm_wait_fn wait);
/* Whether a new adapter may be called so: what MODEL+NAME, 'rm NAME' and 'list' read back as this name ("NAME.gguf" is a file; '+', '=' and ':' have a meaning in a stack). Up
 * to NM_ADAPTER_NAME_LONGEST letters, digits and . _ -, the first a letter or digit. */
enum { NM_ADAPTER_NAME_LONGEST = 128 };
bool nm_adapter_may_be_called(const char *name);

#endif
