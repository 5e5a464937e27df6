#!/usr/bin/env python3
"""lm-evaluation-harness, unmodified, over /v1/completions: its score of one small task, and each log-likelihood in it, are what `nomoat score` gives by itself. TAP on stdout.

    NOMOAT=build/nomoat NOMOAT_MODEL=FILE.gguf lm_eval_client.py URL [NAME]        a server of that FILE

The harness finds the model's vocabulary at the server (/tokenizer_info, /tokenize), so that no tokenizer is fetched from anywhere.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

URL = sys.argv[1]
NOMOAT = os.path.abspath(os.environ.get("NOMOAT", "build/nomoat"))
FILE = os.environ["NOMOAT_MODEL"]
KEY = os.environ.get("NOMOAT_API_KEY", "none")
TASK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lm_eval_task")
TOLERANCE = 1e-4        # nats, of a sum: `score` writes single precision


def name():
    if len(sys.argv) > 2:
        return sys.argv[2]
    with urllib.request.urlopen(urllib.request.Request(URL + "/v1/models", headers={"Authorization": "Bearer " + KEY})) as answer:
        return json.load(answer)["data"][0]["id"]


def harness(folder):
    """The harness's accuracy and, for each question, the log-likelihoods of its choices."""
    env = {**os.environ, "HF_HOME": folder, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": KEY}
    args = ["--model", "local-completions", "--model_args", f"base_url={URL}/v1/completions,model={name()},auth_token={KEY},max_retries=1", "--tasks", "nomoat_choices",
            "--include_path", TASK, "--output_path", folder, "--log_samples"]
    done = subprocess.run([sys.executable, "-m", "lm_eval", "run", *args], cwd=TASK, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(glob.glob(folder + "/*/results_*.json")[0]) as file:
        accuracy = json.load(file)["results"]["nomoat_choices"]["acc,none"]
    with open(glob.glob(folder + "/*/samples_*.jsonl")[0]) as file:
        samples = sorted(map(json.loads, file), key=lambda sample: sample["doc_id"])
    return accuracy, [[float(answer[0][0]) for answer in sample["resps"]] for sample in samples]


def nomoat(command, text, *options):
    done = subprocess.run([NOMOAT, command, FILE, "--json", *options], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def log_likelihood(context, continuation):
    """Of the tokens that stand behind the context's in the whole, which is the harness's rule."""
    whole = nomoat("tokenize", context + continuation, "--special")["ids"]
    known = len(nomoat("tokenize", context, "--special")["ids"])
    return -sum(nomoat("score", json.dumps({"ids": whole}))["nll"][known - 1:])


def own():
    with open(os.path.join(TASK, "choices.jsonl")) as file:
        docs = [json.loads(line) for line in file]
    scores = [[log_likelihood(f"Question: {doc['question']}\nAnswer:", " " + choice) for choice in doc["choices"]] for doc in docs]
    right = sum(max(range(len(s)), key=s.__getitem__) == doc["answer"] for s, doc in zip(scores, docs))
    return right / len(docs), scores


def main():
    with tempfile.TemporaryDirectory() as folder:
        accuracy, theirs = harness(folder)
    expected, ours = own()
    apart = max(abs(a - b) for one, other in zip(theirs, ours, strict=True) for a, b in zip(one, other, strict=True))
    print(f"# accuracy {accuracy} and {expected}; log-likelihoods at most {apart:.2g} apart, of {sum(map(len, ours))}")
    results = [("the score is that of nomoat score", accuracy == expected), ("each log-likelihood is, too", apart < TOLERANCE)]
    for number, (what, well) in enumerate(results, 1):
        print(f"{'ok' if well else 'not ok'} {number} - lm_eval {what}")
    print(f"1..{len(results)}")
    sys.exit(not all(well for _, well in results))


main()
