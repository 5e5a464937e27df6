#!/usr/bin/env python3
"""The package `anthropic`, unmodified, against a running `nomoat serve`: whole answers, streams, tools, counting, models, errors, cancelling. TAP on stdout.

    anthropic_client.py URL [MODEL]        MODEL: one whose template knows tools; else the first that is served
"""
import json
import os
import sys
import time
import urllib.request

import anthropic

import tap

URL = sys.argv[1]
client = anthropic.Anthropic(base_url=URL, api_key=os.environ.get("NOMOAT_API_KEY", "none"), max_retries=0, timeout=300)
MODEL = sys.argv[2] if len(sys.argv) > 2 else client.models.list().data[0].id
GREEDY = {"extra_body": {"temperature": 0}}      # which the package no longer has a name for
HELLO = [{"role": "user", "content": "Say hello."}]
ADD = {"name": "add", "description": "Adds two whole numbers.", "input_schema": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"], "additionalProperties": False}}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def test_whole():
    m = client.messages.create(model=MODEL, max_tokens=8, **GREEDY, messages=HELLO)
    assert m.type == "message" and m.role == "assistant" and m.id.startswith("msg_")
    assert text_of(m) and m.stop_reason in ("end_turn", "max_tokens")
    total = m.usage.input_tokens + m.usage.cache_read_input_tokens
    assert 0 < m.usage.output_tokens <= 8 and total > 0
    again = client.messages.create(model=MODEL, max_tokens=8, **GREEDY, messages=HELLO)
    assert text_of(again) == text_of(m) and again.usage.input_tokens + again.usage.cache_read_input_tokens == total


def test_stream():
    whole = client.messages.create(model=MODEL, max_tokens=12, **GREEDY, system=[{"type": "text", "text": "Be brief."}], messages=HELLO)
    with client.messages.stream(model=MODEL, max_tokens=12, **GREEDY, system="Be brief.", messages=HELLO) as stream:
        kinds, text = [], ""
        for event in stream:
            kinds.append(event.type)
            if event.type == "text":
                text += event.text
        last = stream.get_final_message()
    assert text == text_of(last) == text_of(whole)
    assert last.stop_reason == whole.stop_reason and last.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and kinds.count("content_block_start") == kinds.count("content_block_stop") == 1


def test_stop_sequence():
    first = text_of(client.messages.create(model=MODEL, max_tokens=12, **GREEDY, messages=HELLO))
    stop = first[1:3]
    m = client.messages.create(model=MODEL, max_tokens=12, **GREEDY, stop_sequences=[stop], messages=HELLO)
    assert m.stop_reason == "stop_sequence" and m.stop_sequence == stop and text_of(m) == first[:first.index(stop)]


def test_prefill():
    m = client.messages.create(model=MODEL, max_tokens=4, messages=HELLO + [{"role": "assistant", "content": "Hel"}])
    assert m.usage.output_tokens <= 4


def test_tool():
    ask = dict(model=MODEL, max_tokens=100, **GREEDY, tools=[ADD], tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True},
               messages=[{"role": "user", "content": "Use the tool to add 2 and 3."}])
    m = client.messages.create(**ask)
    calls = [block for block in m.content if block.type == "tool_use"]
    assert m.stop_reason == "tool_use" and len(calls) == 1 and calls[0].name == "add"
    assert isinstance(calls[0].input["a"], int) and isinstance(calls[0].input["b"], int)
    with client.messages.stream(**ask) as stream:
        last = stream.get_final_message()
    assert [b.input for b in last.content if b.type == "tool_use"] == [calls[0].input] and last.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": calls[0].id, "content": "5"}
    m = client.messages.create(model=MODEL, max_tokens=8, tools=[ADD], messages=ask["messages"] + [
        {"role": "assistant", "content": m.content}, {"role": "user", "content": [result]}])
    assert m.usage.output_tokens > 0


def test_count():
    count = client.messages.count_tokens(model=MODEL, messages=HELLO)
    m = client.messages.create(model=MODEL, max_tokens=1, messages=HELLO)
    assert count.input_tokens == m.usage.input_tokens + m.usage.cache_read_input_tokens
    assert client.messages.count_tokens(model=MODEL, messages=HELLO, tools=[ADD]).input_tokens >= count.input_tokens


def test_models():
    listed = list(client.models.list())
    assert all(m.type == "model" and m.id and m.display_name and m.created_at for m in listed)
    assert client.models.retrieve(listed[0].id).id == listed[0].id


def fails(kind, **ask):
    try:
        client.messages.create(**{"model": MODEL, "max_tokens": 4, "messages": HELLO, **ask})
    except kind as e:
        return e
    raise AssertionError("no " + kind.__name__)


def test_errors():
    assert fails(anthropic.NotFoundError, model="no-such-model").body["error"]["type"] == "not_found_error"
    assert "image" in fails(anthropic.BadRequestError, messages=[{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}]}]).message
    assert "max_tokens" in fails(anthropic.BadRequestError, max_tokens=0).message
    e = fails(anthropic.BadRequestError, messages=[{"role": "user", "content": "word " * 200000}])
    assert e.body["type"] == "error" and e.body["error"]["type"]
    fails(anthropic.NotFoundError, model="no-such-model", stream=True)


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
    with client.messages.stream(model=MODEL, max_tokens=4000, messages=[{"role": "user", "content": "Count to ten thousand."}]) as stream:
        for event in stream:
            if event.type == "text":
                break
    assert idle()


def main():
    return tap.run("anthropic", [fn for name, fn in globals().items() if name.startswith("test_")])


if __name__ == "__main__":
    sys.exit(main())
