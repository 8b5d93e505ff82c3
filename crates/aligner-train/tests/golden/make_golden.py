"""Makes `losses.json` and `lora_losses.json`: ten training steps of a tiny Llama in PyTorch, for `tests/parity.rs`.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python make_golden.py

The model is `aligner-model/tests/golden/tied`; the second file trains the adapter `aligner-model/tests/golden/lora/all-rslora`
over it. Each step has two micro-batches of rows of unequal length; the loss is the sum over the target tokens of the whole
step divided by their number. AdamW (0.9, 0.95), eps 1e-8, weight decay 0.1, clip to norm 1, cosine schedule with two warmup
steps. Seed 3. Computed in float64; the test's tolerance of 1e-4 relative is what float32 may differ by after ten steps.
"""
import json
import pathlib

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, get_cosine_schedule_with_warmup

here = pathlib.Path(__file__).parent
models = here / "../../../aligner-model/tests/golden"
STEPS = 10


def train(model):
    model.train()
    generator = torch.Generator().manual_seed(3)
    integer = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, STEPS)
    steps = []
    for _ in range(STEPS):
        micro_batches = []
        for _ in range(2):
            rows = []
            for _ in range(3):
                prompt, target = integer(2, 9), integer(1, 12)
                ids = torch.randint(3, 61, (prompt + target,), generator=generator).tolist()
                rows.append(dict(ids=ids, prompt_len=prompt))
            micro_batches.append(rows)
        targets = sum(len(row["ids"]) - row["prompt_len"] for rows in micro_batches for row in rows)
        nll = 0.0
        for rows in micro_batches:
            width = max(len(row["ids"]) for row in rows)
            ids = torch.zeros((len(rows), width), dtype=torch.long)
            labels = torch.full((len(rows), width), -100)
            mask = torch.zeros((len(rows), width), dtype=torch.long)
            for index, row in enumerate(rows):
                length, prompt = len(row["ids"]), row["prompt_len"]
                ids[index, :length] = torch.tensor(row["ids"])
                labels[index, prompt:length] = ids[index, prompt:length]
                mask[index, :length] = 1
            logits = model(input_ids=ids, attention_mask=mask).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")
            (loss / targets).backward()
            nll += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0).item()
        lr = schedule.get_last_lr()[0]
        optimizer.step(); schedule.step(); optimizer.zero_grad()
        steps.append(dict(micro_batches=micro_batches, loss=nll / targets, grad_norm=norm, lr=lr))
        print(steps[-1]["loss"], norm, lr)
    return json.dumps(steps) + "\n"


base = lambda: LlamaForCausalLM.from_pretrained(models / "tied", dtype=torch.float64)
(here / "losses.json").write_text(train(base()))
adapted = PeftModel.from_pretrained(base(), models / "lora/all-rslora", is_trainable=True).double()
(here / "lora_losses.json").write_text(train(adapted))
