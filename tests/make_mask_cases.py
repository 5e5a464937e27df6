#!/usr/bin/env python3
"""Writes tests/data/mask/cases.json: conversations, and the token sequences and masks that real chat templates make of them.

Usage: NOMOAT_TEST_DATA=FOLDER tests/make_mask_cases.py > tests/data/mask/cases.json
Needs: pip install jinja2 tokenizers gguf. Templates and vocabularies are those of FOLDER.

An implementation of src/data/sample.h that shares nothing with it: jinja2 renders, generation blocks are found by sentinels, Hugging Face's tokenizers
encode and say where tokens lie, in characters. A case without "sequences" is one that the template refuses.
"""
import json
import os
import sys

import jinja2
import jinja2.ext

import make_template_cases
import make_tokenizer_golden as golden

OPEN, CLOSE = "\ue000", "\ue001"    # no conversation holds them
FOLDER = os.environ["NOMOAT_TEST_DATA"]
ENDS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "</s>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>"}
WANTS_BOS = {"qwen2": False, "llama-bpe": True, "llama-spm": True}


class Generation(make_template_cases.Generation):
    def _body(self, caller):
        return OPEN + caller() + CLOSE


class Vocabulary:
    def __init__(self, name):
        file = "ggml-vocab-%s.gguf" % name
        self.encoder = golden.VOCABULARIES[name](file)
        self.encoder.encode_special_tokens = False
        fields = golden.fields(file)
        tokens, types, _, _ = golden.read(file)
        number = lambda key: int(fields[key].parts[-1][0]) if key in fields else None
        ids = {key: number("tokenizer.ggml.%s_token_id" % key) for key in ("bos", "eos", "padding", "unknown")}
        self.bos, self.eos = ids["bos"], ids["eos"]
        if name == "llama-spm":     # what the format says of files without the keys
            self.bos, self.eos, ids["unknown"] = 1, 2, 0
        self.ends = {i for i, (t, y) in enumerate(zip(tokens, types)) if y == 3 and t in ENDS} | {self.eos}
        self.vars = {"bos_token": tokens[self.bos], "eos_token": tokens[self.eos]}
        for key, variable in (("padding", "pad_token"), ("unknown", "unk_token")):
            if ids[key] is not None:
                self.vars[variable] = tokens[ids[key]]
        self.add_bos = WANTS_BOS[name]

    def encode(self, text):
        """[id, first character] of every token, BOS once."""
        e = self.encoder.encode(text, add_special_tokens=False)
        pairs = [[i, o[0]] for i, o in zip(e.ids, e.offsets)]
        if self.add_bos and not (pairs and pairs[0][0] == self.bos):
            pairs.insert(0, [self.bos, 0])
        return pairs


class Masker:
    def __init__(self, template, vocabulary):
        env = make_template_cases.environment()
        env.extensions.pop(make_template_cases.Generation.identifier)
        env.add_extension(Generation)
        self.template = env.from_string(template)
        self.blocks = "endgeneration" in template
        self.v = vocabulary

    def render(self, row, n, prompt):
        """Text without sentinels, and the spans between them."""
        raw = self.template.render(messages=row["messages"][:n], tools=row.get("tools"), documents=None, add_generation_prompt=prompt, **self.v.vars)
        text, spans = "", []
        for c in raw:
            if c == OPEN:
                spans.append([len(text), None])
            elif c == CLOSE:
                spans[-1][1] = len(text)
            else:
                text += c
        return text, spans

    def finish(self, text, spans):
        """A sequence with these characters trained, or None where an answer in the middle ends by no token."""
        tokens = self.v.encode(text)
        mask = [any(a <= at < b for a, b in spans) for _, at in tokens]
        starts = [at for _, at in tokens] + [len(text)]
        for a, b in spans:
            inside = [i for i in range(len(tokens)) if a <= tokens[i][1] < b]
            while inside and tokens[inside[-1]][0] not in self.v.ends and not text[starts[inside[-1]]:starts[inside[-1] + 1]].strip(" \t\r\n"):
                inside.pop()
            if inside and tokens[inside[-1]][0] in self.v.ends:
                continue
            after = next((i for i in range(len(tokens)) if tokens[i][1] >= b), None)
            if after is not None and tokens[after][0] in self.v.ends:
                mask[after] = True
            elif not text[b:].strip(" \t\r\n"):
                tokens.append([self.v.eos, len(text)])
                mask.append(True)
            else:
                return None
        mask[0] = False
        return {"ids": [i for i, _ in tokens], "mask": "".join("01"[m] for m in mask)}

    def whole(self, row, trained, assistants):
        text, blocks = self.render(row, len(row["messages"]), False)
        spans = []
        for k in trained:
            before, _ = self.render(row, k, True)
            if self.blocks:
                if len(blocks) != len(assistants):
                    return None
                a, b = blocks[assistants.index(k)]
                if text.startswith(before) and a < len(before) < b:
                    a = len(before)
                spans.append([a, b])
                continue
            with_turn, _ = self.render(row, k + 1, False)
            if not (with_turn.startswith(before) and text.startswith(with_turn)):
                return None
            spans.append([len(before), len(with_turn)])
        return self.finish(text, spans)

    def turn(self, row, k):
        before, _ = self.render(row, k, True)
        with_turn, blocks = self.render(row, k + 1, False)
        common = len(os.path.commonprefix([before, with_turn]))
        if self.blocks:
            own = [[max(a, common), b] for a, b in blocks if b > common]
            return self.finish_last(with_turn, own)
        answer = with_turn[common:]
        if before.rstrip(" \t\r\n").endswith("<think>") and "</think>" not in answer:
            answer = row["messages"][k].get("reasoning_content", "") + "\n</think>\n\n" + answer
        return self.finish_last(before + answer, [[len(before), len(before + answer)]])

    def finish_last(self, text, spans):
        last = self.finish(text, spans[-1:])
        if last and len(spans) > 1:
            tokens = self.v.encode(text)
            extra = [any(a <= at < b for a, b in spans[:-1]) for _, at in tokens]
            last["mask"] = "".join("1" if e else m for e, m in zip(extra + [False], last["mask"]))
        return last

    def sequences(self, row, train_on):
        messages = row["messages"]
        assistants = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        trained = [i for i in assistants if messages[i].get("weight", 1) and messages[i].get("train", True)
                   and any(m["role"] not in ("system", "assistant") for m in messages[:i])]
        if train_on == "last":
            trained = [i for i in trained if i == assistants[-1]]
        one = self.whole(row, trained, assistants)
        return [one] if one else [self.turn(row, k) for k in trained]


