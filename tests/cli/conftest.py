"""The fixtures of ``site``, for all tests of the command line."""

from __future__ import annotations

from tests.cli.site import protected, site

__all__ = ["protected", "site"]
