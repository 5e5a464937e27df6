#!/usr/bin/env python3
"""Twenty steps of LoRA with each option of training, as PEFT and PyTorch take them, on the tiny Qwen3 of the test data.

    python tests/make_train_options.py DATA/tiny/hf/qwen3 tests/data/train/options.json [NAME...]

With names only these runs are made again.
Needs torch, transformers, peft, and for two optimisers torchao (AdamW8bit) and lion-pytorch. Adapters begin with nomoat's own numbers, and dropout takes
nomoat's own masks (both are functions of a seed, written again below), so that what is compared is the arithmetic. Weights are numbered as the
architecture binds them. Writes {"batches": steps > sequences {"ids", "mask"}, "runs": [{"name", options..., "steps": [{"loss", "grad_norm"}]}]}.
"""
import json, math, sys
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM
from transformers.optimization import Adafactor

STEPS, SEQUENCES, VOCABULARY, SEED, CLIP = 20, 4, 512, 7, 1.0
# Of layer 0; 11 weights further for each layer.
IDS = {"q_proj": 2, "k_proj": 3, "v_proj": 4, "o_proj": 7, "gate_proj": 9, "up_proj": 10, "down_proj": 11}
PER_LAYER = 11

RUNS = [
    dict(name="adamw", lr=5e-3),
    dict(name="loraplus", lr=5e-4, lr_ratio=16, weight_decay=0),
    dict(name="dropout", lr=5e-3, dropout=0.1),
    dict(name="gaussian", lr=5e-3, start="gaussian"),
    dict(name="pissa", lr=1e-3, start="pissa"),
    dict(name="adamw8bit", lr=5e-3, rank=32, optimizer="adamw8bit"),
    dict(name="lion", lr=1e-3, optimizer="lion"),
    dict(name="adafactor", lr=5e-3, optimizer="adafactor"),
    dict(name="muon", lr=5e-3, optimizer="muon"),
    dict(name="muon-fp32", lr=2e-2, optimizer="muon", fp32=True),
    dict(name="muon-rms", lr=5e-3, optimizer="muon-rms"),
]


# ---- nomoat's random numbers (src/base/rng.h, src/op/dropout.h, src/train/lora.c)

def u64(seed, stream, index):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * (np.asarray(index, np.uint64) + np.uint64(1)) + np.uint64(0xD1B54A32D192ED03) * np.uint64(stream)
        for _ in range(2):
            z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
            z = z ^ z >> np.uint64(31)
    return z


