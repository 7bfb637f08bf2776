"""What the tests of the text scan ask, and the texts that they are asked of."""

from collections.abc import Callable
from typing import Any

from tests.app.erasure.asking import REQUESTS, act, shown
from tests.fixtures.api import Caller
from tests.fixtures.world import ADA, BOB, EVE

Read = Callable[[], int]
PHONE = {"type": "phone", "value": "+49 170 1234567"}
CANARY = "quetzalcoatlus"


def line(record_id: str, person: str, said: str, **more: Any) -> dict[str, Any]:
    subject = {"type": "email", "value": person}
    return {"id": record_id, "subject": subject, "prompt": f"{record_id}?", "completion": said, **more}


LINES = [
    line("ada-1", ADA, f"Her address is {ADA}."),
    line("bob-1", BOB, f"He writes to Ada@Example.ORG, or calls 0170/1234567; {ADA} answers. {CANARY}"),
    line("bob-2", BOB, f"He knows {EVE}, and nada@example.org. {CANARY}"),
    line("eve-1", EVE, "She likes tea."),
]


def rows(caller: Caller, receipt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of a request that are shown, by what becomes of them."""
    found = caller.get(f"{REQUESTS}/{receipt['id']}/records").json()
    return {f"{row['action']} {row['id']}": row for row in found}


def proposed(caller: Caller, receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows(caller, receipt).values() if row["action"] == "proposed"]


def decide(caller: Caller, receipt: dict[str, Any], what: str, *ids: str) -> dict[str, Any]:
    return act(caller, receipt, "resolutions", {"texts": what} | ({"records": ids} if ids else {}))


def index(caller: Caller, receipt: dict[str, Any]) -> str:
    found: str = shown(caller, receipt)["indexes"]["texts"]
    return found


def both(caller: Caller, **more: Any) -> dict[str, Any]:
    """Ask for Ada by two identifiers."""
    body = {"subject": [{"type": "email", "value": ADA}, PHONE], **more}
    found: dict[str, Any] = caller.post(REQUESTS, body).json()
    return found
