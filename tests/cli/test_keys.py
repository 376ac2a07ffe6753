"""Sealed repositories as people use them: made, opened, handed to a host that only writes, and lost."""

from __future__ import annotations

import json
import os
import re
import select
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.errors import NotPermitted, Refused
from tests.cli.running import TIMEOUT_SECONDS, clean_environment
from tests.cli.site import NAME, Site, shared_site
from tests.support.places import own, plain_user

NOT_PERMITTED = NotPermitted.exit_status
REFUSED = Refused.exit_status
KEY_LINE = re.compile(r"pghaven-(?:reader|writer)-1-[a-z2-7]+")


def make_sealed(site: Site, *options: str) -> Path:
    """A sealed repository with its first backup; gives the recovery key's file."""
    recovery = site.place / "apart" / "recovery.key"
    words = ("--data-directory", str(site.cluster.data_directory), "--conninfo", site.cluster.conninfo)
    site.run("init", NAME, *words, "--repository", site.url, "--encryption", "--recovery-copy", str(recovery), *options)
    text = site.config.read_text()
    site.config.write_text(f'{text}pg_bin = "{site.cluster.bin_dir}"\n')
    site.run("init", NAME, "--apply")
    site.cluster.restart()
    return recovery


def key_of(site: Site) -> Path:
    return site.config.parent / "main.key"


def use_key(site: Site, path: Path, name: str = "other.toml", option: str = "key_file") -> Site:
    """The same site by a configuration with another key."""
    text = re.sub(r"^key_file = .*\n", f'{option} = "{path}"\n', site.config.read_text(), flags=re.MULTILINE)
    other = Site.__new__(Site)
    other.__dict__.update(site.__dict__)
    other.config = site.place / name
    other.config.write_text(text)
    own(other.config)
    return other


