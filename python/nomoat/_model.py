"""Models: opening them, with adapters; what they are asked."""
import contextlib
import ctypes
import json
import math
import operator
import os
import threading

from . import _library as c
from ._library import lib
from ._prompt import Writer, plain
from ._store import find_adapter, find_model
from ._stream import Stream, sampling

_KV = {"f16": c.KV_F16, "f32": c.KV_F32, "q8_0": c.KV_Q8_0}
_COMPUTE = {"default": c.COMPUTE_DEFAULT, "f32": c.COMPUTE_F32}
_TOGETHER = 16      # texts that are embedded in the same passes
_POOLING_LAST = 3   # general.architecture.pooling_type, as llama.cpp numbers them


def _choice(what, known, value):
    if value not in known:
        raise c.Usage("%s=%r: there are %s" % (what, value, ", ".join(repr(name) for name in known)))
    return known[value]


def _open_session(weights, stack, options):
    with contextlib.ExitStack() as held:
        model = held.enter_context(weights.used())
        options.stack = held.enter_context(stack.used()) if stack is not None else None
        return c.opened("session", model, ctypes.byref(options), parents=(weights,) if stack is None else (weights, stack))


def _open_runner(weights, options):
    with weights.used() as model:
        return c.opened("runner", model, ctypes.byref(c.RunnerOptions(compute=options.compute)), parents=(weights,))


class _Seat:
    """A session and a runner: what one answer at a time works with."""

    def __init__(self, weights, stack, options):
        self.session = _open_session(weights, stack, options)
        self.runner = _open_runner(weights, options)
        with self.session.used() as session:
            self.context = lib.nm_session_context(session)

    def close(self):
        self.session.close()
        self.runner.close()

    def held(self):
        with self.session.used() as session:
            n = lib.nm_session_length(session)
            return lib.nm_session_tokens(session)[:n] if n else []

    def run(self, ids, on_logits, cancel, guard):
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        with self.session.used() as session, self.runner.used() as runner:
            item = c.Item(session=session, tokens=tokens, count=len(ids), want=c.WANT_LAST, on_logits=on_logits)
            guard.check(lib.nm_run(runner, ctypes.byref(item), 1, ctypes.byref(cancel)))

    def prefill(self, ids, on_logits, cancel, guard):
        """Keeps of the session what the prompt begins with, and runs the rest: at least one token, for its logits."""
        same = _common(self.held(), ids[:-1])
        with self.session.used() as session:
            if same < lib.nm_session_length(session):
                same = lib.nm_session_truncate(session, same)
        self.run(ids[same:], on_logits, cancel, guard)


def _common(a, b):
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


def _open_weights(path, keep):
    """The model's file, open. Ctrl-C ends it, as it ends all that takes long."""
    cancel, guard = ctypes.c_int(0), c.Guard()
    progress = guard(c.ProgressFn, lambda unused, done, total: cancel.value != 0, True)
    options = c.ModelOptions(keep=keep, progress=progress)

    def work():
        try:
            return c.opened("model", os.fsencode(path), ctypes.byref(options))
        finally:
            guard.check(c.OK)
    return c.patiently(cancel, work)


