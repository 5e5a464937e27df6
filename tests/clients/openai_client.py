#!/usr/bin/env python3
"""The `openai` package, unmodified, against a running server: TAP on stdout.

    python3 tests/clients/openai_client.py URL [MODEL]          e.g. http://127.0.0.1:11500; a key in NOMOAT_API_KEY

Each answer is also held to the package's own types, which the package itself does not do. What the model says is not judged, only its shape; calls of tools and JSON are
forced, so that any chat model does.
"""
import json
import math
import os
import sys
import time
import urllib.request
from array import array

import openai
from pydantic import BaseModel, TypeAdapter
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

import tap

URL = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else ""
KEY = os.environ.get("NOMOAT_API_KEY", "none")
client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=300)
MODEL = sys.argv[2] if len(sys.argv) > 2 else None
HI = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False},
}
TOOL = {"type": "function", "function": WEATHER}
EVENTS = TypeAdapter(ResponseStreamEvent)


def strict(answer):
    """The answer, after its JSON has been held to its type."""
    type(answer).model_validate(answer.to_dict())
    return answer


def strict_part(part):
    """The same for a part of a streamed completion, whose type knows no choice that goes on, though OpenAI sends such."""
    data = part.to_dict()
    for choice in data["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    type(part).model_validate(data)
    return part


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, and nothing was raised")


def chat(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": HI, "max_tokens": 8, "temperature": 0, **more})


def models():
    listed = strict(client.models.list()).data
    assert MODEL in [m.id for m in listed], f"{MODEL} is not among {[m.id for m in listed]}"
    assert strict(client.models.retrieve(MODEL)).id == MODEL
    assert listed[0].owned_by == "nomoat"


def whole():
    answer = strict(chat())
    assert isinstance(answer, ChatCompletion) and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 8 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.model_extra["timings"]["predicted_n"] == usage.completion_tokens


def stream():
    chunks = [strict(c) for c in chat(stream=True, stream_options={"include_usage": True})]
    assert all(isinstance(c, ChatCompletionChunk) for c in chunks) and len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] in (["stop"], ["length"])
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == chat().choices[0].message.content, "the stream and the whole answer differ"


def several():
    answer = strict(chat(n=3, temperature=1, seed=7))
    assert [c.index for c in answer.choices] == [0, 1, 2]
    again = chat(n=3, temperature=1, seed=7)
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices], "the same seed gave other answers"
    chunks = list(chat(n=2, temperature=1, seed=7, stream=True))
    assert {c.choices[0].index for c in chunks} == {0, 1}


def tool_call():
    answer = strict(chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=120, messages=[{"role": "user", "content": "How is the weather in Oslo?"}]))
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather" and isinstance(json.loads(call.function.arguments)["city"], str)
    history = [{"role": "user", "content": "How is the weather in Oslo?"}, choice.message.model_dump(exclude_none=True),
               {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    assert strict(chat(messages=history, tools=[TOOL], tool_choice="none")).choices[0].finish_reason in ("stop", "length")


def tool_call_stream():
    name, arguments, ids = "", "", []
    for chunk in chat(stream=True, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=120):
        strict(chunk)
        for call in chunk.choices[0].delta.tool_calls or []:
            if call.index:
                continue
            ids += [call.id] if call.id else []
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "get_weather" and len(ids) == 1
    assert "city" in json.loads(arguments)


class Person(BaseModel):
    name: str
    age: int


def schema():
    format = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": {
        "type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"], "additionalProperties": False}}}
    answer = strict(chat(response_format=format, max_tokens=120, messages=[{"role": "user", "content": "Ada is 36 years old. Give it as JSON."}]))
    person = Person.model_validate_json(answer.choices[0].message.content)
    assert len(person.name) <= 12 and 0 <= person.age <= 150
    error = raises(openai.BadRequestError, lambda: chat(response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "string", "contentEncoding": "x"}}}))
    assert "contentEncoding" in error.message, error.message


def errors():
    error = raises(openai.NotFoundError, lambda: chat(model="no-such-model"))
    assert error.code == "model_not_found" and error.param == "model", error.body
    error = raises(openai.BadRequestError, lambda: chat(extra_body={"temperature": "hot"}))
    assert error.param == "temperature" and error.type == "invalid_request_error", error.body
    error = raises(openai.BadRequestError, lambda: chat(messages=[{"role": "user", "content": "word " * 200000}]))
    assert error.type == "exceed_context_size_error" and error.body["n_prompt_tokens"] > error.body["n_ctx"] > 0, error.body
    error = raises(openai.BadRequestError, lambda: chat(messages=[{"role": "user", "content": "word " * 200000}], stream=True))
    assert error.type == "exceed_context_size_error", error.body
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    assert raises(openai.BadRequestError, lambda: chat(messages=image)).param == "messages[0].content[0]"


def busy():
    """Answers that the server is at work on; None where it does not tell."""
    request = urllib.request.Request(URL + "/slots", headers={"Authorization": "Bearer " + KEY})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return len([s for s in json.load(answer) if s.get("is_processing", True)])
    except OSError:
        return None


def cancel():
    for _ in range(3):
        answer = chat(stream=True, max_tokens=4000, extra_body={"ignore_eos": True})
        for i, _chunk in enumerate(answer):
            if i == 3:
                break
        answer.close()
    start = time.monotonic()
    while busy() and time.monotonic() - start < 20:
        time.sleep(0.02)
    assert not busy(), "the server goes on with answers that nobody waits for"
    strict(chat())


