/* Owns whole-file reading, atomic writing and the user's folders. Refuses to leave a half-written file under its final name, to read
 * without a bound, and to replace anything but a regular file. Maps of large files are map.h's. */
#ifndef NM_OS_FILE_H
#define NM_OS_FILE_H

#include <stddef.h>

#include "nomoat.h"

/* Reads a file, pipe or device to its end. *data is allocated (nm_free), has *size bytes and a zero behind them. More than `most` bytes:
 * NM_BAD_FILE. Missing: NM_NOT_FOUND. A folder: NM_BAD_FILE. Anything else: NM_FAILED. */
nm_err nm_file_read(const char *path, size_t most, char **data, size_t *size);
/* The same from an open descriptor, from where it stands; name is for messages. Stays open. */
nm_err nm_fd_read(int fd, const char *name, size_t most, char **data, size_t *size);

/* For reading piece by piece: opens (close(2) ends it), then at least one byte a call; *got 0 is the end. */
nm_err nm_fd_open(int *fd, const char *path);
nm_err nm_fd_some(int fd, const char *name, void *buffer, size_t room, size_t *got);

/* A file that comes to be whole or not at all: written under a temporary name (".nomoat-...") in the same folder, flushed to the
 * disk, then renamed. Another program sees the old file or the new one. All zero (nm_new_file none = {0}) is valid for abandon. */
typedef struct nm_new_file { char *path, *temporary; int fd; } nm_new_file;
/* The folder must exist. An existing regular file keeps its permission bits; a device, pipe or folder at path is NM_USAGE. A symbolic link is replaced, not followed. */
nm_err nm_new_file_open(nm_new_file *file, const char *path);
nm_err nm_new_file_write(nm_new_file *file, const void *data, size_t size);
/* Ends the file, successfully or not: afterwards *file is zero. After an error nothing is left behind, save when only the folder could not
 * be flushed: then the file is whole and in place, but a power cut may undo it. */
nm_err nm_new_file_commit(nm_new_file *file);
void nm_new_file_abandon(nm_new_file *file);

/* The three steps at once. */
nm_err nm_file_write(const char *path, const void *data, size_t size);

/* Whether both paths are there and are one file, or one folder. */
bool nm_file_same(const char *a, const char *b);

/* Makes the folder and those above it where they lack. mode as for mkdir(2). */
nm_err nm_folder_make(const char *path, unsigned mode);
/* Flushes a folder's entries (a rename, a removal) to the disk; what the file system cannot do is no error. */
nm_err nm_folder_flush(const char *path);

/* Names in a folder that end in suffix ("" = all), in byte order; those that begin with a dot are left out. No such folder: none. */
nm_err nm_folder_names(char ***names, size_t *count, const char *folder, const char *suffix);
void nm_names_free(char **names, size_t count);

typedef enum nm_folder { NM_FOLDER_DATA, NM_FOLDER_CACHE, NM_FOLDER_CONFIG, NM_FOLDER_STATE } nm_folder;
/* The user's folder for nomoat by the XDG rules: $XDG_DATA_HOME/nomoat or ~/.local/share/nomoat and so on; a relative value of the variable
 * is ignored, as the rules say; without HOME the password database is asked. *path is allocated (nm_free). The folder need not exist. */
nm_err nm_folder_find(nm_folder which, char **path);
/* The same, made if it lacks (mode 0700, as the rules say). */
nm_err nm_folder_open(nm_folder which, char **path);

#endif
