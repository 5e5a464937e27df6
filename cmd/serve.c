/* nomoat serve: answers programs over HTTP until it is told to stop. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
#include "os/file.h"
#include "server/server.h"

enum { PORT = 11500, KEY_MOST = 4096, DRAIN_SECONDS = 30 };

typedef struct settings {
    nm_common common;
    const char *host, *key_file, *memory, *cache, *keep_alive, *cache_folder, *cache_folder_size;
    nm_list allow_host, cors, alias;
    int32_t port, parallel, queue, context, kv;
    bool open, force;
} settings;
#define AT(member) offsetof(settings, member)

static const nm_option options[] = {
    {"--host", "ADDRESS", "listen there; any but loopback needs a key (127.0.0.1)", AT(host), NM_OPTION_TEXT, 0, 0},
    {"--port", "N", "TCP port; 0 = any that is free (11500)", AT(port), NM_OPTION_INT, 0, 65535},
    {"--api-key-file", "FILE", "clients must know the key in this file; also the variable NOMOAT_API_KEY", AT(key_file), NM_OPTION_TEXT, 0, 0},
    {"--allow-host", "NAME", "answer also where clients call this server so; may be repeated", AT(allow_host), NM_OPTION_LIST, 0, 0},
    {"--cors", "ORIGIN", "web pages of this origin may use the server; may be repeated", AT(cors), NM_OPTION_LIST, 0, 0},
    {"--alias", "PATTERN=NAME", "a request for a model like PATTERN ('claude-*') means NAME; may be repeated", AT(alias), NM_OPTION_LIST, 0, 0},
    {"--parallel -np", "N", "answers at work at once (16)", AT(parallel), NM_OPTION_INT, 1, 256},
    {"--queue", "N", "requests that may wait beyond them; more are told to come again (256)", AT(queue), NM_OPTION_INT, 1, 65536},
    {"-c --context --ctx-size", "N", "tokens of prompt and answer at most; 0 = the trained length, less where memory is short (default)", AT(context), NM_OPTION_INT, 0, INT32_MAX},
    {"--kv -ctk --cache-type-k", "f16|f32|q8_0", "type of the cached keys and values (f16)", AT(kv), NM_OPTION_CHOICE, 0, 0},
    {"--memory", "SIZE", "most memory for models, their contexts and kept prefixes, as 8G (four fifths of what is free)", AT(memory), NM_OPTION_TEXT, 0, 0},
    {"--cache", "SIZE", "of it for prefixes of prompts that are kept, as 500M (an eighth, and 1G at most)", AT(cache), NM_OPTION_TEXT, 0, 0},
    {"--keep-alive", "TIME", "close a model that nobody asked for so long, as 5m; 0 = never (never)", AT(keep_alive), NM_OPTION_TEXT, 0, 0},
    {"--cache-folder", "FOLDER", "keep what was read of prompts in files there, also for the next start", AT(cache_folder), NM_OPTION_TEXT, 0, 0},
    {"--cache-folder-size", "SIZE", "most bytes of those files; the longest unused go first (4G)", AT(cache_folder_size), NM_OPTION_TEXT, 0, 0},
    {"--force", NULL, "use adapters that were made for other weights, too", AT(force), NM_OPTION_FLAG, 0, 0},
    {"--open", NULL, "open the page in a browser", AT(open), NM_OPTION_FLAG, 0, 0},
    {0}
};
static const settings defaults = {.host = "127.0.0.1", .port = PORT, .kv = -1};

/* ---- The key -------------------------------------------------------------------------------------------------------------------- */

/* *key: nm_free; NULL where none is given. White space round it is none of it. */
static nm_err read_key(const settings *set, char **key)
{
    const char *given = getenv("NOMOAT_API_KEY");
    char *text = NULL;
    size_t n = 0;
    *key = NULL;
    if (set->key_file) NM_TRY(nm_file_read(set->key_file, KEY_MOST, &text, &n));
    else if (given && *given) {
        text = nm_strndup(given, n = strlen(given));
        if (!text) return nm_fail_memory(n);
    } else return NM_OK;
    while (n && text[n - 1] && strchr(" \t\r\n", text[n - 1])) n--;
    text[n] = 0;
    size_t from = strspn(text, " \t\r\n");
    memmove(text, text + from, n - from + 1);
    for (size_t i = 0; i < n - from; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f) n = from;     /* cannot stand in a header */
    if (n > from) {
        *key = text;
        return NM_OK;
    }
    nm_free(text);
    return nm_fail(NM_USAGE, "%s: the key is empty, or has white space in it", set->key_file ? set->key_file : "NOMOAT_API_KEY");
}

/* ---- Options -------------------------------------------------------------------------------------------------------------------- */

static void note(void *arg, const char *line)
{
    (void)arg;
    nm_note("%s", line);
}