@pytest.fixture(scope="module")
def sealed(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A sealed repository with one backup, for tests that leave it as it is."""
    with shared_site(request.config) as site:
        make_sealed(site)
        site.cluster.sql(
            "CREATE TABLE secrets AS SELECT 'the unmistakable word ' || i AS t FROM generate_series(1, 99) i"
        )
        site.ok("backup")
        yield site


# -- making one ---------------------------------------------------------------------------------------------------


def test_the_key_file_is_the_server_s_user_s_alone_and_the_configuration_names_it(sealed: Site) -> None:
    path = key_of(sealed)
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == plain_user().uid if os.geteuid() == 0 else os.geteuid()
    assert f'key_file = "{path}"' in sealed.config.read_text()


def test_nothing_of_the_database_is_readable_in_the_store(sealed: Site) -> None:
    words = [b"unmistakable", b"base/", b"postgresql.conf", sealed.cluster.data_directory.name.encode() + b"/"]
    files = [path for path in sealed.repository.rglob("*") if path.is_file() and "rescue" not in path.name.lower()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [word for word in words if word in content], path


def test_without_a_second_way_in_nothing_is_made(site: Site) -> None:
    words = ("--conninfo", site.cluster.conninfo, "--repository", site.url, "--encryption")
    error = site.error("init", NAME, *words, status=2)
    assert "losing its one key would lose every backup" in error["message"]
    assert "--recovery-copy" in error["hint"]
    assert not (site.repository / "pghaven.json").exists()
    assert not key_of(site).exists()
    beside = str(site.config.parent / "recovery.key")
    error = site.error("init", NAME, *words, "--recovery-copy", beside, status=2)
    assert "lies beside the key file" in error["message"]
    assert not (site.repository / "pghaven.json").exists()
    # The key file that is there by now is taken, and the recovery key too, if the founding was interrupted.
    apart = site.place / "apart" / "recovery.key"
    assert site.run("init", NAME, *words, "--recovery-copy", str(apart)).status == 3  # the same file system
    assert site.run("repo", "key", "check").status == 0


@pytest.mark.parametrize(("typed", "answer"), [("abcdef", True), ("abcdeg", False)])
def test_what_is_typed_back_must_be_the_key_s_end(typed: str, answer: bool) -> None:
    program = "from pghaven.cli.asking import show_recovery_key as s; print(s('pghaven-reader-1-xyzabcdef'))"
    person, terminal = os.openpty()
    try:
        os.write(person, f"{typed}\n".encode())
        ended = subprocess.run(
            [sys.executable, "-c", program], stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, check=True
        )
        assert ended.stdout == f"{answer}\n".encode()
        assert b"pghaven-reader-1-xyzabcdef" in os.read(person, 4096)
    finally:
        os.close(person)
        os.close(terminal)


def test_without_a_terminal_nobody_is_asked() -> None:
    program = "from pghaven.cli.asking import *; print(ask_passphrase(), ask_new_passphrase(), is_interactive())"
    ended = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("None None False\n", "")


def test_an_object_store_is_sealed_unless_told_otherwise(site: Site) -> None:
    from pghaven.cli.sealing import wants_sealing

    assert [wants_sealing(url, None) for url in ("s3://b", "az://c", "gs://b", "sftp://h/d", "file:///d")] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert not wants_sealing("s3://b", False)
    assert wants_sealing("file:///d", True)


def test_a_directory_in_the_open_refuses_a_key(site: Site) -> None:
    site.set_up()
    site.config.write_text(site.config.read_text().replace("[cluster", f'key_file = "{site.place}/k"\n\n[cluster', 1))
    error = site.error("list", status=REFUSED)
    assert "nothing in it is sealed" in error["message"]


# -- opening ------------------------------------------------------------------------------------------------------


def test_the_whole_way_through_a_sealed_repository(sealed: Site) -> None:
    """Restore, verify, expire, status, list; the restored server has every row."""
    sealed.archive_all()
    sealed.ok("verify")
    assert sealed.run("status").status in (0, 3)
    assert sealed.run("check").status in (0, 3)
    assert len(sealed.json("list")["clusters"][0]["backups"]) == 1
    assert sealed.run("expire").status in (0, 3)
    with sealed.started():
        assert sealed.ask_restored("SELECT count(*) FROM secrets") == 99


@pytest.mark.parametrize("command", [("list",), ("status",), ("backup",), ("verify",), ("expire",)])
def test_without_a_key_every_command_says_what_to_do(sealed: Site, command: tuple[str, ...]) -> None:
    text = re.sub(r"^key_file = .*\n", "", sealed.config.read_text(), flags=re.MULTILINE)
    config = sealed.place / "nokey.toml"
    config.write_text(text)
    own(config)
    ended = sealed.run_words("--config", str(config), "--json", *command)
    if command == ("status",):
        assert "no key for it is configured" in ended.out
        return
    assert ended.status == NOT_PERMITTED
    error = json.loads(ended.out)["error"]
    assert "no key for it is configured" in error["message"]
    assert "key_file" in error["hint"]


def test_what_a_drill_found_is_signed(sealed: Site) -> None:
    place = sealed.place / "drills"
    place.mkdir()
    own(place)
    quick = [word for name in ("pages", "rows", "indexes", "collations") for word in ("--skip", name)]
    (result,) = sealed.json("drill", NAME, "--directory", str(place), "--at", "backup", *quick)["drills"]
    assert (result["passed"], result["signed"]) == (True, True)
    (repository,) = sealed.json("status")["clusters"][0]["repositories"]
    last = repository["last_drill"]
    assert (last["evidence"], last["passed"], last["signature"], last["doubt"]) == (
        *(result["evidence"], True, "good"),
        None,
    )
    assert re.search("drilled: +passed .*, signed$", sealed.ok("status"), re.MULTILINE)


def test_a_wrong_key_is_not_permitted(sealed: Site) -> None:
    path = sealed.place / "wrong.key"
    from pghaven.repository.keyset import make_first_key

    path.write_text(make_first_key().render() + "\n")
    path.chmod(0o600)
    error = use_key(sealed, path).error("list", status=NOT_PERMITTED)
    assert "opens none of the repository's slots" in error["message"]
    path.write_text(key_of(sealed).read_text()[:-5] + "\n")
    assert "not copied right" in use_key(sealed, path).error("list", status=NOT_PERMITTED)["message"]
    path.chmod(0o604)
    assert "by everybody" in use_key(sealed, path).error("list", status=NOT_PERMITTED)["message"]
    path.unlink()
    error = use_key(sealed, path).error("list", status=NOT_PERMITTED)
    assert "no such file" in error["message"]
    assert "kept apart" in error["hint"]


def test_wal_get_without_a_key_stops_recovery(sealed: Site) -> None:
    path = sealed.place / "none.key"
    other = use_key(sealed, path)
    ended = other.run("wal", "get", "--cluster", NAME, "000000010000000000000001", str(sealed.place / "x"))
    assert ended.status == 255


# -- slots --------------------------------------------------------------------------------------------------------


def test_the_recovery_key_opens_it_where_the_host_is_lost(sealed: Site) -> None:
    other = use_key(sealed, sealed.place / "apart" / "recovery.key")
    shown = other.json("repo", "key", "check")
    assert (shown["slot"], shown["access"]) == ("recovery", "reader")
    assert len(other.json("list")["clusters"][0]["backups"]) == 1


def test_slots_come_and_go(site: Site) -> None:
    make_sealed(site)
    passphrase = site.place / "passphrase"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o600)
    new = site.place / "new.key"
    site.ok("repo", "key", "add", "safe", "--passphrase-file", str(passphrase))
    site.ok("repo", "key", "add", "second", "--key-file", str(new))
    names = [one["name"] for one in site.json("repo", "key", "list")["slots"]]
    assert names[1:] == ["recovery", "safe", "second"]
    by_passphrase = use_key(site, passphrase, option="passphrase_file")
    assert by_passphrase.json("repo", "key", "check")["slot"] == "safe"
    by_command = use_key(site, Path(f"cat {new}"), option="key_command")
    assert by_command.json("repo", "key", "check")["slot"] == "second"
    text = re.sub(r"^key_file = .*\n", "", site.config.read_text(), flags=re.MULTILINE)
    bare = site.place / "bare.toml"
    bare.write_text(text)
    ended = site.run_words(
        "--config", str(bare), "--json", "repo", "key", "check", environment={"PGHAVEN_PASSPHRASE": "correct horse"}
    )
    assert json.loads(ended.out)["slot"] == "safe"
    before = site.json("repo", "key", "check")["data_keys"]
    site.ok("repo", "key", "rotate")
    assert site.json("repo", "key", "check")["data_keys"][:-1] == before
    site.ok("backup")
    site.ok("repo", "key", "remove", "second")
    assert "opens none" in use_key(site, new).error("list", status=NOT_PERMITTED)["message"]
    site.ok("repo", "key", "remove", "safe")
    told = site.json("repo", "key", "remove", "recovery")["notices"]
    assert [one["code"] for one in told] == ["one_slot"], "nothing is kept apart any more"
    error = site.error("repo", "key", "remove", names[0], status=REFUSED)
    assert "the last slot that reads" in error["message"]
    assert site.error("repo", "key", "add", "x", status=2)["hint"].startswith("One of --key-file")
    error = site.error("repo", "key", "add", "second", "--key-file", str(new), status=2)
    assert "exists already" in error["message"]


def test_whoever_looks_at_a_terminal_is_asked_for_the_passphrase(sealed: Site) -> None:
    secret = sealed.place / "terminal.passphrase"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    sealed.ok("repo", "key", "add", "terminal", "--passphrase-file", str(secret))
    bare = sealed.place / "terminal.toml"
    bare.write_text(re.sub(r"^key_file = .*\n", "", sealed.config.read_text(), flags=re.MULTILINE))
    for command in ("status", "repo info"):
        status, out = ask_at_terminal(sealed, "correct horse", "--config", str(bare), *command.split())
        assert status in (0, 3), out
        assert "cannot be used" not in out
    status, out = ask_at_terminal(sealed, "correct horse", "--config", str(bare), "check", "--timeout", "1s")
    assert "repository: file:///" in out.replace("\r", ""), out
    status, out = ask_at_terminal(sealed, "wrong", "--config", str(bare), "status")
    assert "opens none" in out


def ask_at_terminal(site: Site, typed: str, *words: str) -> tuple[int, str]:
    """What a command says to somebody who types ``typed`` when asked for a passphrase."""
    person, terminal = os.openpty()
    try:
        with subprocess.Popen(
            [*site.command.words, *words],
            stdin=terminal,
            stderr=terminal,
            stdout=subprocess.PIPE,
            env=clean_environment(None),
            start_new_session=True,
        ) as process:
            shown = b""
            while b"passphrase" not in shown and process.poll() is None:
                if select.select([person], [], [], 0.1)[0]:
                    shown += os.read(person, 4096)
            os.write(person, f"{typed}\n".encode())
            out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        assert typed.encode() not in shown
        return process.returncode, out.decode()
    finally:
        os.close(person)
        os.close(terminal)


# -- no key is ever shown -----------------------------------------------------------------------------------------


def test_no_key_is_in_what_commands_show_or_leave_behind(sealed: Site) -> None:
    """Successes and failures of every kind, verbose, as text and as JSON, and the server's log."""
    keys = {KEY_LINE.findall(path.read_text())[0] for path in (key_of(sealed), sealed.place / "apart" / "recovery.key")}
    broken = sealed.place / "broken.key"
    broken.write_text(key_of(sealed).read_text().replace("reader", "writer"))
    broken.chmod(0o600)
    shown = []
    for site in (sealed, use_key(sealed, broken)):
        for words in (("list",), ("status",), ("repo", "key", "check"), ("backup",), ("verify",), ("restore", NAME)):
            for more in (("--verbose",), ("--json",)):
                ended = site.run(*words, *more)
                shown += [ended.out, ended.err]
    shown.append(sealed.cluster.log())
    assert sum(map(len, shown)) > 1000
    for text in shown:
        for key in keys:
            assert key[-60:] not in text
