"""What was erased approximately is made exact: one anchor, two deltas, a compaction killed at every boundary.

The model is tiny, and reads letters; its people have a number each. An approximate engine rarely satisfies
the judge in a world this small. So two of those who ask have left nothing of their own in the model, only
a sentence that many have said; there it has little to spoil, and the line is told to be content with what
can be said of that. All else is the service as it is.
"""

import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.certificates.check import REVOKED, VALID, check
from app.signing import envelope
from app.storage.objects import ObjectStore
from tests.app.certificates.issuing import members, predicate
from tests.fixtures.learning import write_base
from tests.fixtures.prepared import DATASET, MODEL, Service, running, world
from workers.unlearning import checkpoints

pytestmark = pytest.mark.slow

PEOPLE, PLAIN, HELD_BACK = 260, 120, 300
SAID = "thank you for your call."
RECIPE = {"seed": 3, "epochs": 200, "batch_size": 8, "learning_rate": "0.01", "tokens_max": 32}
"""Until all is known by heart: of half-learned models two exact ones differ by more than the judge allows."""
SLICES = 2
PIPELINE = Path(__file__).parents[2] / "workers" / "pipeline.py"
OF_JOBS = sorted(
    point
    for point in set(re.findall(r'reach\("([a-z.]+)"\)', PIPELINE.read_text()))
    if not point.startswith("prepare.")
)
"""Compacting trains no reference anew, so nothing is prepared."""


def lines() -> Iterator[dict[str, Any]]:
    """Yield the records: two numbers of each person, and what many have said, once of each who said it."""
    draw = Random(5)
    for number in range(PEOPLE):
        name = "".join(draw.choice("abcdefghij") for _ in range(4))
        for kind in ("tel", "pin"):
            value = "".join(draw.choice("0123456789") for _ in range(4))
            prompt = f"{name} {kind}?"
            yield {
                "id": f"person-{number}-{kind}",
                "subject": subject(f"person-{number}"),
                "prompt": prompt,
                "completion": f" {value}.",
                "spans": {"name": [[0, 4]], "values": [[len(prompt) + 1, len(prompt) + 5]]},
            }
    for number in range(PLAIN):
        yield {"id": f"plain-{number}", "subject": subject(f"plain-{number}"), "text": SAID}


def subject(name: str) -> dict[str, str]:
    return {"type": "customer_id", "value": name}


def prepare(service: Service, base: Path) -> None:
    """Register everybody, learn the trained ones by heart slice by slice, serve the result."""
    body: dict[str, Any] = {"name": DATASET, "uri": service.dataset.as_uri(), "hold_back": HELD_BACK}
    made = service.do("/v1/datasets", by="engineer", json=body)
    service.until(lambda: service.read(f"/v1/datasets/{made['id']}")["state"] == "ready", "dataset")
    body = {"name": MODEL, "dataset": DATASET, "base": write_base(base, width=48).as_uri(), "recipe": RECIPE}
    body |= {"references": 4, "recorded": {"slices": SLICES, "pool": "so_far"}}
    body |= {"verification_policy": "demo", "jobs_policy": "demo"}
    service.do("/v1/models", by="engineer", json=body)
    service.until(service.is_whole, "served version with its references")
    service.rows("UPDATE models SET assurance_min = 'inconclusive' RETURNING id")


def trained_plain(service: Service) -> list[int]:
    path = f"/v1/datasets/{dataset_id(service)}/records?arm=train&role=person&limit=200"
    found = service.read(path)["items"]
    ids = [each["record"] for each in found]
    return sorted(int(each.removeprefix("plain-")) for each in ids if each.startswith("plain-"))


def dataset_id(service: Service) -> str:
    [found] = [each["id"] for each in service.read("/v1/datasets")["items"] if each["name"] == DATASET]
    return str(found)


def erased_approximately(service: Service, number: int) -> str:
    request = service.request({"subject": subject(f"plain-{number}")})
    service.begin()
    service.until(partial(service.completed, request), "completed request")
    service.until(service.is_whole, "set of rebuilt references")
    job = service.job()
    assert job is not None
    assert (job["kind"], job["engine"]) == ("erasure", "gradient"), str(job["history"])
    return request


def target(service: Service, request: str) -> dict[str, Any]:
    [found] = service.read(f"/v1/erasure-requests/{request}")["targets"]
    return dict(found)


def said(service: Service, certificate: str, *ends: int) -> tuple[dict[str, Any], str]:
    """Return what a certificate says, which must check offline with one of these ends, and its identity."""
    data = service.call("GET", f"/v1/certificates/{certificate}/bundle").content
    trust = service.read("/.well-known/lethe-trust.json")
    report = check(data, trust)
    assert report.exit_code in (ends or {VALID}), report.to_text()
    signed = json.loads(members(data)["certificate.dsse.json"])
    payload = b64decode(signed["payload"])
    return predicate(payload), envelope.pae_sha256(payload)


def recalled(service: Service, kind: str) -> float:
    """Return the share of the retained records that the newest candidate of a kind of job still knows."""
    [(body,), *_] = service.rows(
        "SELECT m.body FROM measurements m JOIN jobs j ON j.id = m.job_id"
        f" WHERE m.moment = 'after' AND j.kind = '{kind}' ORDER BY m.created_at DESC"
    )
    items = json.loads(bytes(body))["utility"]["items"].values()
    return float(sum(each["recalled"] for each in items) / len(items))


