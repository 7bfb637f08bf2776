"""`lethe audit`: deep audits of what was certified: list them, show one, ask for one."""

from typing import Annotated, Any

import typer

from app.cli.client import Api, show, table

audit = typer.Typer(no_args_is_help=True, help="Deep audits of certificates: list, show, run.")

LIMIT = 20


@audit.command("list")
def list_audits(limit: Annotated[int, typer.Option(help="How many at most.")] = LIMIT) -> None:
    """List deep audits, newest first."""
    columns = {"id": "audit", "job": "job", "state": "state", "outcome": "outcome", "subjects": "people"}
    table(
        Api("officer").pages("/v1/audits", limit=limit),
        columns | {"withdrawn": "withdrawn", "created_at": "opened"},
    )


@audit.command("show")
def show_audit(audit_id: Annotated[str, typer.Argument(help="aud_...")]) -> None:
    """Show what one looked at, what it could see, and what it came to."""
    _show(Api("officer").get(f"/v1/audits/{audit_id}"))


@audit.command("run")
def run_audit(job: Annotated[str, typer.Argument(help="job_...")]) -> None:
    """Have everybody whom a job certified audited; it is held once the model has no job.

    Example: lethe audit run job_01jd...
    """
    _show(Api("engineer").post("/v1/audits", {"job": job}))


def _show(body: dict[str, Any]) -> None:
    names = ("id", "job", "version", "state", "outcome", "subjects", "withdrawn", "failure")
    lines = {name: body[name] for name in names} | {
        name: ", ".join(body[name]) for name in ("causes", "reasons")
    }
    lines |= {f"sees {kind}": f"{seen} of {of} kept" for kind, (seen, of) in body["seen"].items()}
    show(body, lines)
