"""From a candidate to what users get: on a real model server and a real database."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.audit import service as audit
from app.config import Settings
from app.errors import Conflict, LeaseLost, Unavailable
from app.http import ids
from app.serving import attestation, service
from app.serving.backends import NativeBackend, Publication, ServingBackend, backends
from app.serving.service import Confirmation, Promotion
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from app.tables import Job, Model, ServingReplica
from workers.inference.replica import Replica

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def begin(line: Any, name: str, used: Sequence[ServingBackend], *, step: int = 0) -> Publication:
    with line.transaction() as session:
        return service.begin(
            session,
            model_id=line.model_id,
            candidate_id=line.versions[name],
            lease_epoch=line.lease_epoch,
            erasure_epoch_step=step,
            backends=used,
        )


def promote(
    line: Any,
    publication: Publication,
    confirmations: Sequence[Confirmation],
    *,
    parent: UUID | None = None,
    step: int = 0,
    lease_epoch: int = 1,
) -> Promotion:
    with line.transaction() as session:
        return service.promote(
            session,
            model_id=line.model_id,
            candidate_id=publication.version_id,
            parent_id=parent,
            lease_epoch=lease_epoch,
            publish_epoch=publication.publish_epoch,
            erasure_epoch_step=step,
            attestation=confirmations,
            at=NOW,
        )


def serve(
    line: Any, name: str, backend: ServingBackend, *, parent: UUID | None = None, step: int = 0
) -> Promotion:
    publication = begin(line, name, [backend], step=step)
    confirmations = service.publish([backend], publication, drain_seconds=5)
    done = promote(line, publication, confirmations, parent=parent, step=step)
    service.announce([backend], publication)
    return done


def confirmed(publication: Publication, address: str = "http://one") -> Confirmation:
    """Return what `publish` would, where the test is about the database alone."""
    return Confirmation(
        address=address,
        replica="r",
        public_key="",
        envelope={},
        manifest=publication.manifest,
        publish_epoch=publication.publish_epoch,
        erasure_epoch=publication.erasure_epoch,
    )


ONE = NativeBackend(url="http://one", token="")


def test_two_publications(
    line: Any, backend: NativeBackend, replica: Replica, transaction: Transaction
) -> None:
    assert serve(line, "a", backend) == Promotion(number=1, erasure_epoch=0)
    assert serve(line, "b", backend, parent=line.versions["a"], step=1) == Promotion(
        number=2, erasure_epoch=1
    )

    first, second, model = line.version("a"), line.version("b"), line.model()
    assert (first.state, first.number) == ("quarantined", 1)
    assert (second.state, second.number, second.erasure_epoch, second.published_at) == ("live", 2, 1, NOW)
    assert (model.live_version_id, model.erasure_epoch, model.publish_epoch) == (second.id, 1, 2)
    assert [version.version for version in replica.versions()] == [ids.encode("mv", second.id)]
    with transaction() as session:
        [row] = session.scalars(select(ServingReplica))
        events = audit.history(session, ids.encode("mv", second.id))
    assert (row.manifest, row.publish_epoch, row.confirmed_at) == (second.manifest, 2, NOW)
    assert row.attestation is not None
    assert [(entry.kind, entry.body["number"]) for entry in events] == [("version.published", 2)]
    assert backend.current().floors == {"line": 1}


def test_after_the_promotion_the_old_weights_are_refused(line: Any, backend: NativeBackend) -> None:
    serve(line, "a", backend)
    serve(line, "b", backend, parent=line.versions["a"], step=1)
    old = replace(begin(line, "a", [backend]), erasure_epoch=0)
    with pytest.raises(Conflict, match="erased records") as refused:
        service.publish([backend], old, drain_seconds=1)
    assert refused.value.code == "erasure-epoch-low"


def test_a_publication_can_be_repeated_after_any_step(line: Any, backend: NativeBackend) -> None:
    serve(line, "a", backend)
    publication = begin(line, "b", [backend], step=1)
    backend.load(publication)
    service.publish([backend], publication, drain_seconds=5)
    service.publish([backend], publication, drain_seconds=5)
    later = begin(line, "b", [backend], step=1)
    confirmations = service.publish([backend], later, drain_seconds=5)
    assert promote(line, later, confirmations, parent=line.versions["a"], step=1).number == 2


def test_a_publisher_that_was_overtaken_is_refused_by_the_server(line: Any, backend: NativeBackend) -> None:
    early, late = begin(line, "a", [backend]), begin(line, "b", [backend])
    service.publish([backend], late, drain_seconds=1)
    with pytest.raises(Conflict) as refused:
        service.publish([backend], early, drain_seconds=1)
    assert refused.value.code == "publish-epoch-low"


def test_a_server_that_is_not_there_is_unavailable_and_the_token_stays_secret(line: Any) -> None:
    nobody = NativeBackend(url="http://127.0.0.1:9", token="topsecret")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 does not answer") as refused:
        service.publish([nobody], begin(line, "a", [nobody]), drain_seconds=1)
    assert "topsecret" not in str(refused.value) + repr(nobody)


def test_a_wrong_token_is_refused(line: Any, backend: NativeBackend) -> None:
    with pytest.raises(Conflict, match="token"):
        replace(backend, token="other").current()


def test_no_server_at_all_is_not_a_publication(line: Any) -> None:
    with pytest.raises(Unavailable, match="no model server"):
        service.publish([], begin(line, "a", [ONE]), drain_seconds=1)


def test_what_the_server_cannot_verify_it_does_not_serve(line: Any, backend: NativeBackend) -> None:
    publication = replace(begin(line, "a", [backend]), tensor_root="00" * 32)
    with pytest.raises(Conflict, match="tensor root"):
        service.publish([backend], publication, drain_seconds=1)
    assert backend.current().served == {}


def test_an_attestation_of_something_else_is_refused(
    line: Any, backend: NativeBackend, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that answers with what it attested to somebody earlier, under another nonce."""
    publication = begin(line, "a", [backend])
    service.publish([backend], publication, drain_seconds=1)
    earlier = replica.attest("line", nonce="5a" * 32)
    monkeypatch.setattr(replica, "attest", lambda *_, **__: earlier)
    with pytest.raises(attestation.AttestationRefused, match="nonce"):
        service.publish([backend], publication, drain_seconds=1)


