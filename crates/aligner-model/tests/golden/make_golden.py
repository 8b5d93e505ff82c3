"""Makes the tiny golden models of this directory with transformers; run it again only to add a variant.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python make_golden.py [VARIANT...]

Each variant is a random model (seed 0) with one Hugging Face directory, and `golden.json`: the ids of two sequences, the
logits of the last two positions of the first, the sum of the second's log-probabilities, and 12 greedy tokens.
Weights are drawn with a deviation of 0.2, ten times the usual, so that attention is far from uniform and a wrong mask,
head layout or rotation moves the logits by far more than the tolerance. The goldens are computed in float64 from the
stored weights; the tolerance of 1e-4 in the test is what float32 arithmetic in another order may differ by.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

BASE = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, rms_norm_eps=1e-5,
            bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
DEFAULT = dict(rope_type="default", rope_theta=10000.0)
# name: family, what it changes, dtype, largest shard
VARIANTS = {
    "tied": ("Llama", dict(rope_parameters=DEFAULT), torch.float32, None),
    "untied-bias-llama3": ("Llama", dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
                                         num_key_value_heads=4, rope_parameters=LLAMA3), torch.float32, None),
    "sharded-bf16-linear": ("Llama", dict(num_key_value_heads=1, head_dim=10, tie_word_embeddings=False,
                                          rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.0)),
                            torch.bfloat16, "20KB"),
    "f16": ("Llama", dict(num_attention_heads=8, num_key_value_heads=1, rope_parameters=DEFAULT), torch.float16, None),
    "llama-dynamic": ("Llama", dict(max_position_embeddings=24, rope_parameters=dict(
        rope_type="dynamic", rope_theta=10000.0, factor=4.0)), torch.float32, None),
    "llama-yarn": ("Llama", dict(head_dim=12, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)), torch.float32, None),
    "mistral": ("Mistral", dict(sliding_window=8, tie_word_embeddings=False, rope_parameters=DEFAULT), torch.float32, None),
    "qwen2": ("Qwen2", dict(use_sliding_window=True, sliding_window=9, max_window_layers=1, rope_parameters=DEFAULT),
              torch.float32, None),
    "qwen3": ("Qwen3", dict(head_dim=10, rope_parameters=DEFAULT), torch.bfloat16, None),
    "gemma": ("Gemma", dict(head_dim=14, num_key_value_heads=1, rope_parameters=DEFAULT), torch.float32, None),
    "gemma2": ("Gemma2", dict(head_dim=6, sliding_window=8, query_pre_attn_scalar=10, attn_logit_softcapping=5.0,
                              final_logit_softcapping=3.0, rope_parameters=DEFAULT), torch.float32, None),
    "gemma3": ("Gemma3Text", dict(head_dim=10, num_hidden_layers=4, sliding_window=8, query_pre_attn_scalar=12,
                                  layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
                                  rope_parameters=dict(sliding_attention=DEFAULT, full_attention=dict(
                                      rope_type="linear", rope_theta=1000000.0, factor=8.0))), torch.float32, None),
    "phi3": ("Phi3", dict(tie_word_embeddings=False, pad_token_id=0, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)), torch.float32, "30KB"),
    "phi3-longrope": ("Phi3", dict(pad_token_id=0, sliding_window=16, original_max_position_embeddings=24, rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.0, 2.0, 3.0, 5.0])),
        torch.float32, None),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=5, pad_token_id=0, rope_parameters=DEFAULT), torch.float32, None),
    "olmo2": ("Olmo2", dict(tie_word_embeddings=False, rope_parameters=DEFAULT), torch.float32, None),
    "baichuan": ("Llama", dict(tie_word_embeddings=False, num_key_value_heads=4, rope_parameters=DEFAULT), torch.float32, None),
}


def as_baichuan(out):
    """Baichuan-7B, which transformers does not hold, is a Llama whose query, key and value weights are one tensor."""
    weights = load_file(out / "model.safetensors")
    for layer in range(BASE["num_hidden_layers"]):
        at = f"model.layers.{layer}.self_attn."
        weights[at + "W_pack.weight"] = torch.cat([weights.pop(f"{at}{name}_proj.weight") for name in "qkv"])
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config.update(architectures=["BaichuanForCausalLM"], model_type="baichuan")
    del config["num_key_value_heads"]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


here = pathlib.Path(__file__).parent
for name, (family, change, dtype, shard) in VARIANTS.items():
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    config = getattr(transformers, family + "Config")(**{**BASE, **change})
    kind = getattr(transformers, family.removesuffix("Text") + "ForCausalLM")
    torch.manual_seed(0)
    model = kind(config).to(dtype)
    for tensor in model.parameters():  # norms and biases away from 1 and 0, or they would not be tested
        if tensor.dim() == 1:
            tensor.data += 0.3 * torch.randn_like(tensor)
    out = here / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, **({"max_shard_size": shard} if shard else {}))
    (out / "generation_config.json").unlink(missing_ok=True)
    model = kind.from_pretrained(out, dtype=torch.float64, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(3, 61, (19,), generator=generator).tolist()
    second = torch.randint(3, 61, (40,), generator=generator).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([first])).logits[0, -2:].tolist()
        logp = torch.log_softmax(model(torch.tensor([second])).logits[0], -1)
        nll = -sum(logp[i, second[i + 1]].item() for i in range(len(second) - 1))
        greedy, new, cache = [], first, None
        for _ in range(12):  # through the cache: with dynamic scaling the keys of earlier tokens keep their rotation
            step = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            new, cache = [step.logits[0, -1].argmax().item()], step.past_key_values
            greedy += new
    golden = dict(first=first, second=second, last_two_logits=logits, second_nll=nll, greedy=greedy)
    (out / "golden.json").write_text(json.dumps(golden) + "\n")
    if name == "baichuan":
        as_baichuan(out)
    print(name, sum(p.numel() for p in model.parameters()), nll)
