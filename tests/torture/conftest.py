"""The sites of the end-to-end tests; everything here is slow."""

from pathlib import Path

import pytest

from tests.e2e.conftest import recipe, site

__all__ = ["recipe", "site"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
