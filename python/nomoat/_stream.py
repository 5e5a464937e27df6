"""One answer under way: the draw of its next token, and the way from tokens to pieces of text."""
import collections
import ctypes
import json
import random
import weakref

from . import _library as c
from ._library import lib

KINDS = {c.SPEECH_CONTENT: "content", c.SPEECH_REASONING: "reasoning", c.SPEECH_CALL: "call", c.SPEECH_ARGUMENTS: "arguments"}


class Piece(str):
    """A piece of an answer as it comes: a string. `kind` is "content"; with everything=True also "reasoning", "call" (a call begins: its `name`, `id` and number
    `call`; the string is empty) and "arguments" (more of that call's arguments)."""

    def __new__(cls, text, kind="content", call=None, id=None, name=None):
        self = super().__new__(cls, text)
        self.kind, self.call, self.id, self.name = kind, call, id, name
        return self


class Call:
    """A call of a tool: `id`, `name`, `text` (the arguments as JSON, maybe cut), `arguments` (what that text says; None where it was cut)."""

    def __init__(self, id, name):
        self.id, self.name, self.text = id, name, ""

    @property
    def arguments(self):
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def __repr__(self):
        return "Call(%s, %s)" % (self.name, self.text)


class Answer(str):
    """A whole answer: a string, the text alone. Besides: `text` (the same), `reasoning`, `calls`, `finish_reason` ("stop", "length" or "tool_calls"), `prompt_tokens`,
    `completion_tokens`, `ids` (the tokens), `seed`, and `message`, to be put behind the messages that were answered."""

    def __new__(cls, text, reasoning="", calls=(), finish_reason="stop", prompt_tokens=0, ids=(), seed=0):
        self = super().__new__(cls, text)
        self.reasoning, self.calls, self.finish_reason, self.seed = reasoning, list(calls), finish_reason, seed
        self.prompt_tokens, self.completion_tokens, self.ids = prompt_tokens, len(ids), list(ids)
        return self

    @property
    def text(self):
        return str(self)

    @property
    def message(self):
        message = {"role": "assistant", "content": str(self)}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}} for call in self.calls]
        return message


def sampling(model, given):
    """nm_sampling of a model, overlaid by what is given."""
    out = lib.nm_sampling_defaults(model)
    known = [field for field, _ in c.Sampling._fields_]
    for name, value in given.items():
        if name not in known:
            raise TypeError("%s is no setting of sampling: there are %s" % (name, ", ".join(known)))
        if value is not None:
            setattr(out, name, value)
    if given.get("seed") is None:
        out.seed = random.SystemRandom().randrange(2 ** 32)
    return out