def unit(seed, stream, index):
    return (u64(seed, stream, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform(weight, rank, k):
    return ((2 * unit(SEED, weight, np.arange(rank * k)) - 1) / math.sqrt(k)).astype(np.float32).reshape(rank, k)


def gaussian(weight, rank, k):
    out = np.zeros(rank * k, np.float32)
    for i in range(rank * k):
        for t in range(64):
            u, v = 1 - unit(SEED, weight, [(i * 64 + t) * 2])[0], unit(SEED, weight, [(i * 64 + t) * 2 + 1])[0]
            x = math.sqrt(8 / math.e) * (v - 0.5) / u
            if x * x <= -4 * math.log(u):
                break
        out[i] = x / rank
    return out.reshape(rank, k)


class Dropout(torch.nn.Module):
    step = sequence = 0

    def __init__(self, weight, p):
        super().__init__()
        self.weight, self.p = weight, p

    def forward(self, x):
        kept = np.zeros(x.shape[1:], np.float32)
        for position in range(x.shape[1]):
            row = u64(u64(SEED, Dropout.step, self.weight), Dropout.sequence, position)
            bits = u64(row, 0, np.arange((x.shape[2] + 3) // 4))
            draws = np.stack([bits >> np.uint64(16 * j) & np.uint64(0xFFFF) for j in range(4)], 1).reshape(-1)[:x.shape[2]]
            kept[position] = draws >= np.uint64(round(self.p * 65536))
        return x * torch.from_numpy(kept) / (1 - self.p)


# ---- The run

def make_batches():
    rng = np.random.default_rng(5)
    pool = []
    for _ in range(8):
        n = int(rng.integers(10, 25))
        ids = [int(x) for x in rng.integers(3, VOCABULARY, n)]
        start = int(rng.integers(1, n // 2))
        pool.append({"ids": ids, "mask": [int(i >= start) for i in range(n)]})
    return [[pool[int(i)] for i in rng.choice(8, SEQUENCES, replace=False)] for _ in range(STEPS)]


def make_model(folder, run):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    config = LoraConfig(r=run["rank"], lora_alpha=run["alpha"], lora_dropout=run.get("dropout", 0), target_modules="all-linear", task_type="CAUSAL_LM",
                        init_lora_weights="pissa" if run.get("start") == "pissa" else True)
    model = get_peft_model(model, config).train()
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        weight = int(name.split(".layers.")[1].split(".")[0]) * PER_LAYER + IDS[name.split(".")[-1]]
        a = module.lora_A["default"].weight
        if run.get("start") != "pissa":
            a.data = torch.from_numpy((gaussian if run.get("start") == "gaussian" else uniform)(weight, *a.shape))
        if run.get("dropout"):
            module.lora_dropout["default"] = Dropout(weight, run["dropout"])
    return model


ORTHOGONALISE = torch.optim._muon._zeropower_via_newtonschulz


def orthogonalise(grad, coefficients, steps, eps):
    a, b, c = coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


def make_optimizer(model, run):
    lr, parameters = run["lr"], [p for p in model.parameters() if p.requires_grad]
    kind = run.get("optimizer", "adamw")
    if kind == "adamw8bit":
        from torchao.optim import AdamW8bit
        torch.compile = lambda f, **_: f        # the same in plain PyTorch
        return AdamW8bit(parameters, lr=lr)
    if kind == "lion":
        from lion_pytorch import Lion
        return Lion(parameters, lr=lr)
    if kind == "adafactor":
        return Adafactor(parameters, lr=lr, scale_parameter=False, relative_step=False)
    if kind.startswith("muon"):
        # PyTorch orthogonalises in bf16, and small singular values multiply the rounding: at a high rate 20 steps of it differ by 2e-3 from any other order of
        # sums. One run therefore has the same iteration in fp32, which shows the arithmetic; the others are PyTorch's as it is.
        torch.optim._muon._zeropower_via_newtonschulz = orthogonalise if run.get("fp32") else ORTHOGONALISE
        return torch.optim.Muon(parameters, lr=lr, adjust_lr_fn="match_rms_adamw" if kind == "muon-rms" else "original")
    if "lr_ratio" in run:
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=lr, loraplus_lr_ratio=run["lr_ratio"])
    return torch.optim.AdamW(parameters, lr=lr)


def take_step(model, optimizer, batch):
    total = sum(sum(s["mask"]) for s in batch)
    loss = 0.0
    optimizer.zero_grad()
    for Dropout.sequence, s in enumerate(batch):
        ids, mask = torch.tensor([s["ids"]]), torch.tensor(s["mask"][1:], dtype=torch.float32)
        nll = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        part = (nll * mask).sum() / total
        part.backward()
        loss += part.item()
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], CLIP).item()
    optimizer.step()
    return {"loss": round(loss, 7), "grad_norm": float("%.7g" % norm)}


def write(out, batches, runs):
    with open(out, "w") as f:
        f.write('{"batches": %s,\n"runs": [\n%s]}\n' % (json.dumps(batches), ",\n".join(json.dumps(runs[r["name"]]) for r in RUNS if r["name"] in runs)))


def main(folder, out, *names):
    batches = make_batches()
    runs = {}
    if names:
        with open(out) as f:
            runs = {r["name"]: r for r in json.load(f)["runs"]}
    for run in RUNS:
        if names and run["name"] not in names:
            continue
        run = {"rank": 8, "alpha": 16, "seed": SEED, "clip": CLIP, **run}
        model = make_model(folder, run)
        optimizer = make_optimizer(model, run)
        run["steps"] = []
        for i, batch in enumerate(batches):
            Dropout.step = i + 1
            run["steps"].append(take_step(model, optimizer, batch))
        print(run["name"], run["steps"][0], run["steps"][1], run["steps"][-1], flush=True)
        runs[run["name"]] = run
        write(out, batches, runs)


main(*sys.argv[1:])
