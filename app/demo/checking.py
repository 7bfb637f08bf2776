"""What a requester and a stranger do with a certificate: take the bundle once, check it offline.

The checker runs as a stranger has it: one file in an empty directory, isolated from this package.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from app.demo.caller import Failed, Walk


def certificate(walk: Walk, request_id: str, by: str) -> dict[str, Any]:
    """Fetch one bundle as its requester and check it in an empty directory, with the one-file checker."""
    request = walk.call("GET", f"/v1/erasure-requests/{request_id}", by="reviewer")
    [target] = request["targets"]
    if target["certificate"] is None:
        return _held(walk, request)
    evidence = walk.call("GET", f"/v1/certificates/{target['certificate']}/evidence", by="officer")
    bundle = walk.out / f"lethe-{target['certificate']}.zip"
    bundle.write_bytes(walk.fetch(f"/v1/certificates/{target['certificate']}/opening", by=by))
    trust = walk.out / "trust.json"
    trust.write_bytes(walk.api.get("/.well-known/lethe-trust.json").raise_for_status().content)
    checked = _check_offline(bundle, trust)
    decision = evidence["decision"]
    walk.say(
        f"{request_id}: {request['state']}, [bold]{target['outcome']}[/] by {decision['engine']};"
        f" p0 {decision['p0']}, p1 {decision['p1']}, residual at most {decision['residual_upper']}"
    )
    for line in checked if not walk.told else checked[-1:]:
        walk.say(f"[dim]{line}[/]")
    walk.told = True
    return {
        "id": request_id,
        "state": request["state"],
        "verdict": decision["verdict"],
        "level": target["outcome"],
        "engine": decision["engine"],
        "attempts": evidence["attempts"],
        **{name: decision[name] for name in ("p0", "p1", "residual_upper", "reasons")},
        "bundle": bundle.name,
    }


def _held(walk: Walk, request: Mapping[str, Any]) -> dict[str, Any]:
    """Say that a request is still open and why: no certificate is better than a wrong one."""
    walk.say(f"{request['id']}: [yellow]still open[/] ({request['state']}, {request['attention']})")
    unknown = dict.fromkeys(
        ("verdict", "level", "engine", "attempts", "p0", "p1", "residual_upper", "bundle")
    )
    return {
        "id": request["id"],
        "state": request["state"],
        **unknown,
        "reasons": [request["attention"]],
    }


def _check_offline(bundle: Path, trust: Path) -> list[str]:
    """Run the checker as a stranger has it: one file, an empty directory, no package of ours."""
    with tempfile.TemporaryDirectory() as empty:
        checker = Path(empty) / "check.py"
        checker.write_bytes((files("app.certificates") / "check.py").read_bytes())
        done = subprocess.run(
            [sys.executable, "-I", "check.py", str(bundle.resolve()), "--trust", str(trust.resolve())],
            cwd=empty,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if done.returncode != 0:
        raise Failed(f"the checker refused {bundle.name}:\n{done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Level "))
    return [line for line in lines[start:] if line.strip()]
