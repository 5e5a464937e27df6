#!/usr/bin/env python3
"""Loads adapters that nomoat wrote with PEFT, and compares logits.

    python tests/check_adapter_peft.py build/nomoat DATA/tiny

For each tiny model: PEFT's own adapter (tests/data/adapter) is exported to GGUF and back, combined with itself at 0.7 and -0.2, and compressed to
rank 4; DoRA adapters (tests/data/dora) are written again, and trained on for some steps; each result is loaded by PEFT (no warning about keys may come)
and by nomoat. Needs torch, transformers, peft.
"""
import json, os, subprocess, sys, tempfile, warnings
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "adapter")
IDS = [(5 * i * i + 11) % 512 for i in range(20)]


def nomoat(program, *arguments, data=None):
    return subprocess.run([program, *arguments], input=data, capture_output=True, text=True, check=True).stdout


def compare(program, gguf, hf, folder):
    out = json.loads(nomoat(program, "score", gguf + "+" + folder, "--json", "--compute", "f32", data=json.dumps({"ids": IDS})))["last_top"]
    base = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder).eval()
    bad = [str(w.message)[:200] for w in said if "missing" in str(w.message).lower() or "unexpected" in str(w.message).lower()]
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0, -1]
    return max(abs(logits[i].item() - v) for i, v in zip(out["ids"], out["logits"])), bad


def main(program, tiny):
    worst = 0
    for name in sorted(n for n in os.listdir(HERE) if os.path.isdir(os.path.join(HERE, n))):
        gguf, hf, own = os.path.join(tiny, name + ".gguf"), os.path.join(tiny, "hf", name), os.path.join(HERE, name)
        with tempfile.TemporaryDirectory() as work:
            path = lambda n: os.path.join(work, n)
            nomoat(program, "adapter", "export", own, "-o", path("a.gguf"), "--base", gguf)
            nomoat(program, "adapter", "export", path("a.gguf"), "-o", path("back"), "--base", gguf)
            nomoat(program, "adapter", "combine", own + "=0.7", path("back") + "=-0.2", "-o", path("sum"))
            nomoat(program, "adapter", "combine", own + "=0.7", path("back") + "=-0.2", "-o", path("small"), "--rank", "4")
            for folder in ("back", "sum", "small"):
                error, bad = compare(program, gguf, hf, path(folder))
                worst = max(worst, error)
                print(f"{name:9} {folder:6} logits differ by {error:.1e} {bad or ''}", flush=True)
    dora = os.path.join(os.path.dirname(HERE), "dora")
    for name in sorted(n for n in os.listdir(dora) if os.path.isdir(os.path.join(dora, n))):
        gguf, hf, own = os.path.join(tiny, name + ".gguf"), os.path.join(tiny, "hf", name), os.path.join(dora, name)
        with tempfile.TemporaryDirectory() as work:
            path = lambda n: os.path.join(work, n)
            with open(path("data.jsonl"), "w") as f:
                f.writelines(json.dumps({"prompt": f"What is {i}?", "completion": f"It is {i}."}) + "\n" for i in range(16))
            tune = ["tune", gguf, path("data.jsonl"), "--format", "alpaca", "--max-steps", "3", "--lr", "0.01", "--val", "0", "--meter", "0"]
            nomoat(program, "adapter", "export", own, "-o", path("again"), "--base", gguf)
            nomoat(program, *tune, "--dora", "-r", "3", "-o", path("new"))
            nomoat(program, *tune, "--init", own, "-o", path("on"))
            for folder in ("again", "new", "on"):
                error, bad = compare(program, gguf, hf, path(folder))
                worst = max(worst, error)
                print(f"{name:9} DoRA {folder:6} logits differ by {error:.1e} {bad or ''}", flush=True)
    sys.exit(worst > 1e-4)


main(sys.argv[1], sys.argv[2])
