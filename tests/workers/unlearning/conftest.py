"""One tiny base for all tests here, torch pinned as a run pins it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fixtures.learning import write_base
from workers.unlearning import determinism


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    """Run as a run does; leave no trace for tests elsewhere."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    determinism.setup(0)
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory without weights."""
    return write_base(tmp_path_factory.mktemp("base"))
