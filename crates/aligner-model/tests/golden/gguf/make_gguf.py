"""Makes the GGUF goldens of this directory; run it again only to add one.

    pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 sentencepiece==0.2.3
    python make_gguf.py

`types.gguf` has one tensor of each element type, named after it; `types.f32` is what gguf-py's `dequantize` makes of them,
little-endian, in the order of `TYPES`. K types are random bytes with finite scales, the others `quantize` of random
numbers. The test asks for equal bits: both sides multiply and add the same single-precision numbers in the same order.

`NAME.gguf` is a tiny random model (seed 0), written as llama.cpp's convert_hf_to_gguf does: its names, queries and keys of
Llama with interleaved rows, Gemma's norms plus one, Llama 3's scaling as `rope_freqs.weight`. `NAME.json` holds what
transformers makes of the same weights in float64 (`ids`, `last_two_logits`), the `texts` and the ids that the ORIGINAL
tokenizer gives: tokenizers for byte-level BPE, SentencePiece itself for the others. Logits may differ by 1e-4, which is
what float32 arithmetic in another order makes of weights this large (deviation 0.2, as in ../make_golden.py).
"""
import io
import json
import pathlib

import gguf
import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
DEFAULT = dict(rope_type="default", rope_theta=5000.0)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=2.0)
BASE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, initializer_range=0.2, rms_norm_eps=1e-5)
# name: transformers' family, GGUF's architecture, what it changes, dtype, tokenizer
MODELS = {
    "llama": ("Llama", "llama", dict(rope_parameters=DEFAULT, tie_word_embeddings=False), torch.float16, "llama"),
    "llama-rope-freqs": ("Llama", "llama", dict(rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, head_dim=8,
                                                tie_word_embeddings=True), torch.float16, "llama-bpe"),
    "llama-yarn": ("Llama", "llama", dict(rope_parameters=YARN, tie_word_embeddings=True, head_dim=12), torch.float16, "smollm"),
    "qwen2": ("Qwen2", "qwen2", dict(rope_parameters=DEFAULT, tie_word_embeddings=True), torch.bfloat16, "qwen2"),
    "qwen3": ("Qwen3", "qwen3", dict(rope_parameters=LINEAR, head_dim=6, tie_word_embeddings=False), torch.bfloat16, "gpt-2"),
    "gemma": ("Gemma", "gemma", dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0), head_dim=6,
                                     num_key_value_heads=1, tie_word_embeddings=True), torch.float16, "gemma"),
}
CORPUS = ["the cat sat on the mat, and the other cat sat there: it's what they're about",
          "fn main() {\n    let total = 12 + 345;\n    return total;\n}\n", "The answer is 42.  The other answer is 1999!",
          "l'été, la forêt et le café; über Größe, naïve façade", "a b  c   d    e", "we've been here; I'll go, he'd stay"] * 3
TEXTS = ["", "the cat", " the  cat sat\n\n  on   the mat ", "It's 2024, they'RE at 12345.678!", "été café \u65e5\u672c\u8a9e \U0001f600 e\u0301",
         "fn main() {\n\tlet x = 10;\r\n}\n\n\n", "   leading and trailing   ", "a   7\t\t9 \n 8", "x</s>y<s>", "\u00a0\u2003wide\u3000spaces",
         "don't DON'T we'll WE'LL", "####!!!???...", "the other answer is 42", "\n", " ", "\u2581the\u2581cat"]
# Text in which special tokens stand; only for byte-level BPE, whose originals are read by the same program.
SPECIAL_TEXTS = ["<|start|>the cat<|end|>", "<|end|><|end|> x", "a <think> b</think>", "<|start|"]


