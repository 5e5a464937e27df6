"""From messages to the tokens of a prompt. Text of messages stays text: where it holds what the vocabulary has as a control token ("<|im_end|>"), it is marked before
the template sees it and read as ordinary characters afterwards, so that nobody ends a turn from inside a message."""
import ctypes
import json
import re
import secrets

from . import _library as c
from ._library import lib


def _text(content):
    """Content as a string: OpenAI's parts of text are joined."""
    if not isinstance(content, (list, tuple)):
        return content
    if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in content):
        raise c.Usage("a message has content that is no text: only text is read")
    return "\n".join(part["text"] for part in content)


def _call(call):
    """A call as templates expect it: arguments are an object, not a string that holds one."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"] or "{}")
        except ValueError:
            pass        # it was cut when it was made: it goes in as it is
    return dict(call, function=function)


def plain(messages, system=None):
    """Messages as templates know them. A string is a question."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    out = [{"role": "system", "content": system}] if system is not None else []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise c.Usage('each message must be a dict with a "role" and "content"')
        message = dict(message, content=_text(message.get("content")))
        if message.get("tool_calls"):
            message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        out.append(message)
    return out


class Writer:
    """Writes prompts for one tokenizer and one template. Immutable, for any number of threads."""

    def __init__(self, tokenizer, template):
        self.tokenizer, self.template, self._controls = tokenizer, template, None

    def _pattern(self):
        if self._controls is None:
            t = self.tokenizer
            control = [lib.nm_token_raw(t, i).decode("utf-8", "replace") for i in range(lib.nm_token_count(t))
                       if lib.nm_token_is_control(t, i) or lib.nm_token_ends(t, i) or i == lib.nm_token_unk(t)]
            self._controls = re.compile("|".join(re.escape(text) for text in sorted(filter(None, control), key=len, reverse=True)) or r"(?!)")
        return self._controls

    def _marked(self, value, marks):
        """A copy whose strings have marks round what reads like a control token."""
        if isinstance(value, str):
            return self._pattern().sub(lambda found: marks[0] + found.group() + marks[1], value)
        if isinstance(value, dict):
            return {self._marked(key, marks): self._marked(item, marks) for key, item in value.items()}
        return [self._marked(item, marks) for item in value] if isinstance(value, (list, tuple)) else value

    def variables(self, messages, tools, think, kwargs):
        """What transformers gives to every template, and what is asked for."""
        t = self.tokenizer
        given = {"documents": None}
        for name, token in (("bos_token", lib.nm_token_bos(t)), ("eos_token", lib.nm_token_eos(t)), ("pad_token", lib.nm_token_pad(t)), ("unk_token", lib.nm_token_unk(t))):
            if token >= 0:
                given[name] = lib.nm_token_raw(t, token).decode("utf-8", "replace")
        if think is not None:       # the two names that models' templates use
            given.update(enable_thinking=bool(think), thinking=bool(think))
        given.update(kwargs or {})
        given.update(messages=messages, tools=tools, add_generation_prompt=True)
        return given

    def write(self, messages, tools=None, think=None, kwargs=None):
        """The prompt as bytes, and its ids."""
        mark = "%016d" % secrets.randbelow(10 ** 16)        # private characters round random digits: templates neither trim nor change them
        marks = ("\ue000" + mark, "\ue001" + mark)
        given = self.variables(self._marked(messages, marks), self._marked(tools, marks) if tools else None, think, self._marked(kwargs, marks))
        text = json.dumps(given, ensure_ascii=False, allow_nan=False).encode("utf-8")
        options = c.TemplateOptions(now=-2 ** 63)       # the clock
        with self.template.used() as template:
            rendered = c.taken_text(lib.nm_template_render, template, text, len(text), ctypes.byref(options))
        prompt, guards = self._unmarked(rendered, [m.encode("utf-8") for m in marks])
        places = (ctypes.c_size_t * len(guards))(*guards)
        return prompt, c.taken_ids(lib.nm_tokenize_guarded, self.tokenizer, prompt, len(prompt), c.TEXT_PROMPT, places, len(guards) // 2)

    @staticmethod
    def _unmarked(text, marks):
        """The text without marks, and where it stood between them: from, to, from, to. Single marks are what a template left that took a string apart."""
        out, guards, begun = bytearray(), [], None
        for part in re.split(b"(" + b"|".join(marks) + b")", text):
            if part == marks[0]:
                begun = len(out)
            elif part == marks[1]:
                if begun is not None:
                    guards += [begun, len(out)]
                begun = None
            else:
                out += part
        return bytes(out), guards
