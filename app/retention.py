"""What is kept how long: the one table of it. A policy, so a change is a new version.

    what                                              kept                     destroyed by
    identifiers, evidence, free text of a request     30 days after its end    erasure.forgetting
    its keyed hashes, the caller's numbers for it     30 days after its end    erasure.forgetting
    which records it names                            the same; see below      erasure.forgetting
    rows of erased records                            30 days after erasure    records.forgetting
    keyed hash of what an erased record says (R67)    for good                 nothing: it keeps it out
    the request itself (tombstone), approvals         6 years after its end    erasure.forgetting
    certificates, and tombstones they are of          for good                 nothing: they are proof
    audit chain (ids, codes, counts)                  for good                 nothing: append-only
    weekly keys                                       5 weeks, while in use    erasure.forgetting
    receipts of calls                                 24 hours                 http.receipts
    deliveries, callbacks, imports                    30 days after their end  webhooks, intake
    nonces that open a certificate's commitments      30 days after release    certificates
    sessions of people                                14 days after their end  auth.sessions
    logins under way                                  10 minutes               auth.sessions
    one-time codes, as keyed hashes                   1 day                    erasure.identity
    addresses of who calls without a key, hashed      1 hour                   erasure.identity
    exports                                           not at all               streamed, never stored
    logs of an embedded stack                         14 days                  embedded.logs

Rows that an approximate erasure still needs to be made exact (its anchor holds the records) wait for
that, and so does which request names them; so do requests under a legal hold or a deep audit. Nothing
here knows a clock or a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Retention:
    """One version of the table."""

    version: str
    person: timedelta
    """From the end of a request to its purge; from an erasure to the deletion of the records' rows."""
    tombstone: timedelta
    """From the end of a request to the deletion of what was left of it."""
    epochs: timedelta
    """How old a week's key may be before what it wraps is wrapped anew."""
    receipts: timedelta
    deliveries: timedelta
    openings: timedelta
    sessions: timedelta
    codes: timedelta
    logs: timedelta


POLICY = Retention(
    version="2026-1",
    person=timedelta(days=30),
    tombstone=timedelta(days=6 * 365 + 2),
    epochs=timedelta(weeks=5),
    receipts=timedelta(hours=24),
    deliveries=timedelta(days=30),
    openings=timedelta(days=30),
    sessions=timedelta(days=14),
    codes=timedelta(days=1),
    logs=timedelta(days=14),
)


def spans() -> Mapping[str, timedelta]:
    """Return every class of data that has an end, and how long it is kept."""
    return {name: span for name, span in vars(POLICY).items() if isinstance(span, timedelta)}
