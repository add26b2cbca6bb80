"""The sites of the end-to-end tests."""

from tests.e2e.conftest import recipe, site

__all__ = ["recipe", "site"]