def test_without_the_lease_nothing_is_begun_or_promoted(line: Any) -> None:
    publication = begin(line, "a", [ONE])
    line.lease_for(-1)
    with pytest.raises(LeaseLost):
        begin(line, "a", [ONE])
    with pytest.raises(LeaseLost):
        promote(line, publication, [confirmed(publication)])
    line.lease_for(60)
    with pytest.raises(LeaseLost):
        promote(line, publication, [confirmed(publication)], lease_epoch=2)
    assert line.model().live_version_id is None
    assert line.version("a").state == "candidate"


@pytest.mark.parametrize(
    "other",
    [{"address": "http://two"}, {"manifest": "00" * 32}, {"publish_epoch": 9}, {"erasure_epoch": 9}],
)
def test_a_replica_that_confirmed_nothing_or_something_else_stops_the_promotion(
    line: Any, other: dict[str, Any]
) -> None:
    publication = begin(line, "a", [ONE])
    for confirmations in ([replace(confirmed(publication), **other)], []):
        with pytest.raises(Conflict) as refused:
            promote(line, publication, confirmations)
        assert refused.value.code == "unconfirmed"
    assert line.model().live_version_id is None
    assert line.version("a").number is None


def test_every_replica_must_have_confirmed(line: Any) -> None:
    two = NativeBackend(url="http://two", token="")
    publication = begin(line, "a", [ONE, two])
    with pytest.raises(Conflict, match="http://two"):
        promote(line, publication, [confirmed(publication)])
    promote(line, publication, [confirmed(publication), confirmed(publication, "http://two")])


def test_a_replica_that_is_no_longer_configured_is_not_waited_for(line: Any) -> None:
    begin(line, "a", [ONE, NativeBackend(url="http://old", token="")])
    publication = begin(line, "a", [ONE])
    promote(line, publication, [confirmed(publication)])


def test_another_parent_or_publish_epoch_is_a_conflict(line: Any) -> None:
    stale = begin(line, "a", [ONE])
    publication = begin(line, "a", [ONE])
    for overtaken, parent in ((stale, None), (publication, line.versions["b"])):
        with pytest.raises(Conflict) as refused:
            promote(line, overtaken, [confirmed(overtaken)], parent=parent)
        assert refused.value.code == "publication-overtaken"


