/* Owns what the files of teaching share: files that clients brought, lessons as they write them, the one run and its state. Nobody else includes it but their tests.
 *
 * Teaching has three threads of its own. The teacher (teach.c, teach_work.c) sees to previews, forecasts and the run, one after the other, and has them computed by a hand
 * (base/hand.h), behind the requests and everything else of the machine. The hand may not get a processor for a while, and so takes no lock: what is heard of its work it asks the
 * teacher to put down. The usher (teach.c, teach_routes.c) does what touches the disk for a client, and tells listeners where the run stands. HTTP's thread and the engine's
 * only put things down. What the run looks like to others is a struct nm_teach_run under a lock that is held for a copy; whoever wants it as JSON makes that himself.
 *
 * On the disk, in the user's data folder: teach/files/ID.jsonl and ID.about, what clients brought; teach/run, rows that were conversations when the run began; teach/look, the
 * same for the time of a preview; teach/state.json, the run. The adapter and its checkpoint lie in the store of adapters. No path is made from what a client said but by
 * an adapter's name, of which nm_adapter_may_be_called. */
#ifndef NM_SERVER_TEACH_H
#define NM_SERVER_TEACH_H

#include <jansson.h>
#include <pthread.h>
#include <signal.h>

#include "base/hand.h"
#include "base/str.h"
#include "server/http.h"
#include "server/server.h"
#include "tune/tune.h"

/* ---- Files that clients brought (teach_files.c): any thread ------------------------------------------------------------------------------------ */

enum { NM_TEACH_ID = 33, NM_TEACH_NAME_LONGEST = 200, NM_TEACH_FILES_MOST = 1000 };
#define NM_TEACH_FILE_MOST ((size_t)64 << 20)
#define NM_TEACH_FILES_BYTES ((uint64_t)4 << 30)       /* of all of them together */

typedef struct nm_teach_file {
    char id[NM_TEACH_ID];           /* 32 hexadecimal digits of chance */
    char *name;                     /* as the client calls it */
    const char *suffix;             /* ".jsonl" */
    uint64_t bytes;
    int64_t created;                /* seconds since 1970 */
} nm_teach_file;

typedef struct nm_teach_files {
    char *folder;                   /* teach; its files lie in files/ */
    pthread_mutex_t lock;
    nm_teach_file *list;
    size_t count, capacity;
} nm_teach_files;

void nm_teach_id(char out[NM_TEACH_ID]);
nm_err nm_teach_files_open(nm_teach_files *f, const char *folder);
void nm_teach_files_close(nm_teach_files *f);
/* NM_USAGE for a name of another kind; what is in the file is not looked at. *out: {"file", "name", "bytes", "created"}. Writes, and waits for the disk. */
nm_err nm_teach_files_add(nm_teach_files *f, const char *name, const char *data, size_t length, json_t **out);
/* Out of the list, so that no lesson finds it any more, without waiting; and off the disk. NM_NOT_FOUND. */
nm_err nm_teach_files_take(nm_teach_files *f, const char *id, nm_teach_file *out);
void nm_teach_files_delete(const nm_teach_files *f, nm_teach_file *taken);
json_t *nm_teach_files_list(nm_teach_files *f);
/* NM_NOT_FOUND. *path: nm_free. */
nm_err nm_teach_files_path(nm_teach_files *f, const char *id, char **path);
/* A line for clients: nm_told, and files are called as clients call them, settings as lessons do. *out: nm_free. */
nm_err nm_teach_files_told(nm_teach_files *f, const char *line, char **out);

/* ---- Lessons (teach_lesson.c) ------------------------------------------------------------------------------------------------------------------- */

