"""How stores are named."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from pghaven.errors import StoreUnreachable, UsageError
from pghaven.runtime.durable import OwnerOf
from pghaven.store.open import create_root, open_store


def test_a_file_url_names_a_directory_with_all_its_characters(tmp_path: Path) -> None:
    directory = tmp_path / "with space%and#ü"
    directory.mkdir()
    url = f"file://{tmp_path}/with%20space%25and%23ü"
    store = open_store(url)
    store.create("a", [b"x"])
    assert (directory / "a").read_bytes() == b"x"
    assert store.url == url


def test_localhost_is_this_machine(tmp_path: Path) -> None:
    assert open_store(f"file://localhost{tmp_path}").list_children("") == ()


@pytest.mark.parametrize("path", ["backup", "/srv/backup", "./x", "file:/srv/backup", ""])
def test_a_bare_path_is_refused_with_its_url_as_the_hint(path: str) -> None:
    with pytest.raises(UsageError, match="not the URL of a store") as raised:
        open_store(path)
    assert "file:///" in str(raised.value.hint)


@pytest.mark.parametrize("url", ["s4://bucket/prefix", "scp://host/path", "FILE:///x", "://x"])
def test_other_schemes_are_refused_naming_those_there_are(url: str) -> None:
    with pytest.raises(UsageError, match="not a kind of store") as raised:
        open_store(url)
    assert "file://" in str(raised.value.hint)


@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/x", "az://container/x?sv=1&sig=hunter2", "s3://b?a=hunter2"])
def test_a_password_or_a_signature_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="holds a password or a signature") as raised:
        open_store(url)
    assert "hunter2" not in f"{raised.value}{raised.value.hint}"


@pytest.mark.parametrize(
    "url", ["file://host/path", "file://relative", "file://", "file:///a?b", "file:///a#b", "file:///a%00"]
)
def test_file_urls_that_name_no_local_directory_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_a_directory_that_is_not_there_is_unreachable_not_empty(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="No such file"):
        open_store(f"file://{tmp_path}/nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnreachable, match="not a directory"):
        open_store(f"file://{tmp_path}/file")


def test_a_root_is_made_with_what_is_missing_above_it_and_may_exist(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/srv/backup"
    create_root(url).create("a", [b"x"])
    assert stat.S_IMODE((tmp_path / "srv/backup").stat().st_mode) == 0o750
    os.chmod(tmp_path / "srv/backup", 0o700)
    assert create_root(url).read("a") == b"x"
    assert stat.S_IMODE((tmp_path / "srv/backup").stat().st_mode) == 0o700


def test_a_root_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnreachable, match="could not make"):
        create_root(f"file://{tmp_path}/file/below")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_new_root_is_given_to_its_owner_and_an_old_one_is_left(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    owner = OwnerOf(uid=nobody.pw_uid, gid=nobody.pw_gid)
    create_root(f"file://{tmp_path}/new/root", owner)
    assert OwnerOf.path(str(tmp_path / "new/root")) == owner == OwnerOf.path(str(tmp_path / "new"))
    (tmp_path / "old").mkdir()
    create_root(f"file://{tmp_path}/old", owner)
    assert OwnerOf.path(str(tmp_path / "old")).uid == 0


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "gs://b c/x", "s3://bucket/a//b", "s3://bucket/ä", "s3://bucket?x"]
)
def test_urls_that_name_no_bucket_or_prefix_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)
