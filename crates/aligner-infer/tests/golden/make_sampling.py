"""Makes sampling.json: what transformers' logits processors leave of a distribution. Run it again only to add a case.

    pip install torch==2.15.0 transformers==5.23.0
    python make_sampling.py

Each case has scores (seed 0, no two alike: transformers keeps every token that ties with the k-th, ours exactly k), the
tokens seen, parameters, and the probabilities behind the processors in the order in which `generate` applies them. They
are computed in float64 from the float32 scores. `choices` are SplitMix64 draws over 1000 equal scores, by seed.
"""
import json
import pathlib

import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

CASES = [
    dict(temperature=1.0), dict(temperature=0.5), dict(temperature=2.5), dict(temperature=1.0, top_k=1),
    dict(temperature=1.0, top_k=5), dict(temperature=1.0, top_p=0.3), dict(temperature=1.0, top_p=0.9),
    dict(temperature=1.0, min_p=0.1), dict(temperature=0.7, top_k=40, top_p=0.95),
    dict(temperature=1.5, top_k=9, top_p=0.6), dict(temperature=0.8, top_p=0.8, min_p=0.25),
    dict(temperature=1.2, top_k=8, top_p=0.85, min_p=0.2), dict(temperature=1.0, repetition_penalty=1.3),
    dict(temperature=1.0, repetition_penalty=0.7), dict(temperature=0.9, top_k=6, top_p=0.9, repetition_penalty=2.0),
]
DEFAULTS = dict(top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)


def probabilities(scores, seen, p):
    scores, seen = torch.tensor([scores], dtype=torch.float64), torch.tensor([seen])
    if p["repetition_penalty"] != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(p["repetition_penalty"])(seen, scores)
    scores = TemperatureLogitsWarper(p["temperature"])(seen, scores)
    if p["top_k"]:
        scores = TopKLogitsWarper(p["top_k"])(seen, scores)
    if p["top_p"] < 1.0:
        scores = TopPLogitsWarper(p["top_p"])(seen, scores)
    if p["min_p"]:
        scores = MinPLogitsWarper(p["min_p"])(seen, scores)
    return torch.softmax(scores, -1)[0].tolist()


def choices(seed, count, mask=(1 << 64) - 1):
    out = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(int(((z ^ (z >> 31)) >> 11) / (1 << 53) * 1000))
    return out


torch.manual_seed(0)
cases = []
for case in CASES:
    scores = (torch.randn(16) * 1.5).tolist()
    assert len(set(scores)) == 16
    params = DEFAULTS | case
    cases.append(dict(scores=scores, seen=[0, 3, 3, 7, 11], params=params, probabilities=probabilities(scores, [0, 3, 3, 7, 11], params)))
golden = dict(cases=cases, choices=[dict(seed=seed, tokens=choices(seed, 20)) for seed in (0, 42, (1 << 53) - 1)])
pathlib.Path(__file__).with_name("sampling.json").write_text(json.dumps(golden) + "\n")
