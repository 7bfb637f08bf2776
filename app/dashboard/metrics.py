"""How the service does, in the words of Prometheus; no ids.

Counted by SQL when it is asked for, by whichever process is asked: there is no gauge to go stale, and
what workers did is told by the API. Counts of what is kept for a time only (`webhook_attempts`) are
gauges, as they go down when it is deleted.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.dashboard.queries import STEP_BUCKETS_SECONDS, Facts, Operations, Steps
from app.erasure import reading
from app.erasure.forgetting import purge
from app.erasure.reading import Counts
from app.storage.database import Session

Gauge = GaugeMetricFamily


class _Collector(Collector):
    """What was counted, as a scrape wants it."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        """Yield what there is."""
        yield from self._collect()


def exposition(session: Session, *, lease_seconds: float, now: datetime) -> bytes:
    """Count, and return it as a scrape shows it."""
    counts, left = reading.counts(session, now=now), vars(purge.backlog(session, now))
    return told(counts, Operations(session).facts(lease_seconds=lease_seconds, now=now), backlog=left)


def told(counts: Counts, facts: Facts, *, backlog: Mapping[str, int]) -> bytes:
    """Return counts and facts as a scrape shows them, with what is past its date by what keeps it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(lambda: _metrics(counts, facts, backlog)))
    return generate_latest(registry)


def _metrics(counts: Counts, facts: Facts, backlog: Mapping[str, int]) -> Iterator[Metric]:
    yield _by("lethe_requests_open", "Open requests.", "state", counts.open)
    yield _by("lethe_attention", "Requests that need a person.", "reason", counts.attention)
    yield Gauge("lethe_overdue", "Open requests past their date.", counts.overdue)
    if counts.due_seconds is not None:
        yield Gauge("lethe_due_seconds", "Until the nearest date of an open request.", counts.due_seconds)
    yield Gauge(
        "lethe_outbox_lag_seconds", "How long the oldest unanswered bell rings.", facts.outbox_lag_seconds
    )
    yield Gauge(
        "lethe_lease_age_seconds",
        "Since the stalest lease of a model was renewed; 0 if none is held.",
        facts.lease_age_seconds,
    )
    yield _histogram(facts.steps)
    yield CounterMetricFamily(
        "lethe_fenced_writes", "Stages whose work was void, as another worker held the model.", facts.fenced
    )
    yield _by("lethe_verdicts", "Decisions on requests, by what they came to.", "outcome", facts.verdicts)
    if facts.utility_delta is not None:
        yield Gauge(
            "lethe_utility_delta",
            "Worst change of recall over what is kept, of the last candidate of each model.",
            facts.utility_delta,
        )
    yield _by(
        "lethe_webhook_attempts",
        "Attempts at telling an endpoint, of the last month.",
        "result",
        facts.webhook_attempts,
    )
    if facts.chain_ok is not None and facts.chain_checked_seconds is not None:
        yield Gauge("lethe_audit_chain_ok", "1 if the audit chain held when last checked.", facts.chain_ok)
        yield Gauge(
            "lethe_audit_chain_checked_seconds", "Since the chain was checked.", facts.chain_checked_seconds
        )
    yield _by("lethe_purge_backlog", "What is past its date and still there.", "kind", backlog)


def _by(name: str, says: str, label: str, values: Mapping[str, int]) -> Metric:
    metric = Gauge(name, says, labels=[label])
    for each, value in sorted(values.items()):
        metric.add_metric([each], value)
    return metric


def _histogram(steps: tuple[Steps, ...]) -> Metric:
    metric = HistogramMetricFamily(
        "lethe_step_duration_seconds", "How long the stages of jobs took.", labels=["stage"]
    )
    bounds = [*(str(bound) for bound in STEP_BUCKETS_SECONDS), "+Inf"]
    for each in steps:
        sums = [sum(each.counts[: place + 1]) for place in range(len(bounds))]
        metric.add_metric([each.stage], list(zip(bounds, sums, strict=True)), each.seconds)
    return metric
