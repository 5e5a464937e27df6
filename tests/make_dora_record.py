#!/usr/bin/env python3
"""DoRA adapters made with PEFT on tiny Hugging Face models of the test data, what PEFT computes with them, and 20 steps of training from them.

    python tests/make_dora_record.py DATA/tiny/hf tests/data/dora

Writes NAME/ (a PEFT folder) and NAME.json {"ids", "cases": [{"stack": [["dora" | "lora", scale], ...], "logits": last position}], "lr", "weight_decay", "clip",
"batches": sequences of each step, "steps": [{"loss", "grad_norm"}], "norms": of the gradients in step 1, by kind}. "lora" is tests/data/adapter/NAME.
Needs torch, transformers, peft.
"""
import json, os, sys
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

MODELS = {
    "llama3": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"],    # turned rows of q and k, groups of heads, a head
    "gpt2": ["c_attn", "c_proj", "c_fc"],                                                                  # biases, transposed weights
}
IDS = [(7 * i * i + 3) % 512 for i in range(24)]
STACKS = [[("dora", 1.0)], [("dora", 0.7)], [("dora", -0.5)], [("lora", 0.5), ("dora", 0.7)], [("dora", 0.7), ("lora", 0.5)], [("dora", 0.7), ("dora", 0.3)]]
STEPS, LR, DECAY, CLIP = 20, 5e-3, 0.01, 1.0


def load(models, name):
    return AutoModelForCausalLM.from_pretrained(os.path.join(models, name), dtype=torch.float32, attn_implementation="eager")


def make(models, name, folder):
    torch.manual_seed(2)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=MODELS[name], fan_in_fan_out=name == "gpt2", task_type="CAUSAL_LM", use_dora=True)
    model = get_peft_model(load(models, name), config)
    for key, value in model.named_parameters():
        if "lora_magnitude" in key:
            value.data *= 1 + 0.3 * torch.randn_like(value)
        elif "lora_" in key:
            torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    readme = os.path.join(folder, "README.md")
    if os.path.exists(readme):
        os.remove(readme)
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        config = json.load(f)
    config["base_model_name_or_path"] = "tiny/" + name
    with open(path, "w") as f:
        json.dump(config, f, indent=1, sort_keys=True)


def logits(models, name, dora, lora, stack):
    model, names = None, []
    for i, (kind, scale) in enumerate(stack):
        folder, own = dora if kind == "dora" else lora, f"adapter{i}"
        if model is None:
            model = PeftModel.from_pretrained(load(models, name), folder, adapter_name=own)
        else:
            model.load_adapter(folder, own)
        names.append(own)
    model.base_model.set_adapter(names)
    for module in model.modules():
        if hasattr(module, "set_scale"):
            for own, (_, scale) in zip(names, stack):
                module.set_scale(own, scale)
    with torch.no_grad():
        return [round(x, 6) for x in model.eval()(torch.tensor([IDS])).logits[0, -1].tolist()]


def train(models, name, folder):
    model = PeftModel.from_pretrained(load(models, name), folder, is_trainable=True).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wanted = {k: v for k, v in model.named_parameters() if v.requires_grad}
    optimizer = torch.optim.AdamW(wanted.values(), lr=LR, weight_decay=DECAY)
    batches, steps, norms = [], [], {}
    for step in range(STEPS):
        batch = [[(11 * i * i + 5 * s + 17 * (step % 4)) % 512 for i in range(12 + 3 * s)] for s in range(3)]
        optimizer.zero_grad()
        loss, count = 0, 0
        for ids in batch:
            t = torch.tensor([ids])
            loss = loss + F.cross_entropy(model(t).logits[0, :-1], t[0, 1:], reduction="sum")
            count += len(ids) - 1
        loss = loss / count
        loss.backward()
        if not step:
            for kind in ("lora_A", "lora_B", "lora_magnitude_vector"):
                norms[kind] = sum(v.grad.double().pow(2).sum().item() for k, v in wanted.items() if kind in k) ** 0.5
        norm = torch.nn.utils.clip_grad_norm_(wanted.values(), CLIP).item()
        optimizer.step()
        batches.append(batch)
        steps.append({"loss": round(loss.item(), 7), "grad_norm": round(norm, 7)})
    return {"lr": LR, "weight_decay": DECAY, "clip": CLIP, "batches": batches, "steps": steps, "norms": norms}


def main(models, out):
    os.makedirs(out, exist_ok=True)
    for name in MODELS:
        folder, lora = os.path.join(out, name), os.path.join(os.path.dirname(out), "adapter", name)
        make(models, name, folder)
        cases = [{"stack": s, "logits": logits(models, name, folder, lora, s)} for s in STACKS]
        record = {"ids": IDS, "cases": cases, **train(models, name, folder)}
        with open(os.path.join(out, name + ".json"), "w") as f:
            json.dump(record, f)
        print(name, "losses", record["steps"][0]["loss"], record["steps"][-1]["loss"], record["norms"])


main(sys.argv[1], sys.argv[2].rstrip("/"))
