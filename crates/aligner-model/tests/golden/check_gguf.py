"""Loads a GGUF file with llama.cpp and prints the last two rows of logits as JSON.

    pip install llama-cpp-python==0.3.36
    python check_gguf.py FILE IDS [CONTEXT]     IDS: a JSON list

Keys and values are kept in single precision: the default, half precision, moves logits by up to 1e-2.
"""
import json
import sys

import llama_cpp

ids = json.loads(sys.argv[2])
context = int(sys.argv[3]) if len(sys.argv) > 3 else 256
model = llama_cpp.Llama(sys.argv[1], n_ctx=context, n_threads=2, n_threads_batch=2, logits_all=True, type_k=0, type_v=0,
                        flash_attn=False, verbose=False)
model.eval(ids)
print(json.dumps(model.scores[len(ids) - 2:len(ids)].tolist()))
