"""OpenTelemetry spans of calls, where somebody wants them: off unless `LETHE_TRACING` is set.

    pip install "lethe[tracing]"; OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 LETHE_TRACING=1 lethe up

A span has the method, the route's template, the status and the time. It never has the path or the
query as they were sent, because people put names into both, no exception's text and no body; so
FastAPI's own logs and operation spans stay off. Where to send them is said by OpenTelemetry's variables.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
AS_SENT = ("url.path", "url.query", "http.request.method_original")
"""What of a span was written by whoever calls."""


def configured(*, wanted: bool) -> TelemetryConfig:
    """Return what FastAPI is to record, sent where OpenTelemetry's own variables say."""
    if not wanted:
        return OFF
    if find_spec("opentelemetry.exporter") is None or find_spec("opentelemetry.sdk") is None:
        raise ValueError("LETHE_TRACING needs the extra `tracing`: pip install 'lethe[tracing]'")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  an extra, like the exporter

    return through(BatchSpanProcessor(OTLPSpanExporter()))


def through(processor: "SpanProcessor") -> TelemetryConfig:
    """Return what FastAPI is to record, handed to `processor` without what callers wrote."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  an extra
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415

    class Redacting(SpanProcessor):
        """Blanks what callers wrote, before anybody else sees the span."""

        def on_start(self, span: Any, parent_context: object = None) -> None:  # noqa: ARG002  theirs
            for name in AS_SENT:
                if name in (span.attributes or {}):
                    span.set_attribute(name, "-")

    provider = TracerProvider(resource=Resource.create({"service.name": "lethe"}))
    provider.add_span_processor(Redacting())
    provider.add_span_processor(processor)
    return {
        "tracer_provider": provider,
        "tracing": True,
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "auto_configure": False,
    }
