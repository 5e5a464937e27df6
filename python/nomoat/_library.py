"""The shared library as ctypes sees it: structures, functions, errors, and who owns what.

Structures and prototypes are written as they stand in nomoat.h. tests/test_layout.py has a C compiler hold both to the header.
"""
import _thread
import contextlib
import ctypes
import ctypes.util
import os
import re
import threading
import weakref

VERSION = "0.1.0"   # of the header that this was written for

# ---- Types ----------------------------------------------------------------------------------------------------------------------------

ENUMS = ("nm_err", "nm_train_on", "nm_split", "nm_match", "nm_kv_type", "nm_compute", "nm_want", "nm_speech_kind", "nm_schedule", "nm_start")
_scalars = {
    "bool": ctypes.c_bool, "int": ctypes.c_int, "unsigned": ctypes.c_uint, "float": ctypes.c_float, "double": ctypes.c_double, "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint8_t": ctypes.c_uint8, "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64,
    "char": ctypes.c_char, "sig_atomic_t": ctypes.c_int, **{name: ctypes.c_int for name in ENUMS}}
structures = {}     # by their names in C
_callbacks = {}


def _ctype(text):
    """What stands for a C type. Pointers to pointers are addresses, but for lists that are read (`T *const *`); what is not known is opaque."""
    if re.search(r"\*\s*const\s*\*$", text):
        return ctypes.POINTER(_ctype(re.sub(r"\s*const\s*\*$", "", text)))
    stars, name = text.count("*"), re.sub(r"\b(const|volatile)\b|\*", "", text).strip()
    if stars == 2:
        return ctypes.POINTER(ctypes.c_void_p)
    known = structures.get(name) or _scalars.get(name) or _callbacks.get(name)
    if stars == 0:
        return None if name == "void" else known
    return ctypes.c_char_p if name == "char" else ctypes.POINTER(known) if known else ctypes.c_void_p


def _parted(declaration):
    """`const int *const name` -> its type and its name."""
    return re.fullmatch(r"(.*?[\s*])(\w+)", declaration.strip()).groups()


