"""`lethe retention`: what is kept how long, and what is past its date."""

from app.cli.client import Api, show


def retention() -> None:
    """Show what is kept how long, and how much is past its date, and why it is still there.

    Workers delete what is due by themselves, with every sweep.

    Example: lethe retention
    """
    body = Api("officer").get("/v1/retention")
    left = body["backlog"]
    lines = {name: f"{days} days" for name, days in body["kept_days"].items()}
    lines |= {
        "to be purged": left["requests"],
        "kept by a hold or an audit": left["held"],
        "records kept until a compaction": left["anchored"],
        "tombstones past their years": left["tombstones"],
    }
    show(body, lines)
