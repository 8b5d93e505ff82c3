"""How well words alone tell right answers from false ones of TruthfulQA; needs nothing but Python.

    python docs/words_truthfulqa.py train.jsonl train_identity.jsonl valid.jsonl valid_refs.jsonl

A logistic regression on words and neighbouring words of the answer, on words of it that the question has not, and on its first
word beside the question's. It learns from the answers (false) and corrections (right) of the training rows, and is tested on
the answers of valid.jsonl and the correct references, whose questions it has not seen: what is told is the area under the ROC
curve, and the share of false answers below the score that a share of the right ones is above.
"""
import json
import math
import random
import re
import sys

PASSES, RATE, DECAY = 30, 0.1, 1e-4


def tokens(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def features(question, answer):
    words, asked = tokens(answer), tokens(question)
    ends = ["<s>"] + words + ["</s>"]
    found = {"word " + word for word in words} | {"new " + word for word in words if word not in asked}
    found |= {f"pair {one} {other}" for one, other in zip(ends, ends[1:])}
    found.add(f"first {words[:1]} {asked[:1]}")
    found.add(f"length {min(len(words) // 3, 6)}")
    return sorted(found)


def read(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def score(weights, row):
    return weights.get("", 0.0) + sum(weights.get(feature, 0.0) for feature in row)


def fitted(right, false):
    """Weights by AdaGrad; both classes weigh the same."""
    rows = [(features(*row), 1.0, 0.5 / len(right)) for row in right] + [(features(*row), 0.0, 0.5 / len(false)) for row in false]
    weights, squares, rng = {}, {}, random.Random(42)
    for _ in range(PASSES):
        rng.shuffle(rows)
        for row, label, weight in rows:
            error = (1 / (1 + math.exp(-score(weights, row))) - label) * weight * len(rows)
            for feature in row + [""]:
                slope = error + DECAY * weights.get(feature, 0.0)
                squares[feature] = squares.get(feature, 1.0) + slope * slope
                weights[feature] = weights.get(feature, 0.0) - RATE * slope / math.sqrt(squares[feature])
    return weights


def main(train, identity, valid, refs):
    rows = read(train) + read(identity)
    right = sorted({(row["question"], row["correction"]) for row in rows})
    false = sorted({(row["question"], row["answer"]) for row in rows} - set(right))
    weights = fitted(right, false)
    good = sorted(score(weights, features(row["question"], text)) for row in read(refs) for text in row["correct_answers"])
    bad = [score(weights, features(row["question"], row["answer"])) for row in read(valid)]
    above = sum((one > other) + 0.5 * (one == other) for one in good for other in bad)
    print(f"{len(right)} right and {len(false)} false answers to learn from, {len(good)} and {len(bad)} to test on")
    print(f"area under the curve {above / len(good) / len(bad):.3f}")
    for kept in (0.95, 0.9, 0.8, 0.7):
        least = good[int((1 - kept) * len(good))]
        print(f"{100 * kept:.0f} % of the right answers kept: {100 * sum(one < least for one in bad) / len(bad):.1f} % of the false ones told")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
