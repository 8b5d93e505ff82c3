"""Makes seeds/: a few tiny valid inputs for each fuzz target. Run it again only to add one.

    pip install torch==2.15.0 safetensors==0.8.0
    python make_seeds.py
"""
import collections
import gzip
import io
import json
import pathlib
import shutil
import struct
import zipfile

import torch
from safetensors.torch import save

here = pathlib.Path(__file__).resolve().parent
golden = here.parent / "crates/aligner-model/tests/golden"
tensors = collections.OrderedDict(
    a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4, dtype=torch.bfloat16), c=torch.ones(2, dtype=torch.float16))


def seed(target, name, content):
    folder = here / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def torch_save(value, **how):
    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


shutil.rmtree(here / "seeds", ignore_errors=True)
seed("safetensors", "three", save(tensors, metadata={"format": "pt"}))
seed("safetensors", "empty", save({}))
for name in ["types", "qwen2", "gemma", "llama-rope-freqs"]:
    seed("gguf", name, (golden / f"gguf/{name}.gguf").read_bytes())

views = collections.OrderedDict(flat=torch.arange(6.0))
views["turned"] = torch.nn.Parameter(views["flat"].view(2, 3).t())
views["tied"] = views["turned"]
views._metadata = collections.OrderedDict({"": {"version": 1}})
for name, value in {"three": tensors, "views": views}.items():
    for protocol in (2, 5):
        whole = torch_save(value, pickle_protocol=protocol)
        seed("pytorch", f"{name}-{protocol}", whole)
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            pickle = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        if protocol == 2 and name == "views":
            seed("pytorch", "pickle", pickle)
seed("pytorch", "before-1.6", torch_save(views, _use_new_zipfile_serialization=False))

for folder in sorted(golden.glob("*/config.json")):
    seed("config", folder.parent.name, folder.read_bytes())
seed("shard_index", "two", json.dumps(dict(metadata=dict(total_size=8), weight_map=dict(a="one", b="two", c="one"))))

adapter = json.loads((golden / "lora/attention/adapter_config.json").read_text())
adapter = json.dumps({key: value for key, value in adapter.items() if key in (
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "rank_pattern",
    "base_model_name_or_path")}).encode()
layer = "base_model.model.model.layers.0.self_attn.q_proj"
weights = save({f"{layer}.lora_A.weight": torch.ones(4, 3), f"{layer}.lora_B.weight": torch.ones(2, 4)})
seed("adapter", "one-layer", struct.pack("<H", len(adapter)) + adapter + weights)

row = json.dumps(dict(question="2 + 2?", answer="5 \\ {}", correction="4 \U0001f600"))
chat = json.dumps(dict(prompt=[dict(role="user", content="hi")], answer="a", correction="b"))
seed("rows", "lines", f"{row}\n\n{row}\n{chat}\n")
seed("rows", "array", f"\ufeff[{row},\n {row}]")
transcript = "\n\nHuman: q\n\nAssistant:"
chosen = [dict(role="user", content="q"), {"from": "gpt", "value": "c"}]
for name, published in dict(
    hh=dict(chosen=f"{transcript} c", rejected=f"{transcript} a"),
    safe=dict(prompt="q", response_0="a", response_1="c", safer_response_id=1),
    preference=dict(prompt="q", chosen=chosen, rejected=chosen[:1] + [dict(role="assistant", content="a")]),
    alpaca=dict(instruction="q", input="", output="a", correction="c", system="s"),
    chat=dict(conversations=chosen, correction="c"),
    stream=dict(question="q", prefix="a.", last="b.", correction="c."),
).items():
    seed("rows", name, json.dumps(published))
seed("rows", "beavertails", "\n".join(
    json.dumps(dict(prompt="q", response=answer, is_safe=answer == "c")) for answer in "acb"))
seed("rows", "csv", 'question,answer,correction\nq,"a ""b""\n",c\n')
seed("rows", "gzip", gzip.compress(f"{row}\n{row}\n".encode(), mtime=0))
seed("template", "plain", "USER: {question} {{}} | {answer} ASSISTANT:")

chunk = '{"id":"1","choices":[{"index":0,"delta":{"content":"Grüße"},"finish_reason":null}]}'
for name, end in {"lf": "\n", "crlf": "\r\n", "cr": "\r"}.items():
    lines = [": comment", "event: x", f"data: {chunk}", "", "data:two", "data: lines", "", "data: [DONE]", "", ""]
    seed("sse", name, b"\x21\x00" + end.join(lines).encode())
question = {"role": "user", "content": "Is the earth flat?"}
seed("requests", "chat", json.dumps({"model": "m", "messages": [
    {"role": "system", "content": "Be brief."}, question, {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": [{"type": "text", "text": "Really?"}]}],
    "stream": True, "stream_options": {"include_usage": True}, "stop": ["\n"], "n": 2,
    "response_format": {"type": "json_object"}, "aligner": {"mode": "sentence", "edits": True, "include_original": True}}))
seed("requests", "completion", json.dumps({"prompt": ["Is the earth flat?"], "stop": "END"}))
seed("requests", "correction", json.dumps({"question": "q", "answer": "a", "chat_history": [{"question": "q", "answer": "a"}],
    "prediction": {"type": "content", "content": "p"}, "temperature": 0.5, "top_p": 0.9, "seed": 1, "max_tokens": 5, "stream": True}))
seed("requests", "batch", json.dumps({"inputs": [{"question": "q", "answer": "a"}], "edits": False}))
seed("requests", "choice", json.dumps({"message": {"content": "text", "tool_calls": [{"id": "1"}]}, "delta": {"content": "x"},
    "text": "y", "finish_reason": "stop"}))
