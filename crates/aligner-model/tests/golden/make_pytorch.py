"""Makes pytorch/: weights of golden models as PyTorch saves them; run make_golden.py first.

    pip install torch==2.15.0 safetensors==0.8.0
    python make_pytorch.py

`save_pretrained(safe_serialization=False)` is gone from transformers 5: what it did, and what DeepSpeed's users and the
original Aligner repository do, is `torch.save(state_dict)`, with an index when there are shards.

- `single` (of `tied`): the whole state dict, embedding and output projection one storage, a buffer of integers beside them.
- `sharded` (of `sharded-bf16-linear`): three shards and their index, bfloat16.
- `views` (of `f16`): pickle protocol 5, every tensor a view into one flat storage as in DeepSpeed's buffers, half of the
  matrices stored transposed, parameters instead of tensors.

The numbers are those of the safetensors files beside them, bit for bit; the logits are those of their `golden.json`.
"""
import collections
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file

here = pathlib.Path(__file__).parent


def weights(variant):
    files = sorted((here / variant).glob("*.safetensors"))
    return collections.OrderedDict((k, v) for file in files for k, v in load_file(file).items())


def folder(name):
    out = here / "pytorch" / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


state = weights("tied")
state["lm_head.weight"] = state["model.embed_tokens.weight"]
state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
state["step"] = torch.tensor(7)
# As a module's state_dict() carries it.
state._metadata = collections.OrderedDict({"": {"version": 1}, "model": {"version": 1}})
torch.save(state, folder("single") / "pytorch_model.bin")

state, out = weights("sharded-bf16-linear"), folder("sharded")
names, places = list(state), {}
for number in range(3):
    file = f"pytorch_model-{number + 1:05}-of-00003.bin"
    part = {name: state[name] for name in names[number::3]}
    torch.save(part, out / file)
    places.update({name: file for name in part})
index = dict(metadata=dict(total_size=sum(v.nbytes for v in state.values())), weight_map=places)
(out / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

state = weights("f16")
flat = torch.empty(sum(v.numel() for v in state.values()) + 3, dtype=torch.float16)
at, views = 3, collections.OrderedDict()
for number, (name, value) in enumerate(state.items()):
    turn = value.dim() == 2 and number % 2 == 0
    view = flat[at:at + value.numel()].view(value.t().shape if turn else value.shape)
    view.copy_(value.t() if turn else value)
    views[name] = torch.nn.Parameter(view.t() if turn else view, requires_grad=number % 3 == 0)
    at += value.numel()
torch.save(views, folder("views") / "pytorch_model.bin", pickle_protocol=5)