class _Structure(ctypes.Structure):
    """ctypes cuts a whole number that does not fit: here that is an error."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if isinstance(value, int) and getattr(self, name) != value and not isinstance(getattr(self, name), float):
            raise Usage("%s=%d is beyond what there is room for" % (name, value))


def _structure(name, text):
    fields = []
    for line in filter(None, (part.strip() for part in text.split(";"))):
        kind, first = _parted(re.sub(r"\[\w+\]", "", line.split(",")[0]))
        for item in line[len(kind):].split(","):
            field, size = re.fullmatch(r"\s*(\w+)(?:\[(\w+)\])?", item).groups()
            fields.append((field, _ctype(kind.strip()) * int(size) if size else _ctype(kind.strip())))
    structures[name] = type(name, (_Structure,), {"_fields_": fields})
    return structures[name]


def _callback(name, result, *arguments):
    _callbacks[name] = ctypes.CFUNCTYPE(_ctype(result), *(_ctype(a) for a in arguments))
    return _callbacks[name]


ProgressFn = _callback("nm_progress_fn", "bool", "void *", "uint64_t", "uint64_t")
LogitsFn = _callback("nm_logits_fn", "nm_err", "void *", "int32_t", "const float *", "int32_t")
HiddenFn = _callback("nm_hidden_fn", "nm_err", "void *", "int32_t", "const float *", "int32_t")

ModelOptions = _structure("nm_model_options", """bool metadata_only, whole, no_pack, keep; nm_progress_fn progress; void *progress_arg;
    const volatile sig_atomic_t *cancel""")
ModelInfo = _structure("nm_model_info", """const char *name; const char *architecture; const char *file_type;
    int32_t n_layer, n_embd, n_head, n_head_kv, n_vocab, n_context; uint64_t n_parameters, file_bytes, weight_bytes; bool has_weights; const char *not_kept""")
TokenizeOptions = _structure("nm_tokenize_options", "const size_t *guards; size_t n_guards; size_t most; const volatile sig_atomic_t *cancel")
TemplateOptions = _structure("nm_template_options", "int64_t now; uint64_t max_steps; size_t max_output; const volatile sig_atomic_t *cancel")
AdapterInfo = _structure("nm_adapter_info", """const char *path; const char *format; const char *base; const char *base_type; nm_match match; double correlation;
    int32_t n_maps, max_rank; uint64_t n_parameters, bytes; char hash[17]; const char *prompt_format""")
AdapterCard = _structure("nm_adapter_card", "const char *base; const char *provenance; const char *summary; const char *prompt_format")
SessionOptions = _structure("nm_session_options", "int32_t context; nm_kv_type kv; nm_compute compute; const nm_stack *stack")
RunnerOptions = _structure("nm_runner_options", "nm_compute compute; int32_t max_rows, max_logits")
Item = _structure("nm_item", """nm_session *session; const int32_t *tokens; int32_t count; nm_want want; nm_logits_fn on_logits; void *arg;
    nm_hidden_fn on_hidden""")
Sampling = _structure("nm_sampling", """float temperature; int32_t top_k; float top_p, min_p, typical; float repeat_penalty, presence_penalty, frequency_penalty;
    int32_t penalty_last; uint64_t seed""")
# `text` has no zero behind it, so it is an address here.
SpeechPiece = _structure("nm_speech_piece", "nm_speech_kind kind; const void *text; size_t length; int32_t call; const char *id; const char *name")
SpeechOptions = _structure("nm_speech_options", "const char *template_text; const char *tools; bool reasoning_open; uint64_t seed; bool marks; bool must_call")
DatasetOptions = _structure("nm_dataset_options", """const char *const *sources; size_t n_sources; const char *rows; size_t rows_length; const char *validation;
    int32_t least_validation; int32_t most_validation; const char *map; const char *format; const char *template_text; const char *template_kwargs;
    nm_train_on train_on; int32_t max_length; bool skip_bad; uint64_t seed; int64_t now; uint64_t memory; nm_progress_fn progress;
    void *progress_arg""")
Sample = _structure("nm_sample", "const int32_t *ids; const uint8_t *mask; int32_t count, trained; const char *file; uint64_t line; int32_t source")
OrderOptions = _structure("nm_order_options", "int32_t batch; double epochs; int64_t max_steps; uint64_t seed; bool in_order")
OrderStep = _structure("nm_order_step", "const uint32_t *samples; size_t count; const uint32_t *parts; size_t n_parts")
TrainerOptions = _structure("nm_trainer_options", """nm_compute compute; int32_t rank; float alpha; bool rslora; bool dora; const char *targets; const char *init;
    bool force; const nm_stack *below; nm_start start; float dropout; const char *optimizer; float lr, lr_ratio; float weight_decay; float clip;
    nm_schedule schedule; int64_t warmup, steps; uint64_t seed; int32_t max_length; int32_t anchor; float ease; int32_t batch; bool no_packing; uint64_t memory; bool beside;
    const volatile sig_atomic_t *cancel""")
TrainReport = _structure("nm_train_report", """int64_t step; double loss, grad_norm; double anchor; float lr; int64_t supervised, tokens; double seconds;
    double anchor_seconds, update_seconds""")
SpeechFn = _callback("nm_speech_fn", "nm_err", "void *", "const nm_speech_piece *")

# ---- Functions ------------------------------------------------------------------------------------------------------------------------

PROTOTYPES = """
const char *nm_error_text(void);
const char *nm_version(void);
nm_err nm_set_threads(int threads);
int nm_threads(void);
void nm_free(void *pointer);
nm_err nm_model_open(nm_model **out, const char *path, const nm_model_options *options);
void nm_model_close(nm_model **model);
const nm_model_info *nm_model_describe(const nm_model *model);
const nm_tokenizer *nm_model_tokenizer(const nm_model *model);
const char *nm_model_template(const nm_model *model, const char *name);
size_t nm_model_meta_find(const nm_model *model, const char *key);
bool nm_model_meta_integer(const nm_model *model, size_t index, uint64_t item, int64_t *value);
nm_err nm_tokenize(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, size_t *count);
nm_err nm_tokenize_guarded(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const size_t *guards, size_t n_guards, int32_t **ids, size_t *count);
nm_err nm_tokenize_within(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const nm_tokenize_options *options, int32_t **ids, size_t *count);
nm_err nm_detokenize(const nm_tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags, char **text, size_t *length);
nm_err nm_decoder_open(nm_decoder **out, const nm_tokenizer *tokenizer, unsigned flags);
void nm_decoder_close(nm_decoder **decoder);
nm_err nm_decoder_push(nm_decoder *decoder, int32_t id, const char **text, size_t *length);
int32_t nm_token_count(const nm_tokenizer *tokenizer);
int32_t nm_token_bos(const nm_tokenizer *tokenizer);
int32_t nm_token_eos(const nm_tokenizer *tokenizer);
int32_t nm_token_pad(const nm_tokenizer *tokenizer);
int32_t nm_token_unk(const nm_tokenizer *tokenizer);
bool nm_token_ends(const nm_tokenizer *tokenizer, int32_t id);
const char *nm_token_raw(const nm_tokenizer *tokenizer, int32_t id);
bool nm_token_is_control(const nm_tokenizer *tokenizer, int32_t id);
nm_err nm_template_open(nm_template **out, const char *source, size_t length, const char *name);
void nm_template_close(nm_template **tmpl);
nm_err nm_template_render(const nm_template *tmpl, const char *vars, size_t vars_length, const nm_template_options *options, char **text, size_t *length);
nm_err nm_adapter_open(nm_adapter **out, const nm_model *model, const char *path, bool force);
void nm_adapter_close(nm_adapter **adapter);
const nm_adapter_info *nm_adapter_describe(const nm_adapter *adapter);
nm_err nm_stack_open(nm_stack **out, const nm_model *model, const nm_adapter *const *adapters, const float *scales, size_t count);
void nm_stack_close(nm_stack **stack);
nm_err nm_session_open(nm_session **out, const nm_model *model, const nm_session_options *options);
void nm_session_close(nm_session **session);
int32_t nm_session_truncate(nm_session *session, int32_t n);
int32_t nm_session_length(const nm_session *session);
int32_t nm_session_context(const nm_session *session);
const int32_t *nm_session_tokens(const nm_session *session);
nm_err nm_runner_open(nm_runner **out, const nm_model *model, const nm_runner_options *options);
void nm_runner_close(nm_runner **runner);
nm_err nm_run(nm_runner *runner, nm_item *items, size_t count, const volatile sig_atomic_t *cancel);
nm_sampling nm_sampling_defaults(const nm_model *model);
nm_err nm_sampler_open(nm_sampler **out, const nm_sampling *sampling, int32_t n_vocab);
void nm_sampler_close(nm_sampler **sampler);
nm_err nm_sampler_draw(nm_sampler *sampler, const float *logits, int32_t *token);
nm_err nm_sampler_draw_within(nm_sampler *sampler, const float *logits, nm_constraint *constraint, int32_t *token);
nm_err nm_sampler_accept(nm_sampler *sampler, int32_t token);
nm_err nm_stop_open(nm_stop **out, const char *const *strings, size_t count);
void nm_stop_close(nm_stop **stop);
nm_err nm_stop_push(nm_stop *stop, const char *text, size_t length, const char **out, size_t *out_length, bool *stopped);
nm_err nm_grammar_open(nm_grammar **out, const char *gbnf, size_t length);
void nm_grammar_close(nm_grammar **grammar);
nm_err nm_schema_grammar(char **gbnf, size_t *gbnf_length, const char *schema, size_t length);
nm_err nm_constraint_open(nm_constraint **out, const nm_grammar *grammar, const nm_tokenizer *tokenizer);
void nm_constraint_close(nm_constraint **constraint);
nm_err nm_constraint_accept(nm_constraint *constraint, int32_t id);
bool nm_constraint_ended(nm_constraint *constraint);
nm_err nm_speech_open(nm_speech **out, const nm_speech_options *options);
void nm_speech_close(nm_speech **speech);
nm_err nm_speech_push(nm_speech *speech, const char *text, size_t length, nm_speech_fn give, void *arg);
bool nm_speech_reasons(const nm_speech *speech);
bool nm_speech_is_mark(const char *token_text);
bool nm_speech_reasoning_open(const char *prompt, size_t length);
nm_err nm_speech_grammar(char **gbnf, size_t *gbnf_length, const char *template_text, const char *tools, const char *choice, bool one, bool reasoning_open);
nm_err nm_dataset_open(nm_dataset **out, const nm_model *model, const nm_dataset_options *options);
void nm_dataset_close(nm_dataset **dataset);
size_t nm_dataset_count(const nm_dataset *dataset, nm_split split);
nm_sample nm_dataset_sample(const nm_dataset *dataset, nm_split split, size_t index);
const char *nm_format_template(const char *format);
nm_err nm_order_open(nm_order **out, const nm_dataset *dataset, const nm_order_options *options);
void nm_order_close(nm_order **order);
int64_t nm_order_steps(const nm_order *order);
nm_err nm_order_step_at(nm_order *order, int64_t step, nm_order_step *out);
nm_err nm_optimizer_rate(const char *name, float *rate);
nm_err nm_trainer_open(nm_trainer **out, const nm_model *model, const nm_trainer_options *options);
void nm_trainer_close(nm_trainer **trainer);
nm_err nm_trainer_step(nm_trainer *trainer, const nm_sample *samples, size_t count, const nm_sample *anchor, size_t anchors, float anchor_weight, nm_train_report *report, const volatile sig_atomic_t *cancel);
nm_err nm_trainer_save(const nm_trainer *trainer, const char *folder, const nm_adapter_card *card);
"""

# Values of the header's enumerations and flags that are used here.
CONSTANTS = {
    "NM_OK": 0, "NM_FAILED": 1, "NM_USAGE": 2, "NM_NOT_FOUND": 3, "NM_BAD_FILE": 4, "NM_NO_MEMORY": 5, "NM_REFUSED": 6, "NM_INTERRUPTED": 130,
    "NM_TEXT_SPECIAL": 1, "NM_TEXT_BOS": 2, "NM_TEXT_PROMPT": 8, "NM_TEXT_CONTINUES": 16, "NM_KV_F16": 0, "NM_KV_F32": 1, "NM_KV_Q8_0": 2,
    "NM_COMPUTE_DEFAULT": 0, "NM_COMPUTE_F32": 1, "NM_WANT_NONE": 0, "NM_WANT_LAST": 1, "NM_WANT_ALL": 2, "NM_SPEECH_CONTENT": 0, "NM_SPEECH_REASONING": 1,
    "NM_SPEECH_CALL": 2, "NM_SPEECH_ARGUMENTS": 3, "NM_TRAIN_ASSISTANT": 0, "NM_TRAIN_LAST": 1, "NM_TRAIN_ALL": 2, "NM_SPLIT_TRAIN": 0,
    "NM_SCHEDULE_COSINE": 0, "NM_SCHEDULE_LINEAR": 1, "NM_SCHEDULE_CONSTANT": 2, "NM_START_UNIFORM": 0, "NM_START_GAUSSIAN": 1, "NM_START_PISSA": 2}
globals().update({name[3:]: value for name, value in CONSTANTS.items()})


def _candidates():
    """NOMOAT_LIBRARY alone if it is set; else beside this package, then what the system's loader finds."""
    given = os.environ.get("NOMOAT_LIBRARY")
    if given:
        return [given]
    here = os.path.dirname(os.path.abspath(__file__))
    names = ["libnomoat.so.0", "libnomoat.so", "libnomoat.0.dylib", "libnomoat.dylib"]
    beside = [path for path in (os.path.join(here, name) for name in names) if os.path.exists(path)]
    found = ctypes.util.find_library("nomoat")
    return beside + names[:1] + ([found] if found else [])


