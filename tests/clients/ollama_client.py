#!/usr/bin/env python3
"""The package `ollama`, unmodified, against a running `nomoat serve`: chats and prompts whole and in streams, tools, formats, embeddings, models, errors, cancelling.
TAP on stdout.

    ollama_client.py URL [MODEL]        MODEL: one whose template knows tools; else the first that is served
"""
import json
import math
import os
import sys
import time
import urllib.request

import ollama

import tap

URL = sys.argv[1]
key = os.environ.get("NOMOAT_API_KEY")
client = ollama.Client(host=URL, headers={"Authorization": "Bearer " + key} if key else None, timeout=300)
MODEL = sys.argv[2] if len(sys.argv) > 2 else client.list().models[0].model
HELLO = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0, "num_predict": 12}


def add(a: int, b: int) -> int:
    """Adds two whole numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def figures(r):
    return r.done and r.total_duration > 0 and r.prompt_eval_count > 0 and r.eval_count > 0 and r.eval_duration > 0


def test_chat():
    r = client.chat(MODEL, HELLO, options=GREEDY)
    assert r.message.role == "assistant" and r.message.content and figures(r) and r.done_reason in ("stop", "length") and r.model == MODEL and r.created_at
    parts = list(client.chat(MODEL, HELLO, options=GREEDY, stream=True))
    assert "".join(p.message.content for p in parts) == r.message.content
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    assert figures(parts[-1]) and parts[-1].eval_count == r.eval_count and parts[-1].done_reason == r.done_reason


def test_generate():
    r = client.generate(MODEL, "Say hello.", system="Be brief.", options=GREEDY)
    assert r.response and figures(r)
    parts = list(client.generate(MODEL, "Say hello.", system="Be brief.", options=GREEDY, stream=True))
    assert "".join(p.response for p in parts) == r.response and figures(parts[-1])
    assert client.generate(MODEL, "One, two,", raw=True, options=GREEDY, keep_alive="5m").response


def test_stop():
    first = client.chat(MODEL, HELLO, options=GREEDY).message.content
    r = client.chat(MODEL, HELLO, options={**GREEDY, "stop": [first[1:3]]})
    assert r.message.content == first[:first.index(first[1:3])] and r.done_reason == "stop"


def test_format():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    r = client.chat(MODEL, [{"role": "user", "content": "A number."}], format=schema, options={"temperature": 0, "num_predict": 60})
    assert r.done_reason == "length" or isinstance(json.loads(r.message.content)["n"], int)


def test_logprobs():
    r = client.chat(MODEL, HELLO, logprobs=True, top_logprobs=2, options=GREEDY)
    assert len(r.logprobs) > 0 and all(one.logprob <= 0 and len(one.top_logprobs) == 2 for one in r.logprobs)
    assert "".join(one.token for one in r.logprobs).startswith(r.message.content)


def test_tool():
    messages = [{"role": "user", "content": "Use the tool add to add 2 and 3."}]
    ask = dict(tools=[add], options={"temperature": 0, "num_predict": 100, "tool_choice": "required"})     # small models need to be told
    r = client.chat(MODEL, messages, **ask)
    assert r.message.tool_calls and r.message.tool_calls[0].function.name == "add" and isinstance(r.message.tool_calls[0].function.arguments["a"], int)
    parts = list(client.chat(MODEL, messages, **ask, stream=True))
    streamed = [c for p in parts for c in p.message.tool_calls or []]
    assert [c.function.arguments for c in streamed] == [c.function.arguments for c in r.message.tool_calls]
    r = client.chat(MODEL, messages + [r.message, {"role": "tool", "tool_name": "add", "content": "5"}], tools=[add], options=GREEDY)
    assert figures(r)


def test_embed():
    r = client.embed(MODEL, ["a cat", "a dog"])
    assert len(r.embeddings) == 2 and len(r.embeddings[0]) == len(r.embeddings[1])
    assert all(math.isclose(sum(x * x for x in v), 1, rel_tol=1e-4) for v in r.embeddings)
    assert len(client.embed(MODEL, "a cat", dimensions=8).embeddings[0]) == 8
    assert len(client.embeddings(MODEL, "a cat").embedding) == len(r.embeddings[0])


def test_models():
    listed = client.list().models
    assert MODEL in [m.model for m in listed] and all(m.size > 0 and m.digest and m.modified_at for m in listed)
    s = client.show(MODEL)
    arch = s.modelinfo["general.architecture"]
    assert s.modelinfo[arch + ".context_length"] > 0 and "completion" in s.capabilities and s.details.family == arch
    assert client.generate(MODEL, "").done_reason == "load"
    assert client.chat(MODEL, [], keep_alive="10m").done_reason == "load"
    assert MODEL in [m.model for m in client.ps().models]


def fails(status, call, *args, **more):
    try:
        r = call(*args, **more)
        list(r) if more.get("stream") else None
    except ollama.ResponseError as e:
        assert e.status_code == status, e
        return e.error
    raise AssertionError("no error")


def test_errors():
    assert "no-such-model" in fails(404, client.chat, "no-such-model", HELLO)
    fails(404, client.chat, "no-such-model", HELLO, stream=True)
    fails(404, client.show, "no-such-model")
    assert "images" in fails(400, client.generate, MODEL, "What is it?", images=["eA=="])
    fails(400, client.chat, MODEL, [{"role": "user", "content": "word " * 200000}])
    assert "nomoat import" in fails(501, client.pull, "llama3")
    assert "nomoat rm" in fails(501, client.delete, MODEL)


def idle():
    """Whether nothing runs any more, long before an answer that goes on would have ended."""
    headers = {"Authorization": "Bearer " + os.environ.get("NOMOAT_API_KEY", "none")}
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with urllib.request.urlopen(urllib.request.Request(URL.rstrip("/") + "/slots", headers=headers)) as r:
            if not any(slot["is_processing"] for slot in json.load(r)):
                return True
        time.sleep(0.02)
    return False


def test_cancel():
    for part in client.chat(MODEL, [{"role": "user", "content": "Count to ten thousand."}], options={"num_predict": 4000}, stream=True):
        break
    assert idle()


def main():
    return tap.run("ollama", [fn for name, fn in globals().items() if name.startswith("test_")])


if __name__ == "__main__":
    sys.exit(main())
