"""Whoever watches a log, or holds an old proof, sees it forked, rolled back, reordered or edited."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.transparency import monitor, tree
from app.transparency.monitor import Alarm, Seen, StateRefused
from app.transparency.policies import PolicyRefused
from app.transparency.proofs import Proof
from app.transparency.tiles import bundle
from tests.app.transparency.logs import Dishonest, entry, policy, policy_text

Tamper = Callable[[list[bytes]], list[bytes]]
BEFORE, AFTER = 300, 700
ENTRIES = [entry(i) for i in range(AFTER)]


def look(log: Dishonest, state: Path, *, only_new: bool = False, text: str | None = None) -> Seen:
    return monitor.watch(log.fetch, state, policy=text or policy_text(), only_new=only_new)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return the memory of a monitor that saw the log when it had 300 entries."""
    path = tmp_path / "state.json"
    seen = look(Dishonest(entries=ENTRIES[:BEFORE]), path)
    assert (seen.size, seen.before) == (BEFORE, None)
    return path


@pytest.mark.parametrize("only_new", [False, True])
def test_a_log_that_only_grew_is_well(state: Path, only_new: bool) -> None:  # noqa: FBT001  the case
    for size in (BEFORE, 301, 512, AFTER):
        seen = look(Dishonest(entries=ENTRIES[:size]), state, only_new=only_new)
        assert seen.size == size
    assert look(Dishonest(entries=ENTRIES), state, only_new=only_new).new == {}
    assert not state.with_name("state.json.alarm").exists()


