"""Measures what `aligner serve` adds to an upstream's answers, mode by mode; needs nothing but Python.

    python docs/measure_serving.py http://127.0.0.1:8080 http://127.0.0.1:8000 rows.jsonl [questions]

The first URL is the service, the second its upstream, which is asked the same questions directly. Each question is asked as a stream;
told are medians, in milliseconds since the request: the first text, and the end, and beside them what the service itself reports.
"""
import json
import statistics
import sys
import time
import urllib.request


def ask(url, question, mode=None):
    body = {"model": "any", "stream": True, "max_tokens": 96, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    if mode:
        body["aligner"] = {"mode": mode}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    started, first, report = time.perf_counter(), None, {}
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise SystemExit(chunk["error"]["message"])
            choices = chunk["choices"] or [{}]
            if first is None and choices[0].get("delta", {}).get("content"):
                first = time.perf_counter() - started
            report = chunk.get("aligner", report)
    return first or 0, time.perf_counter() - started, report


def main():
    served, upstream, rows = sys.argv[1:4]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 12
    questions = []
    for line in open(rows, encoding="utf-8"):
        question = json.loads(line)["question"]
        if question not in questions:
            questions.append(question)
    middle = lambda values: f"{1000 * statistics.median(values):7.0f}" if values else "      –"
    print("            first text  end  added_ms  first_token_ms  outcomes")
    for name, url, mode in [("upstream", upstream, None)] + [(mode, served, mode) for mode in ("off", "audit", "buffer", "sentence")]:
        seen = [ask(url, question, mode) for question in questions[:count]]
        told = lambda key: [report[key] / 1000 for _, _, report in seen if report.get(key) is not None]
        outcomes = {}
        for _, _, report in seen:
            if "outcome" in report:
                outcomes[report["outcome"]] = outcomes.get(report["outcome"], 0) + 1
        print(f"{name:10}", middle([row[0] for row in seen]), middle([row[1] for row in seen]), middle(told("added_ms")), middle(told("first_token_ms")), outcomes)


if __name__ == "__main__":
    main()
