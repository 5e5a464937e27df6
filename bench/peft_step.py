"""Times steps of LoRA with PyTorch and PEFT, for bench/compare-tune: rank 16 on all linear maps, AdamW, every token trained.

    peft_step.py MODEL BATCH LENGTH THREADS fp32|bf16 eager|compile [--rank N] [--hf FOLDER]

MODEL is a GGUF file, dequantised by transformers; --hf takes a folder of weights in place of it. Reads a line from standard input, makes a step, writes its
seconds, until the input ends; the first line that it writes says when it is ready. At the end: peak resident memory in MB.
"""
import argparse
import os
import resource
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("batch", type=int)
parser.add_argument("length", type=int)
parser.add_argument("threads", type=int)
parser.add_argument("dtype", choices=["fp32", "bf16"])
parser.add_argument("mode", choices=["eager", "compile"])
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--hf")
a = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(a.threads)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(a.threads)
torch.manual_seed(1)
dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
where = {"pretrained_model_name_or_path": a.hf} if a.hf else {"pretrained_model_name_or_path": os.path.dirname(os.path.abspath(a.model)), "gguf_file": os.path.basename(a.model)}
model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
config = peft.LoraConfig(r=a.rank, lora_alpha=a.rank, target_modules="all-linear", task_type="CAUSAL_LM", bias="none")
model = peft.get_peft_model(model, config)
model.train()
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.randint(0, model.config.vocab_size, (a.batch, a.length))
forward = torch.compile(model) if a.mode == "compile" else model


def step():
    optimiser.zero_grad(set_to_none=True)
    forward(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


step()          # allocates, compiles
print(f"ready torch {torch.__version__} peft {peft.__version__}", flush=True)
for _ in sys.stdin:
    begun = time.perf_counter()
    step()
    print(f"{time.perf_counter() - begun:.4f}", flush=True)
print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-6:.0f}", flush=True)
