"""`lethe stats`: how requests stand to their dates, where they are, how long they stay there."""

from typing import Any

from rich.table import Table

from app.cli.client import Api, chosen, out

MINUTE, HOUR, DAY = 60, 3600, 86_400


def stats() -> None:
    """Show deadlines and breaches, and each state with its requests, median and p90 stay.

    Example: lethe stats
    """
    api = Api("officer")
    dates, funnel = api.get("/v1/stats/sla"), api.get("/v1/stats/funnel")
    if chosen.as_json:
        out.print_json(data={"sla": dates, "funnel": funnel})
        return
    out.print(_dates(dates))
    out.print()
    out.print(_funnel(funnel["states"]))


def _dates(found: dict[str, Any]) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold")
    drawn.add_column(justify="right")
    late = "red" if found["breaches"] else "green"
    for name, value in (
        ("open", found["open"]),
        ("due in 7 days", found["due_in_7_days"]),
        ("due next", (found["due_next_at"] or "-")[:10]),
        ("past our own target", found["past_internal_target"]),
        ("overdue", f"[{late}]{found['overdue']}[/]"),
        ("answered in a year", found["answered"]),
        ("of these late", f"[{late}]{found['answered_late']}[/]"),
        ("days to an answer", _days(found["median_days"])),
        ("nine in ten within", _days(found["p90_days"])),
    ):
        drawn.add_row(name, str(value))
    return drawn


def _funnel(states: list[dict[str, Any]]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("state")
    for title in ("now", "left", "median stay", "p90 stay"):
        drawn.add_column(title, justify="right")
    for each in states:
        stays = (_stay(each["median_seconds"]), _stay(each["p90_seconds"]))
        drawn.add_row(each["state"], str(each["now"]), str(each["left"] or "-"), *stays)
    return drawn


def _days(days: float | None) -> str:
    return "-" if days is None else f"{days:.1f}"


def _stay(seconds: float | None) -> str:
    """Return a duration as one would say it."""
    if seconds is None:
        return "-"
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"