def logprobs():
    answer = strict(chat(logprobs=True, top_logprobs=3))
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) in (answer.usage.completion_tokens, answer.usage.completion_tokens - 1)
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob == max(t.logprob for t in token.top_logprobs)
        assert abs(token.logprob - token.top_logprobs[0].logprob) < 1e-9, "the likeliest token was not taken at temperature 0"
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token
    text = b"".join(bytes(t.bytes) for t in tokens).decode("utf-8", "replace")
    assert text.strip() == answer.choices[0].message.content.strip()


def completions():
    text = "Once upon a time"
    answer = strict(client.completions.create(model=MODEL, prompt=text, max_tokens=4, temperature=0))
    echoed = client.completions.create(model=MODEL, prompt=text, max_tokens=4, temperature=0, echo=True, logprobs=2)
    assert echoed.choices[0].text == text + answer.choices[0].text
    p = echoed.choices[0].logprobs
    assert p.token_logprobs[0] is None and all(v <= 0 for v in p.token_logprobs[1:]) and p.top_logprobs[0] is None
    assert len(p.tokens) == len(p.token_logprobs) == len(p.top_logprobs) == len(p.text_offset) == echoed.usage.total_tokens
    many = strict(client.completions.create(model=MODEL, prompt=[text, "Two"], max_tokens=4, temperature=0, n=2))
    assert [c.index for c in many.choices] == [0, 1, 2, 3] and many.choices[0].text == many.choices[1].text == answer.choices[0].text
    parts = [strict_part(c) for c in client.completions.create(model=MODEL, prompt=text, max_tokens=4, temperature=0, stream=True)]
    assert "".join(c.choices[0].text for c in parts) == answer.choices[0].text
    raises(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt=text, n=1, best_of=2))


def embeddings():
    texts = ["A cat sat down.", "A kitten lay down.", "Interest rates rose."]
    coded = strict(client.embeddings.create(model=MODEL, input=texts))
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    vectors = [d.embedding for d in coded.data]
    assert [array("f", v) for v in vectors] == [array("f", d.embedding) for d in plain.data], "base64 and floats differ"
    assert all(abs(math.hypot(*v) - 1) < 1e-3 for v in vectors)
    assert [d.index for d in coded.data] == [0, 1, 2] and coded.usage.prompt_tokens > 0
    raises(openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="a", dimensions=1))


def responses():
    first = strict(client.responses.create(model=MODEL, input="Say hello.", instructions="Be brief.", max_output_tokens=8, temperature=0))
    assert isinstance(first, Response) and first.status in ("completed", "incomplete") and first.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = strict(client.responses.create(model=MODEL, input="Again.", previous_response_id=first.id, max_output_tokens=8, temperature=0))
    assert second.usage.input_tokens > first.usage.output_tokens and second.previous_response_id == first.id
    client.responses.delete(first.id)
    raises(openai.NotFoundError, lambda: client.responses.retrieve(first.id))
    error = raises(openai.NotFoundError, lambda: client.responses.create(model=MODEL, input="x", previous_response_id=first.id))
    assert error.param == "previous_response_id"


def responses_stream():
    events = list(client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8, temperature=0, stream=True))
    for event in events:
        EVENTS.validate_python(event.to_dict())
    kinds = [e.type for e in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert [e.sequence_number for e in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


def responses_tool():
    tool = {"type": "function", **WEATHER}
    ask = [{"role": "user", "content": "How is the weather in Oslo?"}]
    first = strict(client.responses.create(model=MODEL, input=ask, tools=[tool], tool_choice="required", parallel_tool_calls=False,
                                           max_output_tokens=120, temperature=0))
    call = [o for o in first.output if o.type == "function_call"][0]
    assert call.name == "get_weather" and "city" in json.loads(call.arguments)
    history = ask + [o.to_dict() for o in first.output] + [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    strict(client.responses.create(model=MODEL, input=history, max_output_tokens=8))


def responses_agent():
    """As Codex asks: tools of a server in a namespace, which calls must say again, and tools that are not to be had."""
    space = {"type": "namespace", "name": "mcp__weather", "description": "A server", "tools": [{"type": "function", "strict": False, **WEATHER}]}
    ask = dict(model=MODEL, tools=[space, {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}], tool_choice="required", parallel_tool_calls=False, store=False,
               instructions="Be brief.", include=["reasoning.encrypted_content"], reasoning={"effort": "low", "summary": "auto"}, max_output_tokens=120, temperature=0)
    history = [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
               {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How is the weather in Oslo?"}]}]
    done = [e.item for e in client.responses.create(**ask, input=history, stream=True) if e.type == "response.output_item.done"]
    call = [i for i in done if i.type == "function_call"][0]
    assert call.name == "get_weather" and call.namespace == "mcp__weather" and "city" in json.loads(call.arguments), call
    history += [i.to_dict() for i in done] + [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    assert strict(client.responses.create(**{**ask, "tool_choice": "auto", "max_output_tokens": 8}, input=history)).output


TESTS = [models, whole, stream, several, tool_call, tool_call_stream, schema, errors, cancel, logprobs, completions, embeddings, responses, responses_stream, responses_tool, responses_agent]


def main():
    global MODEL
    if not URL:
        sys.exit(__doc__)
    MODEL = MODEL or client.models.list().data[0].id
    sys.exit(tap.run("openai", TESTS))


main()