def _load():
    why = "there is none"
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            break
        except OSError as error:
            why = str(error)
    else:
        raise ImportError("libnomoat cannot be loaded (%s): install nomoat, or set NOMOAT_LIBRARY to the path of libnomoat.so" % why)
    for line in PROTOTYPES.strip().splitlines():
        head, arguments = re.fullmatch(r"(.*?)\((.*)\);", line).groups()
        result, name = _parted(head)
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError("%s has no %s: it is not the libnomoat %s that this package needs" % (path, name, VERSION)) from None
        function.restype = _ctype(result.strip())
        function.argtypes = [] if arguments == "void" else [_ctype(_parted(a)[0].strip()) for a in arguments.split(",")]
    version = library.nm_version().decode()
    if version.split(".")[:2] != VERSION.split(".")[:2]:
        raise ImportError("%s is version %s, and this package needs %s" % (path, version, VERSION))
    return library


lib = _load()

# ---- Errors ---------------------------------------------------------------------------------------------------------------------------


class Error(Exception):
    """What the library says went wrong, in one line. `code` is nm_err's, which is also the exit code of the program."""
    code = CONSTANTS["NM_FAILED"]


class Failed(Error):
    """The work itself failed: input or output, a NaN, a full disk."""


class Usage(Error, ValueError):
    """Something was asked that makes no sense, or does not fit the context."""
    code = CONSTANTS["NM_USAGE"]


