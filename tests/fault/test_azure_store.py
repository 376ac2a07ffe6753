"""An Azure store's keys: where they come from, what is said of those that do not do, and that they are never shown."""

from __future__ import annotations

import os
import pickle
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.errors import NotPermitted, ObjectExists, PghavenError, StoreUnreachable, UsageError
from pghaven.store.az import Keys, parse_connection_string
from pghaven.store.open import create_root, open_store
from pghaven.store.settings import StoreSettings
from tests.support.azure import ACCOUNT, KEY, render_connection, sign_access
from tests.support.fixtures import ObjectServerFactory
from tests.support.objectservers import ObjectServer


@pytest.fixture
def server(object_server: ObjectServerFactory, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    return object_server("azurite")


def without_file(server: ObjectServer, **others: object) -> StoreSettings:
    return server.settings(credentials_file=None, **others)


def works(settings: StoreSettings) -> None:
    store = create_root(settings)
    store.create("a", [b"x"])
    assert store.read("a") == b"x"
    with pytest.raises(ObjectExists):
        store.create("a", [b"x"])


@pytest.mark.parametrize(
    ("account", "key"),
    [
        ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_the_environment_of_azures_own_tools_suffices(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, account: str, key: str
) -> None:
    monkeypatch.setenv(account, ACCOUNT)
    monkeypatch.setenv(key, KEY)
    works(without_file(server))


def test_a_signature_in_the_environment_suffices(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"?{sign_access('rlwcd')}")
    works(without_file(server, account=ACCOUNT))


def test_a_connection_string_in_the_environment_says_everything(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", render_connection(server.endpoint))
    settings = without_file(server)
    works(StoreSettings(url=settings.url))


def test_a_file_wins_over_the_environment(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = KEY[:-6] + "AAAA=="
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", render_connection(server.endpoint, key=wrong))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "another")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    works(server.settings())


def test_without_an_account_the_options_name_is_told(server: ObjectServer) -> None:
    with pytest.raises(UsageError, match="which storage account") as raised:
        create_root(without_file(server))
    assert "AZURE_STORAGE_ACCOUNT" in str(raised.value.hint)


def test_a_container_that_is_not_there_is_no_absence(server: ObjectServer) -> None:
    settings = server.settings(bucket="nowhere")
    with pytest.raises(StoreUnreachable, match='there is no container "nowhere"') as raised:
        create_root(settings)
    assert "\n" not in raised.value.message
    for call in (open_store(settings).find, open_store(settings).read, open_store(settings).delete):
        with pytest.raises(StoreUnreachable):
            call("a")


def shown_by(error: PghavenError) -> str:
    return "".join(traceback.format_exception(error)) + f"{error.hint} {error.detail} {pickle.dumps(error)!r}"


@pytest.mark.parametrize("lifetime", [timedelta(hours=-1), timedelta(hours=1)], ids=["expired", "read-only"])
def test_a_signature_that_does_not_allow_it_is_not_permitted(
    server: ObjectServer, tmp_path: Path, lifetime: timedelta
) -> None:
    signature = sign_access("rl", lifetime)
    file = tmp_path / "keys"
    file.write_text(render_connection(server.endpoint, signature))
    store = open_store(server.settings(credentials_file=str(file), retry_timeout_seconds=2.0))
    with pytest.raises(NotPermitted, match="403") as raised:
        store.create("a", [b"x"])
    secret = signature.rpartition("sig=")[2]
    assert secret not in shown_by(raised.value)
    assert secret.encode() not in pickle.dumps(store)
    assert secret not in repr(store)


def test_a_wrong_key_is_not_permitted_and_not_shown(server: ObjectServer, tmp_path: Path) -> None:
    wrong = "A" * 86 + "=="
    file = tmp_path / "keys"
    file.write_text(render_connection(server.endpoint, key=wrong))
    with pytest.raises(NotPermitted, match="403 Forbidden") as raised:
        create_root(server.settings(credentials_file=str(file)))
    assert "object-stores.md" in str(raised.value.hint)
    assert wrong not in shown_by(raised.value)


def test_a_signature_that_was_renewed_in_its_file_is_taken_up(server: ObjectServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(render_connection(server.endpoint, sign_access("rlwcd", timedelta(hours=-1))))
    store = open_store(server.settings(credentials_file=str(file)))
    with pytest.raises(NotPermitted):
        store.create("a", [b"x"])
    file.write_text(render_connection(server.endpoint, sign_access("rlwcd")))
    store.create("a", [b"x"])
    assert store.read("a") == b"x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a+b/c==;EndpointSuffix=core.windows.net",
            Keys(account="me", endpoint="https://me.blob.core.windows.net", key="a+b/c=="),
        ),
        (
            "BlobEndpoint=https://me.blob.core.windows.net/;QueueEndpoint=https://x/;SharedAccessSignature=sv=1&sig=a%3D",
            Keys(account="me", endpoint="https://me.blob.core.windows.net", signature="sv=1&sig=a%3D"),
        ),
        ("\nAccountName=me;AccountKey=k\n", Keys(account="me", key="k")),
    ],
)
def test_connection_strings_are_read_as_azure_writes_them(text: str, expected: Keys) -> None:
    found = parse_connection_string(text, "x")
    assert found == expected
    assert repr(found) == f"Keys(account={expected.account!r}, endpoint={expected.endpoint!r})"


@pytest.mark.parametrize("text", ["", "AccountName=me", "geheim", "geheim;;"])
def test_what_is_no_connection_string_is_told_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError, match="/the/file holds no connection string") as raised:
        parse_connection_string(text, "/the/file")
    assert "geheim" not in shown_by(raised.value)
