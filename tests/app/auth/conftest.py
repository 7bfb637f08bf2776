"""A local identity provider, and keys that it signs with: made once, as RSA keys take their time."""

from collections.abc import Iterator

import pytest

from tests.fixtures import provider as local
from tests.fixtures.provider import LocalProvider, Private


@pytest.fixture(scope="session")
def made() -> dict[str, Private]:
    return local.keys()


@pytest.fixture
def idp(made: dict[str, Private]) -> Iterator[LocalProvider]:
    with local.provider(made) as serving:
        yield serving
