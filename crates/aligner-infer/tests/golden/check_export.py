"""What other programs make of an exported model; input and output are JSON on stdin and stdout.

    pip install transformers==5.23.0 llama-cpp-python==0.3.36
    python check_export.py chat DIR       chats -> [text, ids] of each, by transformers' apply_chat_template
    python check_export.py chat GGUF      the same by llama-cpp-python's formatter and llama.cpp's tokenizer
    python check_export.py tokens GGUF    texts -> ids
    python check_export.py greedy GGUF    {"prompts": lists of ids, "max_new_tokens": N} -> lists of ids
"""
import json
import sys

mode, path, asked = sys.argv[1], sys.argv[2], json.load(sys.stdin)


def llama(**settings):
    import llama_cpp

    return llama_cpp.Llama(path, n_threads=2, n_threads_batch=2, verbose=False, **settings)


def greedy(model, ids, limit):
    model.reset()
    model.eval(ids)
    out = []
    while len(out) < limit:
        token = model.sample(temp=0.0, repeat_penalty=1.0)
        out.append(int(token))
        if token == model.token_eos():
            break
        model.eval([token])
    return out


if mode == "chat" and not path.endswith(".gguf"):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    text = lambda chat: tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = lambda chat: tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    answer = [[text(chat), ids(chat)] for chat in asked]
elif mode == "chat":
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    model = llama(vocab_only=True)
    piece = lambda id: model._model.token_get_text(id) if id >= 0 else ""
    form = Jinja2ChatFormatter(model.metadata["tokenizer.chat_template"], eos_token=piece(model.token_eos()),
                               bos_token=piece(model.token_bos()))
    texts = [form(messages=chat).prompt for chat in asked]
    answer = [[text, model.tokenize(text.encode(), add_bos=False, special=True)] for text in texts]
elif mode == "tokens":
    model = llama(vocab_only=True)
    answer = [model.tokenize(text.encode(), add_bos=True, special=False) for text in asked]
else:
    model = llama(n_ctx=2048)
    answer = [greedy(model, ids, asked["max_new_tokens"]) for ids in asked["prompts"]]
print(json.dumps(answer))