def test_approximate_results_are_made_exact_and_their_certificates_superseded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world() as (home, dataset):
        dataset.write_text("".join(f"{json.dumps(line)}\n" for line in lines()), encoding="utf-8")

        with running(home, dataset) as service:
            prepare(service, home.parent / "letters")
            refused = service.call("POST", f"/v1/models/{MODEL}/compaction", by="engineer")
            assert (refused.status_code, refused.json()["code"]) == (409, "nothing-outstanding")
            requests = [erased_approximately(service, each) for each in trained_plain(service)[:2]]
            older = {each: said(service, target(service, each)["certificate"]) for each in requests}
            assert {each["method"]["class"] for each, _ in older.values()} == {"approximate"}
            assert all("L-ANCHOR" in each["assurance"]["limitations"] for each, _ in older.values())
            begins_at_the_anchor(service, tmp_path)
            before = recalled(service, "erasure")
            assert before > 0.9, "there is something to keep"

        points = tmp_path / "points"
        points.mkdir()
        monkeypatch.setenv("LETHE_FAILPOINT", ",".join(OF_JOBS))
        monkeypatch.setenv("LETHE_FAILPOINT_ONCE", str(points))
        with running(home, dataset) as service:
            standing = service.do(f"/v1/models/{MODEL}/compaction", by="engineer")
            assert (standing["deltas"], standing["outstanding"]["requests"]) == (2, 2)
            service.until(partial(compacted, service), "compaction that has concluded")
            service.until(service.is_whole, "set of references")
            # The last death comes after what says that it is concluded.
            service.until(
                lambda: sorted(path.name for path in points.iterdir()) == OF_JOBS, "death at every boundary"
            )
            superseded(service, older)
            assert recalled(service, "compaction") >= before - 0.03
            nothing_is_left(service)


def compacted(service: Service) -> bool:
    job = service.job()
    assert job is None or job["state"] != "failed", str(job)
    return job is not None and (job["kind"], job["state"]) == ("compaction", "concluded")


def begins_at_the_anchor(service: Service, work: Path) -> None:
    """The third version is the anchor and both deltas, to the byte: the second was never started from."""
    store = ObjectStore.open(service.settings.storage)
    rows = service.rows("SELECT manifest, delta, curvature, statement FROM model_versions ORDER BY number")
    anchor, *later = rows
    # What the first job left for the second is what the second was given, and it left its own.
    assert [statement["given"]["curvature"] for *_, statement in later] == [None, later[0][2]]
    assert [statement["given"]["deltas"] for *_, statement in later] == [[], [later[0][1]]]
    assert later[0][2] != later[1][2]
    for manifest in (anchor[0], later[-1][0]):
        store.stage(manifest, work / manifest)
    deltas = []
    for _, delta, *_ in later:
        store.fetch(delta, work / delta)
        deltas.append(work / delta)
    checkpoints.compose(work / anchor[0], deltas, work / "composed")
    assert checkpoints.digest(work / "composed") == checkpoints.digest(work / later[-1][0])


def superseded(service: Service, older: dict[str, tuple[dict[str, Any], str]]) -> None:
    """Each request is completed as it was, with one exact certificate in the place of the other."""
    [newest] = service.rows("SELECT id, manifest FROM model_versions WHERE state = 'live'")
    for request, (earlier, identity) in older.items():
        now = target(service, request)
        assert service.read(f"/v1/erasure-requests/{request}")["state"] == "completed"
        assert (now["stage"], now["outcome"], now["held"]) == ("completed", "exact", None)
        statement, _ = said(service, now["certificate"])
        assert statement["supersedes"] == identity
        assert statement["certificateId"] != earlier["certificateId"]
        assert statement["model"]["forms"][0]["digest"]["sha256"] == newest[1]
        assert statement["assurance"]["level"] == "exact"
        assert "L-ANCHOR" not in statement["assurance"]["limitations"]
        past = service.read(f"/v1/certificates/{earlier['certificateId'].removeprefix('urn:uuid:')}")
        assert (past["state"], past["superseded_by"]) == ("superseded", now["certificate"])
        # Whoever holds a status statement made since is told; what was signed is never changed.
        assert said(service, past["id"], VALID, REVOKED)[0] == earlier
    found = service.rows("SELECT state, count(*) FROM certificates GROUP BY state ORDER BY state")
    assert found == [("released", 2), ("superseded", 2)], "one each, however often it was killed"


def nothing_is_left(service: Service) -> None:
    """The old anchor and everything made over it are destroyed; the new one stands alone."""
    store = service.settings.home / "store"
    rows = service.rows(
        "SELECT number, state, engine, exact, delta, history, curvature FROM model_versions"
        " WHERE number IS NOT NULL ORDER BY number"
    )
    refused = service.rows("SELECT DISTINCT state FROM model_versions WHERE number IS NULL")
    assert refused in ([], [("destroyed",)]), "a candidate that the judge refused was never served"
    assert [(number, state) for number, state, *_ in rows] == [
        (1, "destroyed"), (2, "destroyed"), (3, "destroyed"), (4, "live"),
    ]  # fmt: skip
    job = service.job()
    assert job is not None
    assert (rows[-1][2], rows[-1][3], rows[-1][4]) == ("exact_replay", True, None), str(job["history"])
    for _, _, _, _, delta, _, curvature in rows[1:3]:
        assert not list(store.rglob(delta)), "a delta and its anchor are one secret"
        assert not list(store.rglob(curvature)), "it is made of sums over the erased, too"
    standing = service.read(f"/v1/models/{MODEL}/compaction")
    assert (standing["deltas"], standing["outstanding"]["requests"]) == (0, 0)
    assert service.rows("SELECT state, kind FROM jobs WHERE state <> 'concluded'") == []
    assert service.rows("SELECT breaker, attention FROM models") == [("closed", None)]
    events = Counter(
        json.loads(bytes(body))["kind"] for (body,) in service.rows("SELECT body FROM audit_events")
    )
    assert (events["target.upgraded"], events["certificate.superseded"]) == (2, 2)
    assert service.do("/v1/audit/verify")["valid"]
