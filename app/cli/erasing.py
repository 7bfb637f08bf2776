"""`lethe request` and `lethe job`: who is to be forgotten, and the work on it."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Api, Stopped, chosen, err, runs, show, table
from app.records.screening import NotScreened, digest_of

request = typer.Typer(no_args_is_help=True, help="Erasure requests: from intake to the last decision.")
hold = typer.Typer(no_args_is_help=True, help="Legal holds: place, list, lift.")
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
    note: Annotated[str | None, typer.Option(help="What else is to be known; sealed.")] = None,
    *,
    content: Annotated[
        Path | None,
        typer.Option(help="Whatever says what these JSON lines say; only hashes are sent."),
    ] = None,
    doubted: Annotated[
        bool, typer.Option("--doubted", help="You do not vouch for who asks; nothing is searched yet.")
    ] = False,
) -> None:
    """Take in a request to be forgotten, by identifiers of the person, by record ids, or by content.

    What is typed here can be seen by others on this computer and stays in the shell's history; `-`
    reads an identifier from standard input.

    Example: lethe request create --email ada@example.org

    Example: lethe request create --dataset people --records-file ids.txt
    """
    identifiers = _identifiers(email, subject)
    ids = list(record or ())
    if records_file is not None:
        ids += [
            line.strip() for line in records_file.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    body: dict[str, Any] = {} if external_ref is None else {"external_ref": external_ref}
    if doubted:
        body["identity"] = "doubted"
    if note is not None:
        body["note"] = note
    if identifiers:
        body["subject"] = identifiers
    if content is not None:
        body["content"] = {"sha256": [each.hex() for each in _digests(content)]}
    if dataset is not None or ids:
        body["records"] = {"dataset": dataset or "", "ids": ids}
    _show_request(Api("officer").post("/v1/erasure-requests", body))


@request.command("list")
def list_requests(
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    due_before: Annotated[str | None, typer.Option(metavar="DAY", help="Due before this day.")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="DS_ID", help="Naming a record of it.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MDL_ID", help="Approved for it.")] = None,
    *,
    attention: Annotated[
        bool | None, typer.Option(help="Only what needs a person, or what does not.")
    ] = None,
    overdue: Annotated[bool | None, typer.Option(help="Only what is past its date, or is not.")] = None,
    on_hold: Annotated[bool | None, typer.Option(help="Only what stands under a hold, or does not.")] = None,
    due: Annotated[bool, typer.Option("--due", help="What is due next comes first.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
) -> None:
    """List requests, newest first, or by their dates.

    Example: lethe request list --due --state awaiting_approval

    Example: lethe request list --overdue
    """
    rows = Api("officer").pages(
        "/v1/erasure-requests",
        limit=limit,
        state=state,
        attention=attention,
        overdue=overdue,
        on_hold=on_hold,
        due_before=due_before,
        dataset=dataset,
        model=model,
        sort="due_at" if due else None,
    )
    columns = {"id": "request", "state": "state", "records_matched": "records", "due_on": "due"}
    marked = ({**row, "late": "overdue" if row["overdue"] else None} for row in rows)
    table(marked, columns | {"late": "", "outcome": "outcome", "attention": "attention"})


@request.command("search")
def search_requests(
    email: Annotated[list[str] | None, typer.Option(help="Of the person; `-` reads it from stdin.")] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="TYPE=VALUE", help="Another identifier.")
    ] = None,
) -> None:
    """Find the requests of a person; that somebody asked is kept, about whom is not.

    Example: lethe request search --email -
    """
    found = Api("officer").post("/v1/erasure-requests/search", {"subject": _identifiers(email, subject)})
    columns = {"id": "request", "state": "state", "records_matched": "records", "due_on": "due"}
    table(found, columns | {"outcome": "outcome", "attention": "attention"})


@request.command("show")
def show_request(
    request_id: RequestId,
    *,
    records: Annotated[bool, typer.Option("--records", help="The records it names instead.")] = False,
    events: Annotated[bool, typer.Option("--events", help="What happened to it instead.")] = False,
) -> None:
    """Show one request: state, dates, models, certificates.

    Example: lethe request show er_01k... --records
    """
    api, here = Api("officer"), f"/v1/erasure-requests/{request_id}"
    if records:
        columns = {"id": "record", "dataset": "dataset", "action": "action", "ground": "ground"}
        columns |= {"near": "near to", "jaccard": "jaccard", "identifiers": "says", "mentions": "times"}
        table(api.after(f"{here}/records", key=_record_number), columns | {"erased_at": "erased at"})
    elif events:
        table(api.after(f"{here}/events", key=_sequence), {"seq": "number", "kind": "what"})
    else:
        _show_request(api.get(here))


@request.command("identity")
def show_identity(request_id: RequestId) -> None:
    """Show who asks, and what was written of them; that you looked is kept.

    It is destroyed a month after the request has ended.

    Example: lethe request identity er_01k...
    """
    body = Api("officer").get(f"/v1/erasure-requests/{request_id}/identity")
    known = {each["type"]: each["value"] or f"sha256 {each['sha256']}" for each in body["identifiers"]}
    known |= {name: body[name] for name in ("note", "evidence", "refusal")}
    # Whoever wrote it is not to write to this terminal.
    show(body, {name: value and "".join(filter(str.isprintable, value)) for name, value in known.items()})


@request.command("approve")
def approve_request(
    request_id: RequestId,
    notice: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="When the person was told which records are kept, if any are."),
    ] = None,
) -> None:
    """Approve exactly what the request would erase now; another person than the one who sent it.

    Example: lethe --as reviewer request approve er_01k...
    """
    api, here = Api("reviewer"), f"/v1/erasure-requests/{request_id}"
    seen = api.get(here)
    if seen["record_set_hash"] is None:
        raise Stopped(f"{request_id} is {seen['state']}; there is nothing to approve")
    body = {"record_set_hash": seen["record_set_hash"]}
    if notice is not None:
        body["notice"] = _notice(notice, None)
    _show_request(api.post(f"{here}/approvals", body, seen=_tag(seen)))


@request.command("send-back")
def send_back_request(request_id: RequestId) -> None:
    """Have a request looked at again instead of approving it; approvals of it are void.

    Example: lethe --as reviewer request send-back er_01k...
    """
    api, here = Api("reviewer"), f"/v1/erasure-requests/{request_id}"
    seen = api.get(here)
    body = {"record_set_hash": seen["record_set_hash"], "decision": "send_back"}
    _show_request(api.post(f"{here}/approvals", body, seen=_tag(seen)))


@request.command("resolve")
def resolve_request(
    request_id: RequestId,
    near: Annotated[
        str | None,
        typer.Option(
            help="What becomes of near duplicates that are proposed: adopt, decline; or waive them."
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="What becomes of proposed records that name the person: adopt, decline; or waive them."
        ),
    ] = None,
    record: Annotated[
        list[str] | None, typer.Option(metavar="REC_ID", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Search again for what a request concerns, or decide on what is proposed; approvals of it are void.

    Which records are proposed, how near they are, which types of identifier they say and how often:
    lethe request show er_01k... --records

    Example: lethe request resolve er_01k... --texts adopt --record rec_2071
    """
    if near is not None and texts is not None:
        raise Stopped("decide on near duplicates or on what was found in texts, one after the other")
    if near is None and texts is None:
        _act("officer", request_id, "resolutions")
        return
    body: dict[str, Any] = {"near_duplicates": near} if texts is None else {"texts": texts}
    _act("officer", request_id, "resolutions", body if not record else body | {"records": record})


