"""`lethe dataset` and `lethe model`: what is trained on, and what is trained."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Api, Stopped, chosen, out, runs, show, table
from app.cli.erasing import follow_job

dataset = typer.Typer(no_args_is_help=True, help="Training sets: register, list, show.")
model = typer.Typer(no_args_is_help=True, help="Model lines: train, add, list, show, compact, resume.")

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it is done, with progress.")]
Name = Annotated[str, typer.Option(help="A name of its own: lower case, digits, dots, dashes.")]


@dataset.command("add")
def add_dataset(
    uri: Annotated[str, typer.Argument(help="A JSONL or Parquet file: a path, or any fsspec URI.")],
    *,
    name: Name,
    hold_back: Annotated[
        int | None, typer.Option(help="How many subjects are never trained on, as a cohort to compare with.")
    ] = None,
    wait: Wait = True,
) -> None:
    """Register a training set; its content stays where it is.

    A bad line is reported with its number, and nothing of the set is then registered.

    Example: lethe dataset add people.jsonl --name people
    """
    api = Api("engineer")
    made = api.post("/v1/datasets", {"name": name, "uri": _uri(uri), "hold_back": hold_back})
    if wait:
        made = api.follow(
            f"/v1/datasets/{made['id']}",
            says=f"reading {name}",
            done=lambda body: body["state"] != "registering",
            share=lambda body: _read(body["progress"]),
        )
    _show_dataset(made)
    if made["state"] == "failed":
        raise Stopped(f"dataset {name} was not registered: {_fault(made['failure'])}")


@dataset.command("list")
def list_datasets(limit: Annotated[int, typer.Option(help="How many at most.")] = 50) -> None:
    """List the training sets, newest first."""
    columns = {"name": "name", "state": "state", "records": "records", "subjects": "subjects", "uri": "at"}
    table(Api("engineer").pages("/v1/datasets", limit=limit), columns)


@dataset.command("show")
def show_dataset(name: Annotated[str, typer.Argument(help="Its name or its id (ds_...).")]) -> None:
    """Show one training set: counts, digests, or what was wrong with it."""
    api = Api("engineer")
    if name.startswith("ds_"):
        _show_dataset(api.get(f"/v1/datasets/{name}"))
        return
    for each in api.pages("/v1/datasets", limit=10_000):
        if each["name"] == name:
            _show_dataset(each)
            return
    raise Stopped(f"there is no dataset {name}")


@model.command("train")
def train_model(
    name: Annotated[str, typer.Argument(help="A name of its own; callers of the served model say it.")],
    *,
    dataset: Annotated[str, typer.Option(help="The name of a registered dataset.")],
    base: Annotated[
        str, typer.Option(help="A Hugging Face directory: configuration, tokenizer, weights if fine-tuned.")
    ],
    recipe: Annotated[
        Path, typer.Option(help="How to train, as JSON or TOML: seed, epochs, learning_rate, ...")
    ],
    slices: Annotated[
        int | None,
        typer.Option(
            help="Record the training in so many slices: exact unlearning then repeats a part of it."
        ),
    ] = None,
    references: Annotated[
        int | None, typer.Option(help="Reference models trained alongside; 4 by default.")
    ] = None,
    verification_policy: Annotated[str, typer.Option(help="What a verdict asks for.")] = "default",
    jobs_policy: Annotated[str, typer.Option(help="Batches, and which engine first.")] = "default",
    wait: Wait = True,
) -> None:
    """Train a model by a recorded recipe, with reference models alongside, and serve it.

    The recipe needs a seed; real numbers are text ("0.0002"), so that its digest is the same everywhere.

    Example: lethe model train mine --dataset people --base ./my-model --recipe recipe.json
    """
    body: dict[str, Any] = {
        "name": name,
        "dataset": dataset,
        "base": _uri(base),
        "recipe": _recipe(recipe),
        "verification_policy": verification_policy,
        "jobs_policy": jobs_policy,
    }
    if references is not None:
        body["references"] = references
    if slices is not None:
        body["recorded"] = {"slices": slices}
    _create(body, wait=wait)


@model.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="A name of its own; callers of the served model say it.")],
    *,
    dataset: Annotated[str, typer.Option(help="The name of the registered dataset it was trained on.")],
    weights: Annotated[str, typer.Option(help="A Hugging Face directory with model.safetensors.")],
    base: Annotated[
        str | None, typer.Option(help="What it was fine-tuned from; by default the same directory.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="How it was trained, if that is known: exact retraining needs it.")
    ] = None,
    verification_policy: Annotated[str, typer.Option(help="What a verdict asks for.")] = "default",
    jobs_policy: Annotated[str, typer.Option(help="Batches, and which engine first.")] = "default",
    wait: Wait = True,
) -> None:
    """Register a model that was trained elsewhere, with what it was trained on, and serve it.

    Example: lethe model add mine --dataset people --weights ./trained
    """
    body: dict[str, Any] = {
        "name": name,
        "dataset": dataset,
        "base": _uri(base or weights),
        "upload": _uri(weights),
        "verification_policy": verification_policy,
        "jobs_policy": jobs_policy,
    }
    if recipe is not None:
        body["recipe"] = _recipe(recipe)
    _create(body, wait=wait)


@model.command("list")
def list_models() -> None:
    """List the model lines."""
    found = Api("engineer").get("/v1/models")["data"]
    rows = [each | {"live": (each["live"] or {}).get("number"), "state": _state(each)} for each in found]
    columns = {
        "id": "name",
        "dataset": "dataset",
        "live": "live version",
        "state": "state",
        "attention": "attention",
    }
    table(found if chosen.as_json else rows, columns)


@model.command("show")
def show_model(name: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Show a model line and its versions."""
    api = Api("engineer")
    body = api.get(f"/v1/models/{name}")
    versions = api.get(f"/v1/models/{name}/versions")["items"]
    if chosen.as_json:
        out.print_json(json.dumps(body | {"versions": versions}))
        return
    _show_model(body)
    out.print()
    table(
        versions,
        {
            "number": "version",
            "state": "state",
            "engine": "made by",
            "digest": "digest",
            "failure": "failure",
        },
    )