def test_only_a_candidate_is_promoted(line: Any) -> None:
    publication = begin(line, "a", [ONE])
    promote(line, publication, [confirmed(publication)])
    again = begin(line, "a", [ONE])
    with pytest.raises(Conflict) as refused:
        promote(line, again, [confirmed(again)], parent=line.versions["a"])
    assert refused.value.code == "not-candidate"
    assert line.version("a").state == "live"


def test_of_two_promotions_at_once_one_goes_through(line: Any) -> None:
    publication = begin(line, "a", [ONE])

    def try_it(_: int) -> bool:
        try:
            promote(line, publication, [confirmed(publication)])
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(try_it, range(4))) == [False, False, False, True]
    assert line.version("a").number == 1


def converge(line: Any, *used: ServingBackend) -> bool:
    return service.converge(line.transaction, used, line.model_id, drain_seconds=5, at=NOW)


def test_a_server_that_lost_everything_is_brought_back(
    line: Any, backend: NativeBackend, restarted: NativeBackend
) -> None:
    assert not converge(line, restarted)  # nothing is live yet
    serve(line, "a", backend)
    assert not converge(line, backend)
    assert converge(line, restarted)
    assert restarted.current().served["line"].manifest == line.version("a").manifest
    assert not converge(line, restarted)


def test_a_server_left_on_a_candidate_is_brought_back(line: Any, backend: NativeBackend) -> None:
    serve(line, "a", backend)
    service.publish([backend], begin(line, "b", [backend], step=1), drain_seconds=5)
    assert converge(line, backend)
    assert backend.current().served["line"].manifest == line.version("a").manifest


def test_while_a_job_publishes_nothing_is_brought_back(line: Any, backend: NativeBackend) -> None:
    serve(line, "a", backend)
    with line.transaction() as session:
        session.add(Job(model_id=line.model_id, stage="publish", seed=1))
    service.publish([backend], begin(line, "b", [backend], step=1), drain_seconds=5)
    assert not converge(line, backend)
    assert backend.current().served["line"].manifest == line.version("b").manifest


def test_a_frozen_line_is_served_as_it_is(line: Any, backend: NativeBackend) -> None:
    serve(line, "a", backend)
    service.publish([backend], begin(line, "b", [backend], step=1), drain_seconds=5)
    with line.transaction() as session:
        session.get_one(Model, line.model_id).breaker = "frozen"
    assert not converge(line, backend)
    assert backend.current().served["line"].manifest == line.version("b").manifest
    with line.transaction() as session:
        session.get_one(Model, line.model_id).breaker = "open"
    assert converge(line, backend), "after failed jobs what is live is known"


def test_no_server_is_brought_back_to_weights_below_the_line_s_epoch(
    line: Any, backend: NativeBackend, restarted: NativeBackend
) -> None:
    """They hold who was erased since; a restored database calls them live."""
    serve(line, "a", backend)
    with line.transaction() as session:
        session.get_one(Model, line.model_id).erasure_epoch = 1
    assert not converge(line, restarted)
    assert restarted.current().served == {}


def test_a_floor_that_was_not_announced_is_announced_later(line: Any, backend: NativeBackend) -> None:
    publication = begin(line, "a", [backend], step=1)
    promote(line, publication, service.publish([backend], publication, drain_seconds=5), step=1)
    assert backend.current().floors == {"line": 0}
    assert not converge(line, backend)
    assert backend.current().floors == {"line": 1}


def test_the_settings_name_the_server(tmp_path: Path) -> None:
    keyring = Keyring.open(tmp_path / "keys", create=True)
    [found] = backends(Settings(home=tmp_path, model_admin_port=8123), keyring)
    assert found == NativeBackend(url="http://127.0.0.1:8123", token=keyring.admin_token)
    [named] = backends(Settings(home=tmp_path, model_admin_url="http://10.0.0.1:1"), keyring)
    assert named.address == "http://10.0.0.1:1"


def test_publish_epochs_never_repeat(line: Any, transaction: Transaction) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: begin(line, "a", [ONE]).publish_epoch, range(8)))
    assert sorted(made) == list(range(1, 9))
    with transaction() as session:
        assert session.scalar(select(Model.publish_epoch)) == 8
