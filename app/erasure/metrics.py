"""How many requests are open, late, or waiting for a person, in the words of Prometheus; no ids.

Counted by SQL when it is asked for, by whichever process is asked: there is no gauge to go stale.
"""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from app.erasure.reading import Counts


def exposition(counts: Counts) -> bytes:
    """Return the counts as a scrape shows them."""
    registry = CollectorRegistry()
    states = Gauge("lethe_requests_open", "Open requests.", ["state"], registry=registry)
    for state, count in counts.open.items():
        states.labels(state).set(count)
    reasons = Gauge("lethe_requests_attention", "Requests that need a person.", ["reason"], registry=registry)
    for reason, count in counts.attention.items():
        reasons.labels(reason).set(count)
    late = Gauge("lethe_requests_overdue", "Open requests past their date.", registry=registry)
    late.set(counts.overdue)
    if counts.due_seconds is not None:
        due = Gauge("lethe_requests_due_seconds", "Until the nearest date of an open one.", registry=registry)
        due.set(counts.due_seconds)
    return generate_latest(registry)
