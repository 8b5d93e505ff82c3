"""Has TRL train on the rows that `aligner_eval::bootstrap` writes: one step each on a tiny random model.

    pip install trl==1.16.0 datasets==5.2.0 transformers==5.23.0 torch==2.15.0
    python dry_run.py DIR       # DIR/FORMAT/train.jsonl and valid.jsonl, for each format

Nothing is downloaded: the model has random weights and a vocabulary of characters. What is checked:

- `datasets` reads the rows, with the columns that the format promises and no others, and a directory of them as its splits;
- each trainer takes the rows as they are, makes a step and evaluates. The first loss is the known one of a model that knows
  nothing: ln 2 of DPO, 1/2 of KTO, and of SFT about the logarithm of the vocabulary;
- after the step DPO and KTO reward corrections more than answers, on validation rows too: none is the wrong way round;
- SFT's loss is on the correction alone: of the first row, the labels that count decode to the correction;
- KTO: no prompt follows a row of the same prompt, as its KL term is estimated from such neighbours.

Each loss is printed, and `ok` at the end.
"""
import math
import pathlib
import sys
import tempfile

import torch
from datasets import load_dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

try:
    from trl import KTOConfig, KTOTrainer
except ImportError:  # where it was before TRL 1.0
    from trl.experimental.kto import KTOConfig, KTOTrainer

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<bot>"
    "{% else %}{{ m.content }}<eos>{% endif %}{% endfor %}"
)
COLUMNS = {
    "sft": {"prompt", "completion"},
    "sft-messages": {"messages"},
    "sft-text": {"prompt", "completion"},
    "dpo": {"prompt", "chosen", "rejected"},
    "kto": {"prompt", "completion", "label"},
    "qac": {"question", "answer", "correction", "chat_history"},
}


def tokenizer():
    """One token for each character, three for what stands around messages."""
    special = ["<pad>", "<eos>", "<user>", "<bot>", "<unk>"]
    vocabulary = special + [chr(code) for code in range(32, 127)] + ["\n"]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>"], chat_template=TEMPLATE,
    )


def model(vocabulary):
    set_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def rows(directory, name):
    files = {split: str(directory / f"{split}.jsonl") for split in ("train", "valid")}
    read = load_dataset("json", data_files=files)
    for split in read:
        assert set(read[split].column_names) == COLUMNS[name], (name, read[split].column_names)
    whole = load_dataset(str(directory))
    lengths = {split: len(found) for split, found in whole.items()}
    assert lengths == {"train": len(read["train"]), "validation": len(read["valid"])}, lengths
    return read


def step(name, trainer_type, config_type, read):
    tokens = tokenizer()
    # A model without a directory cannot be loaded a second time: trainers that compare with a reference are handed it.
    reference = {} if trainer_type is SFTTrainer else {"ref_model": model(len(tokens))}
    with tempfile.TemporaryDirectory() as out:
        arguments = config_type(
            output_dir=out, max_steps=1, per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=1e-3,
            use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1, seed=1,
            max_length=512,
        )
        trainer = trainer_type(
            model=model(len(tokens)), args=arguments, train_dataset=read["train"], eval_dataset=read["valid"],
            processing_class=tokens, **reference,
        )
        before = [weight.detach().clone() for weight in trainer.model.parameters()]
        loss = trainer.train().training_loss
        found = trainer.evaluate()
        changed = any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))
    evaluated, margin = found["eval_loss"], found.get("eval_rewards/margins")
    expected, tolerance = {"dpo": (math.log(2), 1e-3), "kto": (0.5, 1e-3)}.get(name, (math.log(len(tokens)), 0.2))
    assert changed and abs(loss - expected) < tolerance and 0 < evaluated < expected, (name, changed, loss, evaluated)
    assert (margin is None) == (not reference) and (margin is None or margin > 0), (name, found)
    parameters = sum(weight.numel() for weight in before)
    print(f"{name}: {parameters} parameters, loss {loss:.4f}, then of validation {evaluated:.4f}, margin {margin}")
    return trainer, tokens


def check_labels(trainer, tokens, read):
    """What the loss of the first row is on."""
    example = trainer.train_dataset[0]
    labels = trainer.data_collator([dict(example)])["labels"][0]
    told = tokens.decode(labels[labels != -100])
    correction = read["train"][0]["completion"]
    text = correction if isinstance(correction, str) else correction[0]["content"]
    assert told == text + "<eos>", (told, text)


def main(root):
    read = {name: rows(root / name, name) for name in COLUMNS}
    for name in ("sft", "sft-messages", "sft-text"):
        trainer, tokens = step(name, SFTTrainer, SFTConfig, read[name])
        if name != "sft-messages":
            check_labels(trainer, tokens, read[name])
    step("dpo", DPOTrainer, DPOConfig, read["dpo"])
    prompts = [row["prompt"] for row in read["kto"]["train"]]
    assert all(a != b for a, b in zip(prompts, prompts[1:])), "a prompt follows itself"
    step("kto", KTOTrainer, KTOConfig, read["kto"])
    turns = [row["chat_history"] for row in read["qac"]["train"] if row["chat_history"]]
    assert turns and all(len(turn) == 2 for history in turns for turn in history), turns
    print("ok")


main(pathlib.Path(sys.argv[1]))