def say(role, content, **more):
    return {"role": role, "content": content, **more}


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city",
                                         "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
ROWS = [
    {"messages": [say("system", "Be brief."), say("user", "Name a fruit."), say("assistant", "An apple.")]},
    {"messages": [say("user", "Name a fruit."), say("assistant", "An apple."), say("user", "Another?"), say("assistant", "A pear.\n")]},
    {"messages": [say("user", "2+2?"), say("assistant", "4", reasoning_content="Two and two."), say("user", "3+3?"), say("assistant", "6", reasoning_content="Twice three.")]},
    {"messages": [say("user", "  Zürich 你好 é?"), say("assistant", " Ja \u2013 😀!", weight=0), say("user", "e\u0301"), say("assistant", "caf\u0065\u0301 ok")]},
    {"messages": [say("user", "Weather in Paris?"), say("assistant", "", tool_calls=[CALL]), say("tool", "{\"temp\": 21}", name="get_weather", tool_call_id="call00001"),
                  say("assistant", "21 degrees.")], "tools": [TOOL]},
]
TEMPLATES = [
    ("Qwen-Qwen2.5-7B-Instruct", "qwen2"), ("Qwen-Qwen3-0.6B", "qwen2"), ("Qwen-QwQ-32B", "qwen2"), ("HuggingFaceTB-SmolLM3-3B", "qwen2"),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "qwen2"), ("deepseek-ai-DeepSeek-V3.1", "qwen2"), ("google-gemma-2-2b-it", "llama-spm"),
    ("meta-llama-Llama-3.1-8B-Instruct", "llama-bpe"), ("mistralai-Mistral-Nemo-Instruct-2407", "llama-spm"), ("microsoft-Phi-3.5-mini-instruct", "llama-bpe"),
    ("LFM2.5-8B-A1B", "qwen2"), ("poolside-Laguna-XS-2.1", "qwen2"), ("ibm-granite-granite-3.3-2B-Instruct", "llama-bpe"), ("openai-gpt-oss-120b", "llama-bpe"),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "llama-bpe"), ("GLM-4.6", "qwen2"),
]


def main():
    vocabularies = {name: Vocabulary(name) for name in sorted({v for _, v in TEMPLATES})}
    lines = []
    for template, name in TEMPLATES:
        with open(os.path.join(FOLDER, "templates", template + ".jinja"), encoding="utf-8") as f:
            m = Masker(f.read(), vocabularies[name])
        for i, row in enumerate(ROWS):
            for train_on in ("assistant", "last") if i == 1 else ("assistant",):
                case = {"template": template, "vocabulary": name, "row": i, "train_on": train_on}
                try:
                    case["sequences"] = m.sequences(row, train_on)
                except (jinja2.exceptions.TemplateError, TypeError) as e:
                    print("%s, row %d: %s" % (template, i, e), file=sys.stderr)
                lines.append(json.dumps(case))
    print('{"rows": [\n' + ",\n".join(json.dumps(r) for r in ROWS) + '],\n"cases": [\n' + ",\n".join(lines) + "]}")


if __name__ == "__main__":
    main()
