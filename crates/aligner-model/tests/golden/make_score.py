"""Makes the tiny golden score models of `score/`; run it again only to add a variant.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python make_score.py

Each variant is a random model (seed 0) as one Hugging Face directory, and `golden.json`: three sequences, of which one ends
with padding, and their scores. Weights are drawn with a deviation of 0.2, as in make_golden.py and for its reason. Scores of
transformers' models are what `…ForSequenceClassification` gives. Safe-RLHF's package is not needed: `safe_rlhf` below is the
arithmetic of its score model (score_head with a bias over the last hidden state at the last attended token, then
`(x - mean) / (sqrt(var) + 1e-8)` of a reward and `x / (sqrt(var) + 1e-8)` of a cost). All is computed in float64 from the
stored weights; the tolerance of 1e-4 in the test is what float32 arithmetic in another order may differ by.
"""
import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file

BASE = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, rms_norm_eps=1e-5,
            bos_token_id=1, eos_token_id=2, rope_parameters=dict(rope_type="default", rope_theta=10000.0))
# name: family, what it changes
CLASSIFIERS = {
    "llama": ("Llama", dict(num_labels=1, pad_token_id=0, tie_word_embeddings=False)),
    "qwen3": ("Qwen3", dict(num_labels=3, pad_token_id=None, head_dim=10)),
    "gemma2": ("Gemma2", dict(num_labels=1, pad_token_id=0, head_dim=6, sliding_window=8, query_pre_attn_scalar=10)),
}
# name: architecture, score_type, whether the file has the normaliser's numbers
SAFE_RLHF = {"safe-rlhf-reward": ("LlamaModelForScore", "reward", True), "safe-rlhf-cost": ("LlamaForScore", "cost", False)}

here = pathlib.Path(__file__).parent / "score"
generator = torch.Generator().manual_seed(1)
rows = [torch.randint(3, 61, (length,), generator=generator).tolist() for length in (19, 33, 7)]


def fresh(kind, config, out):
    torch.manual_seed(0)
    model = kind(config).to(torch.float32)
    for tensor in model.parameters():  # norms away from 1, or they would not be tested
        if tensor.dim() == 1:
            tensor.data += 0.3 * torch.randn_like(tensor)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    return kind.from_pretrained(out, dtype=torch.float64, attn_implementation="eager").eval()


def write(out, rows, scores):
    (out / "generation_config.json").unlink(missing_ok=True)
    (out / "golden.json").write_text(json.dumps(dict(rows=rows, scores=scores)) + "\n")
    print(out.name, scores)


for name, (family, change) in CLASSIFIERS.items():
    config = getattr(transformers, family + "Config")(**{**BASE, **change})
    model = fresh(getattr(transformers, family + "ForSequenceClassification"), config, here / name)
    padded = [*rows[:2], rows[2] + [0, 0]]
    with torch.no_grad():
        write(here / name, padded, [model(torch.tensor([row])).logits[0].tolist() for row in padded])

for name, (architecture, kind, stored) in SAFE_RLHF.items():
    out = here / name
    model = fresh(transformers.LlamaModel, transformers.LlamaConfig(**{**BASE, "pad_token_id": 0}), out)
    torch.manual_seed(2)
    weight, bias = 0.2 * torch.randn(1, 32), 0.3 * torch.randn(1)
    mean, var = torch.tensor([0.75]), torch.tensor([2.5])
    tensors = {"model." + key: value for key, value in load_file(out / "model.safetensors").items()}
    tensors |= {"score_head.weight": weight, "score_head.bias": bias}
    config = json.loads((out / "config.json").read_text())
    config.update(architectures=[architecture], score_dim=1, bias=True, score_type=kind, do_normalize=True)
    if stored:  # the numbers in the file count, not those of config.json
        tensors |= {"normalizer.mean": mean, "normalizer.var": var, "normalizer.count": torch.tensor([8])}
        config.update(mean=[0.0], var=[1.0])
    else:
        config.update(mean=mean.tolist(), var=var.tolist())
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def safe_rlhf(row):
        hidden = model(torch.tensor([row])).last_hidden_state[0, -1]
        score = weight.double() @ hidden + bias.double()
        return ((score - (mean.double() if kind == "reward" else 0)) / (var.double().sqrt() + 1e-8)).tolist()

    with torch.no_grad():
        write(out, rows, [safe_rlhf(row) for row in rows])
