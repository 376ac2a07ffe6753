"""The fixtures of ``engine``, for all tests with Patroni."""

from __future__ import annotations

from tests.ha.engine import make_engine

__all__ = ["make_engine"]
