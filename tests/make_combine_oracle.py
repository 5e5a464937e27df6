#!/usr/bin/env python3
"""Two adapters of one small map, and what PEFT's add_weighted_adapter makes of them.

    python tests/make_combine_oracle.py tests/data/adapter/combine.json

{"in", "out", "first", "second": {"rank", "alpha", "a", "b"}, "cases": [{"method", "weights", "density", "rank", "a", "b"} or, where the halves are not
unique, {..., "delta"}]}; matrices by rows, a is [rank][in], b [out][rank], delta [out][in]. PEFT's cat is exact here, its svd exact with a rank.
Needs torch, peft.
"""
import json, sys
import torch
from peft import LoraConfig, get_peft_model

IN, OUT = 12, 10


def adapter(model, name, rank, alpha):
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["m"])
    model = get_peft_model(model, config, adapter_name=name) if name == "first" else model
    if name != "first":
        model.add_adapter(name, config)
    m = model.base_model.model.m
    for half in (m.lora_A, m.lora_B):
        torch.nn.init.normal_(half[name].weight, std=0.5)
    return model


def rows(t):
    return [float(v) for v in t.detach().flatten()]


def main(path):
    torch.manual_seed(3)
    model = torch.nn.Sequential()
    model.add_module("m", torch.nn.Linear(IN, OUT, bias=False))
    model = adapter(adapter(model, "first", 4, 8), "second", 4, 3)
    m = model.base_model.model.m
    out = {"in": IN, "out": OUT}
    for name, alpha in (("first", 8), ("second", 3)):
        out[name] = {"rank": 4, "alpha": alpha, "a": rows(m.lora_A[name].weight), "b": rows(m.lora_B[name].weight)}
    cases = []
    for method, weights, density, rank in (
            ("linear", [0.7, 0.3], None, 0), ("linear", [1.0, -0.5], None, 0), ("ties", [0.7, 0.3], 0.5, 0), ("ties", [1.0, 1.0], 0.2, 0),
            ("ties", [0.8, -0.4], 0.6, 0), ("ties", [1.0, 0.5], 1.0, 0), ("cat", [0.7, 0.3], None, 0), ("cat", [1.0, -0.5], None, 0),
            ("svd", [0.7, 0.3], None, 3), ("svd", [1.0, -0.5], None, 5)):
        model.add_weighted_adapter(["first", "second"], weights, "x", combination_type=method, density=density, svd_rank=rank or None)
        case = {"method": method, "weights": weights, "density": density or 0, "rank": rank}
        if method in ("linear", "ties"):
            case.update(a=rows(m.lora_A["x"].weight * m.scaling["x"]), b=rows(m.lora_B["x"].weight))
        else:
            case["delta"] = rows(m.get_delta_weight("x"))
        cases.append(case)
        model.delete_adapter("x")
    out["cases"] = cases
    with open(path, "w") as f:
        json.dump(out, f)
        f.write("\n")


main(sys.argv[1])
