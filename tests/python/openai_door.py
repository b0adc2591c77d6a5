"""Uses the door of examples/openai by the unmodified openai package: openai_door.py WHAT BASE_URL… ."""

import http.client
import json
import sys
import urllib.parse

import openai

WHAT, *DOORS = sys.argv[1:]
BASE = DOORS[0]
ASK = [{"role": "user", "content": "one two three"}]


def client(key="anna", **options):
    return openai.OpenAI(base_url=BASE, api_key=key, timeout=60, **{"max_retries": 0, **options})


def expect(error, call):
    try:
        answer = call()
    except error as raised:
        return raised
    raise SystemExit(f"no {error.__name__}, but {answer}")


def whole():
    c = client()
    answer = c.chat.completions.create(model="parrot-1", messages=ASK, user="session/1")
    assert answer.choices[0].message.content == "one two three", answer
    assert answer.choices[0].finish_reason == "stop", answer
    # 13 bytes are 4 tokens, 4 are the message's own.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 3), answer
    assert c.chat.completions.retrieve(answer.id).choices == answer.choices
    expect(openai.NotFoundError, lambda: client("berta").chat.completions.retrieve(answer.id))
    cut = c.chat.completions.create(model="counter-1", messages=ASK, max_completion_tokens=3)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("1 2 3 ", "length"), cut
    assert sorted(model.id for model in c.models.list()) == ["counter-1", "parrot-1"]


def stream():
    options = {"include_usage": True}
    chunks = list(client().chat.completions.create(model="parrot-1", messages=ASK, stream=True, stream_options=options))
    assert chunks[0].choices[0].delta.role == "assistant", chunks
    words = [choice.delta.content for chunk in chunks[1:] for choice in chunk.choices]
    assert words == ["one ", "two ", "three", None], words
    assert chunks[-2].choices[0].finish_reason == "stop", chunks
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 11, chunks
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1, chunks


def bad():
    ask = client().chat.completions.create
    error = expect(openai.BadRequestError, lambda: ask(model="parrot-1", messages=[]))
    assert (error.param, error.type) == ("messages", "invalid_request_error"), error
    assert expect(openai.BadRequestError, lambda: ask(model="parrot-1", messages=ASK, n=2)).param == "n"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    expect(openai.BadRequestError, lambda: ask(model="parrot-1", messages=image))
    expect(openai.BadRequestError, lambda: ask(model="parrot-1", messages=ASK, user="a\nb"))
    error = expect(openai.NotFoundError, lambda: ask(model="gpt-9", messages=ASK))
    assert error.code == "model_not_found", error
    large = [{"role": "user", "content": "x" * (256 << 10)}]
    assert expect(openai.APIStatusError, lambda: ask(model="parrot-1", messages=large)).status_code == 413
    expect(openai.AuthenticationError, lambda: client("mallory").models.list())
    keyed = {"Idempotency-Key": "k"}
    first = ask(model="parrot-1", messages=ASK, extra_headers=keyed)
    assert ask(model="parrot-1", messages=ASK, extra_headers=keyed).id == first.id
    other = lambda: ask(model="counter-1", messages=ASK, extra_headers=keyed)
    expect(openai.UnprocessableEntityError, other)
    expect(openai.NotFoundError, lambda: client().get("/nowhere", cast_to=object))
    status, _ = raw("GET", f"/chat/completions/{first.id}", {"Last-Event-ID": "garbage"})
    assert status == 400, status


def raw(method, path, headers, body=None, events=None, base=BASE):
    """The status, and so many events (all, by default) as (id, data); then the connection is cut."""
    url = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    connection.request(method, url.path + path, body, {"Authorization": "Bearer anna", **headers})
    answer, seen, last = connection.getresponse(), [], None
    for line in answer:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "id":
            last = value
        if field == "data":
            data = value
        if field == "" and last is not None:
            seen.append((last, data))
            last = None
            if len(seen) == events:
                break
    connection.close()
    return answer.status, seen


def resume():
    """Cut again and again; another door each time, which knows nothing of the ones before."""
    body = json.dumps({"model": "counter-1", "messages": ASK, "stream": True, "max_tokens": 100})
    _, seen = raw("POST", "/chat/completions", {"Content-Type": "application/json"}, body, events=7)
    path = f"/chat/completions/{json.loads(seen[0][1])['id']}"
    while seen[-1][1] != "[DONE]":
        DOORS.reverse()
        _, more = raw("GET", path, {"Last-Event-ID": seen[-1][0]}, events=13, base=DOORS[0])
        assert more, seen[-1]
        seen += more
    deltas = [json.loads(data)["choices"][0]["delta"] for _, data in seen[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(f"{n} " for n in range(1, 101)), seen
    assert raw("GET", path, {"Last-Event-ID": seen[-1][0]}) == (204, [])
    _, again = raw("GET", path, {"Accept": "text/event-stream"})
    assert again == seen, "from the beginning it is the same"


def late():
    """There is no worker."""
    error = expect(openai.InternalServerError, lambda: client(max_retries=2).chat.completions.create(model="parrot-1", messages=ASK))
    assert (error.status_code, error.code) == (504, "timeout"), error
    # It was not tried again: that would be another request.
    assert error.response.request.headers["x-stainless-retry-count"] == "0"
    ask = client().chat.completions.create
    stream = ask(model="parrot-1", messages=ASK, stream=True)
    answer = stream.response.headers["x-request-id"]
    assert expect(openai.APIError, lambda: list(stream)).code == "timeout"
    # The event has no id of its own, so that an EventSource does not take it for the end.
    status, seen = raw("GET", f"/chat/completions/{answer}", {"Accept": "text/event-stream"})
    assert (status, seen) == (200, []), seen


def fill():
    """Streams whose answers nobody waits for here: the queue is full behind them."""
    ask = client().chat.completions.create
    streams = [ask(model="counter-1", messages=ASK, stream=True) for _ in range(2)]
    print("full", flush=True)
    sys.stdin.readline()
    error = expect(openai.RateLimitError, lambda: ask(model="parrot-1", messages=ASK))
    assert error.code == "rate_limit_exceeded", error
    print(error.response.headers["retry-after"], flush=True)
    # Another caller has room.
    berta = client("berta").chat.completions.create(model="parrot-1", messages=ASK)
    assert berta.choices[0].message.content == "one two three"
    for stream in streams:
        stream.close()


def long():
    for chunk in client().chat.completions.create(model="counter-1", messages=ASK, stream=True, max_tokens=300):
        for choice in chunk.choices:
            if choice.delta.content:
                print(choice.delta.content.strip(), flush=True)
    print("done", flush=True)


{"whole": whole, "stream": stream, "bad": bad, "resume": resume, "late": late, "fill": fill, "long": long}[WHAT]()