class Stream:
    """An iterator over the pieces of an answer. When it has ended, `answer` holds the whole; before, what there is so far.

    Belongs to one thread at a time, but cancel() may be called on any. Close it, or use it in a `with`, if you leave before the end: what it holds is given back at once,
    and otherwise when it is collected."""

    def __init__(self, model, weights, seat, ids, how, grammar, bound_reasoning, speech, stop, flags, max_tokens, everything):
        self._model, self._seat, self._ids, self._everything = model, seat, ids, everything
        self._most = len(ids) + (max_tokens if max_tokens is not None and max_tokens >= 0 else 2 ** 31)
        self._binds_reasoning, self._raised = bound_reasoning, c.Guard()
        self._cancel, self._drawn = ctypes.c_int(0), ctypes.c_int32(-1)
        self._pieces, self._parts = collections.deque(), {"content": [], "reasoning": []}
        self._calls, self._out, self._finish, self._stopped, self._seed = [], [], None, False, how.seed
        tokenizer = model._tokenizer
        self._parsed = speech is not None
        self._sampler = c.opened("sampler", ctypes.byref(how), model.vocabulary)
        self._constraint = None
        if grammar is not None:
            with grammar.used() as pointer:
                self._constraint = c.opened("constraint", pointer, tokenizer, parents=(grammar, weights))
        self._decoder = c.opened("decoder", tokenizer, flags, parents=(weights,))
        strings = [c.utf8(text) for text in stop]
        self._stop = c.opened("stop", (ctypes.c_char_p * len(strings))(*strings), len(strings))
        self._speech = c.opened("speech", ctypes.byref(speech)) if self._parsed else None
        self._on_logits = self._raised(c.LogitsFn, _drawer(self._sampler._held.pointer, self._drawn, self))
        self._give = self._raised(c.SpeechFn, _giver(self._pieces))
        self._return = weakref.finalize(self, model._give_back, seat)

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __next__(self):
        while True:
            while not self._pieces:
                if self._finish is not None or not self._return.alive:
                    self.close()
                    raise StopIteration
                try:
                    c.patiently(self._cancel, self._step)
                except BaseException:
                    self.close()
                    raise
            piece = self._pieces.popleft()
            self._note(piece)
            if self._everything or piece.kind == "content":
                return piece

    def cancel(self):
        """Ends the work, from any thread: the next piece is an Interrupted."""
        self._cancel.value = 1

    def close(self):
        """Ends the answer where it stands; as often as one likes. `answer` stays."""
        self._return()      # the session, for the next answer to go on from
        for owned in (self._speech, self._stop, self._decoder, self._constraint, self._sampler):
            if owned is not None:
                owned.close()

    @property
    def answer(self):
        text, reasoning = "".join(self._parts["content"]), "".join(self._parts["reasoning"])
        reason = "tool_calls" if self._finish == "stop" and self._calls else self._finish
        return Answer(text, reasoning, self._calls, reason, len(self._ids) - len(self._out), self._out, self._seed)

    # ---- From a token to pieces

    def _note(self, piece):
        if piece.kind == "call":
            self._calls.append(Call(piece.id, piece.name))
        elif piece.kind == "arguments":
            self._calls[piece.call].text += piece
        else:
            self._parts[piece.kind].append(piece)

    def _speak(self, text):
        """None: the end."""
        if self._speech is None:
            if text:
                self._pieces.append(Piece(text.decode("utf-8", "replace")))
            return
        with self._speech.used() as speech:
            self._raised.check(lib.nm_speech_push(speech, text, len(text or b""), self._give, None))

    def _push_text(self, text):
        out, length, stopped = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_bool()
        with self._stop.used() as stop:
            c.check(lib.nm_stop_push(stop, text, len(text or b""), ctypes.byref(out), ctypes.byref(length), ctypes.byref(stopped)))
            shown = ctypes.string_at(out, length.value) if length.value else b""
        self._stopped = stopped.value
        if shown:
            self._speak(shown)

    def _decode(self, token):
        text, length = ctypes.c_void_p(), ctypes.c_size_t()
        with self._decoder.used() as decoder:
            c.check(lib.nm_decoder_push(decoder, token, ctypes.byref(text), ctypes.byref(length)))
            return ctypes.string_at(text, length.value) if length.value else b""

    def _push_token(self, token):
        t = self._model._tokenizer
        raw = lib.nm_token_raw(t, token)
        mark = self._parsed and lib.nm_token_is_control(t, token) and lib.nm_speech_is_mark(raw)
        text = raw if mark else self._decode(token)
        if text:
            self._push_text(text)

    def _end(self, reason):
        """What decoder, stop rules and speech still hold."""
        text = self._decode(-1)
        if text:
            self._push_text(text)
        self._push_text(None)
        self._speak(None)
        self._finish = reason

    # ---- Drawing

    def _reasons(self):
        with self._speech.used() as speech:
            return lib.nm_speech_reasons(speech)

    def _is_bound(self):
        """A grammar binds what is said, not what is thought before."""
        return self._constraint is not None and (self._binds_reasoning or not self._parsed or not self._reasons())

    def _run(self):
        self._bound = self._is_bound()
        if self._out:
            self._seat.run(self._ids[-1:], self._on_logits, self._cancel, self._raised)
        else:
            for token in self._ids:
                c.check(lib.nm_sampler_accept(self._sampler._held.pointer, token))
            self._seat.prefill(self._ids, self._on_logits, self._cancel, self._raised)

    def _step(self):
        if self._cancel.value:
            raise c.Interrupted("the answer was cancelled")
        if len(self._ids) >= self._most:
            return self._end("length")
        self._run()
        token, bound = self._drawn.value, self._bound
        if lib.nm_token_ends(self._model._tokenizer, token):
            return self._end("stop")
        c.check(lib.nm_sampler_accept(self._sampler._held.pointer, token))
        if bound:
            c.check(lib.nm_constraint_accept(self._constraint._held.pointer, token))
        self._ids.append(token)
        self._out.append(token)
        self._push_token(token)
        if self._stopped or (bound and lib.nm_constraint_ended(self._constraint._held.pointer)):
            return self._end("stop")
        if len(self._ids) >= self._seat.context:
            self._end("length")


def _drawer(sampler, token, stream):
    stream = weakref.ref(stream)        # what a stream holds does not hold the stream

    def draw(unused, index, logits, count):
        s = stream()
        if s._bound:
            return lib.nm_sampler_draw_within(sampler, logits, s._constraint._held.pointer, ctypes.byref(token))
        return lib.nm_sampler_draw(sampler, logits, ctypes.byref(token))
    return draw


def _giver(pieces):
    def give(unused, pointer):
        p = pointer.contents
        text = ctypes.string_at(p.text, p.length).decode("utf-8", "replace") if p.length else ""
        kind = KINDS[p.kind]
        named = kind in ("call", "arguments")
        pieces.append(Piece(text, kind, p.call if named else None, p.id.decode() if named and p.id else None, p.name.decode() if named and p.name else None))
    return give
