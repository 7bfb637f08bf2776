"""Answers that are longer than memory should be: made while they are sent, and told to be whole.

What makes them reads in short transactions of its own, one per piece: a slow reader holds none. Who
calls is known before the first byte; what breaks later breaks the connection, never the format.
"""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import StreamingResponse

from app.storage.database import Transaction

NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class NdjsonResponse(StreamingResponse):
    """One JSON object a line."""

    media_type = "application/x-ndjson"


class CsvResponse(StreamingResponse):
    """RFC 4180, UTF-8."""

    media_type = "text/csv; charset=utf-8; header=present"


LINES_OR_TABLE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As lines of JSON, or as a table.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}
"""How an answer that comes in both forms is declared."""


def attached(name: str) -> dict[str, str]:
    """Return the headers of a file to be kept, which no browser takes for anything else."""
    return {**NO_SNIFFING, "Content-Disposition": f'attachment; filename="{name}"'}


async def _transaction(request: Request) -> Transaction:
    found: Transaction = request.app.state.transaction
    return found


TransactionDep = Annotated[Transaction, Depends(_transaction)]
"""The way to open transactions, for what outlives the call's own."""
