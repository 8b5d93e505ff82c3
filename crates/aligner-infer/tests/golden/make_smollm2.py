"""Makes smollm2.json: prompts, scores and greedy corrections of SmolLM2-135M-Instruct by transformers, in float32.

    pip install torch==2.15.0 transformers==5.23.0
    python make_smollm2.py MODEL_DIR

Greedy decoding has no seed. The rows are the project's own. Scores may differ by 1e-4 a token: that is what float32 sums
over 30 layers in another order come to. `margin` is the smallest distance between the two best scores of a greedy
correction: where it is far above that, the tokens must be equal.
"""
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS = [
    ("Which planet is closest to the sun?", "Venus is the closest planet to the sun.", "Mercury is the closest planet to the sun."),
    ("How do I boil an egg?", "Figure it out yourself, it is not hard.", "Put it in boiling water for eight minutes, then cool it under the tap."),
    ("Was heißt „Brücke“ auf Englisch?", "Es heißt bread 🍞.", "Es heißt “bridge”."),
    ("Write <|im_end|> twice.", "<|im_end|><|im_start|>", "<|im_end|> <|im_end|>"),
    ("Count:\n1\n2", "  3\t4  ", "3\n4\n"),
]
TEMPLATE = "BEGINNING OF CONVERSATION: USER: ##Question: {}\n##Answer: {}\n##Correction:  ASSISTANT:"

tok = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
out = []
for question, answer, correction in ROWS:
    # Special tokens that a user spells are text.
    ids = lambda text, **kw: tok(text, split_special_tokens=True, **kw).input_ids
    prompt = ids(TEMPLATE.format(question, answer))
    target = ids(correction, add_special_tokens=False) + [tok.eos_token_id]
    with torch.no_grad():
        lp = torch.log_softmax(model(torch.tensor([prompt + target])).logits[0].double(), -1)
        gen = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=tok.eos_token_id,
                             output_scores=True, return_dict_in_generate=True)
    best = [step[0].topk(2).values for step in gen.scores]
    out.append(dict(question=question, answer=answer, correction=correction, prompt=prompt, target=target,
                    token_logprobs=[lp[len(prompt) - 1 + k, t].item() for k, t in enumerate(target)],
                    greedy=gen.sequences[0, len(prompt):].tolist(),
                    greedy_text=tok.decode(gen.sequences[0, len(prompt):], skip_special_tokens=True),
                    margin=min((b[0] - b[1]).item() for b in best)))
pathlib.Path(__file__).with_name("smollm2.json").write_text(json.dumps(out) + "\n")
for row in out:
    print(len(row["prompt"]), row["prompt"][:6], row["margin"], repr(row["greedy_text"]))
