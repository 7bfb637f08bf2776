"""One tiny base for all tests here, torch pinned as a run pins it."""

from pathlib import Path

import pytest

from tests.fixtures.learning import write_base
from workers.unlearning import determinism


@pytest.fixture(scope="session", autouse=True)
def pinned() -> None:
    """Run as a run does: one thread, strict algorithms."""
    determinism.setup(0)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory without weights."""
    return write_base(tmp_path_factory.mktemp("base"))