class Model:
    """A model, open, maybe with adapters.

        with nomoat.Model("model.gguf", adapters=[("style", 0.8)]) as m:
            print(m.chat("Why is the sea salt?"))

    path      a GGUF file (of a split, the first), or a name in the program's store, as `nomoat list` shows it
    adapters  each a path or a name, or a pair of that and a scale; in this order
    context   most tokens of a conversation; 0 = as many as the model was trained for
    template  the source of a chat template in place of the model's
    kv        how the cache is kept: "f16", "f32", "q8_0"
    compute   "default", or "f32": exactly dequantised weights and fp32 everywhere
    force     also take adapters that were made for other weights
    keep      leave packed weights in the user's cache folder, so that the next start is quicker

    Any number of threads may use one model at a time: each answer under way has a session of its own, and the library's one pool of compute threads serves them in
    turn. While the library computes, other Python threads run. The session of the answer that ended last is kept, so that the next turn of a conversation only reads
    what is new. close() may come at any time: what is under way still ends well, and the memory goes with the last of it."""

    def __init__(self, path, adapters=(), *, context=0, template=None, kv="f16", compute="default", force=False, keep=False):
        options = c.SessionOptions(context=context, kv=_choice("kv", _KV, kv), compute=_choice("compute", _COMPUTE, compute))
        self._start(_open_weights(find_model(path), keep), options, adapters, template, force)

    def _start(self, weights, options, adapters, template, force):
        """The weights are closed when the last model over them is (with_adapters); all else is this model's own."""
        self._weights, self._options, self._stack, self._kept, self._lock = weights, options, None, None, threading.Lock()
        with weights.used() as model:
            self._tokenizer = lib.nm_model_tokenizer(model)
            if not self._tokenizer:
                raise c.Refused("this model's file has no tokenizer: text can be neither read nor written")
            self._tell(lib.nm_model_describe(model).contents)
            taught = self._open_stack(model, adapters, force, template)
            self._open_template(model, template, taught)

    def _tell(self, info):
        self.name, self.architecture, self.file_type = ((text or b"").decode("utf-8", "replace") for text in (info.name, info.architecture, info.file_type))
        self.width, self.layers, self.vocabulary, self.trained_context = info.n_embd, info.n_layer, info.n_vocab, info.n_context
        self.parameters = info.n_parameters

    def _open_stack(self, model, adapters, force, template):
        """Opens the adapters; gives the format that they were taught in, b"" for the model's own template."""
        if isinstance(adapters, (str, os.PathLike)):
            adapters = [adapters]
        pairs = [(a, 1.0) if isinstance(a, (str, os.PathLike)) else tuple(a) for a in adapters]
        held, formats = [], set()
        for path, _ in pairs:
            held.append(c.opened("adapter", model, os.fsencode(find_adapter(path)), force, parents=(self._weights,)))
            with held[-1].used() as adapter:
                formats.add(lib.nm_adapter_describe(adapter).contents.prompt_format or b"")
        formats.discard(b"")
        if len(formats) > 1 and template is None:
            raise c.Refused("these adapters were taught in different formats (%s): give template=" % ", ".join(sorted(f.decode() for f in formats)))
        if pairs:
            pointers = (ctypes.c_void_p * len(held))(*(owned._held.pointer.value for owned in held))
            scales = (ctypes.c_float * len(pairs))(*(scale for _, scale in pairs))
            self._stack = c.opened("stack", model, pointers, scales, len(pairs), parents=(self._weights, *held))
        return formats.pop() if formats else b""

    def _open_template(self, model, template, taught):
        source = c.utf8(template) if template is not None else lib.nm_format_template(taught) if taught else lib.nm_model_template(model, None)
        self._source, self._template = source, None
        if source is not None:
            self._template = c.opened("template", source, len(source), b"the chat template")
        self._writer = Writer(self._tokenizer, self._template)

    def with_adapters(self, adapters, *, template=None, force=False):
        """Another model over the same weights, which are not loaded again, with these adapters in place of this one's. Takes milliseconds; either may be closed first."""
        other = Model.__new__(Model)
        o = self._options
        other._start(self._used(), c.SessionOptions(context=o.context, kv=o.kv, compute=o.compute), adapters, template, force)
        return other

    def close(self):
        """Frees the model; as often as one likes. Answers under way still end well, and keep what they need until then."""
        with self._lock:
            kept, self._kept, self._weights = self._kept, None, None
        for owned in (kept, self._stack, self._template):
            if owned is not None:
                owned.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _used(self):
        weights = self._weights
        if weights is None:
            raise ValueError("this model has been closed")
        return weights

    # ---- Answers

    def _take_seat(self):
        """The one that is kept, or a new one."""
        weights = self._used()
        with self._lock:
            kept, self._kept = self._kept, None
        return kept or _Seat(weights, self._stack, self._options)

    def _give_back(self, seat):
        with self._lock:
            if self._weights is not None:
                self._kept, seat = seat, self._kept
        if seat is not None:
            seat.close()

    def _grammar(self, prompt, schema, grammar, tools, tool_choice, one_call):
        """What binds the answer, and whether it binds reasoning as well."""
        if isinstance(tool_choice, dict):       # as OpenAI writes a function's name
            tool_choice = (tool_choice.get("function") or {}).get("name")
        name = tool_choice if tool_choice not in (None, "auto", "none", "required") else None
        if sum(given is not None for given in (schema, grammar)) + bool(name or tool_choice == "required") > 1:
            raise c.Usage("schema=, grammar= and a tool_choice that asks for a call exclude each other: give one of them")
        if grammar is not None:
            text = c.utf8(grammar)
        elif schema is not None:
            given = None if schema is True else c.utf8(schema if isinstance(schema, (str, bytes)) else json.dumps(schema))
            text = c.taken_text(lib.nm_schema_grammar, given, len(given or b""), first=True)
        elif name or tool_choice == "required":
            if not tools:
                raise c.Usage("tool_choice= asks for a call, and there are no tools")
            text = c.taken_text(lib.nm_speech_grammar, self._source, c.utf8(json.dumps(tools)), c.utf8(name), bool(one_call or name),
                                lib.nm_speech_reasoning_open(prompt, len(prompt)), first=True)
        else:
            return None, False
        return c.opened("grammar", text, len(text)), bool(name or tool_choice == "required")

    def stream(self, messages, *, system=None, tools=None, tool_choice="auto", one_call=False, schema=None, grammar=None, think=None, template_kwargs=None, stop=(),
               max_tokens=None, everything=False, **settings):
        """An iterator over the pieces of an answer as they come, each a string; Stream tells more.

        messages     a question, or a list of {"role": ..., "content": ...}, as OpenAI's
        system       a system message put first
        tools        OpenAI's list of tools; calls then stand in `answer.calls`
        tool_choice  "auto"; "none"; "required" or a function's name: the answer must call (one_call=True: once)
        schema       a JSON schema (a dict, or text) that the answer must follow; True: any JSON object
        grammar      the same as a grammar in GBNF
        think        True or False: whether a model that can is to reason first; None: as its template has it
        stop         a string, or several, before which the answer ends
        max_tokens   most tokens of the answer
        everything   also give pieces of reasoning and of calls, told by piece.kind
        settings     temperature, top_k, top_p, min_p, typical, repeat_penalty, presence_penalty, frequency_penalty, penalty_last, seed; the rest as the model has it
        """
        with self._used().used():       # though it be closed meanwhile
            return self._begin_chat(messages, system, tools, tool_choice, one_call, schema, grammar, think, template_kwargs, stop, max_tokens, everything, settings)

    def _begin_chat(self, messages, system, tools, tool_choice, one_call, schema, grammar, think, template_kwargs, stop, max_tokens, everything, settings):
        if self._template is None:
            raise c.Refused("%s has no chat template: give template= to Model, or use complete" % self.name)
        if tool_choice == "none":
            tools = None
        prompt, ids = self._writer.write(plain(messages, system), tools, think, template_kwargs)
        bound, whole = self._grammar(prompt, schema, grammar, tools, tool_choice, one_call)
        speech = c.SpeechOptions(template_text=self._source, tools=c.utf8(json.dumps(tools)) if tools else None,
                                 reasoning_open=lib.nm_speech_reasoning_open(prompt, len(prompt)))
        return self._begin(ids, bound, whole, speech, stop, 0, max_tokens, everything, settings)

    def chat(self, messages, **options):
        """The whole answer: a string that also has `reasoning`, `calls`, `finish_reason`, counts of tokens (Answer). Options as for stream."""
        return self._whole(self.stream(messages, **options))

    def complete(self, text, *, grammar=None, schema=None, stop=(), max_tokens=None, **settings):
        """What comes behind a text, without any template: an Answer. Special tokens that the text names are read as such."""
        return self._whole(self.stream_text(text, grammar=grammar, schema=schema, stop=stop, max_tokens=max_tokens, **settings))

    def stream_text(self, text, *, grammar=None, schema=None, stop=(), max_tokens=None, **settings):
        """The same as pieces."""
        data = c.utf8(text)
        with self._used().used():
            ids = c.taken_ids(lib.nm_tokenize, self._tokenizer, data, len(data), c.TEXT_PROMPT)
            bound, _ = self._grammar(data, schema, grammar, None, None, False)
            return self._begin(ids, bound, False, None, stop, 0 if bound else c.TEXT_CONTINUES, max_tokens, False, settings)

    def _begin(self, ids, bound, whole, speech, stop, flags, max_tokens, everything, settings):
        if not ids:
            raise c.Usage("the prompt is empty: give some text")
        weights = self._used()
        with weights.used() as model:
            how = sampling(model, settings)
        if speech is not None:
            speech.seed = how.seed
        seat = self._take_seat()
        try:
            return Stream(self, weights, seat, ids, how, bound, whole, speech, [stop] if isinstance(stop, str) else list(stop), flags, max_tokens, everything)
        except BaseException:
            self._give_back(seat)
            raise

    @staticmethod
    def _whole(stream):
        with stream:
            for _ in stream:
                pass
            return stream.answer

    # ---- Tokens and vectors

    def tokenize(self, text, *, special=False, bos=False):
        """The ids of a text (str or bytes). special: special tokens that it names become their ids; bos: begin as a text of this model begins."""
        weights, data = self._used(), c.utf8(text)
        with weights.used():
            return c.taken_ids(lib.nm_tokenize, self._tokenizer, data, len(data), (c.TEXT_SPECIAL if special else 0) | (c.TEXT_BOS if bos else 0))

    def detokenize(self, ids, *, special=False):
        """The text of ids; special: control tokens are shown. Bytes that are no UTF-8 become U+FFFD."""
        weights, ids = self._used(), list(ids)
        if any(not 0 <= id < self.vocabulary for id in ids):
            raise c.Usage("an id is outside the vocabulary of %d" % self.vocabulary)
        with weights.used():
            return c.taken_text(lib.nm_detokenize, self._tokenizer, (ctypes.c_int32 * len(ids))(*ids), len(ids), c.TEXT_SPECIAL if special else 0).decode("utf-8", "replace")

    def embed(self, texts):
        """A vector of length 1 for each text, as lists of floats: the mean over its tokens of what the model's last norm puts out (or the last token's, where the model's
        file says so). A single string gives a single vector. What /v1/embeddings of `nomoat serve` gives."""
        if isinstance(texts, str):
            return self.embed([texts])[0]
        texts, vectors = list(texts), []
        for at in range(0, len(texts), _TOGETHER):
            vectors += self._embed_some([self.tokenize(text, bos=True) for text in texts[at:at + _TOGETHER]], at)
        return vectors

    def _embed_some(self, lists, first):
        if [] in lists:
            raise c.Usage("text %d is empty: there is nothing to embed" % (first + lists.index([])))
        weights = self._used()
        cancel, guard, sums = ctypes.c_int(0), c.Guard(), [[0.0] * self.width for _ in lists]
        with weights.used() as model:
            last = self._pools_last(model)

        def adder(i):
            def add(unused, index, hidden, n):
                if not last or index + 1 == len(lists[i]):
                    sums[i] = list(map(operator.add, sums[i], hidden[:n]))
            return guard(c.HiddenFn, add)
        arrays, adders, owned = [(ctypes.c_int32 * len(ids))(*ids) for ids in lists], [adder(i) for i in range(len(lists))], []
        try:
            for _ in lists:
                owned.append(_open_session(weights, self._stack, self._options))
            items = (c.Item * len(lists))(*(c.Item(session=session._held.pointer, tokens=tokens, count=len(tokens), want=c.WANT_ALL, on_hidden=add)
                                            for session, tokens, add in zip(owned, arrays, adders)))
            runner = _open_runner(weights, self._options)
            owned.append(runner)
            c.patiently(cancel, lambda: guard.check(lib.nm_run(runner._held.pointer, items, len(lists), ctypes.byref(cancel))))
        finally:
            for thing in owned:
                thing.close()
        return [_unit(vector) for vector in sums]

    def _pools_last(self, model):
        value = ctypes.c_int64()
        at = lib.nm_model_meta_find(model, ("%s.pooling_type" % self.architecture).encode())
        return at != ctypes.c_size_t(-1).value and lib.nm_model_meta_integer(model, at, 0, ctypes.byref(value)) and value.value == _POOLING_LAST

    # ---- Teaching

    def tune(self, rows, out, **options):
        """Teaches an adapter and writes it to the folder `out`: nomoat.tune tells how."""
        from ._tune import tune
        return tune(self, rows, out, **options)


def _unit(vector):
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length > 0 else vector
