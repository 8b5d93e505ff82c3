"""Writes rouge_l.json: ROUGE-L F1 as Google's rouge_score computes it, without stemming.

    pip install rouge_score==0.1.2 && python rouge_l.py

The first texts are written by hand for what tokenisers trip over. The others are drawn from eight words (seed 7), so that
the longest common subsequence has many ways to go. Texts are ASCII but for punctuation: rouge_score cuts other letters out,
which we do not. Both sides compute in double precision, so the tolerance of the test is that of printing and of another
order of the same few operations, 1e-12.
"""

import importlib.metadata
import json
import platform
import random
from pathlib import Path

from rouge_score import rouge_scorer

HAND = [
    ("The cat: a mat", "the cat on the mat"),
    ("No, it does not.", "No; it doesn't!"),
    ("It’s “round” — mostly", "It's round, mostly."),
    ("3.14 is pi, 2,000 is not", "Pi is 3.14; 2000 is not"),
    ("one\ntwo\nthree", "three two one"),
    ("", "something"),
    ("something", ""),
    ("...", "!!!"),
    ("snake_case and kebab-case", "snake case and kebab case"),
    ("Water boils at 100 degrees", "Water boils at 100 degrees"),
]


def main():
    draw = random.Random(7)
    words = "a big cat did eat five good hats".split()
    text = lambda: " ".join(draw.choice(words) for _ in range(draw.randint(1, 40)))
    pairs = HAND + [(text(), text()) for _ in range(60)]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    cases = [
        {"text": text, "reference": reference, "f1": scorer.score(reference, text)["rougeL"].fmeasure}
        for text, reference in pairs
    ]
    versions = {name: importlib.metadata.version(name) for name in ["rouge_score", "nltk", "numpy"]}
    golden = {"versions": {"python": platform.python_version(), **versions}, "seed": 7, "cases": cases}
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


main()
