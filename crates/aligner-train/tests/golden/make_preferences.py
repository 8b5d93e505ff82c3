"""Makes preferences.json: losses and gradients of the objectives over pairs, by PyTorch.

    pip install torch==2.15.0 transformers==5.23.0
    python make_preferences.py

Models: crates/aligner-model/tests/golden/score/llama (scores) and .../tied (DPO; the reference is the same model with every
matrix of the blocks times 0.9). Pairs are random ids (seed 3) with a prompt that both answers share. Losses and norms of the
whole gradient are computed in float64; the tests allow 2e-4 relative, which is float32 arithmetic in another order. DPO is
computed as in the paper, over all tokens of the answers; the project leaves those out that both begin with, which must not show.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

here = pathlib.Path(__file__).parent
models = here / "../../../aligner-model/tests/golden"
generator = torch.Generator().manual_seed(3)


def draw(count):
    return torch.randint(3, 61, (count,), generator=generator).tolist()


pairs = []
for prompt_len, chosen, rejected, labels in [(5, 6, 9, [2, 1]), (9, 4, 3, [1, 1]), (3, 8, 8, [0, 2])]:
    prompt = draw(prompt_len) + [7, 8]  # the last two are the beginning of both answers
    pairs.append(dict(prompt_len=prompt_len, chosen=prompt + draw(chosen), rejected=prompt + draw(rejected), labels=labels))


def norm(model):
    return torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters() if p.grad is not None)).item()


def scored(loss_of):
    model = AutoModelForSequenceClassification.from_pretrained(models / "score/llama", dtype=torch.float64,
                                                               attn_implementation="eager").eval()
    score = lambda ids: model(torch.tensor([ids])).logits[0, 0]
    loss = sum(loss_of(score(pair["chosen"]), score(pair["rejected"]), pair["labels"]) for pair in pairs)
    (loss / len(pairs)).backward()
    return dict(loss_sum=loss.item(), grad_norm=norm(model), head_grad=model.score.weight.grad[0].tolist())


def cost(better, worse, labels):
    sign = {2: -1, 1: 1}  # safe, unsafe
    loss = -F.logsigmoid(worse - better)
    for value, label in zip((better, worse), labels):
        if label:
            loss = loss - F.logsigmoid(sign[label] * value)
    return loss


def log_prob(model, ids, prompt_len):
    logp = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    return sum(logp[at - 1, ids[at]] for at in range(prompt_len, len(ids)))


def dpo(beta):
    load = lambda: AutoModelForCausalLM.from_pretrained(models / "tied", dtype=torch.float64, attn_implementation="eager").eval()
    model, reference = load(), load()
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            if "layers" in name and tensor.dim() == 2:
                tensor.mul_(0.9)
    loss, margins = 0, []
    for pair in pairs:
        ratio = lambda m: log_prob(m, pair["chosen"], pair["prompt_len"]) - log_prob(m, pair["rejected"], pair["prompt_len"])
        margin = beta * (ratio(model) - ratio(reference).detach())
        margins.append(margin.item())
        loss = loss - F.logsigmoid(margin)
    (loss / len(pairs)).backward()
    return dict(loss_sum=loss.item(), grad_norm=norm(model), margins=margins)


golden = dict(pairs=pairs, reward=scored(lambda better, worse, _: -F.logsigmoid(better - worse)), cost=scored(cost),
              beta=0.3, dpo=dpo(0.3))
(here / "preferences.json").write_text(json.dumps(golden) + "\n")
print({key: value["loss_sum"] for key, value in golden.items() if isinstance(value, dict)})