@request.command("release")
def release_request(request_id: RequestId) -> None:
    """Let a held result be certified; another person than the one who sent the request.

    A result of an exact method is held when the verification detects the person all the same. That
    happens by chance in about one of twenty; whether records were overlooked is for a person to say.
    """
    _act("reviewer", request_id, "release")


@request.command("withdraw")
def withdraw_request(request_id: RequestId) -> None:
    """Take a request back, as long as nothing has been erased for it."""
    _act("officer", request_id, "withdrawal")


@request.command("reject")
def reject_request(
    request_id: RequestId,
    ground: Annotated[str, typer.Option(help="The paragraph of Art. 12 or 17 GDPR, as 12.5 or 17.3.b.")],
    told_on: Annotated[
        str,
        typer.Option(metavar="DAY", help="When the person was told why, and where to complain or to sue."),
    ],
    notice_ref: Annotated[str | None, typer.Option(help="The number of that letter.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, in words; sealed.")] = None,
) -> None:
    """Refuse a request on a ground of the regulation; another person than the one who sent it.

    Example: lethe --as reviewer request reject er_01k... --ground 12.5 --told-on 2026-11-25
    """
    body = {"ground": ground, "notice": _notice(told_on, notice_ref)}
    _act("reviewer", request_id, "rejection", body if reason is None else {**body, "reason": reason})


