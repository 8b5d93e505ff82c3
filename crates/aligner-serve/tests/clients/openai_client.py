"""OpenAI's official client against the service, with its own types and error classes.

`openai_client.py URLS`, where URLS is a JSON object of base URLs by what is behind them; prints `ok`.
"""

import asyncio
import json
import sys

import openai

URLS = json.loads(sys.argv[1])
FLAT = "The earth is flat, as everybody knows."
ROUND = "The earth is round, as everybody knows."
ASK = {"model": "up", "messages": [{"role": "user", "content": "What shape is the earth?"}]}
USAGE = {"stream_options": {"include_usage": True}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def client(name, key="x"):
    # Without retries, so that the first answer is what is seen.
    return openai.OpenAI(base_url=URLS[name], api_key=key, max_retries=0)


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def refused(kind, call):
    try:
        call()
    except openai.APIError as error:
        assert type(error) is kind, f"{type(error)}: {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def text(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def whole(plain):
    report = {"aligner": {"include_original": True, "edits": True}}
    answer = plain.chat.completions.create(**ASK, extra_body=report)
    equal(answer.choices[0].message.content, ROUND)
    equal((answer.choices[0].finish_reason, answer.model, answer.object), ("stop", "up", "chat.completion"))
    equal((answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens), (11, 7, 18))
    report = answer.model_extra["aligner"]
    equal((report["outcome"], report["original"]), ("corrected", FLAT))
    assert {"op": "insert", "text": "round,"} in report["edits"], report["edits"]
    both = plain.chat.completions.create(**ASK, n=2)
    equal([choice.message.content for choice in both.choices], [ROUND, "It is a ball."])
    equal([choice.model_extra["aligner"]["outcome"] for choice in both.choices], ["corrected", "unchanged"])

    raw = plain.chat.completions.with_raw_response.create(**ASK)
    equal(raw.parse().choices[0].message.content, ROUND)
    headers = {name: raw.headers[f"x-aligner-{name}"] for name in ["mode", "outcome", "edit-ratio"]}
    equal(headers, {"mode": "buffer", "outcome": "corrected", "edit-ratio": "0.1429"})
    assert int(raw.headers["x-aligner-added-ms"]) >= 0
    assert raw.request_id, "no x-request-id"

    old = plain.completions.create(model="up", prompt="What shape is the earth?")
    equal((old.choices[0].text, old.object), (ROUND, "text_completion"))
    old = plain.completions.create(model="up", prompt="What shape is the earth?", stream=True)
    equal("".join(chunk.choices[0].text for chunk in old), ROUND)
    equal([model.id for model in plain.models.list()], ["up", "scripted"])
    # Paths that the client has no method for.
    body = {"question": "What shape is the earth?", "answer": FLAT}
    equal(plain.post("/corrections", body=body, cast_to=object)["correction"], ROUND)


def streams(plain):
    for mode, wanted in [("buffer", ROUND), ("sentence", ROUND), ("audit", FLAT), ("off", FLAT)]:
        chunks = list(plain.chat.completions.create(**ASK, stream=True, extra_body={"aligner": {"mode": mode}}))
        equal(text(chunks), wanted)
        equal([chunk.object for chunk in chunks], ["chat.completion.chunk"] * len(chunks))
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        equal(reasons, [None] * (len(reasons) - 1) + ["stop"])
    chunks = list(plain.chat.completions.create(**ASK, stream=True, **USAGE))
    equal((chunks[-1].choices, chunks[-1].usage.total_tokens), ([], 18))
    equal([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
    equal(chunks[-2].model_extra["aligner"]["outcome"], "corrected")
    chunks = list(plain.chat.completions.create(**ASK, stream=True, n=2))
    equal((text(chunks, 0), text(chunks, 1)), (ROUND, "It is a ball."))

    # The helper that puts a stream together again is stricter about its shape than the plain one.
    with plain.chat.completions.stream(**ASK, **USAGE) as stream:
        equal("".join(event.delta for event in stream if event.type == "content.delta"), ROUND)
        final = stream.get_final_completion()
    equal((final.choices[0].message.content, final.usage.total_tokens), (ROUND, 18))
    with plain.chat.completions.stream(**ASK, tools=TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    equal((message.tool_calls[0].function.name, message.tool_calls[0].id), ("look", "call-1"))


def errors(plain):
    error = refused(openai.AuthenticationError, lambda: client("keyed").chat.completions.create(**ASK))
    equal((error.status_code, error.code, error.type), (401, "invalid_api_key", "authentication_error"))
    equal(client("keyed", "secret").chat.completions.create(**ASK).choices[0].message.content, ROUND)
    error = refused(openai.RateLimitError, lambda: client("busy").chat.completions.create(**ASK))
    equal((error.code, error.response.headers["retry-after"]), ("too_many_requests", "1"))
    error = refused(openai.RateLimitError, lambda: client("limited").chat.completions.create(**ASK))
    equal((error.code, error.response.headers.get("retry-after")), ("of_the_upstream", "7"))
    error = refused(openai.NotFoundError, lambda: client("alone").chat.completions.create(**ASK))
    assert "/v1/corrections" in error.message, error.message
    equal([model.id for model in client("alone").models.list()], ["scripted"])
    unknown = {"aligner": {"mod": "off"}}
    error = refused(openai.BadRequestError, lambda: plain.chat.completions.create(**ASK, extra_body=unknown))
    equal(error.param, "aligner")
    error = refused(openai.InternalServerError, lambda: client("gone").chat.completions.create(**ASK))
    equal((error.status_code, error.code), (502, "upstream_failed"))

    failing = client("failing")
    error = refused(openai.InternalServerError, lambda: failing.chat.completions.create(**ASK))
    equal((error.status_code, error.code), (503, "aligner_failed"))
    seen = []
    # Not the class of a status: the stream had begun with 200.
    error = refused(openai.APIError, lambda: seen.extend(failing.chat.completions.create(**ASK, stream=True)))
    equal((error.code, error.type), ("aligner_failed", "server_error"))


async def at_once():
    plain = openai.AsyncOpenAI(base_url=URLS["plain"], api_key="x", max_retries=0)
    answers = await asyncio.gather(*(plain.chat.completions.create(**ASK) for _ in range(8)))
    equal([answer.choices[0].message.content for answer in answers], [ROUND] * 8)
    stream = await plain.chat.completions.create(**ASK, stream=True, **USAGE)
    chunks = [chunk async for chunk in stream]
    equal((text(chunks), chunks[-1].usage.total_tokens), (ROUND, 18))
    # A client that has read enough: the test looks whether the correction ends.
    slow = openai.AsyncOpenAI(base_url=URLS["slow"], api_key="x", max_retries=0)
    stream = await slow.chat.completions.create(**ASK, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()


whole(client("plain"))
streams(client("plain"))
errors(client("plain"))
asyncio.run(at_once())
print("ok")