class NotFound(Error, FileNotFoundError):
    """No such file, model or name."""
    code = CONSTANTS["NM_NOT_FOUND"]

    def __str__(self):
        return str(self.args[0]) if self.args else ""


class BadFile(Error):
    """A file is corrupt, cut or not of the expected kind."""
    code = CONSTANTS["NM_BAD_FILE"]


class NoMemory(Error, MemoryError):
    """There is not enough memory."""
    code = CONSTANTS["NM_NO_MEMORY"]


class Refused(Error):
    """Well-formed, but not to be used here: an adapter of another model, a model without a chat template."""
    code = CONSTANTS["NM_REFUSED"]


class Interrupted(Error):
    """The work was stopped, as by Stream.cancel()."""
    code = CONSTANTS["NM_INTERRUPTED"]


_by_code = {kind.code: kind for kind in (Failed, Usage, NotFound, BadFile, NoMemory, Refused, Interrupted)}


def check(code):
    """Raises what a result of the library's means. To be called on the thread that made the call: the text is that thread's."""
    if code:
        raise _by_code.get(code, Failed)(lib.nm_error_text().decode("utf-8", "replace") or "error %d" % code)


class Guard:
    """Carries what a Python callback raises across the C code that called it: ctypes alone would print it and go on.

    callback = guard(kind, function, failed) gives the callback, which returns `failed` once something was raised; guard.check(code) raises it."""

    def __init__(self):
        self.raised = None

    def __call__(self, kind, function, failed=CONSTANTS["NM_FAILED"]):
        def guarded(*arguments):
            try:
                return function(*arguments) or 0
            except BaseException as error:      # KeyboardInterrupt as well: it is raised again by check
                self.raised = self.raised or error
                return failed
        return kind(guarded)

    def check(self, code):
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised
        check(code)


