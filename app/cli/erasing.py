"""`lethe request` and `lethe job`: who is to be forgotten, and the work on it."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Api, Stopped, chosen, err, runs, show, table

request = typer.Typer(
    no_args_is_help=True, help="Erasure requests: create, list, show, approve, withdraw, reject."
)
job = typer.Typer(no_args_is_help=True, help="Unlearning jobs: run, list, show.")

RequestId = Annotated[str, typer.Argument(metavar="ER_ID", help="The request (er_...).")]
STAGES = ("plan", "unlearn", "verify", "certify", "publish", "conclude", "done")
OPEN_SECONDS_MAX = 60.0
"""How long a job may take to be opened before one is told that it waits."""


@request.command("create")
def create_request(
    email: Annotated[list[str] | None, typer.Option(help="Of the person; `-` reads it from stdin.")] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=VALUE", help="Another identifier: phone=+4930..., customer_id=..."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Instead of a person: the dataset of the records.")
    ] = None,
    record: Annotated[list[str] | None, typer.Option(help="A record's id; may be repeated.")] = None,
    records_file: Annotated[Path | None, typer.Option(help="A file with one record id per line.")] = None,
    external_ref: Annotated[
        str | None, typer.Option(help="Your own ticket number; no personal data.")
    ] = None,
) -> None:
    """Take in a request to be forgotten, by identifiers of the person or by record ids.

    What is typed here can be seen by others on this computer and stays in the shell's history; `-`
    reads an identifier from standard input.

    Example: lethe request create --email ada@example.org

    Example: lethe request create --dataset people --records-file ids.txt
    """
    identifiers = [{"type": "email", "value": _value(each)} for each in email or ()]
    for each in subject or ():
        kind, equals, value = each.partition("=")
        if not equals:
            raise Stopped("--subject is TYPE=VALUE, as in customer_id=AB-1234", code=2)
        identifiers.append({"type": kind, "value": _value(value)})
    ids = list(record or ())
    if records_file is not None:
        ids += [
            line.strip() for line in records_file.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    body: dict[str, Any] = {} if external_ref is None else {"external_ref": external_ref}
    if identifiers:
        body["subject"] = identifiers
    if dataset is not None or ids:
        body["records"] = {"dataset": dataset or "", "ids": ids}
    _show_request(Api("officer").post("/v1/erasure-requests", body))


@request.command("list")
def list_requests(
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    *,
    attention: Annotated[
        bool | None, typer.Option(help="Only what needs a person, or what does not.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
) -> None:
    """List requests, newest first."""
    rows = Api("officer").pages("/v1/erasure-requests", limit=limit, state=state, attention=attention)
    columns = {"id": "request", "state": "state", "records_matched": "records", "due_on": "due"}
    table(rows, columns | {"outcome": "outcome", "attention": "attention"})


@request.command("show")
def show_request(request_id: RequestId) -> None:
    """Show one request: state, dates, models, certificates."""
    _show_request(Api("officer").get(f"/v1/erasure-requests/{request_id}"))


@request.command("approve")
def approve_request(request_id: RequestId) -> None:
    """Approve exactly what the request would erase now; another person than the one who sent it.

    Example: lethe --as reviewer request approve er_01k...
    """
    api = Api("reviewer")
    seen = api.get(f"/v1/erasure-requests/{request_id}")
    if seen["record_set_hash"] is None:
        raise Stopped(f"{request_id} is {seen['state']}; there is nothing to approve")
    receipt = api.post(
        f"/v1/erasure-requests/{request_id}/approvals", {"record_set_hash": seen["record_set_hash"]}
    )
    _show_request(receipt)


@request.command("release")
def release_request(request_id: RequestId) -> None:
    """Let a held result be certified; another person than the one who sent the request.

    A result of an exact method is held when the verification detects the person all the same. That
    happens by chance in about one of twenty; whether records were overlooked is for a person to say.
    """
    _show_request(Api("reviewer").post(f"/v1/erasure-requests/{request_id}/release"))


@request.command("withdraw")
def withdraw_request(request_id: RequestId) -> None:
    """Take a request back, as long as nothing has been erased for it."""
    _show_request(Api("officer").post(f"/v1/erasure-requests/{request_id}/withdrawal"))


@request.command("reject")
def reject_request(
    request_id: RequestId,
    ground: Annotated[str, typer.Option(help="The paragraph of Art. 12 or 17 GDPR, as 12.5 or 17.3.b.")],
) -> None:
    """Refuse a request on a ground of the regulation."""
    _show_request(Api("reviewer").post(f"/v1/erasure-requests/{request_id}/rejection", {"ground": ground}))


@job.command("run")
def run_job(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it is done.")] = True,
) -> None:
    """Start a job on what is scheduled for a model now, whatever the batch policy says.

    Example: lethe job run mine
    """
    api = Api("engineer")
    asked = api.post("/v1/jobs", {"model": model})
    if not wait:
        show(asked, {"model": asked["model"], "asked at": asked["asked_at"]})
        return
    opened = _opened(api, asked)
    told = 0

    def done(body: dict[str, Any]) -> bool:
        nonlocal told
        for tried in body["history"][told:]:
            err.print(_tried(tried), markup=False)
            told += 1
        return bool(body["state"] != "running")

    ended = api.follow(
        f"/v1/jobs/{opened['id']}", says=f"unlearning in {model}", done=done, share=_stage_share
    )
    _show_job(ended)
    if ended["state"] == "failed":
        raise Stopped(f"the job failed: {ended['failure']}")


@job.command("list")
def list_jobs(limit: Annotated[int, typer.Option(help="How many at most.")] = 20) -> None:
    """List jobs, newest first."""
    columns = {"id": "job", "state": "state", "stage": "stage", "engine": "engine", "attempt": "attempt"}
    table(
        Api("engineer").pages("/v1/jobs", limit=limit),
        columns | {"failure": "failure", "created_at": "begun"},
    )


@job.command("show")
def show_job(job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job (job_...).")]) -> None:
    """Show one job: what was tried, what came of it, how long each stage took."""
    body = Api("engineer").get(f"/v1/jobs/{job_id}")
    _show_job(body)
    if not chosen.as_json:
        table(body["steps"], {"attempt": "attempt", "stage": "stage", "seconds": "seconds", "at": "done at"})


def _opened(api: Api, asked: dict[str, Any]) -> dict[str, Any]:
    """Wait until a worker has opened the job that was asked for, or one was running already."""
    deadline = time.monotonic() + OPEN_SECONDS_MAX
    while time.monotonic() < deadline:
        for each in api.pages("/v1/jobs", limit=5, model=asked["model"]):
            if each["state"] == "running" or each["created_at"] >= asked["asked_at"]:
                return each
        time.sleep(0.5)
    raise Stopped("no worker has opened the job yet; `lethe job list` will show it. Is anything scheduled?")


def _stage_share(body: dict[str, Any]) -> tuple[float, str]:
    part, word = runs(body["progress"])
    done = STAGES.index(body["stage"]) if body["stage"] in STAGES else 0
    engine = f" by {body['engine']}" if body["engine"] else ""
    return (done + part) / (len(STAGES) - 1), f"{body['stage']}{engine} {word if part else ''}"


def _tried(tried: dict[str, Any]) -> str:
    reasons = f" ({', '.join(tried['reasons'])})" if tried["reasons"] else ""
    return f"{tried['engine']}: {tried['outcome']}{reasons}, {tried['seconds']:.0f} s"


def _show_job(body: dict[str, Any]) -> None:
    lines = {name: body[name] for name in ("id", "model", "state", "stage", "engine", "failure")}
    lines["requests"] = ", ".join(body["requests"]) or None
    for tried in body["history"]:
        lines[f"attempt {tried['attempt']}"] = _tried(tried)
    show(body, lines)


def _show_request(body: dict[str, Any]) -> None:
    lines = {
        name: body.get(name) for name in ("id", "state", "outcome", "attention", "external_ref", "ground")
    }
    lines["records"] = body["records_matched"]
    lines["received"], lines["due on"] = body["received_at"], body["due_on"]
    lines["hash to approve"] = body["record_set_hash"] if body["state"] == "awaiting_approval" else None
    for number, target in enumerate(body.get("targets", ()), start=1):
        certificate = f", certificate {target['certificate']}" if target["certificate"] else ""
        held = f", held: {target['held']}" if target["held"] else ""
        said = f"{target['outcome'] or target['stage']}{certificate}{held}"
        lines[f"model {number}"] = f"{target['model']}: {said}"
    show(body, lines)


def _value(typed: str) -> str:
    return sys.stdin.readline().strip() if typed == "-" else typed
