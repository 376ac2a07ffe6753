"""How SFTP stores are named, and what their server's bytes and ssh's words mean."""

from __future__ import annotations

import array
import shlex
import struct

import pytest

from pghaven.errors import NotPermitted, PghavenError, Refused, StoreUnreachable, UsageError
from pghaven.store import sftpwire as wire
from pghaven.store.settings import StoreSettings
from pghaven.store.sftpaddress import SshSettings, parse_sftp_address
from pghaven.store.sftplink import cut, explain_ssh
from pghaven.store.sftpwire import Reply


@pytest.mark.parametrize(
    ("url", "user", "host", "port", "root"),
    [
        ("sftp://host/srv/pg", None, "host", None, b"/srv/pg"),
        ("sftp://me@Backup.example:2222/srv/pg/", "me", "Backup.example", 2222, b"/srv/pg"),
        ("sftp://u1-sub@host/~/backups", "u1-sub", "host", None, b"backups"),
        ("sftp://me@domain@host/x", "me@domain", "host", None, b"/x"),
        ("sftp://[fe80::1%eth0]:22/x", None, "fe80::1%eth0", 22, b"/x"),
        ("sftp://host/with%20space%2f%C3%BC//x", None, "host", None, "/with space/ü/x".encode()),
        ("sftp://host/a/../b", None, "host", None, b"/b"),
    ],
)
def test_urls_say_who_where_and_which_directory(
    url: str, user: str | None, host: str, port: int | None, root: bytes
) -> None:
    address = parse_sftp_address(StoreSettings(url=url))
    assert (address.ssh.user, address.ssh.host, address.ssh.port, address.root) == (user, host, port, root)
    assert address.url == url


@pytest.mark.parametrize(
    "url",
    [
        *["sftp://", "sftp://host", "sftp://host/", "sftp:///path", "sftp://@host/x", "sftp://host:/x"],
        *["sftp://host:0/x", "sftp://host:65536/x", "sftp://host:ssh/x", "sftp://host/x?y", "sftp://host/x#y"],
        *["sftp://-oProxyCommand=x/y", "sftp://-l@host/x", "sftp://a b/x", "sftp://host/a%00"],
    ],
)
def test_urls_that_name_no_directory_of_a_server_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        parse_sftp_address(StoreSettings(url=url))


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="holds a password") as raised:
        parse_sftp_address(StoreSettings(url="sftp://me:geheim@host/x"))
    assert "geheim" not in f"{raised.value} {raised.value.hint}"
    assert "ssh-keygen" in str(raised.value.hint)


def test_ssh_is_told_what_was_said_and_no_more() -> None:
    assert SshSettings(host="host").words == ["ssh", "host"]
    settings = StoreSettings(
        url="sftp://me@host:22/x", identity_file="/k ey", known_hosts_file="/kno wn%", ssh_config_file="/c"
    )
    words = parse_sftp_address(settings).ssh.words
    options = ["-F", "/c", "-i", "/k ey", "-o", "IdentitiesOnly=yes", "-o", 'UserKnownHostsFile="/kno wn%%"']
    assert words == ["ssh", *options, "-p", "22", "-l", "me", "host"]


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("Host key verification failed.\r\n", NotPermitted, "not known"),
        (
            "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\nHost key verification failed.",
            NotPermitted,
            "not the one",
        ),
        ("me@host: Permission denied (publickey).\r\n", NotPermitted, "Permission denied \\(publickey\\)"),
        ("subsystem request failed on channel 0\n", Refused, "offers no SFTP"),
        ("ssh: Could not resolve hostname host: Name or service not known\n", StoreUnreachable, "resolve hostname"),
        ("ssh: connect to host host port 22: Connection refused\r\n", StoreUnreachable, "refused"),
        ("", StoreUnreachable, "ssh ended with status 255"),
    ],
)
def test_the_words_of_ssh_become_errors_of_ours(said: str, kind: type[PghavenError], message: str) -> None:
    error = explain_ssh("could not connect to", said, 255, SshSettings(host="host", identity_file="/a b"))
    with pytest.raises(kind, match=message):
        raise error
    if "Permission" in said or "not known" in message:
        command = str(error.hint).split(": ", 1)[1]
        assert shlex.split(command) == ["ssh", "-i", "/a b", "-o", "IdentitiesOnly=yes", "host"]


def test_buffers_are_cut_into_pieces_of_one_length() -> None:
    content = [b"", b"abc", bytearray(b"defgh"), memoryview(array.array("H", [0x6A69, 0x6C6B])), b""]
    pieces = list(cut(content, 4))
    assert [b"".join(piece) for piece, _ in pieces] == [b"abcd", b"efgh", b"ijkl"]
    assert [size for _, size in pieces] == [4, 4, 4]
    assert list(cut([], 4)) == list(cut([b""], 4)) == []


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def status(code: int, words: bytes = b"") -> Reply:
    return Reply(101, struct.pack(">I", code) + (string(words) + string(b"") if words else b""))


def test_replies_say_what_was_asked_or_fail_with_the_words_of_the_server() -> None:
    wire.check(status(0))
    assert wire.parse_handle(Reply(102, string(b"h"))) == b"h"
    assert wire.parse_data(Reply(103, string(b"data"))) == b"data"
    assert wire.parse_data(status(1)) == b""
    assert wire.find_attributes(status(2)) is None
    assert wire.parse_entries(status(1)) is None
    for parse in (wire.check, wire.parse_handle, wire.parse_data, wire.find_attributes, wire.parse_entries):
        with pytest.raises(wire.Failed, match="Failure") as raised:
            parse(status(4, b"Failure"))
        assert raised.value.code == wire.Status.FAILURE
    with pytest.raises(wire.Failed, match="status 4"):
        wire.check(status(4))


def test_attributes_are_read_with_and_without_each_part() -> None:
    everything = struct.pack(">IQIIIII", 0x8000000F, 5, 1, 2, 0o100640, 10, 20) + struct.pack(">I", 1)
    names = struct.pack(">I", 2) + b"".join(
        [
            *[string(b"x"), string(b"-rw x"), everything, string(b"k"), string(b"v")],
            *[string(b"y"), string(b""), struct.pack(">II", 0x4, 0o040755)],
        ]
    )
    entries = wire.parse_entries(Reply(104, names))
    assert entries is not None
    (x, first), (y, second) = entries
    assert (x, first.size_bytes, first.modified, first.is_file) == (b"x", 5, 20, True)
    assert (y, second.size_bytes, second.modified, second.is_directory) == (b"y", None, None, True)


@pytest.mark.parametrize(
    "reply", [Reply(103, string(b"data")), Reply(102, b"\0\0\0\5abc"), Reply(102, b"\0"), Reply(250, b"")]
)
def test_what_is_no_reply_to_the_question_is_no_sftp(reply: Reply) -> None:
    with pytest.raises(wire.NotSftp):
        wire.parse_handle(reply)


def test_a_greeting_of_another_version_is_no_sftp() -> None:
    assert wire.parse_hello(2, struct.pack(">I", 3) + string(b"fsync@openssh.com") + string(b"1")) == {wire.FSYNC}
    for kind, rest in ((2, struct.pack(">I", 6)), (101, struct.pack(">I", 3)), (2, b"")):
        with pytest.raises(wire.NotSftp):
            wire.parse_hello(kind, rest)
