"""How the service does, on the wire: counts and durations."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.erasure.lifecycle import State


class SlaOut(BaseModel):
    """How requests stand to their dates; what was answered is told over the last 365 days."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "open": 41,
                    "overdue": 0,
                    "due_in_7_days": 3,
                    "due_next_at": "2026-11-24T00:00:00Z",
                    "past_internal_target": 2,
                    "answered": 512,
                    "answered_late": 1,
                    "breaches": 1,
                    "median_days": 6.4,
                    "p90_days": 17.9,
                }
            ]
        }
    )

    open: int
    overdue: int
    """Open and past their date; one whose clock stands still is not."""
    due_in_7_days: int
    due_next_at: datetime | None
    past_internal_target: int
    answered: int
    answered_late: int
    breaches: int
    """Answered late, and not answered yet and past their date."""
    median_days: float | None
    """From receipt to answer; withdrawn ones are not counted."""
    p90_days: float | None


class DwellOut(BaseModel):
    """One state: how many requests are in it, and how long those stayed that have left."""

    state: State
    now: int
    left: int
    median_seconds: float | None
    p90_seconds: float | None


class FunnelOut(BaseModel):
    """The states in the order of a request's life."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "states": [
                        {
                            "state": "awaiting_approval",
                            "now": 12,
                            "left": 498,
                            "median_seconds": 22140.0,
                            "p90_seconds": 171000.0,
                        }
                    ]
                }
            ]
        }
    )

    states: list[DwellOut]
