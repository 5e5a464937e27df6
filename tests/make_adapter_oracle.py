#!/usr/bin/env python3
"""Adapters of every kind of map, made with PEFT on the tiny Hugging Face models of the test data, and what PEFT computes with them.

    python tests/make_adapter_oracle.py DATA/tiny/hf tests/data/adapter

Writes NAME/ (a PEFT folder) and NAME.json {"ids", "scale", "logits": last position} for each model. Needs torch, transformers, peft.
"""
import json, os, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"]
MODELS = {
    "llama3": LLAMA, "qwen3": LLAMA, "gemma3": LLAMA[:-1],
    "gpt2": ["c_attn", "c_proj", "c_fc", "wte", "wpe"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "embed_in", "embed_out"],
}
IDS = [(7 * i * i + 3) % 512 for i in range(24)]


def main(models, out):
    for name, targets in MODELS.items():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(os.path.join(models, name), dtype=torch.float32, attn_implementation="eager")
        config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, fan_in_fan_out=name == "gpt2", task_type="CAUSAL_LM",
                            rank_pattern={targets[0]: 2}, alpha_pattern={targets[1]: 1.5})
        model = get_peft_model(model, config).eval()
        for key, value in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(value, std=0.15)
        with torch.no_grad():
            logits = model(torch.tensor([IDS])).logits[0, -1]
        folder = os.path.join(out, name)
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
        with open(os.path.join(out, name + ".json"), "w") as f:
            json.dump({"ids": IDS, "logits": [round(x, 6) for x in logits.tolist()]}, f)
        print(name, sum(p.numel() for k, p in model.named_parameters() if "lora_" in k), "parameters")


main(sys.argv[1], sys.argv[2])