/* {"model", "sources": [{"file", "weight"} | {"chats", "weight"}], "settings": {}}, checked. */
typedef struct nm_lesson {
    json_t *json;                   /* held */
    const char *model;              /* borrowed from it */
    nm_tune_settings set;           /* texts are kept in `text` */
    char **text;
    size_t texts, capacity;
} nm_lesson;
/* A member "name" beside those is another's. NM_USAGE names what is wrong; NM_NOT_FOUND: no such file. To be freed also after a failure. */
nm_err nm_lesson_read(nm_lesson *out, const json_t *body, nm_teach_files *files);
void nm_lesson_free(nm_lesson *lesson);
/* A number that was chosen for the lesson's user. */
nm_err nm_lesson_set(nm_lesson *lesson, const char *option, const char *value);
bool nm_lesson_uses(const json_t *lesson, const char *file);
/* NM_NOT_FOUND where one of its files is gone. */
nm_err nm_lesson_has_files(const json_t *lesson, nm_teach_files *files);
/* As a lesson calls a setting of tune's: max_length. Appends. */
nm_err nm_lesson_name(nm_str *s, const char *option);
/* {"rank": 8} of an option and its value as text. */
json_t *nm_lesson_setting(const char *option, const char *value);

/* What nm_tune_open reads: files where they lie, conversations as a file in teach/WHERE. again: rows of conversations that lie there are taken as they are. */
typedef struct nm_lesson_sources { char **path; size_t count; } nm_lesson_sources;
nm_err nm_lesson_gather(nm_lesson_sources *out, const nm_lesson *lesson, nm_teach_files *files, nm_desk *desk, const char *where, bool again);
void nm_lesson_sources_free(nm_lesson_sources *s);
/* Rows of conversations in teach/WHERE go away. */
void nm_lesson_forget(const nm_teach_files *files, const char *where);

/* ---- The run (teach_state.c) ---------------------------------------------------------------------------------------------------------------------- */

typedef enum nm_teach_phase {
    NM_TEACH_IDLE, NM_TEACH_PREPARING, NM_TEACH_TRAINING, NM_TEACH_STOPPING, NM_TEACH_STOPPED, NM_TEACH_DONE, NM_TEACH_FAILED, NM_TEACH_PHASES
} nm_teach_phase;
typedef enum nm_teach_decision { NM_TEACH_UNDECIDED, NM_TEACH_KEPT, NM_TEACH_DISCARDED } nm_teach_decision;

enum { NM_TEACH_NOTES = 40 };
typedef struct nm_teach_run {
    nm_teach_phase phase;
    nm_teach_decision decided;
    char id[NM_TEACH_ID];
    char *name, *model;             /* of the adapter; MODEL{+ADAPTER} */
    json_t *lesson;                 /* does not change */
    nm_tune_state where;            /* without what it points to */
    double begun;                   /* nm_clock_seconds of this process's part; 0: it does nothing */
    double spent;                   /* seconds of the parts before */
    double speed;                   /* tokens a second */
    json_t *notes;                  /* an array, NM_TEACH_NOTES at most */
    json_t *result;                 /* does not change; NULL */
    char *error;
    bool resumable;
} nm_teach_run;
void nm_teach_run_free(nm_teach_run *run);
bool nm_teach_at_work(const nm_teach_run *run);
/* As GET /nm/teach has it; NULL without memory. */
json_t *nm_teach_run_json(const nm_teach_run *run);
/* What nm_teach_run_json made, in a process before this one: a run that was at work then is stopped. */
nm_err nm_teach_run_read(nm_teach_run *run, const json_t *json);
void nm_teach_run_note(nm_teach_run *run, const char *line);

/* ---- The teacher and the usher (teach.c) ------------------------------------------------------------------------------------------------------------ */

typedef struct nm_teach nm_teach;

typedef struct nm_teach_look {      /* a preview or a forecast that a client waits for */
    nm_teach *teach;
    nm_exchange *x;
    nm_lesson lesson;
    bool forecast, gone;
    struct nm_teach_look *next;
} nm_teach_look;

