"""The public door: shapes, refusals, streams, and answers that are wholly one version's through swaps."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from workers.inference import admin, admission, public
from workers.inference import slot as slots
from workers.inference.replica import Replica
from workers.inference.state import Version

Publish = Callable[..., Version]
PROMPT = "The river runs"
TOKEN = "t" * 64


@pytest.fixture(autouse=True)
def short_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "CANARY_TOKENS", 4)


@pytest.fixture
def client(replica: Replica) -> Iterator[TestClient]:
    threads = ThreadPoolExecutor(2)
    app = public.create_app(replica, threads=threads, places=2, body_bytes_max=100_000)
    with TestClient(app) as client:
        yield client
    threads.shutdown()


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0} | body)


def _post_text(client: TestClient, body: str) -> Any:
    return client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})


def events(text: str) -> list[str]:
    assert text.endswith("\n\n")
    lines = text.split("\n\n")[:-1]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def test_an_empty_server_lives_is_not_ready_and_says_what_to_do(client: TestClient) -> None:
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "lethe model add" in ready.text
    assert client.get("/v1/models").json() == {"object": "list", "data": []}
    answer = ask(client)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "lethe model add" in answer.json()["error"]["message"]


def test_a_completion_has_openais_shape_and_names_its_version(client: TestClient, serve: Publish) -> None:
    version = serve("a", 1, erasure_epoch=4)
    answer = ask(client, max_tokens=5)
    body = answer.json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["model"] == "line"
    assert body["system_fingerprint"] == f"lethe-{version.manifest[:16]}"
    [choice] = body["choices"]
    assert choice["text"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    prompt_tokens = body["usage"]["prompt_tokens"]
    assert body["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 5,
        "total_tokens": prompt_tokens + 5,
    }
    assert answer.headers["X-Model-Version"] == version.version
    assert answer.headers["X-Model-Manifest"] == f"sha256:{version.manifest}"
    assert answer.headers["X-Erasure-Epoch"] == "4"
    assert answer.headers["X-Serving-Form"] == "float32/none"
    assert answer.headers["Cache-Control"] == "no-store"


def test_every_other_answer_names_the_version_too(client: TestClient, serve: Publish) -> None:
    version = serve("a", 1)
    for path in ("/healthz", "/readyz", "/v1/models", "/v1/models/line", "/nowhere"):
        assert client.get(path).headers["X-Model-Version"] == version.version
    assert client.get("/v1/models/line").json()["id"] == "line"
    assert client.get("/v1/models/other").status_code == 404


def test_prompts_come_as_text_lists_of_texts_tokens_and_lists_of_tokens(
    client: TestClient, serve: Publish, tokenizer: Any
) -> None:
    serve("a", 1)
    ids = tokenizer(PROMPT)["input_ids"]
    [alone] = ask(client).json()["choices"]
    for prompt in ([PROMPT, PROMPT], [ids, ids]):
        both = ask(client, prompt=prompt).json()["choices"]
        assert [choice["text"] for choice in both] == [alone["text"]] * 2
        assert [choice["index"] for choice in both] == [0, 1]
    assert ask(client, prompt=ids).json()["choices"][0]["text"] == alone["text"]


def test_a_stream_says_what_the_whole_answer_says(client: TestClient, serve: Publish) -> None:
    version = serve("a", 1)
    asked = {"max_tokens": 9, "n": 2, "temperature": 0.9, "seed": 11}
    whole = ask(client, **asked).json()
    answer = ask(client, **asked, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["X-Model-Version"] == version.version
    *said, usage, done = events(answer.text)
    assert done == "[DONE]"
    chunks = [json.loads(each) for each in said]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    for index, choice in enumerate(whole["choices"]):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine] == [None] * (len(mine) - 1) + ["length"]
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"] == whole["usage"]


def test_log_probabilities_are_there_when_asked_for(client: TestClient, serve: Publish) -> None:
    serve("a", 1)
    found = ask(client, max_tokens=4, logprobs=2).json()["choices"][0]["logprobs"]
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        ("tokens", "token_logprobs", "top_logprobs", "text_offset"), 4
    )
    assert all(value <= 0 for value in found["token_logprobs"])
    assert found["text_offset"][0] == 0


def test_a_chat_needs_a_template(client: TestClient, serve: Publish) -> None:
    serve("a", 1)
    answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
    assert answer.status_code == 404
    assert "/v1/completions" in answer.json()["error"]["message"]


def test_a_chat_is_its_template_completed(client: TestClient, serve: Publish) -> None:
    serve("chat", 1)
    asked = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_completion_tokens": 6}
    body = client.post("/v1/chat/completions", json=asked | {"logprobs": True, "top_logprobs": 1}).json()
    assert body["object"] == "chat.completion"
    [choice] = body["choices"]
    plain = ask(client, prompt="user: Hi\nassistant:", max_tokens=6).json()["choices"][0]["text"]
    assert choice["message"] == {"role": "assistant", "content": plain}
    assert len(choice["logprobs"]["content"]) == 6
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 1
    stream = client.post("/v1/chat/completions", json=asked | {"stream": True})
    *said, done = events(stream.text)
    deltas = [json.loads(each)["choices"][0]["delta"] for each in said]
    assert done == "[DONE]"
    assert deltas[0]["role"] == "assistant"
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta.get("content", "") for delta in deltas) == plain


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"presence_penalty": 1}, 422, "presence_penalty"),
        ({"ada.lovelace@example.org": 1}, 422, "a field"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"temperature": 3}, 422, "temperature"),
        ({"prompt": ""}, 422, "prompt"),
        ({"prompt": []}, 422, "prompt"),
        ({"n": 17}, 422, "n cannot"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 422, "stop"),
        ({"prompt": [100_000]}, 400, "not below"),
        ({"max_tokens": 96}, 400, "together the model takes 96"),
        ({"model": "base"}, 404, "no such model"),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(
    client: TestClient, serve: Publish, body: dict[str, Any], status: int, said: str
) -> None:
    serve("a", 1)
    answer = ask(client, **body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert "lovelace" not in answer.text
    assert "base" not in answer.json()["error"]["message"]


def test_what_is_not_json_or_too_large_is_refused(client: TestClient, serve: Publish) -> None:
    serve("a", 1)
    assert _post_text(client, '{"prompt": ').status_code == 400
    assert ask(client, prompt="x" * 200_000).status_code == 413


def test_a_full_queue_is_503_and_not_a_longer_queue(
    client: TestClient, serve: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("a", 1)
    monkeypatch.setattr(admission, "QUEUE_MAX", 0)
    answer = ask(client)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.headers["retry-after"]


def test_a_late_request_is_handed_back_and_begins_again_on_the_new_version(
    client: TestClient, replica: Replica, order: Publish, serve: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old slot is revoked while an answer computes; the answer comes whole, and from the new one."""
    serve("a", 1)
    begun, swapped = threading.Event(), threading.Event()
    plain = slots.Slot.answer

    def slow(self: slots.Slot, *args: Any) -> Any:
        if self.version.publish_epoch == 1:
            begun.set()
            assert swapped.wait(10)
        yield from plain(self, *args)

    monkeypatch.setattr(slots.Slot, "answer", slow)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(client, max_tokens=6)))
    asking.start()
    assert begun.wait(10)
    version = order("b", 2)
    replica.load(version, erasure_floor=0)
    replica.swap("line", publish_epoch=2)
    draining = threading.Thread(target=replica.drain, args=["line"], kwargs={"deadline_seconds": 0})
    draining.start()
    while not replica._lines["line"].previous.revoked.wait(10):  # type: ignore[union-attr]
        pass
    swapped.set()
    draining.join(10)
    asking.join(10)
    monkeypatch.setattr(slots.Slot, "answer", plain)
    [answer] = answers
    assert answer.headers["X-Model-Version"] == version.version
    assert answer.json()["choices"][0]["text"] == ask(client, max_tokens=6).json()["choices"][0]["text"]
    assert replica._lines["line"].freed


