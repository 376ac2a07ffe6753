"""Loads the fixtures of ``support``; see ``support/fixtures.py`` for how they are used."""

pytest_plugins = ["tests.support.fixtures", "tests.support.measuring"]
