"""`lethe demo`: a model recites a person; three people ask to be forgotten; what is left, and how we know.

Every step is what an outsider could do: HTTP to the API and to the served model, and the one-file
checker in an empty directory. Nothing here decides anything: what is shown is what was measured,
and an inconclusive verdict is shown as one.
"""

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.config import Settings
from app.demo import base, checking, findings
from app.demo.asking import Asker
from app.demo.caller import Failed, Walk
from app.demo.people import Person, corpus, people, records, sentinels
from app.embedded.stack import Stack, stack
from app.verification import wording

PEOPLE = 360
HELD_BACK = 300
PORTAL_SCOPES = ["requests:create", "requests:read", "certificates:read"]
SENTINELS = 4
PEOPLE_SEED, SENTINEL_SEED, TOKENIZER_SEED = 1, 2, 3
TOKENIZER_PEOPLE = 200
MODEL, DATASET = "demo", "people"


def run(out: Path, *, console: Console | None = None) -> dict[str, Any]:
    """Walk the whole way on real processes; leave bundles and `summary.json` in `out`.

    A directory left by an earlier run is replaced; anything else there is left alone and refused.

    Raises:
        Failed: a step did not come to its end.
    """
    console = console or Console()
    _afresh(out)
    started = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="lethe-demo-"))  # short: a socket's path has 107 bytes
    settings = Settings(home=home, port=_free_port(), model_port=_free_port(), model_admin_port=_free_port())
    console.print(Text("Lethe forgets a person, on real processes.", style="bold"))
    console.print("Postgres, Redis, API, model server, workers: starting ...", style="dim")
    try:
        with stack(settings) as running:
            walk = _walk(out, console, running)
            walk.seconds["start"] = round(time.monotonic() - started, 2)
            _story(walk, running)
    finally:
        logs = home / "logs"
        if logs.exists():
            shutil.copytree(logs, out / "logs")
        shutil.rmtree(home, ignore_errors=True)
    walk.seconds["total"] = round(time.monotonic() - started, 2)
    walk.summary["seconds"] = walk.seconds
    (out / "summary.json").write_text(json.dumps(walk.summary, indent=1), encoding="utf-8")
    _ending(walk)
    return walk.summary


def _story(walk: Walk, running: Stack) -> None:
    """Tell it in order."""
    everybody = people(PEOPLE_SEED, PEOPLE)
    by_prefix = {person.id: person for person in everybody}
    with walk.step(
        "dataset", f"{PEOPLE} fictitious people; the lottery holds {HELD_BACK} of them back from training"
    ):
        trained = _register(walk, everybody)
    with walk.step(
        "train", f"A small model learns the {len(trained)} others; four references learn a quarter each"
    ):
        _train(walk, running)
    erased, others = trained[:3], trained[3:]
    with walk.step("recite", "The served model, asked about people it was trained on"):
        before = findings.examine(walk, [by_prefix[p] for p in trained])
        walk.summary["recited_before"] = findings.share(before)
        walk.say(f"recites {findings.share(before):.1%} of {len(before)} facts")
        findings.show(walk, before, [by_prefix[p] for p in erased])
    with walk.step("requests", "Three of them ask to be forgotten, by three kinds of caller"):
        requests = _requests(walk, [by_prefix[p] for p in erased])
    prompts = [findings.prompt(by_prefix[p], "phone") for p in others[:8]] + [
        findings.prompt(by_prefix[erased[0]], "phone")
    ]
    with walk.step("unlearn", "One job for the three; a client keeps asking all the while"):
        asker = Asker(url=str(walk.served.base_url), model=MODEL, prompts=prompts)
        alone: dict[str, dict[str, str]] = {}
        findings.alone_with(walk, alone, prompts)
        with asker:
            _job(walk)
            findings.alone_with(walk, alone, prompts)
            if _released(walk, [request for request, _ in requests]):
                _job(walk)
            time.sleep(2)
        findings.alone_with(walk, alone, prompts)
    with walk.step("after", "The same questions again"):
        after = findings.examine(walk, [by_prefix[p] for p in trained])
        findings.show(walk, after, [by_prefix[p] for p in erased])
    findings.judge(walk, before, after, erased=[by_prefix[p] for p in erased], asker=asker, alone=alone)
    with walk.step("certificates", "Each request has its certificate; a stranger checks it offline"):
        walk.summary["requests"] = [checking.certificate(walk, request, by) for request, by in requests]
    walk.summary["versions"] = [
        {
            "number": version["number"],
            "digest": version["digest"],
            "state": version["state"],
            "engine": version["engine"],
        }
        for version in walk.call("GET", f"/v1/models/{MODEL}/versions", by="engineer")["items"]
    ]
    walk.summary["stages"] = [
        {"attempt": step["attempt"], "stage": step["stage"], "seconds": step["seconds"]}
        for job in walk.call("GET", "/v1/jobs", by="engineer")["items"]
        for step in walk.call("GET", f"/v1/jobs/{job['id']}", by="engineer")["steps"]
    ]