typedef nm_err (*nm_teach_errand_fn)(nm_teach *t, nm_exchange *x, int *status, json_t **answer);
typedef struct nm_teach_errand { nm_exchange *x; nm_teach_errand_fn work; struct nm_teach_errand *next; } nm_teach_errand;

enum { NM_TEACH_LISTENERS = 32, NM_TEACH_LOOKS = 8, NM_TEACH_ERRANDS = 64 };
struct nm_teach {
    nm_server *server;
    char *state;                    /* path of state.json */
    int owner;                      /* the locked folder: another server on it would take this one's run for one that has ended */
    nm_teach_files files;
    pthread_mutex_t lock;           /* what follows; held for a moment, and before the files' */
    pthread_mutex_t disk;           /* writing the state: before `lock` */
    pthread_cond_t work, news;      /* for the teacher; for the usher */
    pthread_t teacher, usher;
    nm_hand *hand;                  /* the teacher's */
    bool teaching, ushering;        /* the threads run */
    bool closing;
    nm_teach_run run;
    bool wanted;                    /* the run is to begin, or to go on: then `again` */
    bool again;
    bool deciding;                  /* what was decided is being done: nothing begins meanwhile */
    nm_teach_look *looks, *look;    /* that wait; at work */
    size_t n_looks;
    volatile sig_atomic_t cancel;   /* ends what the teacher does */
    nm_teach_errand *errands;
    size_t n_errands;
    nm_exchange *listener[NM_TEACH_LISTENERS];
    size_t listeners;
    uint64_t version, told;         /* of the run; of what listeners were told */
};

/* What a handler must say in place of an answer: `status` 409 with a word for programs. */
typedef struct nm_teach_refusal { const char *code, *message; } nm_teach_refusal;

/* Each takes effect at once, or sets the refusal and changes nothing. `model` is the name that the engine gave it. The lesson's own JSON is held. NM_NOT_FOUND: a file of it was
 * removed since it was read. */
nm_err nm_teach_begin(nm_teach *t, json_t *lesson, const char *name, const char *model, nm_teach_refusal *no);
bool nm_teach_stop_run(nm_teach *t, nm_teach_refusal *no);
bool nm_teach_resume(nm_teach *t, nm_teach_refusal *no);
/* On the usher's thread. */
nm_err nm_teach_decide(nm_teach *t, nm_teach_decision decision, nm_teach_refusal *no);
/* A file that clients brought goes, unless a lesson that is under way, or can go on, needs it. On the usher's thread. */
nm_err nm_teach_remove_file(nm_teach *t, const char *id, nm_teach_refusal *no);
/* Takes the look over. */
bool nm_teach_take_look(nm_teach *t, nm_teach_look *look, nm_teach_refusal *no);
void nm_teach_look_free(nm_teach_look *look);
bool nm_teach_send(nm_teach *t, nm_exchange *x, nm_teach_errand_fn work);
bool nm_teach_listen(nm_teach *t, nm_exchange *x);
json_t *nm_teach_state(nm_teach *t);
nm_err nm_teach_save(nm_teach *t);              /* waits for the disk */
void nm_teach_changed(nm_teach *t);             /* under the lock: listeners are told */
/* The folder in which the run's adapter lies, or will. *path: nm_free. */
nm_err nm_teach_adapter_path(const char *name, const char *file, char **path);

/* teach_routes.c: an answer in JSON, whose value is taken over; an error of the library, where a lesson is what is wrong. */
void nm_teach_reply(nm_exchange *x, int status, json_t *value);
void nm_teach_fail(nm_exchange *x, nm_err err);
void nm_teach_refuse(nm_exchange *x, const nm_teach_refusal *no);

/* teach_work.c: on the teacher's thread, without the lock. A look's error tells of no path of the machine. */
void nm_teach_do_run(nm_teach *t, bool again);
nm_err nm_teach_do_look(nm_teach *t, const nm_teach_look *look, json_t **answer);

/* explain.c */
void nm_explain(nm_exchange *x, void *context);

#endif