@request.command("exempt")
def exempt_records(
    request_id: RequestId,
    ground: Annotated[
        str | None, typer.Option(help="The letter of Art. 17(3), as 17.3.b; without one, no longer.")
    ] = None,
    record: Annotated[
        list[str] | None, typer.Option(metavar="REC_ID", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Propose to keep records of a request on a ground; another person approves the set with them.

    Example: lethe request exempt er_01k... --ground 17.3.b --record rec_1042
    """
    body: dict[str, Any] = {"ground": ground}
    _act("officer", request_id, "exemptions", body if not record else body | {"records": record})


@request.command("identify")
def confirm_identity(
    request_id: RequestId,
    by: Annotated[str, typer.Option(help="account_login, one_time_code, document, callback or in_person.")],
) -> None:
    """Accept a proof of who asks: the clock runs again, and the records are searched for.

    Example: lethe request identify er_01k... --by document
    """
    _act("officer", request_id, "identity-proofs", {"method": by})


@request.command("challenge")
def challenge_person(request_id: RequestId) -> None:
    """Send the person another one-time code; of a request there are three an hour.

    Example: lethe request challenge er_01k...
    """
    made = Api("officer").post(f"/v1/erasure-requests/{request_id}/identity-challenges")
    show(made, {"counts for": f"{made['minutes']} minutes", "left this hour": made["left"]})


@request.command("prove")
def prove_identity(
    request_id: RequestId,
    code: Annotated[
        str | None, typer.Option(help="The code that the person was sent; without it, it is asked for.")
    ] = None,
) -> None:
    """Prove with a one-time code that whoever asks has the mailbox that the request names.

    Example: lethe request prove er_01k... --code 08154711
    """
    shown = code if code is not None else typer.prompt("Code", hide_input=True)
    _act("officer", request_id, "identity-proofs", {"code": shown})


@request.command("pause")
def pause_clock(
    request_id: RequestId,
    asked_on: Annotated[str | None, typer.Option(metavar="DAY", help="When; by default today.")] = None,
) -> None:
    """Stop the clock, because the person was asked who they are.

    Example: lethe request pause er_01k... --asked-on 2026-11-23
    """
    body = {} if asked_on is None else {"asked_on": asked_on}
    made = Api("officer").post(f"/v1/erasure-requests/{request_id}/clock-pauses", body)
    show(made, {"pause": made["pause"]["id"], "asked on": made["pause"]["asked_on"]})


@request.command("resume")
def resume_clock(
    request_id: RequestId,
    answered_on: Annotated[str | None, typer.Option(metavar="DAY", help="When; by default today.")] = None,
) -> None:
    """Let the clock run again: the person has answered.

    Example: lethe request resume er_01k...
    """
    api = Api("officer")
    pauses = api.get(f"/v1/erasure-requests/{request_id}/clock-pauses")
    standing = [each["id"] for each in pauses if each["answered_on"] is None]
    if not standing:
        raise Stopped(f"the clock of {request_id} does not stand still")
    body = {} if answered_on is None else {"answered_on": answered_on}
    _act("officer", request_id, f"clock-pauses/{standing[0]}/end", body)


@request.command("extend")
def extend_request(
    request_id: RequestId,
    reason: Annotated[str, typer.Option(help="complexity or number_of_requests.")],
    told_on: Annotated[str, typer.Option(metavar="DAY", help="When the person was told so, and why.")],
    notice_ref: Annotated[str | None, typer.Option(help="The number of that letter.")] = None,
) -> None:
    """Take three months from receipt instead of one; once, and inside the first month.

    Example: lethe request extend er_01k... --reason complexity --told-on 2026-12-01
    """
    notice = {"sent_on": told_on} | ({} if notice_ref is None else {"reference": notice_ref})
    _act("officer", request_id, "extensions", {"reason": reason, "notice": notice})


@hold.command("place")
def place_hold(
    reason: Annotated[str, typer.Option(help="litigation, investigation, regulator or preservation_order.")],
    request: Annotated[str | None, typer.Option(metavar="ER_ID", help="On a request.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MDL_ID", help="On a model.")] = None,
    record: Annotated[
        str | None, typer.Option(metavar="DATASET/ID", help="On a record, by its dataset's id for it.")
    ] = None,
    days: Annotated[int, typer.Option(help="After how many days it ends by itself.")] = 180,
    external_ref: Annotated[str | None, typer.Option(help="Your own number of the case.")] = None,
) -> None:
    """Keep a request, a record or a model out of every batch; no deadline moves for it.

    Example: lethe hold place --request er_01k... --reason litigation
    """
    body: dict[str, Any] = {"reason": reason, "days": days}
    given = {"request": request, "model": model, "external_ref": external_ref}
    body |= {name: value for name, value in given.items() if value is not None}
    if record is not None:
        dataset, slash, id_ = record.partition("/")
        if not slash:
            raise Stopped("--record is DATASET/ID, as in people/ada-1", code=2)
        body["record"] = {"dataset": dataset, "id": id_}
    _show_hold(Api("officer").post("/v1/holds", body))


@hold.command("list")
def list_holds(
    *,
    active: Annotated[bool | None, typer.Option(help="Only those that hold, or that have ended.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
) -> None:
    """List legal holds, newest first."""
    rows = Api("officer").pages("/v1/holds", limit=limit, active=active)
    columns = {"id": "hold", "request": "request", "record": "record", "model": "model", "reason": "reason"}
    table(rows, columns | {"expires_at": "until", "ended_at": "ended at"})


@hold.command("lift")
def lift_hold(hold_id: Annotated[str, typer.Argument(metavar="HOLD_ID", help="The hold.")]) -> None:
    """End a hold; another person than the one who placed it.

    Example: lethe --as reviewer hold lift hold_01k...
    """
    _show_hold(Api("reviewer").delete(f"/v1/holds/{hold_id}"))


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
    follow_job(api, asked, says=f"unlearning in {model}")


def follow_job(api: Api, asked: dict[str, Any], *, says: str) -> None:
    """Stay with the job that was asked for until it ends; Stopped if it fails."""
    opened = _opened(api, asked)
    told = 0

    def done(body: dict[str, Any]) -> bool:
        nonlocal told
        for tried in body["history"][told:]:
            err.print(_tried(tried), markup=False)
            told += 1
        return bool(body["state"] != "running")

    ended = api.follow(f"/v1/jobs/{opened['id']}", says=says, done=done, share=_stage_share)
    _show_job(ended)
    if ended["state"] == "failed":
        raise Stopped(f"the job failed: {ended['failure']}")


@job.command("list")
def list_jobs(limit: Annotated[int, typer.Option(help="How many at most.")] = 20) -> None:
    """List jobs, newest first."""
    columns = {"id": "job", "kind": "kind", "state": "state", "stage": "stage", "engine": "engine"}
    table(
        Api("engineer").pages("/v1/jobs", limit=limit),
        columns | {"attempt": "attempt", "failure": "failure", "created_at": "begun"},
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
    lines = {name: body[name] for name in ("id", "kind", "model", "state", "stage", "engine", "failure")}
    lines["requests"] = ", ".join(body["requests"]) or None
    for tried in body["history"]:
        lines[f"attempt {tried['attempt']}"] = _tried(tried)
    show(body, lines)


def _show_request(body: dict[str, Any]) -> None:
    lines = {
        name: body.get(name) for name in ("id", "state", "outcome", "attention", "external_ref", "ground")
    }
    lines["records"] = body["records_matched"]
    lines["kept"] = body.get("records_exempt") or None
    lines["near duplicates"] = _near(body)
    lines["named in texts"] = _texts(body)
    lines["to decide on"] = body.get("proposals_open") or None
    lines["received"], lines["due on"] = body["received_at"], body["due_on"]
    flags = {"overdue": "overdue", "clock_paused": "clock stands still", "legal_hold": "on legal hold"}
    lines["flags"] = ", ".join(said for name, said in flags.items() if body.get(name)) or None
    if body["state"] == "awaiting_approval":
        lines["hash to approve"] = body["record_set_hash"]
        if "approvals_needed" in body:
            lines["approvals"] = f"{body['approvals']} of {body['approvals_needed']}"
    for number, target in enumerate(body.get("targets", ()), start=1):
        certificate = f", certificate {target['certificate']}" if target["certificate"] else ""
        held = f", held: {target['held']}" if target["held"] else ""
        said = f"{target['outcome'] or target['stage']}{certificate}{held}"
        lines[f"model {number}"] = f"{target['model']}: {said}"
    show(body, lines)


def _texts(body: dict[str, Any]) -> str | None:
    """Return what there is to say of the text scan: nothing, where nothing was found, or is to be sought."""
    return _sought(body.get("records_mentioning"), body.get("indexes", {}).get("texts", "searched"))


def _sought(adopted: int | None, index: str) -> str | None:
    said = [f"{adopted} adopted"] if adopted else []
    return ", ".join(said + ([] if index == "searched" else [index])) or None


def _near(body: dict[str, Any]) -> str | None:
    """Return what there is to say of near duplicates: nothing, where they were sought and none was found."""
    return _sought(body.get("records_near"), body.get("indexes", {}).get("near_duplicates", "searched"))


def _show_hold(body: dict[str, Any]) -> None:
    show(body, {name.replace("_", " "): value for name, value in body.items()})


def _act(account: str, request_id: str, what: str, body: object = None) -> None:
    _show_request(Api(account).post(f"/v1/erasure-requests/{request_id}/{what}", body))


def _digests(lines: Path) -> list[bytes]:
    """Return the SHA-256 of what each line of a training set says."""
    try:
        with lines.open(encoding="utf-8") as file:
            return [digest_of(json.loads(line)) for line in file if line.strip()]
    except (OSError, ValueError, AttributeError, NotScreened) as error:
        raise Stopped(f"{lines} is no file of records: {type(error).__name__}", code=2) from error


def _identifiers(email: list[str] | None, subject: list[str] | None) -> list[dict[str, str]]:
    identifiers = [{"type": "email", "value": _value(each)} for each in email or ()]
    for each in subject or ():
        kind, equals, value = each.partition("=")
        if not equals:
            raise Stopped("--subject is TYPE=VALUE, as in customer_id=AB-1234", code=2)
        identifiers.append({"type": kind, "value": _value(value)})
    return identifiers


def _notice(told_on: str, reference: str | None) -> dict[str, Any]:
    """Return that the person was told, of the authority and the court too (Art. 12(4))."""
    notice = {"sent_on": told_on, "complaint": True, "court": True}
    return notice if reference is None else notice | {"reference": reference}


def _tag(seen: dict[str, Any]) -> str:
    return f'"v{seen["version"]}"'


def _record_number(row: dict[str, Any]) -> int:
    return int(row["id"].removeprefix("rec_"))


def _sequence(row: dict[str, Any]) -> int:
    return int(row["seq"])


def _value(typed: str) -> str:
    return sys.stdin.readline().strip() if typed == "-" else typed
