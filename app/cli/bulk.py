"""`lethe request import|outcomes|export|template|bulk`: many requests at once, in and out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from app.cli.client import Api, Stopped, chosen, err, out, show, table

MEDIA = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
ACTIONS = ("approve", "resolve", "send_back", "withdraw", "waive_texts")
ROWS = {
    "line": "line",
    "outcome": "outcome",
    "said": "why",
    "request": "request",
    "external_ref": "reference",
}


def import_requests(
    file: Annotated[
        Path, typer.Argument(help="JSON lines or CSV; `lethe request template` has the columns.")
    ],
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Where to write what became of each row (.ndjson or .csv).")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of it.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Import a file once more that was imported before.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it is done.")] = True,
) -> None:
    """Take in the requests of a file, each row once; the same file again goes on with the same import.

    Ends with 1 if a row was refused; the line and the reason are told, never what stands there.

    Example: lethe request import tickets.csv --dry-run

    Example: lethe request import tickets.csv --rows outcomes.csv
    """
    api = Api("officer")
    kind = MEDIA["csv" if file.suffix.lower() in {".csv", ".tsv"} else "ndjson"]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Stopped(f"{file} cannot be read ({type(error).__name__})", code=2) from error
    params = {name: "true" for name, given in (("dry_run", dry_run), ("again", again)) if given}
    body = api.send("POST", "/v1/imports", content=content, media_type=kind, params=params).json()
    if not dry_run and wait:
        body = api.follow(
            body["links"]["self"],
            says=f"importing {file.name}",
            done=lambda seen: seen["state"] == "done",
            share=lambda seen: (seen["done"] / max(1, seen["rows"]), f"{seen['done']} of {seen['rows']}"),
        )
    _show_import(body)
    if rows is not None and not dry_run:
        _keep(api, body["links"]["rows"], rows, format=_format(rows))
    if body["invalid"]:
        refused = body["shown"] if dry_run else _refused(api, body)
        _tell(each for each in refused if each["outcome"] == "invalid")
        raise Stopped(f"{body['invalid']} of {body['rows']} rows cannot be requests")


def show_outcomes(
    import_id: Annotated[str, typer.Argument(metavar="IMP_ID", help="The import (imp_...).")],
    outcome: Annotated[
        list[str] | None, typer.Option(help="Only created, duplicate, invalid or pending.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", help="Where to (.ndjson or .csv).")] = None,
) -> None:
    """Show what became of each row of an import.

    Example: lethe request outcomes imp_01k... --outcome invalid
    """
    api, where = Api("officer"), f"/v1/imports/{import_id}/rows"
    if file is not None:
        _keep(api, where, file, format=_format(file), outcome=outcome)
        return
    table(_said(_lines(api, where, outcome=outcome)), ROWS)


def export_requests(
    file: Annotated[Path, typer.Option("--out", help="Where to: .csv for a table, else JSON lines.")],
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    due_before: Annotated[str | None, typer.Option(metavar="DAY", help="Due before this day.")] = None,
    *,
    attention: Annotated[bool | None, typer.Option(help="Only what needs a person, or not.")] = None,
    overdue: Annotated[bool | None, typer.Option(help="Only what is past its date, or is not.")] = None,
) -> None:
    """Write every request to a file; no spreadsheet computes anything of it.

    Example: lethe request export --out requests.csv --overdue
    """
    filters = {"state": state, "due_before": due_before, "attention": attention, "overdue": overdue}
    _keep(Api("officer"), "/v1/exports", file, format=_format(file), **filters)


def show_template() -> None:
    """Print the columns of a CSV import.

    Example: lethe request template > tickets.csv
    """
    out.print(Api("officer").send("GET", "/v1/imports/template").text.strip(), markup=False)


def act_on_many(
    action: Annotated[str, typer.Argument(help=" or ".join(ACTIONS))],
    expect: Annotated[int, typer.Option(help="How many requests that will be; else nothing is done.")],
    request: Annotated[
        list[str] | None, typer.Option(metavar="ER_ID", help="This one; may be repeated.")
    ] = None,
    state: Annotated[list[str] | None, typer.Option(help="Or every one in this state.")] = None,
    due_before: Annotated[str | None, typer.Option(metavar="DAY", help="And due before this day.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="ER_ID", help="But not this one.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of each.")] = False,
) -> None:
    """Do the same to many requests; approvals are of what each would erase now.

    Example: lethe --as reviewer request bulk approve --state awaiting_approval --expect 12 --dry-run
    """
    if action not in ACTIONS:
        raise Stopped(f"there is no action {action}; there are {', '.join(ACTIONS)}", code=2)
    if bool(request) == bool(state or due_before):
        raise Stopped("give --request, or --state and --due-before", code=2)
    api = Api("reviewer" if action in {"approve", "send_back"} else "officer")
    body: dict[str, Any] = {"action": action, "expected_count": expect, "dry_run": dry_run}
    if action == "approve":
        body["approvals"] = _seen(api, request, state=state, due_before=due_before, limit=expect + 1)
    elif request:
        body["ids"] = request
    else:
        given = {"state": state, "due_before": due_before}
        body["filter"] = {name: value for name, value in given.items() if value}
    if exclude:
        body["exclude_ids"] = exclude
    found = api.post("/v1/bulk-actions", body)
    if chosen.as_json:
        out.print_json(json.dumps(found))
    else:
        table(found["outcomes"], {"request": "request", "outcome": "outcome", "code": "why"})
    if found["refused"]:
        raise Stopped(f"{found['refused']} of {found['matched']} were refused")


def _seen(api: Api, request: list[str] | None, *, limit: int, **filters: object) -> list[dict[str, str]]:
    """Return each request with the hash of what it would erase now."""
    if request:
        found = [api.get(f"/v1/erasure-requests/{each}") for each in request]
    else:
        found = list(api.pages("/v1/erasure-requests", limit=limit, **filters))
    return [
        {"request": each["id"], "record_set_hash": each["record_set_hash"]}
        for each in found
        if each["record_set_hash"] is not None
    ]


def _format(file: Path) -> str:
    return "csv" if file.suffix.lower() == ".csv" else "ndjson"


def _keep(api: Api, path: str, file: Path, **params: Any) -> None:
    """Write an answer to a file, whole or not at all."""
    part = file.with_name(file.name + ".part")
    try:
        with api.stream(path, **params) as answer, part.open("wb") as kept:
            for chunk in answer.iter_bytes():
                kept.write(chunk)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _lines(api: Api, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    with api.stream(path, **params) as answer:
        assert isinstance(answer, httpx.Response)
        for line in answer.iter_lines():
            yield json.loads(line)


def _refused(api: Api, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return _lines(api, body["links"]["rows"], outcome="invalid")


def _tell(rows: Iterator[dict[str, Any]]) -> None:
    for row in _said(rows):
        err.print(f"line {row['line']}: {row['said']}", markup=False)


def _said(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {**row, "said": ", ".join(f"{each['code']} at {each['pointer']}" for each in row["errors"])}


def _show_import(body: dict[str, Any]) -> None:
    names = ("id", "state", "rows", "created", "duplicate", "invalid")
    show(body, {name: body[name] for name in names if name in body})