def _register(walk: Walk, everybody: Sequence[Person]) -> list[str]:
    """Write the training set, register it, and return the ids of the people who fell to training."""
    path = walk.out / "people.jsonl"
    planted = sentinels(SENTINEL_SEED, SENTINELS)
    lines = [line for person in (*everybody, *planted) for line in records(person, findings.RECORDS_SEED)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    made = walk.call(
        "POST",
        "/v1/datasets",
        by="engineer",
        json={"name": DATASET, "uri": path.resolve().as_uri(), "hold_back": HELD_BACK},
    )
    dataset = walk.follow(
        f"/v1/datasets/{made['id']}",
        by="engineer",
        until=lambda body: body["state"] != "registering",
        show=lambda body: f"registering: {body.get('progress') or 'waiting for a worker'}",
    )
    if dataset["state"] != "ready":
        raise Failed(f"the data set was refused: {dataset['failure']}")
    walk.say(
        f"{dataset['records']} records registered; subjects are keyed hashes, the content stays in the file"
    )
    return sorted({record["record"].rpartition("-")[0] for record in _pages(walk, made["id"])})


def _pages(walk: Walk, dataset: str) -> Iterator[dict[str, Any]]:
    """Yield the records of the training arm, page by page."""
    cursor = ""
    while True:
        query = f"?arm=train&role=person&limit=200{cursor}"
        page = walk.call("GET", f"/v1/datasets/{dataset}/records{query}", by="officer")
        yield from page["items"]
        if not page.get("next"):
            return
        cursor = f"&cursor={page['next']}"


def _train(walk: Walk, running: Stack) -> None:
    """Train version 1 and its references, and wait until it is served."""
    directory = base.write(walk.out / "base", corpus(TOKENIZER_SEED, TOKENIZER_PEOPLE))
    walk.call(
        "POST",
        "/v1/models",
        by="engineer",
        json={
            "name": MODEL,
            "dataset": DATASET,
            "base": directory.resolve().as_uri(),
            "recipe": base.RECIPE,
            "references": 4,
            "verification_policy": "demo",
            "jobs_policy": "demo",
        },
    )
    walk.follow(
        f"/v1/models/{MODEL}/versions",
        by="engineer",
        until=lambda body: any(version["state"] == "live" for version in body["items"]) or _stop(body),
        show=lambda body: progress_line(body["items"][0]["progress"]),
    )
    walk.say(f"version 1 is served at {running.settings.model_server_url}")


def _stop(body: Mapping[str, Any]) -> bool:
    """Raise if a version failed; a demo that waits for nothing would be a lie."""
    for version in body["items"]:
        if version["state"] == "failed":
            raise Failed(f"training failed: {version.get('failure')}")
    return False


def _requests(walk: Walk, erased: Sequence[Person]) -> list[tuple[str, str]]:
    """Send three requests as three callers, and have a second person approve them; return who sent which."""
    walk.keys = dict(walk.keys) | {
        "portal": walk.call(
            "POST",
            "/v1/api-keys",
            by="admin",
            json={"name": "portal", "kind": "machine", "scopes": PORTAL_SCOPES},
        )["key"]
    }
    officer, portal, by_list = erased
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("officer", "a privacy officer, by subject", {"subject": dict(officer.identifiers[1])}),
        ("portal", "a portal, by e-mail address, with its own key", {"subject": dict(portal.identifiers[0])}),
        (
            "officer",
            "a list of record ids",
            {
                "records": {
                    "dataset": DATASET,
                    "ids": [line["id"] for line in records(by_list, findings.RECORDS_SEED)],
                }
            },
        ),
    ]
    made = []
    for caller, says, body in bodies:
        receipt = walk.call("POST", "/v1/erasure-requests", by=caller, json=body)
        walk.say(f"{receipt['id']}  {says}: {receipt['records_matched']} records, due {receipt['due_on']}")
        # A worker first seeks in all texts what the person is known by.
        request = walk.follow(
            f"/v1/erasure-requests/{receipt['id']}",
            by="reviewer",
            until=lambda body: bool(body["state"] != "triage" or body["attention"]),
            show=lambda body: f"{body['state']}, texts {body['indexes']['texts']}",
        )
        walk.call(
            "POST",
            f"/v1/erasure-requests/{receipt['id']}/approvals",
            by="reviewer",
            json={"record_set_hash": request["record_set_hash"]},
        )
        made.append((receipt["id"], caller))
    walk.say("approved by a second person, each approval bound to the hash of the records")
    return made


