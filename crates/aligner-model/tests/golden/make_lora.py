"""Makes lora/: PEFT adapters over the golden model `tied`, and the logits of the adapted model.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python make_lora.py

B is drawn at random instead of zero (seed 0), or the adapter would change nothing. Computed in float64; the tolerance of
1e-4 in the test is what float32 arithmetic in another order may differ by.
"""
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

here = pathlib.Path(__file__).parent
first = json.loads((here / "tied/golden.json").read_text())["first"]
for name, settings in {
    "attention": dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "all-rslora": dict(r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True),
}.items():
    torch.manual_seed(0)
    base = LlamaForCausalLM.from_pretrained(here / "tied", dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, tensor in model.named_parameters():
        if "lora_B" in key:
            tensor.data = 0.2 * torch.randn_like(tensor)
    out = here / "lora" / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    with torch.no_grad():
        logits = model.double().eval()(torch.tensor([first])).logits[0, -2:].tolist()
    config = json.loads((out / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tied"
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "golden.json").write_text(json.dumps(dict(last_two_logits=logits)) + "\n")
