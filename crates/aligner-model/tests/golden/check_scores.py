"""Loads a score model that this project saved, with transformers, and prints the scores of sequences as JSON.

    python check_scores.py MODEL_DIR ROWS     ROWS: a JSON list of lists of ids
"""
import json
import sys

import torch
from transformers import AutoModelForSequenceClassification

model, report = AutoModelForSequenceClassification.from_pretrained(
    sys.argv[1], dtype=torch.float64, attn_implementation="eager", output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
with torch.no_grad():
    print(json.dumps([model.eval()(torch.tensor([row])).logits[0].tolist() for row in json.loads(sys.argv[2])]))
