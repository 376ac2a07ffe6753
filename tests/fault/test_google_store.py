"""Where keys for Google's storage are found."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from pghaven.errors import UsageError
from pghaven.store.open import open_store
from tests.support.fixtures import ObjectServerFactory
from tests.support.objectservers import ObjectServer


@pytest.fixture
def server(object_server: ObjectServerFactory, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    for name in ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return object_server("gcs")


def test_the_environment_suffices(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", server.credentials_file)
    store = open_store(server.settings(credentials_file=None))
    store.create("a", [b"x"])
    assert store.read("a") == b"x"


def test_a_file_wins_over_the_environment(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "none"))
    store = open_store(server.settings())
    store.create("a", [b"x"])
    assert store.read("a") == b"x"


@pytest.mark.parametrize("content", [None, "", "hunter2", '{"private_key": "hunter2"}', '["hunter2"]'])
def test_a_file_that_makes_no_sense_is_told_without_its_content(
    server: ObjectServer, tmp_path: Path, content: str | None
) -> None:
    keys = tmp_path / "keys.json"
    if content is not None:
        keys.write_text(content)
    with pytest.raises(UsageError) as raised:
        open_store(server.settings(credentials_file=str(keys))).find("a")
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))