def test_it_counts_what_is_new_by_its_kind(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    entries = [entry(0), b"no json", b"[1]", b'{"kind":"key/v1"}', b'{"kind":"\\u001b[31m"}', b"\xff"]
    log = Dishonest(entries=[b"old"])
    look(log, state)
    log.entries += entries
    assert look(log, state).new == {"erasure-certificate/v1": 1, "key/v1": 1, "unknown": 4}


CHANGED: dict[str, tuple[str, Tamper]] = {
    "forked at the same size": ("forked", lambda e: [*e[: BEFORE - 1], b"another"]),
    "forked and grown": ("edited", lambda e: [*e[: BEFORE - 1], b"another", *e[BEFORE:]]),
    "rolled back": ("rolled-back", lambda e: e[: BEFORE - 1]),
    "rolled back to one": ("rolled-back", lambda e: e[:1]),
    "edited in the middle": ("edited", lambda e: [*e[:150], b"edited", *e[151:]]),
    "edited at the start": ("edited", lambda e: [b"edited", *e[1:]]),
    "reordered": ("edited", lambda e: [*e[:10], e[11], e[10], *e[12:]]),
    "reordered at the same size": ("forked", lambda e: [e[1], e[0], *e[2:BEFORE]]),
    "one taken out": ("edited", lambda e: [*e[:20], *e[21:]]),
    "one put between": ("edited", lambda e: [*e[:20], b"new", *e[20:]]),
    "another log": ("edited", lambda _: [b"%d" % i for i in range(AFTER)]),
}


@pytest.mark.parametrize("only_new", [False, True])
@pytest.mark.parametrize("case", CHANGED)
def test_a_rewritten_log_raises_the_alarm(state: Path, case: str, only_new: bool) -> None:  # noqa: FBT001  the case
    code, change = CHANGED[case]
    kept, rewritten = state.read_bytes(), Dishonest(entries=change(ENTRIES))
    with pytest.raises(Alarm) as alarm:
        look(rewritten, state, only_new=only_new)
    assert alarm.value.code == code
    assert str(BEFORE) in str(alarm.value)
    assert state.read_bytes() == kept, "what was seen stays what is compared with"
    assert state.with_name("state.json.alarm").read_bytes() == rewritten.note(), "and here is the evidence"


@pytest.mark.parametrize("case", CHANGED)
def test_the_holder_of_an_old_proof_sees_it_too(case: str) -> None:
    old = Dishonest(entries=ENTRIES[:BEFORE])
    path = tree.inclusion_proof(old.leaves, 7)
    proof = Proof(index=7, hashes=tuple(path), checkpoint=old.note())
    proof.verify(entry(7), policy())
    assert monitor.compare(Dishonest(entries=ENTRIES).fetch, proof.encode(), policy()).size == AFTER
    code, change = CHANGED[case]
    with pytest.raises(Alarm) as alarm:
        monitor.compare(Dishonest(entries=change(ENTRIES)).fetch, proof.encode(), policy())
    assert alarm.value.code == code


def test_a_log_that_shows_nothing_any_more_was_rolled_back(state: Path, tmp_path: Path) -> None:
    def nothing(path: str) -> bytes | None:
        return policy_text().encode() if path == "policy" else None

    with pytest.raises(Alarm, match="shows nothing and had shown 300") as alarm:
        monitor.watch(nothing, state)
    assert alarm.value.code == Alarm.ROLLED_BACK
    assert monitor.watch(nothing, tmp_path / "fresh").size == 0
    assert not (tmp_path / "fresh").exists()
    old = Dishonest(entries=ENTRIES[:1])
    proof = Proof(index=0, hashes=(), checkpoint=old.note()).encode()
    with pytest.raises(Alarm, match="shows nothing"):
        monitor.compare(nothing, proof, policy())


def test_entries_that_are_shown_otherwise_than_they_were_signed(state: Path) -> None:
    """The tree is untouched, and only some readers are shown another entry."""
    edited = bundle([*ENTRIES[:99], b"edited", *ENTRIES[100:256]])
    for path, data in (
        ("tile/entries/000", edited),
        ("tile/0/001", bytes(8192)),
        ("tile/1/000.p/2", bytes(64)),
    ):
        with pytest.raises(Alarm, match="does not hold") as alarm:
            look(Dishonest(entries=ENTRIES, tamper={path: data}), state)
        assert alarm.value.code == Alarm.EDITED
    both = {"tile/entries/000": edited, "tile/0/000": b"".join(map(tree.leaf_hash, unbundled(edited)))}
    with pytest.raises(Alarm, match="does not begin with the 300"):
        look(Dishonest(entries=ENTRIES, tamper=both), state)
    fresh = state.with_name("fresh")
    with pytest.raises(Alarm, match="are not those it signed"):
        look(Dishonest(entries=ENTRIES, tamper=both), fresh)


def unbundled(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = 2 + int.from_bytes(data[:2])
        found.append(data[2:length])
        data = data[length:]
    return found


def test_a_log_that_cannot_be_read_is_no_log(state: Path) -> None:
    for path, data in (("tile/entries/001", b"\x00"), ("tile/0/000", b""), ("tile/entries/000", b"")):
        with pytest.raises(Alarm):
            look(Dishonest(entries=ENTRIES, tamper={path: data}), state)

    def holes(path: str) -> bytes | None:
        return None if path == "tile/entries/001" else Dishonest(entries=ENTRIES).fetch(path)

    with pytest.raises(Alarm, match="there is no tile/entries/001") as alarm:
        monitor.watch(holes, state, policy=policy_text())
    assert alarm.value.code == Alarm.BROKEN


def test_a_checkpoint_that_a_stranger_signed_raises_the_alarm(state: Path) -> None:
    with pytest.raises(Alarm) as alarm:
        look(Dishonest(entries=ENTRIES, seed=10), state)
    assert alarm.value.code == Alarm.UNSIGNED
    proof = Proof(index=0, hashes=(), checkpoint=Dishonest(entries=ENTRIES[:1], seed=10).note()).encode()
    with pytest.raises(Alarm, match="not of a log that is trusted"):
        monitor.compare(Dishonest(entries=ENTRIES).fetch, proof, policy())


def test_the_key_that_was_taken_first_is_held_to(tmp_path: Path) -> None:
    state, log = tmp_path / "state.json", Dishonest(entries=ENTRIES[:3])
    log.tamper = {"policy": policy_text().encode()}
    assert monitor.watch(log.fetch, state).size == 3
    other = Dishonest(entries=ENTRIES[:4], seed=10)
    other.tamper = {"policy": policy_text().replace("log ", "# ").encode()}
    with pytest.raises(Alarm):
        monitor.watch(other.fetch, state)
    with pytest.raises(PolicyRefused):
        monitor.watch(lambda _: None, tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"not json",
        lambda _: b"[]",
        lambda s: json.dumps({**s, "version": "another"}).encode(),
        lambda s: json.dumps({**s, "frontier": s["frontier"][1:]}).encode(),
        lambda s: json.dumps({**s, "frontier": [*s["frontier"][:-1], "00" * 32]}).encode(),
        lambda s: json.dumps({**s, "frontier": "none"}).encode(),
        lambda s: json.dumps({**s, "checkpoint": s["checkpoint"].replace("300", "301")}).encode(),
        lambda s: json.dumps({name: s[name] for name in s if name != "checkpoint"}).encode(),
    ],
    ids=range(8),
)
def test_a_memory_that_was_tampered_with_is_not_believed(
    state: Path, change: Callable[[dict[str, object]], bytes]
) -> None:
    state.write_bytes(change(json.loads(state.read_bytes())))
    with pytest.raises((StateRefused, tree.InvalidProof)):
        look(Dishonest(entries=ENTRIES), state, only_new=True)


@settings(max_examples=40, deadline=None)
@given(before=st.integers(1, 40), after=st.integers(1, 40), place=st.integers(0, 39), data=st.data())
def test_no_change_before_what_was_seen_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int, place: int, data: st.DataObject
) -> None:
    """Take any two sizes and change any one entry: alarm exactly if it stood there before, or is gone."""
    state = tmp_path_factory.mktemp("monitor") / "state.json"
    look(Dishonest(entries=ENTRIES[:before]), state)
    changed = list(ENTRIES[:after])
    if place < after:
        changed[place] = b"changed"
    only_new = data.draw(st.booleans())
    harmless = after >= before and not (place < min(before, after))
    try:
        look(Dishonest(entries=changed), state, only_new=only_new)
    except Alarm:
        assert not harmless
    else:
        assert harmless


def test_the_file_holds_what_was_signed(state: Path) -> None:
    kept = json.loads(state.read_bytes())
    assert kept["checkpoint"].encode() == Dishonest(entries=ENTRIES[:BEFORE]).note()
    assert len(kept["frontier"]) == BEFORE.bit_count()
    root = base64.b64encode(tree.root(Dishonest(entries=ENTRIES[:BEFORE]).leaves)).decode()
    assert root in kept["checkpoint"]
