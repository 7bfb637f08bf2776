"""`lethe sessions`: who is logged in with a browser, and who is shut out."""

from typing import Annotated

import typer

from app.cli.client import Api, out, show, table

sessions = typer.Typer(no_args_is_help=True, help="People's sessions: list, end; shut somebody out, let in.")

PrincipalId = Annotated[str, typer.Argument(metavar="PR_ID", help="The person or machine (pr_...).")]


@sessions.command("list")
def list_sessions(limit: Annotated[int, typer.Option(help="How many at most.")] = 50) -> None:
    """List who is logged in, newest first.

    Example: lethe sessions list
    """
    columns = {"id": "session", "name": "name", "principal": "principal", "started_at": "since"}
    table(Api("admin").pages("/v1/sessions", limit=limit), columns | {"seen_at": "seen"})


@sessions.command("end")
def end_session(
    session_id: Annotated[str, typer.Argument(metavar="SES_ID", help="The session (ses_...).")],
) -> None:
    """End a session at once.

    Example: lethe sessions end ses_01k...
    """
    Api("admin").send("DELETE", f"/v1/sessions/{session_id}")
    out.print("ended")


@sessions.command("shut-out")
def shut_out(principal_id: PrincipalId) -> None:
    """Shut a person or a machine out: sessions end, no key or token of theirs counts.

    Example: lethe sessions shut-out pr_01k...
    """
    _set(principal_id, "deactivation")


@sessions.command("let-in")
def let_in(principal_id: PrincipalId) -> None:
    """Let somebody in again; sessions that have ended stay so.

    Example: lethe sessions let-in pr_01k...
    """
    _set(principal_id, "activation")


def _set(principal_id: str, verb: str) -> None:
    found = Api("admin").post(f"/v1/principals/{principal_id}/{verb}")
    show(found, {"principal": found["id"], "name": found["name"], "shut out since": found["disabled_at"]})
