"""A witness: what it cosigns, what it refuses and how, and that it forgets nothing."""

import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.transparency import tree, witnesses
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import WITNESS_KIND, Note, Signature
from app.transparency.policies import Party
from app.transparency.witness_server import Server
from app.transparency.witnesses import Answer, NotCosigned, Witness
from tests.app.transparency.logs import NOW, ORIGIN, Dishonest, entry, policy, private, verifier

KEY = verifier("witness.example/w1", 21, WITNESS_KIND)
ENTRIES = [entry(i) for i in range(10)]


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(
        key=KEY, signer=private(21), policy=policy(), directory=tmp_path / "seen", clock=lambda: NOW
    )


def note(size: int, *, seed: int = 9, entries: list[bytes] | None = None) -> Note:
    return Note.parse(Dishonest(entries=(entries or ENTRIES)[:size], seed=seed).note())


def proof(old: int, new: int) -> list[bytes]:
    return tree.consistency_proof(Dishonest(entries=ENTRIES[:new]).leaves, old) if old else []


def ask(witness: Witness, old: int, new: int) -> Answer:
    return witness.add_checkpoint(witnesses.request(old, proof(old, new), note(new)))


def accepted(answer: Answer, signed: Note) -> bool:
    assert answer.status == 200, answer
    line = Signature.parse(answer.body.decode())
    return KEY.verify(signed.text, line.value) == int(NOW.timestamp())


def test_it_cosigns_what_only_appends(witness: Witness) -> None:
    for old, new in ((0, 3), (3, 3), (3, 7), (7, 10)):
        assert accepted(ask(witness, old, new), note(new))


def test_it_says_which_size_it_has_seen(witness: Witness) -> None:
    ask(witness, 0, 5)
    for old in (0, 4):
        answer = ask(witness, old, 8)
        assert (answer.status, answer.body, answer.content_type) == (409, b"5\n", "text/x.tlog.size")
    above = witnesses.request(8, [], note(5))
    assert witness.add_checkpoint(above).status == 400, "the old size is above the new one"


def test_it_cosigns_no_fork_no_rollback_and_nothing_of_strangers(witness: Witness) -> None:
    ask(witness, 0, 5)
    forked = [*ENTRIES[:4], b"another", *ENTRIES[5:]]
    same_size = witnesses.request(5, [], note(5, entries=forked))
    assert witness.add_checkpoint(same_size).status == 409
    grown = witnesses.request(5, proof(5, 8), note(8, entries=forked))
    assert witness.add_checkpoint(grown).status == 422
    assert witness.add_checkpoint(witnesses.request(5, [], note(8))).status == 422, "no proof"
    assert witness.add_checkpoint(witnesses.request(5, proof(5, 8), note(4))).status == 400
    assert witness.add_checkpoint(witnesses.request(5, proof(5, 8), note(8, seed=10))).status == 403
    elsewhere = Checkpoint(origin="other.example/log", size=8, root=bytes(32)).text
    other = Note(text=elsewhere, signatures=note(8).signatures)
    assert witness.add_checkpoint(witnesses.request(5, [], other)).status == 404
    assert accepted(ask(witness, 5, 8), note(8)), "and none of it has left a trace"


def test_from_nothing_nothing_is_proved(witness: Witness) -> None:
    assert witness.add_checkpoint(witnesses.request(0, proof(3, 5), note(5))).status == 422
    text = Checkpoint(origin=ORIGIN, size=0, root=tree.EMPTY_ROOT).text
    line = verifier(ORIGIN, 9).signature(text, private(9))
    assert witness.add_checkpoint(witnesses.request(0, [], Note(text=text, signatures=(line,)))).status == 200
    assert accepted(ask(witness, 0, 5), note(5))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 00\n\n" + note(3).encode(),
        b"old -1\n\n" + note(3).encode(),
        b"new 0\n\n" + note(3).encode(),
        b"old 0\n!\n\n" + note(3).encode(),
        b"old 0\n" + b"AAAA\n" * 64 + b"\n" + note(3).encode(),
        b"old 0\n\nno note",
        b"old 0\n\xff\n\n" + note(3).encode(),
    ],
    ids=range(9),
)
def test_a_malformed_call_is_refused(witness: Witness, body: bytes) -> None:
    assert witness.add_checkpoint(body).status == 400


