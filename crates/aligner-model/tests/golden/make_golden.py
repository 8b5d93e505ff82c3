"""Makes the tiny golden models of this directory with transformers; run it again only to add a variant.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python make_golden.py

Each variant is a random Llama (seed 0) with one Hugging Face directory, and `golden.json`: the ids of two sequences, the
logits of the last two positions of the first, the sum of the second's log-probabilities, and 12 greedy tokens.
Weights are drawn with a deviation of 0.2, ten times the usual, so that attention is far from uniform and a wrong mask,
head layout or rotation moves the logits by far more than the tolerance. The goldens are computed in float64 from the
stored weights; the tolerance of 1e-4 in the test is what float32 arithmetic in another order may differ by.
"""
import json
import pathlib
import shutil

import torch
from transformers import LlamaConfig, LlamaForCausalLM

BASE = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, rms_norm_eps=1e-5,
            bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
VARIANTS = {
    "tied": (dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0)), torch.float32, None),
    "untied-bias-llama3": (dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True, num_key_value_heads=4,
                                rope_parameters=LLAMA3), torch.float32, None),
    "sharded-bf16-linear": (dict(num_key_value_heads=1, head_dim=10, tie_word_embeddings=False,
                                 rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.0)),
                            torch.bfloat16, "20KB"),
    "f16": (dict(num_attention_heads=8, num_key_value_heads=1,
                 rope_parameters=dict(rope_type="default", rope_theta=10000.0)), torch.float16, None),
}

here = pathlib.Path(__file__).parent
for name, (change, dtype, shard) in VARIANTS.items():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**BASE, **change})).to(dtype)
    for tensor in model.parameters():  # norms and biases away from 1 and 0, or they would not be tested
        if tensor.dim() == 1:
            tensor.data += 0.3 * torch.randn_like(tensor)
    out = here / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, **({"max_shard_size": shard} if shard else {}))
    (out / "generation_config.json").unlink(missing_ok=True)
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(3, 61, (19,), generator=generator).tolist()
    second = torch.randint(3, 61, (40,), generator=generator).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([first])).logits[0, -2:].tolist()
        logp = torch.log_softmax(model(torch.tensor([second])).logits[0], -1)
        nll = -sum(logp[i, second[i + 1]].item() for i in range(len(second) - 1))
        greedy = list(first)
        for _ in range(12):
            greedy.append(model(torch.tensor([greedy])).logits[0, -1].argmax().item())
    golden = dict(first=first, second=second, last_two_logits=logits, second_nll=nll, greedy=greedy[len(first):])
    (out / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, sum(p.numel() for p in model.parameters()), nll)
