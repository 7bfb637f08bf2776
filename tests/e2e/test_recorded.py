"""A line whose training is recorded: its jobs repeat a part of that training, and destroy what met the erased."""

import json
from collections import Counter
from functools import partial

import pytest

from tests.fixtures.prepared import MODEL, begun, of_subject

pytestmark = pytest.mark.slow

SLICES = 4


def test_a_recorded_line_unlearns_by_replay_and_destroys_the_old_history() -> None:
    with begun() as service:
        service.prepare(recorded={"slices": SLICES, "pool": "so_far"})
        store = service.settings.home / "store"
        [(first,)] = service.rows("SELECT history FROM model_versions WHERE number = 1")
        assert (store / "manifests" / "sha256" / first).exists()

        for number, person in enumerate(service.trained()[:2], start=2):
            request = service.request(of_subject(person))
            service.begin()
            service.until(partial(service.completed, request), "completed request")
            [target] = service.read(f"/v1/erasure-requests/{request}")["targets"]
            assert target["outcome"] == "exact"
            newest = service.read(f"/v1/models/{MODEL}/versions/{number}", by="engineer")
            assert (newest["state"], newest["engine"]) == ("live", "exact_replay")
            service.until(service.is_whole, "set of rebuilt references")

        histories = service.rows(
            "SELECT number, history, history_condemned FROM model_versions ORDER BY number"
        )
        assert [(number, condemned) for number, _, condemned in histories] == [
            (1, None),
            (2, None),
            (3, None),
        ]
        assert [history is None for _, history, _ in histories] == [True, True, False]
        assert not (store / "manifests" / "sha256" / first).exists()
        events = [json.loads(bytes(body)) for (body,) in service.rows("SELECT body FROM audit_events")]
        told = Counter(event["kind"] for event in events)
        assert (told["history.condemned"], told["history.destroyed"]) == (2, 2)
        steps = service.rows("SELECT output FROM job_steps WHERE stage = 'unlearn'")
        whole = service.rows("SELECT statement->>'records_processed' FROM model_versions WHERE number = 1")
        assert all(output["records_processed"] < int(whole[0][0]) for (output,) in steps)
