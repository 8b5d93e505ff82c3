"""Loads a directory that this project saved, with transformers and PEFT, and prints the last two rows of logits as JSON.

    python check_saved.py MODEL_DIR IDS [ADAPTER_DIR]     IDS: a JSON list
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64, attn_implementation="eager")
if len(sys.argv) > 3:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, sys.argv[3]).double()
with torch.no_grad():
    print(json.dumps(model.eval()(torch.tensor([json.loads(sys.argv[2])])).logits[0, -2:].tolist()))
