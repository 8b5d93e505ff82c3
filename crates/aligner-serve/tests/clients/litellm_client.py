"""LiteLLM against the service, as an `openai/` model: `litellm_client.py URLS`, as for openai_client.py; prints `ok`."""

import asyncio
import json
import os
import sys

# Its list of prices would be downloaded otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

URLS = json.loads(sys.argv[1])
FLAT = "The earth is flat, as everybody knows."
ROUND = "The earth is round, as everybody knows."


def ask(name="plain", call=litellm.completion, key="x", **more):
    messages = [{"role": "user", "content": "What shape is the earth?"}]
    return call(model="openai/up", api_base=URLS[name], api_key=key, messages=messages, num_retries=0, max_retries=0, **more)


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def text(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def refused(kind, **how):
    try:
        ask(**how)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


async def at_once():
    answers = await asyncio.gather(*(ask(call=litellm.acompletion) for _ in range(4)))
    equal([answer.choices[0].message.content for answer in answers], [ROUND] * 4)
    stream = await ask(call=litellm.acompletion, stream=True)
    equal(text([chunk async for chunk in stream]), ROUND)


answer = ask()
equal((answer.choices[0].message.content, answer.choices[0].finish_reason), (ROUND, "stop"))
equal(answer.usage.total_tokens, 18)
equal(answer._hidden_params["additional_headers"]["llm_provider-x-aligner-outcome"], "corrected")
equal(ask(extra_body={"aligner": {"mode": "off"}}).choices[0].message.content, FLAT)

chunks = list(ask(stream=True, stream_options={"include_usage": True}))
equal(text(chunks), ROUND)
equal([chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)], [18])
equal(litellm.stream_chunk_builder(chunks).choices[0].message.content, ROUND)
equal(text(ask(stream=True, extra_body={"aligner": {"mode": "sentence"}})), ROUND)

refused(litellm.AuthenticationError, name="keyed")
equal(ask("keyed", key="secret").choices[0].message.content, ROUND)
refused(litellm.RateLimitError, name="busy")
refused(litellm.NotFoundError, name="alone")
asyncio.run(at_once())
print("ok")