def types():
    rng = np.random.default_rng(0)
    out = gguf.GGUFWriter(HERE / "types.gguf", "llama")
    values = b""
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        if name.endswith("_K"):
            _, size = gguf.GGML_QUANT_SIZES[kind]
            data = rng.integers(0, 256, (2, size), dtype=np.uint8)
            scales = {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[name]
            for at in scales:
                data[:, at:at + 2] = rng.uniform(-2, 2, (2, 1)).astype(np.float16).view(np.uint8)
        else:
            data = gguf.quantize(rng.normal(0, 1, (2, 32)).astype(np.float32), kind)
        raw = data if data.dtype == np.uint8 else None
        out.add_tensor(name, data, raw_dtype=kind if raw is not None else None)
        values += gguf.dequantize(data, kind).astype("<f4").tobytes()
    write(out)
    (HERE / "types.f32").write_bytes(values)


def write(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def byte_level(pre):
    """A byte-level BPE tokenizer as the models with this pre-tokenizer have it in their tokenizer.json."""
    def split(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splitter = {
        "gpt-2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "llama-bpe": split(words + r"\p{N}{1,3}" + rest),
        "qwen2": split(words + r"\p{N}" + rest),
    }[pre]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, show_progress=False,
                                             initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|start|>", "<|end|>"])
    tokenizer.add_tokens([tokenizers.AddedToken("<think>", normalized=False, special=False)])
    start = tokenizer.token_to_id("<|start|>")
    if pre == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", pair="<|start|> $A <|start|> $B", special_tokens=[("<|start|>", start)])
    return tokenizer


def write_byte_level(out, pre):
    tokenizer = byte_level(pre)
    state = json.loads(tokenizer.to_str())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.get)
    special = {token["content"]: 3 if token["special"] else 4 for token in state["added_tokens"]}
    # As the converter does where the embedding has more rows than there are tokens.
    filled = tokens + [f"[PAD{len(tokens)}]"]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(filled)
    out.add_token_types([special.get(token, 1) for token in tokens] + [5])
    out.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    out.add_bos_token_id(vocab["<|start|>"])
    out.add_eos_token_id(vocab["<|end|>"])
    out.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
    texts = TEXTS + SPECIAL_TEXTS
    ids = [tokenizer.encode(text).ids for text in texts]
    return len(filled), texts, ids, [tokenizer.decode(i, skip_special_tokens=False) for i in ids]


def sentence_piece(kind):
    """SentencePiece's own model: Llama's shape, or Gemma's with user-defined runs of spaces and line feeds."""
    gemma = kind == "gemma"
    model = io.BytesIO()
    runs = ["\n\n", "\n\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<h1>"]
    ids = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3) if gemma else dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4), model_writer=model, model_type="bpe", vocab_size=380, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=not gemma,
        user_defined_symbols=runs if gemma else [], num_threads=1, minloglevel=2, character_coverage=1.0,
        split_digits=True, allow_whitespace_only_pieces=True, **ids)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write_sentence_piece(out, kind):
    model = sentence_piece(kind)
    size = model.get_piece_size()
    tokens, kinds = [], []
    for i in range(size):
        piece, token_type = model.id_to_piece(i), 1
        if model.is_unknown(i):
            token_type = 2
        elif model.is_control(i):
            token_type = 3
        elif model.is_byte(i):
            token_type = 6
        elif kind == "gemma" and piece in ("\n\n", "\n\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<h1>"):
            token_type, piece = 4, piece.replace("\u2581", " ")  # the converter gives those back their spaces
        tokens.append(piece)
        kinds.append(token_type)
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(tokens)
    out.add_token_scores([-1000.0 if t == 4 else model.get_score(i) for i, t in enumerate(kinds)])
    out.add_token_types(kinds)
    out.add_bos_token_id(model.bos_id())
    out.add_eos_token_id(model.eos_id())
    out.add_unk_token_id(model.unk_id())
    if kind == "gemma":
        out.add_pad_token_id(model.pad_id())
        out.add_add_space_prefix(False)
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    # SentencePiece reads "</s>" in a text as those characters, Hugging Face as the token.
    texts = [text for text in TEXTS if "<" not in text] + (["<h1>the cat", "\n\n\n the"] if kind == "gemma" else [])
    ids = [[model.bos_id()] + model.encode(text) for text in texts]
    return size, texts, ids, [model.decode(i[1:]) for i in ids]


def permute(weights, heads):
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def rope_freqs(config):
    """As the converter's generate_extra_tensors."""
    rope, dim = config.rope_parameters, config.head_dim
    freqs = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for freq in freqs:
        wavelen = 2 * np.pi / freq
        if wavelen < old / high:
            factors.append(1)
        elif wavelen > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelen - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def write_metadata(out, config, arch):
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(rope["rope_theta"])
    if head_dim != config.hidden_size // config.num_attention_heads:
        out.add_key_length(head_dim)
        out.add_value_length(head_dim)
    if arch == "llama":
        out.add_rope_dimension_count(head_dim)
    if rope["rope_type"] in ("yarn", "linear"):
        out.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        out.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def write_tensors(out, model, config, arch):
    names = gguf.get_tensor_name_map(next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch), config.num_hidden_layers)
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch == "llama" and ".q_proj." in name:
            weights = permute(weights, config.num_attention_heads)
        if arch == "llama" and ".k_proj." in name:
            weights = permute(weights, config.num_key_value_heads)
        if arch == "gemma" and name.endswith("norm.weight"):
            weights = weights.float() + 1
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if weights.dim() == 1 or weights.dtype == torch.float32:
            out.add_tensor(stored, weights.float().numpy())
        elif weights.dtype == torch.bfloat16:
            kind = gguf.GGMLQuantizationType.BF16
            out.add_tensor(stored, gguf.quantize(weights.float().numpy(), kind), raw_dtype=kind)
        else:
            out.add_tensor(stored, weights.contiguous().numpy())


def model(name):
    family, arch, change, dtype, tokenizer = MODELS[name]
    out = gguf.GGUFWriter(HERE / f"{name}.gguf", arch)
    writer = write_sentence_piece if tokenizer in ("llama", "gemma") else write_byte_level
    vocab_size, texts, ids, decoded = writer(out, tokenizer)
    config = getattr(transformers, family + "Config")(**{**BASE, **change, "vocab_size": vocab_size})
    torch.manual_seed(0)
    kind = getattr(transformers, family + "ForCausalLM")
    model = kind(config)
    for tensor in model.parameters():  # norms and biases away from 1 and 0, or they would not be tested
        if tensor.dim() == 1:
            tensor.data += 0.3 * torch.randn_like(tensor)
    model = model.to(dtype)
    write_metadata(out, config, arch)
    if config.rope_parameters["rope_type"] == "llama3":
        out.add_tensor("rope_freqs.weight", rope_freqs(config))
    write_tensors(out, model, config, arch)
    write(out)
    wide = kind._from_config(config, attn_implementation="eager", dtype=torch.float64).eval()
    wide.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    sequence = torch.randint(3, vocab_size, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        logits = wide(torch.tensor([sequence])).logits[0, -2:].tolist()
    golden = dict(ids=sequence, last_two_logits=[[round(x, 7) for x in row] for row in logits], rope=config.rope_parameters,
                  texts=texts, token_ids=ids, decoded=decoded)
    (HERE / f"{name}.json").write_text(json.dumps(golden) + "\n")
    print(name, vocab_size, (HERE / f"{name}.gguf").stat().st_size)


types()
for name in MODELS:
    model(name)