static nm_err engine_options(const settings *set, char **models, int count, nm_engine_options *o)
{
    *o = (nm_engine_options){
        .models = (const char *const *)models, .n_models = (size_t)count, .aliases = set->alias.items, .n_aliases = set->alias.count,
        .parallel = set->parallel, .queue = set->queue, .kept_folder = set->cache_folder,
        .context = set->context, .compute = (nm_compute)set->common.compute, .force = set->force, .no_pack = set->common.no_pack, .keep = true, .note = note};
    for (size_t i = 0; i < set->alias.count; i++)
        if (!strchr(set->alias.items[i], '=')) return nm_fail(NM_USAGE, "--alias %s: give PATTERN=NAME, as 'claude-*=%s'", set->alias.items[i], models[0]);
    if (set->keep_alive && strcmp(set->keep_alive, "0")) NM_TRY(nm_read_duration(set->keep_alive, "--keep-alive", &o->keep_alive));
    NM_TRY(nm_read_bytes(set->memory, "--memory", &o->memory));
    NM_TRY(nm_read_bytes(set->cache, "--cache", &o->kept));
    NM_TRY(nm_read_bytes(set->cache_folder_size, "--cache-folder-size", &o->kept_folder_bytes));
    if (set->cache_folder_size && !set->cache_folder) return nm_fail(NM_USAGE, "--cache-folder-size goes with --cache-folder FOLDER");
    if (set->cache_folder && !*set->cache_folder) return nm_fail(NM_USAGE, "--cache-folder: name a folder");
    return nm_choose_kv(&o->kv, o->compute, set->kv);
}

/* A list that ends with NULL, as the server takes it. */
static nm_err ended(nm_list *list)
{
    NM_TRY(NM_GROW(list->items, list->capacity, list->count + 1));
    list->items[list->count] = NULL;
    return NM_OK;
}

/* ---- At work -------------------------------------------------------------------------------------------------------------------- */

static void say_where(const settings *set, const nm_server *s)
{
    bool six = strchr(set->host, ':') != NULL;
    nm_note("serving at http://%s%s%s:%d%s", six ? "[" : "", set->host, six ? "]" : "", nm_http_port(s->http), s->keyed ? ", to those who know the key" : "");
    nm_note("OpenAI's API is at /v1, Anthropic's at /v1/messages, Ollama's at /api; the page at /. Ctrl-C ends it");
}

static void warn_of_key_file(const char *path)
{
    struct stat st;
    if (path && !stat(path, &st) && st.st_mode & S_IROTH) nm_note("%s: everybody on this computer can read the key: chmod 600 would keep it", path);
}

/* In a process of its own; whatever it comes to. */
static void open_page(const settings *set, const nm_server *s)
{
    char url[300];
    if (!set->open) return;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", nm_http_port(s->http));
    pid_t child = fork();
    if (child == 0) {
        execlp("xdg-open", "xdg-open", url, (char *)NULL);
        _exit(127);
    }
}

static nm_err wait_for_end(void)
{
    while (!nm_interrupted) poll(NULL, 0, 250);
    return NM_OK;
}

static nm_err serve(settings *set, char **models, int count, const char *key)
{
    nm_engine_options o;
    nm_server *server = NULL;
    NM_TRY(engine_options(set, models, count, &o));
    NM_TRY(ended(&set->allow_host));
    NM_TRY(ended(&set->cors));
    nm_http_options http = {.host = set->host, .port = set->port, .key = key, .allow_hosts = set->allow_host.items, .cors = set->cors.items};
    NM_TRY(nm_server_open(&server, &o, http));
    say_where(set, server);
    warn_of_key_file(set->key_file);
    open_page(set, server);
    nm_err err = wait_for_end();
    nm_note("ending what is under way; once more ends it at once");
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    nm_server_close(&server, DRAIN_SECONDS);
    return err;
}

static int run(void *arg, int count, char **operands)
{
    settings *set = arg;
    char *key = NULL;
    NM_TRY(read_key(set, &key));
    nm_interrupts_catch();
    nm_endings_catch();
    nm_err err = serve(set, operands, count, key);
    nm_free(key);
    return err;
}

const nm_command nm_command_serve = {
    .name = "serve", .operands = "MODEL{+ADAPTER[=SCALE]}...", .summary = "answer programs and browsers over HTTP",
    .details = "Speaks the APIs of OpenAI (/v1), Anthropic (/v1/messages), Ollama (/api) and llama.cpp, to as many clients at once as there are. The first MODEL is the default; "
               "others are opened when they are asked for. A request may name any model and adapters: \"model\": \"MODEL+ADAPTER=0.8\"; requests with different adapters "
               "share one batch.\n\n"
               "Listens on this computer alone unless --host says otherwise, and then demands a key. Ctrl-C and SIGTERM let what is under way come to its end.",
    .examples = (const nm_example[]){{"nomoat serve smollm2", "at http://127.0.0.1:11500"},
                                     {"nomoat serve qwen+medical=0.8 --port 8080", "a model with an adapter"},
                                     {"nomoat serve qwen --alias 'claude-*=qwen' --alias 'gpt-*=qwen'", "for programs that insist on their own names"},
                                     {"NOMOAT_API_KEY=secret nomoat serve qwen --host 0.0.0.0", "for the whole network, with a key"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 1, .most_operands = -1, .run = run,
};
