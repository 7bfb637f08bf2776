"""`lethe bench run`: what the child is told, how it ends, and what is missing before it starts."""

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app import processes
from app.cli import main
from app.cli.client import chosen

Child = Callable[[str], None]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    """Return what puts a small program in the place of the benchmarks; it is started as they are."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def of(program: str) -> None:
        monkeypatch.setattr(processes, "python", lambda *words: [sys.executable, "-c", program, *words])

    return of


def lethe(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["lethe", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    chosen.as_json = False
    return ended.value.code if isinstance(ended.value.code, int) else 0


def test_the_child_is_told_all_that_was_typed(
    child: Child, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    child("import sys; print(*sys.argv[1:], sep='|')")
    words = ["--suite", "tofu", "--subjects", "1,4", "--data", str(tmp_path), "--quick", "--out", "o.json"]
    assert lethe(monkeypatch, "--json", "bench", "run", *words, "--engines", "match,npo") == 0
    told = capfd.readouterr().out.strip().split("|")
    assert told[:3] == ["-m", "benchmarks", "run"]
    pairs = dict(zip(told[3:-2:2], told[4:-2:2], strict=True))
    assert pairs == {
        "--suite": "tofu",
        "--subjects": "1,4",
        "--seeds": "3",
        "--sequential": "0",
        "--engines": "match,npo",
        "--data": str(tmp_path),
        "--parallel": "1",
        "--out": "o.json",
    }
    assert told[-2:] == ["--quick", "--json"]


@pytest.mark.parametrize("code", [0, 1, 2, 75, 130])
def test_it_ends_as_the_child_ended(child: Child, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    child(f"raise SystemExit({code})")
    assert lethe(monkeypatch, "bench", "run") == code


def test_ctrl_c_reaches_the_child_once_and_its_end_is_ours(
    child: Child, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    child(
        "import signal, sys, time, pathlib\n"
        "told = []\n"
        "signal.signal(signal.SIGINT, lambda *_: told.append(1))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "while not told: time.sleep(0.01)\n"
        "time.sleep(0.1)\n"
        "print('interrupted', len(told), flush=True)\n"
        "sys.exit(130)\n"
    )

    def interrupt() -> None:
        while not ready.exists():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # in the background of a shell it is ignored
    threading.Thread(target=interrupt, daemon=True).start()
    assert lethe(monkeypatch, "bench", "run") == 130
    assert "interrupted 1" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before, "the handler is ours no more"


@pytest.mark.parametrize(
    ("suite", "lacking", "extra"),
    [("people", "torch", "workers"), ("digits", "sklearn", "bench"), ("tofu", "tokenizers", "workers")],
)
def test_what_is_missing_is_named_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suite: str, lacking: str, extra: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else name)
    assert lethe(monkeypatch, "bench", "run", "--suite", suite) == 1
    assert f"lethe[{extra}]" in capsys.readouterr().err