def _job(walk: Walk) -> None:
    """Ask for the job by hand, follow it, and tell each rung of the ladder as it is tried."""
    walk.call("POST", "/v1/jobs", by="engineer", json={"model": MODEL})
    told = 0

    def ended(body: Any) -> bool:
        nonlocal told
        history = body["items"][0]["history"] if body["items"] else []
        for tried in history[told:]:
            walk.say(_tried(tried))
        told = len(history)
        return bool(body["items"]) and body["items"][0]["state"] != "running"

    [job, *_] = walk.follow("/v1/jobs", by="engineer", until=ended, show=_job_line)["items"]
    if job["state"] == "failed":
        walk.say(f"[yellow]nothing was published[/] ({job['failure']}); the requests wait for a person")


def _released(walk: Walk, requests: Sequence[str]) -> bool:
    """Let a second person release what is held; return whether anything was.

    An exact method's result that is detected all the same waits for a person: by chance that happens
    in about one of twenty, and the demonstration has nothing else that could be overlooked.
    """
    held = [
        request
        for request in requests
        for target in walk.call("GET", f"/v1/erasure-requests/{request}", by="reviewer")["targets"]
        if target["held"]
    ]
    for request in held:
        walk.say(f"{request} is [yellow]held[/]: detected after an exact method; a second person looks")
        walk.call("POST", f"/v1/erasure-requests/{request}/release", by="reviewer")
    return bool(held)


def _job_line(body: Mapping[str, Any]) -> str:
    if not body["items"]:
        return "waiting for a worker"
    job = body["items"][0]
    return f"{job['stage']}, {job['engine'] or 'choosing an engine'}: {progress_line(job['progress'])}"


def progress_line(body: Mapping[str, Any]) -> str:
    """Return how far the runs of a stage are, in one line."""
    runs = [run for run in body.get("runs") or [] if run]
    parts = [f"{run.get('phase', '...')} {run.get('step', 0)}/{run.get('steps', '?')}" for run in runs]
    left = max((run.get("seconds_left") or 0 for run in runs), default=0)
    return " · ".join(parts) + (f" · {left:.0f} s left" if left else "") if parts else "starting"


def _tried(tried: Mapping[str, Any]) -> str:
    reasons = ", ".join(tried["reasons"]) or "nothing against it"
    return f"[bold]{tried['engine']}[/]: {tried['outcome']} ({reasons}), {tried['seconds']:.0f} s"


def _ending(walk: Walk) -> None:
    """Print the verdicts as a table, the times, and where to look next."""
    table = Table(title="What became of each request", title_justify="left")
    for column in ("request", "level", "engine", "verdict", "p0", "p1", "remains at most"):
        table.add_column(column, no_wrap=True)
    for request in walk.summary["requests"]:
        numbers = (
            "—" if request[n] is None else f"{float(request[n]):.3g}" for n in ("p0", "p1", "residual_upper")
        )
        told = (str(request[name]) for name in ("level", "engine", "verdict"))
        table.add_row(f"…{request['id'][-6:]}", *told, *numbers)
    walk.console.print(table)
    for request in walk.summary["requests"]:
        if request["level"] is not None and request["reasons"]:
            walk.say(f"…{request['id'][-6:]}: {wording.reasons(request['reasons'])}")
    walk.say("p0, p1: rank among people never trained on, before and after; small means remembered")
    walk.say(" · ".join(f"{name} {seconds:.0f} s" for name, seconds in walk.seconds.items()))
    walk.say(f"Bundles, trust file and summary.json: {walk.out}")
    walk.say(
        "Next: `lethe certificate check BUNDLE --trust trust.json`; `lethe up` for a service of your own."
    )


def _walk(out: Path, console: Console, running: Stack) -> Walk:
    return Walk(
        out=out,
        console=console,
        api=httpx.Client(base_url=str(running.settings.public_url), timeout=60, trust_env=False),
        served=httpx.Client(base_url=str(running.settings.model_server_url), timeout=60, trust_env=False),
        keys=running.keys,
        model=MODEL,
    )


def _afresh(out: Path) -> None:
    """Start from an empty directory: replace what an earlier demo left, refuse what something else did."""
    if out.exists():
        ours = {"summary.json", "people.jsonl", "base", "logs", "trust.json"}
        strange = [p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith("lethe-")]
        if strange:
            raise Failed(f"{out} holds files that no demo wrote ({strange[0]}, ...); name another directory")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _free_port() -> int:
    """Return a port nobody listens on, so that a demo can run beside a service."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