@model.command("resume")
def resume_model(name: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Begin again on a model that was paused after failed jobs, or frozen by `lethe restore-check`.

    Look at `lethe job list` first; of a frozen one, approve its requests again before, so that the next
    job leaves all of them out.
    """
    _show_model(Api("engineer").post(f"/v1/models/{name}/resumption"))


@model.command("compact")
def compact_model(
    name: Annotated[str, typer.Argument(help="Its name.")],
    *,
    show_only: Annotated[
        bool, typer.Option("--show", help="Say how far it is from its anchor, and begin nothing.")
    ] = False,
    wait: Wait = True,
) -> None:
    """Make exact what was erased approximately: a new anchor, no deltas, and better certificates.

    It begins by itself once the policy says so; this is for whoever will not wait.

    Example: lethe model compact mine
    """
    api = Api("engineer")
    path = f"/v1/models/{name}/compaction"
    found = api.get(path) if show_only else api.post(path)
    if show_only or not wait:
        _show_standing(found)
    else:
        follow_job(api, found, says=f"compacting {name}")


def _create(body: dict[str, Any], *, wait: bool) -> None:
    api = Api("engineer")
    made = api.post("/v1/models", body)
    if wait:
        made = api.follow(
            f"/v1/models/{body['name']}",
            says=f"preparing {body['name']}",
            done=lambda line: line["live"] is not None or (line["latest"] or {}).get("state") == "failed",
            share=lambda line: runs((line["latest"] or {}).get("progress", {})),
        )
    _show_model(made)
    if (made["latest"] or {}).get("state") == "failed":
        raise Stopped(f"model {body['name']} could not be made: {made['latest']['failure']}")


def _show_dataset(body: dict[str, Any]) -> None:
    lines = {name: body[name] for name in ("id", "name", "state", "uri", "records", "subjects", "digest")}
    lines["held back"] = body["held_back"]
    lines["failure"] = None if body["failure"] is None else _fault(body["failure"])
    show(body, lines)


def _show_model(body: dict[str, Any]) -> None:
    live = body["live"] or {}
    show(
        body,
        {
            "name": body["id"],
            "id": body["model"],
            "dataset": body["dataset"],
            "state": _state(body),
            "live version": live.get("number"),
            "digest": live.get("digest"),
            "references": f"{body['references_ready']} of {body['references_wanted']}",
            "attention": body["attention"],
        },
    )


def _show_standing(body: dict[str, Any]) -> None:
    outstanding = body["outstanding"]
    show(
        body,
        {
            "model": body["model"],
            "anchor": body["anchor"],
            "served since": body["anchor_live_at"],
            "deltas": body["deltas"],
            "requests outstanding": outstanding["requests"],
            "records outstanding": outstanding["records"],
            "first concluded": outstanding["since"],
            "due": body["reason"] or "no",
            "due by": body["due_by"],
            "not before": body["not_before"],
        },
    )


def _state(body: dict[str, Any]) -> str:
    if body["breaker"] == "frozen":
        return "frozen"
    if body["breaker"] != "closed":
        return "stopped after failures"
    return "served" if body["live"] else str((body["latest"] or {}).get("state", "new"))


def _read(progress: dict[str, Any]) -> tuple[float, str]:
    total = progress.get("bytes_total") or 0
    return (progress["bytes"] / total if total else 0.0), f"{progress['records']} records"


def _fault(failure: dict[str, Any]) -> str:
    where = f" in line {failure['line']}" if failure.get("line") else ""
    other = f", as in line {failure['other_line']}" if failure.get("other_line") else ""
    at = f" at {failure['pointer']}" if failure.get("pointer") else ""
    return f"{failure['code']}{where}{at}{other}"


def _uri(place: str) -> str:
    """Return a path made absolute, as a worker stands elsewhere; a URI as it is."""
    if "://" in place:
        return place
    path = Path(place).expanduser().resolve()
    if not path.exists():
        raise Stopped(f"{path} does not exist", code=2)
    return str(path)


def _recipe(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        return dict(tomllib.loads(text) if path.suffix == ".toml" else json.loads(text))
    except (OSError, ValueError) as error:
        raise Stopped(f"{path} cannot be read as a recipe: {error}", code=2) from error