def test_it_remembers_over_its_own_end(witness: Witness) -> None:
    ask(witness, 0, 5)
    again = replace(witness)
    assert ask(again, 0, 8).body == b"5\n"
    assert accepted(ask(again, 5, 8), note(8))


def test_of_two_at_once_no_one_rolls_the_other_back(witness: Witness) -> None:
    ask(witness, 0, 1)
    sizes = [2, 3, 4, 5, 6, 7, 8, 9, 10]
    answers: dict[int, Answer] = {}

    def run(size: int) -> None:
        answers[size] = ask(witness, 1, size)

    threads = [threading.Thread(target=run, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [size for size, answer in answers.items() if answer.status == 200]
    assert {answer.body for size, answer in answers.items() if size != winner} == {f"{winner}\n".encode()}


# What a log makes of the answers


def answering(*answers: tuple[int, bytes]) -> witnesses.Ask:
    left = list(answers)
    return lambda _url, _body: left.pop(0)


def collected(ask: witnesses.Ask, *, old: int = 0) -> tuple[Signature, int]:
    return witnesses.collect(
        Party(key=KEY, url="https://w/"), note(8), old=old, prove=lambda size: proof(size, 8), ask=ask
    )


def test_a_log_starts_from_the_size_that_the_witness_names(witness: Witness) -> None:
    ask(witness, 0, 5)

    def call(url: str, body: bytes) -> tuple[int, bytes]:
        assert url == "https://w/add-checkpoint"
        answer = witness.add_checkpoint(body)
        return answer.status, answer.body

    for old in (0, 3, 5):
        line, seconds = collected(call, old=old)
        assert (KEY.verify(note(8).text, line.value), seconds) == (int(NOW.timestamp()),) * 2


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([(0, b"")], "witness-away"),
        ([(409, b"9\n")], "witness-ahead"),
        ([(409, b"5\n"), (409, b"6\n")], "witness-refused"),
        ([(409, b"5\n"), (409, b"5\n")], "witness-saw-another"),
        ([(409, b"words\n")], "witness-refused"),
        ([(422, b"")], "witness-saw-another"),
        ([(403, b"")], "witness-refused"),
        ([(500, b"")], "witness-refused"),
        ([(200, b"")], "witness-garbled"),
        ([(200, b"garbage")], "witness-garbled"),
        ([(200, b"\xff")], "witness-garbled"),
        (
            [(200, str(verifier("W", 22, 4).signature("x", private(22), seconds=1)).encode())],
            "witness-garbled",
        ),
        ([(200, str(KEY.signature("another", private(21), seconds=1)).encode())], "witness-garbled"),
    ],
    ids=range(13),
)
def test_an_answer_that_is_no_cosignature_is_none(answers: list[tuple[int, bytes]], code: str) -> None:
    with pytest.raises(NotCosigned) as refused:
        collected(answering(*answers))
    assert refused.value.code == code


# Over HTTP


def test_it_answers_over_http(witness: Witness) -> None:
    with Server(("127.0.0.1", 0), witness) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            line, _ = witnesses.collect(
                Party(key=KEY, url=url), note(8), old=0, prove=lambda _: [], ask=witnesses.ask
            )
            assert KEY.verify(note(8).text, line.value)
            with httpx.Client(base_url=url, trust_env=False) as client:
                assert client.post("/add-checkpoint", content=b"old 0\n").status_code == 400
                conflict = client.post("/add-checkpoint", content=witnesses.request(0, [], note(9)))
                assert (conflict.status_code, conflict.text) == (409, "8\n")
                assert conflict.headers["content-type"] == "text/x.tlog.size"
                assert client.post("/elsewhere", content=b"").status_code == 404
                assert client.get("/add-checkpoint").status_code == 501
                assert client.post("/add-checkpoint", content=bytes(200_001)).status_code == 413
        finally:
            server.shutdown()
            thread.join()


def test_nobody_at_the_address_is_away() -> None:
    assert witnesses.ask("http://127.0.0.1:9/add-checkpoint", b"") == (0, b"")
