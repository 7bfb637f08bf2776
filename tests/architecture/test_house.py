"""The house as the architecture promises it: import contracts, packages, vocabularies, light processes."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest
from sqlalchemy import CheckConstraint

from app import tables
from app.audit import events
from app.erasure.lifecycle import State
from app.jobs import escalation
from app.jobs.lifecycle import JobStage, JobState
from app.verification import policy
from app.verification.forms import Verdict

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CODE_IN_INIT = {
    "app/audit/events",
    "app/tables",
    "workers/unlearning/engines",
    "workers/unlearning/verification",
}
"""The vocabulary of the chain, complete metadata, the registry of engines, and `measure`."""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_every_import_contract_is_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert f"{len(PYPROJECT['tool']['importlinter']['contracts'])} kept, 0 broken" in done.stdout


PLANTED = {
    "Benchmarks know the workers, workers know the app, never the other way": (
        "app/clock.py", "import workers.context"),
    "The app's domains form a line, not a circle": ("app/erasure/service.py", "import app.jobs.service"),
    "Inside a domain: endpoints, then service, then repository": (
        "app/records/repository.py", "import app.records.service"),
    "Only endpoints and app.http speak HTTP": ("app/erasure/service.py", "import fastapi"),
    "Only repositories write SQL": ("app/erasure/service.py", "import sqlalchemy"),
    "A rule is pure: no clock, no session, no network": ("app/jobs/lifecycle.py", "import app.clock"),
    "Only app.queue knows Celery": ("app/erasure/service.py", "import celery"),
    "The app runs without a GPU stack": ("app/demo/base.py", "import torch"),
    "The workers' entry points do not know each other": ("workers/context.py", "import workers.pipeline"),
    "The process that supervises a stage never loads torch": ("workers/launcher.py", "import torch"),
    "The unlearning library is pure torch": ("workers/unlearning/data.py", "import app.clock"),
    "The examiner does not know the method it examines": (
        "workers/unlearning/verification/scoring.py", "import workers.unlearning.engines.base"),
    "No engine borrows from another engine": (
        "workers/unlearning/engines/retrain.py", "import workers.unlearning.engines.gradient"),
    "A replica can serve a model and cannot change it": (
        "workers/inference/replica.py", "import workers.unlearning.training"),
    "The certificate checker is one file that needs nothing of ours": (
        "app/certificates/check.py", "import app.errors"),
    "What a training job screens with is one file that needs nothing of ours": (
        "app/records/screening.py", "import app.errors"),
    "A benchmark uses the library and the judge, not the service": (
        "benchmarks/stages.py", "import app.storage.database"),
    "Nothing that ships has heard of its tests": ("app/clock.py", "import pytest"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "contract", [each["name"] for each in PYPROJECT["tool"]["importlinter"]["contracts"]]
)
def test_every_import_contract_can_break(contract: str, tmp_path: Path) -> None:
    for package in ("app", "workers", "benchmarks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file, line = PLANTED[contract]
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout


def packages() -> list[Path]:
    return sorted(
        path
        for package in ("app", "workers", "benchmarks", "migrations")
        for path in (ROOT / package).rglob("__init__.py")
    )


@pytest.mark.parametrize("path", packages(), ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_a_package_says_what_it_is_and_runs_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a package has its terms"
    if str(path.parent.relative_to(ROOT)) not in CODE_IN_INIT:
        assert len(tree.body) == 1


def vocabulary(table: type, column: str) -> set[str]:
    """Return the words a CHECK of `column IN (...)` allows."""
    for constraint in table.__table__.constraints:  # type: ignore[attr-defined]  # every mapped class has one
        text = str(constraint.sqltext) if isinstance(constraint, CheckConstraint) else ""
        if text.startswith(f"{column} IN"):
            return set(re.findall(r"'([^']*)'", text))
    raise AssertionError(f"{table} keeps no vocabulary of {column}")


def test_the_tables_and_the_rules_have_the_same_words() -> None:
    assert vocabulary(tables.ErasureRequest, "state") == set(State)
    assert vocabulary(tables.RequestTarget, "stage") <= set(State)
    assert vocabulary(tables.Job, "state") == set(JobState)
    assert vocabulary(tables.Job, "stage") == set(JobStage)
    assert vocabulary(tables.VerdictRow, "verdict") == set(Verdict.__args__)  # type: ignore[attr-defined]  # a Literal


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("app.main", "torch"),
        ("workers.celery_app", "torch"),
        ("workers.pipeline", "torch"),
        ("workers.unlearning.spec", "torch"),
        ("workers.unlearning.checkpoints", "workers.unlearning.engines"),
    ],
)
def test_a_process_loads_only_what_it_needs(module: str, never: str) -> None:
    script = f"import sys, {module}; sys.exit({never!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def event_kinds(module: ModuleType) -> list[type[events.Event]]:
    found = [each for each in vars(module).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, events.Event) and each is not events.Event]


def test_an_audit_event_has_no_place_for_prose() -> None:
    kinds = event_kinds(events)
    assert len({kind.KIND for kind in kinds}) == len(kinds)
    allowed = {UUID, UUID | None, int, int | None, str, str | None, bytes, datetime, tuple[str, ...]}
    forbidden = {"text", "message", "detail", "name", "value", "email", "description", "comment"}
    for kind in kinds:
        for field in fields(kind):
            assert field.type in allowed, (kind, field)
            assert field.name not in forbidden, (kind, field.name)


def test_every_policy_loads_and_every_dependency_is_pinned() -> None:
    assert {path.stem for path in (ROOT / "app/jobs/policies").glob("*.toml")} == escalation.names()
    for path in (ROOT / "app/verification/policies").glob("*.toml"):
        assert len(policy.load(path.stem).digest) == 64
    project = PYPROJECT["project"]
    wanted = project["dependencies"] + [
        one for extra in project["optional-dependencies"].values() for one in extra
    ]
    names = {re.split(r"[\[<>=! ]", one)[0].lower().replace("_", "-") for one in wanted}
    lock = (ROOT / "requirements.lock").read_text().lower().replace("_", "-")
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", lock, flags=re.MULTILINE))
    assert names <= pinned, names - pinned
    assert "+cpu" not in lock
