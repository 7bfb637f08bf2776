"""What may be loaded, what may not, and what is left of a version that is gone."""

import json
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from safetensors.torch import load_file, save_file

from app.errors import Conflict, Invalid, NotFound, Unavailable
from app.serving import attestation
from app.signing.keys import PublicKey
from app.storage.objects import ObjectCorrupt, ObjectStore
from workers.inference import slot as slots
from workers.inference import weights
from workers.inference.replica import Replica
from workers.inference.state import StateFile, Version
from workers.unlearning.task import CausalLM

Publish = Callable[..., Version]
NONCE = "5a" * 32


@pytest.fixture(autouse=True)
def short_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "CANARY_TOKENS", 4)


def test_without_a_model_it_says_what_to_do(replica: Replica) -> None:
    assert "lethe model add" in (replica.why_not_ready() or "")
    with pytest.raises(Unavailable, match="lethe model add"):
        replica.lease(None)


def test_a_version_is_routed_to_when_it_is_swapped_not_when_it_is_loaded(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    first = serve("a", 1)
    second = order("b", 2)
    replica.load(second, erasure_floor=0)
    assert replica.versions() == [first]
    replica.swap("line", publish_epoch=2)
    assert replica.versions() == [second]
    assert replica.why_not_ready() is None


def test_every_call_may_be_repeated(replica: Replica, order: Publish, serve: Publish) -> None:
    serve("a", 1)
    version = order("b", 2)
    for _ in range(2):
        replica.load(version, erasure_floor=0)
    for _ in range(2):
        replica.swap("line", publish_epoch=2)
    replica.load(version, erasure_floor=0)
    for _ in range(2):
        replica.drain("line", deadline_seconds=1)
    assert replica.versions() == [version]


def test_a_lower_publish_epoch_is_refused(replica: Replica, order: Publish, serve: Publish) -> None:
    live = serve("a", 5)
    with pytest.raises(Conflict, match="below 5"):
        replica.load(order("b", 4), erasure_floor=0)
    with pytest.raises(Conflict, match="below 5"):
        replica.swap("line", publish_epoch=4)
    assert replica.versions() == [live]


def test_a_publish_epoch_publishes_one_version(replica: Replica, order: Publish, serve: Publish) -> None:
    serve("a", 5)
    with pytest.raises(Conflict, match="used for another"):
        replica.load(order("b", 5), erasure_floor=0)


def test_weights_from_before_a_published_erasure_are_refused(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    serve("a", 1, erasure_epoch=3)
    replica.confirm("line", publish_epoch=1, erasure_epoch=3)
    with pytest.raises(Conflict, match="erased records"):
        replica.load(order("b", 2, erasure_epoch=2), erasure_floor=0)


def test_until_it_is_confirmed_a_publication_can_be_taken_back(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    serve("a", 1)
    serve("b", 2, erasure_epoch=1)
    back = serve("a", 3)
    assert replica.versions() == [back]


def test_the_publisher_knows_of_erasures_that_the_replica_has_not_heard_of(
    replica: Replica, order: Publish
) -> None:
    with pytest.raises(Conflict, match="erased records"):
        replica.load(order("a", 1, erasure_epoch=2), erasure_floor=3)


def test_an_epoch_that_rose_between_load_and_swap_stops_the_swap(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    live = serve("a", 1, erasure_epoch=1)
    replica.load(order("b", 2, erasure_epoch=1), erasure_floor=1)
    replica.confirm("line", publish_epoch=2, erasure_epoch=2)
    with pytest.raises(Conflict, match="erased records"):
        replica.swap("line", publish_epoch=2)
    assert replica.versions() == [live]


def test_epochs_outlive_the_process(start: Callable[[], Replica], order: Publish) -> None:
    start().load(order("a", 7), erasure_floor=0)
    with pytest.raises(Conflict, match="below 7"):
        start().load(order("a", 6), erasure_floor=0)


def test_a_restart_serves_the_same_version_again(
    start: Callable[[], Replica], replica: Replica, serve: Publish
) -> None:
    live = serve("a", 3, erasure_epoch=2)
    again = start()
    assert "fetched and verified" in (again.why_not_ready() or "")
    again.restore()
    assert again.why_not_ready() is None
    assert again.versions() == [live]


def test_a_restart_over_a_damaged_store_serves_nothing_and_says_why(
    start: Callable[[], Replica], serve: Publish, store: ObjectStore, adopted: dict[str, Any], tmp_path: Path
) -> None:
    serve("a", 3)
    damage(tmp_path / "store")
    again = start()
    again.restore()
    assert again.versions() == []
    assert "cannot be served again" in (again.why_not_ready() or "")


def test_a_restart_whose_model_answers_otherwise_serves_nothing(
    start: Callable[[], Replica], serve: Publish, tmp_path: Path
) -> None:
    serve("a", 3)
    path = tmp_path / "serving" / "state.json"
    remembered = json.loads(path.read_text())
    remembered["lines"]["line"]["canary"][0] = "00" * 32
    path.write_text(json.dumps(remembered))
    again = start()
    again.restore()
    assert again.versions() == []
    assert "canary" in (again.why_not_ready() or "")


def test_one_flipped_byte_is_refused_and_the_old_version_goes_on(
    replica: Replica, order: Publish, serve: Publish, tmp_path: Path
) -> None:
    live = serve("a", 1)
    damage(tmp_path / "store")
    with pytest.raises(ObjectCorrupt):
        replica.load(order("b", 2), erasure_floor=0)
    assert replica.versions() == [live]
    with pytest.raises(Conflict, match="nothing is loaded"):
        replica.swap("line", publish_epoch=2)
    assert list((tmp_path / "serving" / "staging").iterdir()) == []


def test_another_tensor_root_than_the_files_have_is_refused(replica: Replica, order: Publish) -> None:
    with pytest.raises(Invalid, match="tensor root"):
        replica.load(order("a", 1, tensor_root="00" * 32), erasure_floor=0)


def test_a_form_it_does_not_serve_is_refused(replica: Replica, order: Publish) -> None:
    with pytest.raises(Invalid, match="int4"):
        replica.load(order("a", 1, form="bfloat16/int4"), erasure_floor=0)


def test_no_copy_of_the_weights_is_left_on_disk(replica: Replica, serve: Publish, tmp_path: Path) -> None:
    serve("a", 1)
    files = [path.name for path in (tmp_path / "serving").rglob("*") if path.is_file()]
    assert files == ["state.json"]


def test_what_a_crash_left_of_a_version_is_removed_at_the_next_start(
    start: Callable[[], Replica], tmp_path: Path
) -> None:
    left = tmp_path / "serving" / "staging" / "half"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"weights")
    start()
    assert not left.exists()


def test_draining_waits_for_whoever_holds_the_old_version_and_then_frees_it(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    serve("a", 1)
    held = replica.lease("line")
    gone = weakref.ref(held.model)
    replica.load(order("b", 2), erasure_floor=0)
    replica.swap("line", publish_epoch=2)
    draining = threading.Thread(target=replica.drain, args=["line"], kwargs={"deadline_seconds": 30})
    draining.start()
    draining.join(0.2)
    assert draining.is_alive()
    assert gone() is not None
    assert not held.revoked.is_set()
    replica.release(held)
    draining.join(10)
    assert not draining.is_alive()
    assert gone() is None


def test_a_version_that_still_drains_is_not_covered_by_a_third_one(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    serve("a", 1)
    replica.lease("line")
    replica.load(order("b", 2), erasure_floor=0)
    replica.swap("line", publish_epoch=2)
    with pytest.raises(Conflict, match="draining"):
        replica.load(order("a", 3), erasure_floor=0)


def test_two_lines_are_two_models(replica: Replica, serve: Publish) -> None:
    serve("a", 1)
    serve("b", 1, model="other")
    with pytest.raises(Invalid, match="name one of the models: line, other"):
        replica.lease(None)
    assert replica.lease("other").version.model == "other"
    with pytest.raises(NotFound):
        replica.lease("third")


def test_it_attests_what_it_holds(replica: Replica, serve: Publish, adopted: dict[str, Any]) -> None:
    serve("a", 1)
    live = serve("b", 2, erasure_epoch=1)
    key = PublicKey.of(load_pem_public_key(replica.describe()["public_key"].encode()))  # type: ignore[arg-type]
    statement = attestation.verify(replica.attest("line", nonce=NONCE), key)
    expected: dict[str, Any] = {
        "nonce": NONCE,
        "model": "line",
        "manifest": live.manifest,
        "tensor_root": adopted["b"].tensor_root,
        "form": "float32/none",
        "publish_epoch": 2,
        "erasure_epoch": 1,
    }
    attestation.expect(statement, **expected)
    previous = statement["predicate"]["previous"]
    assert previous == {"digest": {"sha256": adopted["a"].manifest}, "freed": True}
    others = {"nonce": "00" * 32, "manifest": "11" * 32, "tensor_root": "22" * 32, "erasure_epoch": 0}
    for name, other in others.items():
        with pytest.raises(attestation.AttestationRefused):
            attestation.expect(statement, **(expected | {name: other}))


def test_an_undrained_version_shows_in_the_attestation(
    replica: Replica, order: Publish, serve: Publish
) -> None:
    serve("a", 1)
    version = order("b", 2)
    replica.load(version, erasure_floor=0)
    replica.swap("line", publish_epoch=2)
    statement = attestation.verify(replica.attest("line", nonce=NONCE), replica._signer.public)
    with pytest.raises(attestation.AttestationRefused, match="previous version"):
        attestation.expect(
            statement,
            nonce=NONCE,
            model="line",
            manifest=version.manifest,
            tensor_root=version.tensor_root,
            form=version.form,
            publish_epoch=2,
            erasure_epoch=0,
        )


def test_another_key_or_another_byte_is_not_the_replicas_word(replica: Replica, serve: Publish) -> None:
    serve("a", 1)
    signed = replica.attest("line", nonce=NONCE)
    other = PublicKey.of(Ed25519PrivateKey.generate().public_key())
    with pytest.raises(attestation.AttestationRefused, match="not signed"):
        attestation.verify(signed, other)
    payload = signed["payload"]
    changed = signed | {"payload": ("B" if payload[0] != "B" else "C") + payload[1:]}
    with pytest.raises(attestation.AttestationRefused):
        attestation.verify(changed, replica._signer.public)


def test_bfloat16_is_read_back_as_the_files_converted(replica: Replica, serve: Publish) -> None:
    serve("a", 1, form="bfloat16/none")
    held = replica.lease("line")
    assert next(held.model.parameters()).dtype == torch.bfloat16
    assert held.tensor_root == held.version.tensor_root != held.device_root


@pytest.fixture
def copy_of_a(directories: dict[str, Path], tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for path in directories["a"].iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_tensor_that_is_in_no_file_is_refused(copy_of_a: Path) -> None:
    """transformers would draw it at random and only warn."""
    model, _ = weights.load(copy_of_a, "float32/none")
    path = copy_of_a / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(Invalid, match=r"h\.1\.mlp\.c_fc\.weight on the device is in none"):
        weights.read_back(model, copy_of_a, "float32/none")


def test_a_tensor_changed_in_memory_is_refused(copy_of_a: Path) -> None:
    model, _ = weights.load(copy_of_a, "float32/none")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] += 1e-6
    with pytest.raises(Invalid, match=r"h\.0\.mlp\.c_fc\.weight on the device is not the one"):
        weights.read_back(model, copy_of_a, "float32/none")


def test_what_is_served_does_not_lie_in_the_file(copy_of_a: Path) -> None:
    model, _ = weights.load(copy_of_a, "float32/none")
    before = model.transformer.wte.weight.clone()
    with (copy_of_a / "model.safetensors").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)  # tensors stand there by name, and `transformer.wte` is the last
        file.write(b"\x41" * 900)
        file.flush()
        os.fsync(file.fileno())
    assert torch.equal(model.transformer.wte.weight, before)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_it_is_loaded_by_what_measures_it(copy_of_a: Path) -> None:
    model, _ = weights.load(copy_of_a, "float32/none")
    measured = CausalLM.load(copy_of_a).model.state_dict()
    assert all(torch.equal(tensor, measured[name]) for name, tensor in model.state_dict().items())


def test_the_state_file_is_refused_when_it_is_another_ones(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"schema": "something else"}')
    with pytest.raises(ValueError, match="schema"):
        StateFile.open(path)


def test_a_state_is_written_whole_or_not_at_all(
    tmp_path: Path, order: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateFile.open(tmp_path / "state.json")
    state.change("line", publish_epoch=1, live=order("a", 1))

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        state.change("line", publish_epoch=2)
    assert state.of("line").publish_epoch == 1
    assert StateFile.open(tmp_path / "state.json").lines == state.lines
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["state.json"]
    assert replace(state.of("line"), live=None).live is None


def damage(store: Path) -> None:
    """Flip one bit of every large blob: what is stored as read-only is not safe from a disk."""
    for path in (store / "blobs").rglob("*"):
        if path.is_file() and path.stat().st_size > 50_000:
            path.chmod(0o600)
            content = bytearray(path.read_bytes())
            content[-100] ^= 1
            path.write_bytes(content)
