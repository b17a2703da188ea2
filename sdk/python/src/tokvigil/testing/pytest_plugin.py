"""The pytest fixtures `tokvigil` and `async_tokvigil`: a new fake for each test.

In the conftest.py at the root of your tests:

    pytest_plugins = ["tokvigil.testing.pytest_plugin"]

It is not registered by itself: a plugin of an installed package is imported by every pytest run in its environment,
by those too that do not test with TokVigil, and before a coverage measurement begins.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tokvigil.testing.clients import AsyncFakeTokVigil, FakeTokVigil


@pytest.fixture
def tokvigil() -> Iterator[FakeTokVigil]:
    """A `FakeTokVigil` that allows everything until the test says otherwise."""
    with FakeTokVigil() as fake:
        yield fake


@pytest.fixture
def async_tokvigil() -> Iterator[AsyncFakeTokVigil]:
    """An `AsyncFakeTokVigil`, for any event loop."""
    fake = AsyncFakeTokVigil()
    yield fake
    fake._let_go()
