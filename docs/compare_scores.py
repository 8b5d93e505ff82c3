"""Perplexity of scores, and how often two models hold the same token most probable.

    aligner score --model DIR --input rows.jsonl --per-token > f32.scores
    aligner score --model DIR --input rows.jsonl --per-token --weights q8 > q8.scores
    python docs/compare_scores.py f32.scores q8.scores
"""

import json
import math
import sys


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


first = read(sys.argv[1])
for path in sys.argv[1:]:
    scores = read(path)
    if [row["tokens"] for row in scores] != [row["tokens"] for row in first]:
        sys.exit(f"{path}: other rows than {sys.argv[1]}")
    tokens = sum(row["tokens"] for row in scores)
    perplexity = math.exp(-sum(row["logprob"] for row in scores) / tokens)
    pairs = [pair for a, b in zip(scores, first) for pair in zip(a["token_argmax"], b["token_argmax"])]
    same = sum(a == b for a, b in pairs) / len(pairs)
    print(f"{path}: {len(scores)} rows, {tokens} tokens, perplexity {perplexity:.3f}, most probable token the same {same:.1%}")