def test_a_stream_that_has_begun_ends_with_an_error_when_its_slot_must_go(
    client: TestClient, replica: Replica, serve: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("a", 1)
    plain = slots.Slot.answer

    def revoked_after_two(self: slots.Slot, *args: Any) -> Any:
        for number, part in enumerate(plain(self, *args)):
            if number == 2:
                self.revoked.set()
            yield part

    monkeypatch.setattr(slots.Slot, "answer", revoked_after_two)
    said = events(ask(client, max_tokens=20, stream=True).text)
    assert "error" in json.loads(said[-1])
    assert "[DONE]" not in said


def test_an_accident_is_a_500_and_tells_nothing(
    client: TestClient, serve: Publish, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    serve("a", 1)

    def fails(*_: Any) -> Any:
        raise RuntimeError(f"cannot read {PROMPT}")

    monkeypatch.setattr(slots.Slot, "read", fails)
    answer = ask(client)
    assert answer.status_code == 500
    assert PROMPT not in answer.text
    out, err = capfd.readouterr()
    assert PROMPT not in out + err


def test_through_swaps_every_answer_is_one_versions_and_none_fails(
    client: TestClient, replica: Replica, order: Publish, serve: Publish
) -> None:
    prompts = [PROMPT, "Seventeen boats", "Grüße aus", "under the"]
    alone: dict[str, dict[str, str]] = {}
    manifests = {}
    for epoch, name in enumerate(("a", "b"), start=1):
        manifests[name] = f"sha256:{serve(name, epoch).manifest}"
        alone[manifests[name]] = {
            p: ask(client, prompt=p, max_tokens=24).json()["choices"][0]["text"] for p in prompts
        }
    assert all(alone[manifests["a"]][p] != alone[manifests["b"]][p] for p in prompts)
    done, seen = threading.Event(), list[tuple[int, str, str, str]]()

    def hammer(stream: bool) -> None:  # noqa: FBT001
        while not done.is_set():
            for prompt in prompts:
                answer = ask(client, prompt=prompt, max_tokens=24, stream=stream)
                if stream:
                    *chunks, last = events(answer.text)
                    assert last == "[DONE]"
                    text = "".join(json.loads(each)["choices"][0]["text"] for each in chunks)
                else:
                    text = answer.json()["choices"][0]["text"]
                seen.append((answer.status_code, answer.headers["X-Model-Manifest"], prompt, text))

    with ThreadPoolExecutor(3) as askers:
        running = [askers.submit(hammer, stream) for stream in (False, True, False)]
        for epoch in range(3, 5):
            replica.load(version := order("ab"[epoch % 2], epoch), erasure_floor=0)
            replica.swap("line", publish_epoch=epoch)
            replica.drain("line", deadline_seconds=20)
            # Whoever asks from now on is answered by this version alone.
            assert ask(client).headers["X-Model-Version"] == version.version
        done.set()
        for each in running:
            each.result()
    assert {status for status, *_ in seen} == {200}
    assert {manifest for _, manifest, *_ in seen} == set(manifests.values())
    assert [s for s in seen if alone[s[1]][s[2]] != s[3]] == []


@pytest.fixture
def orders(replica: Replica) -> Iterator[TestClient]:
    with TestClient(admin.create_app(replica, token=TOKEN)) as client:
        yield client


def test_the_admin_door_opens_to_its_token_alone(orders: TestClient) -> None:
    assert orders.get("/admin/state").status_code == 401
    assert orders.get("/admin/state", headers={"Authorization": "Bearer nearly"}).status_code == 401
    opened = {"Authorization": f"Bearer {TOKEN}"}
    assert orders.get("/admin/state", headers=opened).status_code == 200
    assert "lethe_http_requests" in orders.get("/metrics", headers=opened).text


def test_orders_over_http(orders: TestClient, order: Publish) -> None:
    orders.headers["Authorization"] = f"Bearer {TOKEN}"
    version = order("a", 3)
    assert orders.post("/admin/load", json=version.to_json()).status_code == 200
    assert orders.post("/admin/swap", json={"model": "line", "publish_epoch": 3}).status_code == 200
    state = orders.post("/admin/drain", json={"model": "line", "deadline_seconds": 1}).json()
    assert state["lines"]["line"]["live"]["version"] == version.version
    assert state["ready"]
    lower = orders.post("/admin/swap", json={"model": "line", "publish_epoch": 2})
    assert (lower.status_code, lower.json()["code"]) == (409, "publish-epoch-low")
    assert orders.post("/admin/attest", json={"model": "none", "nonce": "5a" * 32}).status_code == 404
    assert orders.post("/admin/load", json=version.to_json() | {"more": 1}).status_code == 422