def patiently(cancel, work):
    """work(), which may stay in the library for long, such that Ctrl-C ends it: the main thread, which alone hears of it, waits while another thread works, and then
    sets `cancel` (a c_int that the library looks at). On other threads just work(). So no callback runs on the main thread, where what Ctrl-C raises would be lost between
    C and Python."""
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    claim, done, result, raised = threading.Lock(), threading.Event(), [], []

    def run():
        if not claim.acquire(blocking=False):       # another one has it: Ctrl-C came while that was started
            return
        try:
            result.append(work())
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()
    interrupted, started = None, False
    while True:
        try:
            if not started:
                _thread.start_new_thread(run, ())
                started = True
            done.wait()
            break
        except BaseException as error:      # what a signal's handler raises
            if isinstance(error, RuntimeError) and not started:
                raise                       # no thread can be had
            interrupted, cancel.value = error, 1
    if interrupted is not None:
        raise interrupted
    if raised:
        raise raised[0]
    return result[0]


# ---- Who owns what --------------------------------------------------------------------------------------------------------------------


class _Held:
    """An object of the library's, and how many hold it: its owner, those made from it, calls under way. The last one to go closes it.

    A collector's finalizer may run in the middle of anything, so there is no lock: each list changes by single operations that Python makes whole."""

    def __init__(self, pointer, close, parents):
        self.pointer, self.close, self.parents = pointer, close, parents
        self.holders, self.open, self.shut = [True], [True], False

    def hold(self):
        self.holders.append(True)
        if self.shut:
            self.drop()
            raise ValueError("this has been closed")

    def drop(self):
        self.holders.pop()
        if self.holders:
            return
        try:
            self.open.pop()
        except IndexError:
            return
        self.close(ctypes.byref(self.pointer))
        for parent in self.parents:
            parent.drop()

    def end(self):
        self.shut = True
        self.drop()


