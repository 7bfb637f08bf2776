"""A deep audit after the first certificate of a configuration: held by itself, and in the way of nobody."""

import pytest

from tests.fixtures.prepared import MODEL, Start, of_subject

pytestmark = pytest.mark.slow


def test_the_first_certificate_of_a_configuration_is_audited(start: Start) -> None:
    with start() as service:
        [person, *_] = service.trained()
        request = service.request(of_subject(person))
        service.begin()
        service.until(lambda: service.completed(request), "completed request")
        found = service.until(
            lambda: next(
                (each for each in service.read("/v1/audits")["items"] if each["state"] != "due"), None
            ),
            "audit that was held",
        )
        assert (found["state"], found["causes"], found["subjects"]) == ("done", ["new_configuration"], 1)
        # The engine is exact: what is measured of it takes no certificate away.
        assert found["outcome"] in {"clean", "suspected"}
        assert found["withdrawn"] == 0
        seen, of = found["seen"]["combined"]
        assert seen >= of / 2
        assert "second_reading_disagrees" not in found["reasons"]
        assert "second_opinion_disagrees" not in found["reasons"]
        [target] = service.read(f"/v1/erasure-requests/{request}")["targets"]
        shown = service.read(f"/v1/certificates/{target['certificate']}")
        assert shown["state"] == "released"
        assert shown["audit"] in {"clean", "suspected"}
        assert service.read(f"/v1/models/{MODEL}")["live"] is not None
        assert not list(service.settings.work.glob("audit-*")), "records are not left behind"
        told = service.rows("SELECT kind FROM audit_events WHERE kind LIKE 'audit.%' ORDER BY seq")
        assert told == [("audit.opened",), ("audit.concluded",)]
