"""What is typed after `python -m benchmarks run`: what is refused at once, and a whole run of the toy."""

import json
from pathlib import Path

import pytest

from app import processes
from app.demo.people import FACTS
from benchmarks import __main__, run, tofu, worlds
from benchmarks.methods import METHODS
from benchmarks.progress import USUAL_SECONDS, Meter


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "tofu"], "--data"),
        (["--subjects", "0"], "whole numbers"),
        (["--subjects", "one"], "invalid"),
        (["--subjects", "16", "--people", "20"], "as many who stay"),
        (["--sequential", "48", "--quick"], "somebody must stay"),
        (["--engines", "match,nothing"], "no such engine: nothing"),
        (["--picture", "p.png"], "SVG"),
        (["--seeds", "0"], "at least one oracle"),
        (["--suite", "cats"], "invalid choice"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_begins(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        run.main(["--home", str(tmp_path / "home"), *words])
    assert refused.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_a_home_has_one_run_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with processes.exclusive(tmp_path / "lock") as ours:
        assert ours
        assert run.main(["--home", str(tmp_path)]) == 1
    assert "another run works" in capsys.readouterr().err


def test_all_that_is_to_come_is_planned() -> None:
    """Ten people, two requests, two seeds, one method: counted by hand."""
    given = run._parser().parse_args(
        ["--subjects", "1,4", "--people", "10", "--seeds", "2", "--sequential", "3"]
    )
    meter = Meter(clock=lambda: 0.0)
    run._plan(meter, given, ["match"])
    passes = worlds.RECIPE["epochs"] * len(FACTS) * (2 * 10 + 2 * (9 + 6 + 7))
    tries = 1 + 2 * len(METHODS["match"].points) + 2 * 3
    reads = 3 * (2 + 2) + 2 + 4
    wanted = {"train": passes, "try": tries, "read": reads}
    assert meter.left() == pytest.approx(sum(USUAL_SECONDS[kind] * n for kind, n in wanted.items()))


def test_the_authors_are_fewer_than_the_people() -> None:
    given = run._parser().parse_args(["--suite", "tofu", "--data", "here"])
    run._check(run._parser(), given)
    assert given.people == run.AUTHORS
    assert given.people % tofu.ROWS == 0


def test_the_list_names_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    assert __main__.main() == 0
    assert "python -m benchmarks run" in capsys.readouterr().out


@pytest.mark.slow
def test_the_toy_leaves_its_files_and_is_not_computed_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    out, drawn = tmp_path / "made" / "found.json", tmp_path / "made" / "found.svg"
    words = ["--suite", "digits", "--seeds", "1", "--home", str(tmp_path / "home")]
    words += ["--out", str(out), "--picture", str(drawn)]
    assert run.main(words) == 0
    first = json.loads(out.read_bytes())
    assert set(first["oracle"]) >= {"forget_loss", "spread", "kl_floor"}
    assert first["engines"]["gauss_newton K=4"] == first["requests"]["60"]["engines"]["gauss_newton K=4"]
    assert drawn.read_text().startswith("<svg")
    capsys.readouterr()
    monkeypatch.setattr("benchmarks.digits._computed", None)  # whoever computes now fails
    assert run.main([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again | {"seconds": 0} == first | {"seconds": 0}