class Owned:
    """Owns an object of the library's: closed by close(), as often as one likes, by `with`, or with the last reference to it. What was made from it, and calls that are
    under way on other threads, keep it alive until they end."""

    def __init__(self, pointer, close, *parents):
        taken = []
        try:
            for parent in parents:
                parent._held.hold()
                taken.append(parent._held)
        except BaseException:
            close(ctypes.byref(pointer))
            for held in taken:
                held.drop()
            raise
        self._held = _Held(pointer, close, taken)
        self._end = weakref.finalize(self, self._held.end)

    def close(self):
        self._end()

    @property
    def closed(self):
        return self._held.shut

    @contextlib.contextmanager
    def used(self):
        """The pointer, good for as long as the `with` lasts."""
        held = self._held
        held.hold()
        try:
            yield held.pointer
        finally:
            held.drop()


def opened(kind, *arguments, parents=()):
    """nm_KIND_open, owned."""
    pointer = ctypes.c_void_p()
    check(getattr(lib, "nm_%s_open" % kind)(ctypes.byref(pointer), *arguments))
    return Owned(pointer, getattr(lib, "nm_%s_close" % kind), *parents)


# ---- Small things ---------------------------------------------------------------------------------------------------------------------


def utf8(text):
    return text if isinstance(text, (bytes, type(None))) else os.fsencode(text) if isinstance(text, os.PathLike) else str(text).encode("utf-8")


def taken_text(function, *arguments, first=False):
    """The bytes that function(..., &text, &length) allocates; first: function(&text, &length, ...)."""
    text, length = ctypes.c_void_p(), ctypes.c_size_t()
    taken = (ctypes.byref(text), ctypes.byref(length))
    check(function(*taken, *arguments) if first else function(*arguments, *taken))
    try:
        return ctypes.string_at(text, length.value)
    finally:
        lib.nm_free(text)


def taken_ids(function, *arguments):
    """The same of token ids."""
    ids, count = ctypes.c_void_p(), ctypes.c_size_t()
    check(function(*arguments, ctypes.byref(ids), ctypes.byref(count)))
    try:
        return list((ctypes.c_int32 * count.value).from_address(ids.value)) if count.value else []
    finally:
        lib.nm_free(ids)
