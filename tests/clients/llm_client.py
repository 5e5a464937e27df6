#!/usr/bin/env python3
"""The program and package `llm`, unmodified, through its configuration for servers that speak OpenAI's API: answers, streams, a chat that goes on, schemas, tools, errors,
cancelling. TAP on stdout.

    llm_client.py URL [MODEL]
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import tap

URL = sys.argv[1]
KEY = os.environ.get("NOMOAT_API_KEY", "none")
HOME = tempfile.TemporaryDirectory()
os.environ["LLM_USER_PATH"] = HOME.name
QUESTION = "Why is the sea salt?"
GREEDY = ["-o", "temperature", "0", "-o", "max_tokens", "12"]


def get(path):
    request = urllib.request.Request(URL + path, headers={"Authorization": "Bearer " + KEY})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


MODEL = sys.argv[2] if len(sys.argv) > 2 else get("/v1/models")["data"][0]["id"]


def configure():
    """What a person writes once: docs/serving.md says the same."""
    models = [{"model_id": name, "model_name": model, "api_base": URL + "/v1", "api_key_name": "nomoat", "supports_tools": True, "supports_schema": True}
              for name, model in (("nomoat", MODEL), ("missing", "no-such-model"))]
    with open(os.path.join(HOME.name, "extra-openai-models.yaml"), "w") as file:
        json.dump(models, file)
    with open(os.path.join(HOME.name, "keys.json"), "w") as file:
        json.dump({"nomoat": KEY}, file)


def llm(*arguments, code=0):
    done = subprocess.run([sys.executable, "-m", "llm", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stdout if code == 0 else done.stderr


def test_whole_and_stream():
    whole = llm("-m", "nomoat", "--no-stream", *GREEDY, QUESTION)
    assert whole.strip() and whole == llm("-m", "nomoat", *GREEDY, QUESTION)


def test_system_and_going_on():
    llm("-m", "nomoat", "-s", "Be brief.", *GREEDY, QUESTION)
    assert llm("-c", *GREEDY, "And the lakes?").strip()
    logged = json.loads(llm("logs", "--json", "-n", "2"))
    assert len({entry["conversation_id"] for entry in logged}) == 1


def test_usage():
    last = json.loads(llm("logs", "--json", "-n", "1"))[0]
    assert last["input_tokens"] > 0 and 0 < last["output_tokens"] <= 12


def test_schema():
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["age"], "additionalProperties": False}
    answer = llm("-m", "nomoat", "--no-stream", "-o", "temperature", "0", "-o", "max_tokens", "60", "--schema", json.dumps(schema), "Ada is 36 years old.")
    assert 0 <= json.loads(answer)["age"] <= 150


def test_tools():
    """Offered, and answered with or without a call: a small model does as it likes."""
    functions = 'def add(a: int, b: int) -> int:\n    "Adds two whole numbers."\n    return a + b\n'
    llm("-m", "nomoat", "--no-stream", "--functions", functions, "-o", "temperature", "0", "-o", "max_tokens", "60", "Add 2 and 3.")


def test_error():
    assert "no-such-model" in llm("-m", "missing", "--no-stream", QUESTION, code=1)
    assert "no-such-model" in llm("-m", "missing", QUESTION, code=1)


def busy():
    return any(slot["is_processing"] for slot in get("/slots"))


def test_cancel():
    process = subprocess.Popen([sys.executable, "-m", "llm", "-m", "nomoat", "-o", "max_tokens", "4000", "Count to ten thousand."], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    until = time.monotonic() + 20
    while busy() and time.monotonic() < until:
        time.sleep(0.02)
    assert not busy(), "the server goes on with an answer that nobody waits for"


def main():
    configure()
    return tap.run("llm", [fn for name, fn in globals().items() if name.startswith("test_")])


if __name__ == "__main__":
    sys.exit(main())
