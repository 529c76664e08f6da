"""The browser that the tests of this folder share: `make browser`."""

from collections.abc import Iterator

import pytest

from harness.browser import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real Chromium."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
