"""An SFTP store's promises under everything that happens to connections, servers, disks and keys."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import (
    NotPermitted,
    ObjectExists,
    ObjectMissing,
    PghavenError,
    Refused,
    StoreFull,
    StoreUnreachable,
)
from pghaven.store.open import open_store
from pghaven.store.reserve import PIECES, ReservedStore, keep_reserve
from pghaven.store.sftp import SftpStore
from tests.fault.tracing import PROJECT, kills, needs_strace, read_calls
from tests.fault.volumes import memory_volume, needs_root
from tests.support.forwarder import Forwarder, forwarding
from tests.support.moving import list_files
from tests.support.places import own
from tests.support.sftpserver import SFTP_SERVER, SftpServer, running_server
from tests.support.waiting import PATIENCE_SECONDS, wait_until

NAME = "clusters/main/object"
CONTENT = [b"head", bytes(range(256)) * 300, b"tail"]
WHOLE = b"".join(CONTENT)
LARGE = bytes(8 << 20)


@pytest.fixture
def directory(sftp_server: SftpServer) -> Path:
    return sftp_server.make_directory()


@pytest.fixture
def store(sftp_server: SftpServer, directory: Path) -> Iterator[SftpStore]:
    store = sftp_server.open_store(directory)
    yield store
    store.close()


@pytest.fixture
def forwarder(sftp_server: SftpServer) -> Iterator[Forwarder]:
    with forwarding(sftp_server.port) as forwarder:
        sftp_server.know(forwarder.port)
        yield forwarder


def leftovers(root: Path) -> list[Path]:
    return list_files(root, ".tmp-*")


def is_whole_or_absent(root: Path) -> bool:
    """Whether the object is there, seen from the far side. It must be whole then, and nothing else may be listed."""
    store = open_store(f"file://{root}")
    found = store.find(NAME)
    assert [info.name for info in store.list("")] == ([] if found is None else [NAME])
    assert found is None or store.read(NAME) == WHOLE
    return found is not None


# What happens at the far side, call by call

FAR_CALLS = "mkdir,write,fsync,link,linkat,rename,renameat,unlink,chmod,fchmod"


class TracedServer:
    """A server whose sftp-server runs under strace, which may inject a failure or a kill."""

    def __init__(self, server: SftpServer) -> None:
        self.server = server
        self.trace = server.place / "trace"
        self.inject = server.place / "inject"

    def open_store(self, root: Path, inject: str | None = None) -> SftpStore:
        self.trace.unlink(missing_ok=True)
        self.inject.write_text(f"-e inject={inject}" if inject else "")
        self.inject.chmod(0o644)
        return self.server.open_store(root)

    def steps(self, store: SftpStore) -> list[str]:
        """What the server did for this store, which is closed; writes to descriptor 1 are its replies.

        The server forbids to look into its memory, so that there are no paths, but descriptors.
        """
        store.close()
        wait_until(lambda: not self.server.list_sessions(), "the end of the session")
        calls = [call for call in read_calls(self.trace) if call.arguments.partition(",")[0] != "1"]
        return [f"{call.name} {call.arguments[0]}" if call.name in ("write", "fsync") else call.name for call in calls]


@pytest.fixture(scope="module")
def traced_server() -> Iterator[TracedServer]:
    script = "subsystem"
    with running_server(script) as server:
        path = server.place / script
        strace = f"strace -f -qq -o {server.place}/trace -e trace={FAR_CALLS}"
        path.write_text(f'#!/bin/sh\nexec {strace} $(cat "{server.place}/inject") {SFTP_SERVER}\n')
        path.chmod(0o755)
        yield TracedServer(server)


TEMPORARY, DIRECTORY = 3, 4


@needs_strace
def test_content_and_name_are_durable_before_success(traced_server: TracedServer) -> None:
    """And the names of new directories before anything is put into them."""
    root = traced_server.server.make_directory()
    store = traced_server.open_store(root)
    store.create(NAME, CONTENT)
    assert traced_server.steps(store) == [
        *["mkdir", "fsync 3", "chmod", "mkdir", "fsync 3", "chmod"],
        f"write {TEMPORARY}",
        f"fsync {TEMPORARY}",
        "fchmod",
        "link",
        "unlink",
        f"fsync {DIRECTORY}",
    ]


@needs_strace
def test_a_server_that_dies_before_any_call_leaves_a_whole_object_or_none(traced_server: TracedServer) -> None:
    root = traced_server.server.make_directory()
    store = traced_server.open_store(root)
    store.create(NAME, CONTENT)
    assert len(traced_server.steps(store)) > 10
    calls = [call for call in read_calls(traced_server.trace) if call.name != "write"]
    outcomes = Counter(try_amid_death(traced_server, injection) for injection in kills(calls))
    assert outcomes.keys() == {"exists", "created", "unreachable"}


def try_amid_death(traced_server: TracedServer, injection: str) -> str:
    """The store gets one more try, which the server survives no longer; then, with a server that lives, all is well."""
    root = traced_server.server.make_directory()
    store = traced_server.open_store(root, injection)
    try:
        store.create(NAME, CONTENT)
        outcome = "created"
    except ObjectExists:
        outcome = "exists"
    except StoreUnreachable:
        outcome = "unreachable"
    was_there = is_whole_or_absent(root)
    assert was_there or outcome == "unreachable"
    traced_server.inject.write_text("")
    try:
        store.create(NAME, CONTENT)
    except ObjectExists:
        assert was_there
        store.confirm(NAME)
    assert is_whole_or_absent(root)
    assert all(not path.stat().st_mode & 0o1000 for path in root.rglob("*") if path.is_dir())
    store.remove_leftovers(datetime.now(UTC) + timedelta(days=1))
    assert leftovers(root) == []
    store.close()
    return outcome


@needs_strace
@pytest.mark.parametrize(
    ("injection", "message"),
    [
        ("fsync:error=EIO:when=1", "Failure"),
        ("fsync:error=EIO:when=2", "Failure"),
        ("link:error=EPERM", "Permission denied"),
        ("link:error=EOPNOTSUPP", "Failure"),
    ],
)
def test_what_the_far_disk_refuses_is_no_success(traced_server: TracedServer, injection: str, message: str) -> None:
    root = traced_server.server.make_directory()
    os.makedirs(root / "clusters" / "main")
    for path in (root / "clusters", root / "clusters" / "main"):
        own(path)
    store = traced_server.open_store(root, injection)
    with pytest.raises((StoreUnreachable, NotPermitted), match=message):
        store.create(NAME, CONTENT)
    assert leftovers(root) == []
    store.close()


@needs_strace
def test_a_directory_that_cannot_be_opened_for_once_is_no_success(traced_server: TracedServer) -> None:
    """Its entries could not be made durable; the last thing that is opened for an object is its directory."""

    def open_store(when: int) -> SftpStore:
        root = traced_server.server.make_directory()
        for path in (root / "clusters", root / "clusters" / "main"):
            path.mkdir()
            own(path)
        return traced_server.open_store(root, f"openat:error=EMFILE:when={when} -e trace=openat,fsync")

    store = open_store(9999)
    store.create(NAME, CONTENT)
    opened = traced_server.steps(store).count("openat")
    store = open_store(opened)
    with pytest.raises(StoreUnreachable, match="Failure"):
        store.create(NAME, CONTENT)
    assert store.find(NAME) is None
    store.create(NAME, CONTENT)
    assert traced_server.steps(store)[-1] == f"fsync {DIRECTORY}"


# The connection


@pytest.mark.parametrize("passed", [0, 100, 4000, 6000, 9000, 40000, 79000])
def test_a_connection_cut_at_any_byte_leaves_a_whole_object_or_none(
    sftp_server: SftpServer, directory: Path, forwarder: Forwarder, passed: int
) -> None:
    store = sftp_server.open_store(directory, port=forwarder.port)
    store.close()
    forwarder.cut_after = passed
    try:
        store.create(NAME, CONTENT)
    except ObjectExists:
        assert is_whole_or_absent(directory)
    except StoreUnreachable as error:
        assert str(forwarder.port) in str(error)
    else:
        raise AssertionError("more bytes passed than were let through")
    forwarder.cut_after = None
    if not is_whole_or_absent(directory):
        store.create(NAME, CONTENT)
    assert store.read(NAME) == WHOLE
    store.close()


def test_a_call_whose_connection_is_lost_is_made_again_over_another(
    sftp_server: SftpServer, directory: Path, forwarder: Forwarder
) -> None:
    store = sftp_server.open_store(directory, port=forwarder.port)
    store.close()  # after so few bytes that it is not the one to be held
    forwarder.hold_after = 1 << 20
    failures: list[BaseException] = []

    def create() -> None:
        try:
            store.create("other", [LARGE])
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=create)
    thread.start()
    assert forwarder.is_holding.wait(PATIENCE_SECONDS)
    forwarder.hold_after = None
    forwarder.cut_all()
    thread.join()
    assert failures == []
    assert store.read("other") == LARGE
    assert forwarder.connections == 3
    store.close()


def test_connections_that_ended_while_idle_are_replaced_unnoticed(
    sftp_server: SftpServer, directory: Path, forwarder: Forwarder
) -> None:
    store = sftp_server.open_store(directory, port=forwarder.port)
    store.create("a", [b"x"])
    forwarder.cut_all()
    assert store.read("a") == b"x"
    store.close()


def test_a_server_that_is_gone_is_unreachable_and_usable_when_it_is_back() -> None:
    with running_server() as server:
        store = server.open_store(server.make_directory())
        store.create("a", [b"x"])
        server.stop()
        calls: list[Callable[[], object]] = [
            lambda: store.find("a"),
            lambda: store.read("nowhere"),
            lambda: list(store.list("")),
            lambda: store.delete("a"),
            lambda: store.create("b", [b"y"]),
        ]
        for call in calls:
            with pytest.raises(StoreUnreachable, match="refused") as raised:
                call()
            assert not isinstance(raised.value, ObjectMissing)
            assert "Try it by hand: ssh " in str(raised.value.hint)
        server.start()
        assert store.read("a") == b"x"
        store.close()


def test_a_server_that_falls_silent_is_not_waited_for_without_end(sftp_server: SftpServer, directory: Path) -> None:
    with running_server() as server:
        store = server.open_store(
            server.make_directory(), answer_seconds=5.0
        )  # enough for a slow machine to connect in
        sessions = server.list_sessions()
        for pid in sessions:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(StoreUnreachable, match="no answer for 5 seconds"):
            store.find("a")
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
        assert store.find("a") is None
        store.close()


INTERRUPTED = """
import pickle, sys
store = pickle.loads(bytes.fromhex(sys.argv[1]))
store.find("a")
print("ready", flush=True)
try:
    store.create("large", [bytes(8 << 20)])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_ends_a_transfer_that_hangs(
    sftp_server: SftpServer, directory: Path, forwarder: Forwarder
) -> None:
    store = sftp_server.open_store(directory, port=forwarder.port)
    store.close()
    forwarder.hold_after = 1 << 20
    command = [sys.executable, "-c", INTERRUPTED, pickle.dumps(store).hex()]
    child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert forwarder.is_holding.wait(PATIENCE_SECONDS)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=PATIENCE_SECONDS)[0] == "ready\ninterrupted\n"
    assert child.returncode == 0
    assert os.listdir(directory) != ["large"]


def test_connections_end_with_their_process(sftp_server: SftpServer, directory: Path, store: SftpStore) -> None:
    code = "import pickle, sys, os, signal; store = pickle.loads(bytes.fromhex(sys.argv[1])); store.find('a')\n"
    for end in ("", "os.kill(os.getpid(), signal.SIGKILL)"):
        store.close()
        before = set(sftp_server.list_sessions())
        subprocess.run(
            [sys.executable, "-c", code + end, pickle.dumps(store).hex()], cwd=PROJECT, timeout=PATIENCE_SECONDS
        )
        wait_until(lambda before=before: set(sftp_server.list_sessions()) <= before, "the end of the connection")


# Several writers

RACER = """
import pickle, sys
from pghaven.errors import ObjectExists
store = pickle.loads(bytes.fromhex(sys.argv[1]))
store.find("a")
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    try:
        store.create(f"race/{number % 7}/{number}", [sys.argv[2].encode(), b" wrote this"])
    except ObjectExists:
        continue
    print(number)
"""


def test_of_racing_processes_exactly_one_wins_each_name(store: SftpStore, directory: Path) -> None:
    """One of them writes at the far side itself, as root perhaps, so the directories are there."""
    for number in range(7):
        store.create(f"race/{number}/first", [b""])
    local = open_store(f"file://{directory}")
    shared = [pickle.dumps(store).hex(), pickle.dumps(store).hex(), pickle.dumps(local).hex()]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, pickled, str(number)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, pickled in enumerate(shared)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.communicate(timeout=PATIENCE_SECONDS)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert Counter(int(number) for numbers in won for number in numbers) == Counter(range(40))
    for identity, numbers in enumerate(won):
        for number in numbers:
            assert store.read(f"race/{int(number) % 7}/{number}") == f"{identity} wrote this".encode()


# The far disk


@needs_root
@pytest.mark.parametrize(("options", "message"), [("size=1m", "no space left"), ("nr_inodes=4", "no space left")])
def test_a_full_disk_is_named_and_leaves_nothing(
    sftp_server: SftpServer, directory: Path, options: str, message: str
) -> None:
    with memory_volume(directory / "small", options) as small:
        own(small)
        store = sftp_server.open_store(small)
        store.create("a", [b"x"])
        with pytest.raises(StoreUnreachable, match=message):
            for number in range(8):
                store.create(f"b{number}", [bytes(400_000)])
        assert leftovers(small) == []
        assert store.read("a") == b"x"
        store.close()


@needs_root
def test_a_record_finds_room_in_the_reserve_of_a_full_disk(sftp_server: SftpServer, directory: Path) -> None:
    with memory_volume(directory / "small", "size=40m") as small:
        own(small)
        store = sftp_server.open_store(small)
        keep_reserve(store, "reserve/")
        assert len(store.list_children("reserve/")) == PIECES
        for size in (1 << 20, 1 << 12):
            with pytest.raises(StoreFull):
                for number in range(1 << 20):
                    store.create(f"filling/{size}-{number}", [bytes(size)])
        told: list[str] = []
        reserved = ReservedStore(store, "reserve/", SYSTEM_CLOCK, lambda: told.append("full"))
        for number in range(40):
            reserved.create(f"records/{number}/intent", [b"x"])
        assert told == ["full"]
        assert 0 < len(store.list_children("reserve/")) < PIECES
        with pytest.raises(StoreFull):
            reserved.create("large", [bytes(1 << 20)])
        store.close()


@needs_root
def test_a_disk_mounted_read_only_is_not_permitted(sftp_server: SftpServer, directory: Path) -> None:
    with memory_volume(directory / "small", "size=1m") as small:
        own(small)
        store = sftp_server.open_store(small)
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(NotPermitted) as raised:
            store.create("a", [b"x"])
        assert "read-only" in str(raised.value.hint)
        store.close()


@needs_root
def test_an_empty_mount_point_proves_nothing_absent(sftp_server: SftpServer, directory: Path) -> None:
    with memory_volume(directory / "small", "size=1m") as small:
        own(small)
        store = sftp_server.open_store(small)
        store.create("a", [b"x"])
        pickled = pickle.dumps(store)
    own(small)
    for seen in (store, pickle.loads(pickled)):
        calls: list[Callable[[], object]] = [
            lambda seen=seen: seen.find("a"),
            lambda seen=seen: seen.read("a"),
            lambda seen=seen: list(seen.list("")),
            lambda seen=seen: seen.create("b", [b""]),
        ]
        for call in calls:
            with pytest.raises(StoreUnreachable, match="another file system"):
                call()
        seen.close()
    assert os.listdir(small) == []


def test_a_root_that_vanished_proves_nothing_absent(store: SftpStore, directory: Path) -> None:
    store.create("a", [b"x"])
    shutil.rmtree(directory)
    for call in (store.find, store.read, store.list_children, store.delete, store.confirm):
        with pytest.raises(StoreUnreachable, match="there is no directory"):
            call("a/" if call == store.list_children else "a")
    with pytest.raises(StoreUnreachable, match="there is no directory"):
        store.create("b", [b"x"])


def test_what_the_far_side_forbids_is_said_and_is_no_absence(store: SftpStore, directory: Path) -> None:
    store.create("a/b", [b"x"])
    (directory / "a").chmod(0)
    calls: list[Callable[[], object]] = [
        lambda: store.read("a/b"),
        lambda: store.find("a/b"),
        lambda: list(store.list("a/")),
        lambda: store.create("a/c", [b""]),
        lambda: store.delete("a/b"),
    ]
    for call in calls:
        with pytest.raises(NotPermitted, match="Permission denied"):
            call()
    (directory / "a").chmod(0o750)
    assert store.read("a/b") == b"x"


def test_symbolic_links_are_refused_and_not_listed(store: SftpStore, directory: Path) -> None:
    store.create("a/b", [b"x"])
    (directory / "c").symlink_to(directory / "a")
    (directory / "d").symlink_to(directory / "a" / "b")
    for name in ("c/b", "d"):
        for call in (store.read, store.find, store.confirm, store.delete, lambda name: store.create(name, [b""])):
            with pytest.raises(Refused, match="symbolic link") as raised:
                call(name)
            assert not isinstance(raised.value, ObjectExists)
    assert [info.name for info in store.list("")] == ["a/b"]
    assert store.list_children("") == ("a/",)


def test_leftovers_go_by_their_age_and_are_counted(store: SftpStore, directory: Path) -> None:
    store.create("a/b", [b"x"])
    old, young = directory / "a" / ".tmp-old", directory / ".tmp-young"
    old.write_bytes(bytes(1000))
    young.write_bytes(bytes(100))
    own(old)
    own(young)
    moment = datetime.now(UTC) - timedelta(days=7)
    os.utime(old, (moment.timestamp() - 60,) * 2)
    assert store.remove_leftovers(moment) == 1000
    assert leftovers(directory) == [young]
    assert store.read("a/b") == b"x"


# Logging in


def test_an_unknown_host_key_is_never_taken(sftp_server: SftpServer, directory: Path, tmp_path: Path) -> None:
    known = tmp_path / "known hosts"
    known.write_text("")
    with pytest.raises(NotPermitted, match="not known to this user") as raised:
        sftp_server.open_store(directory, known_hosts_file=str(known))
    command = str(raised.value.hint).partition("accepting it: ")[2]
    assert shlex.split(command)[:1] == ["ssh"]
    assert f"-p {sftp_server.port}" in command
    assert known.read_text() == ""


def test_another_host_key_than_the_known_one_is_an_alarm(
    sftp_server: SftpServer, directory: Path, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sftp_server.port} {(sftp_server.place / 'user_key.pub').read_text()}")
    before = known.read_text()
    with pytest.raises(NotPermitted, match="not the one that is known") as raised:
        sftp_server.open_store(directory, known_hosts_file=str(known))
    assert "ssh-keygen -R" in str(raised.value.hint)
    assert known.read_text() == before


def test_a_lenient_configuration_of_ssh_does_not_make_it_take_a_key(
    sftp_server: SftpServer, directory: Path, tmp_path: Path
) -> None:
    known, config = tmp_path / "known_hosts", tmp_path / "config"
    known.write_text("")
    config.write_text("Host *\n  StrictHostKeyChecking no\n  RemoteCommand echo hello\n  RequestTTY force\n")
    with pytest.raises(NotPermitted, match="not known to this user"):
        sftp_server.open_store(directory, known_hosts_file=str(known), config_file=str(config))
    assert known.read_text() == ""


def test_the_configuration_of_ssh_tells_how_to_get_there(
    sftp_server: SftpServer, directory: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    ssh = sftp_server.ssh
    config.write_text(
        f"Host backups\n  HostName 127.0.0.1\n  Port {ssh.port}\n  User {ssh.user}\n"
        f"  IdentityFile {ssh.identity_file}\n  UserKnownHostsFile {ssh.known_hosts_file}\n"
        "  RemoteCommand echo hello\n"
    )
    plain = {"user": None, "port": None, "identity_file": None, "known_hosts_file": None}
    store = sftp_server.open_store(directory, host="backups", config_file=str(config), **plain)
    store.create("a", [b"x"])
    assert store.read("a") == b"x"
    store.close()


def test_a_login_that_is_refused_is_not_permitted_and_asks_nothing(
    sftp_server: SftpServer, directory: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    with pytest.raises(NotPermitted, match="Permission denied") as raised:
        sftp_server.open_store(directory, identity_file=str(other))
    assert str(other) in str(raised.value.hint)


def test_a_machine_without_ssh_is_told_what_to_install(
    sftp_server: SftpServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(StoreUnreachable, match='could not run "ssh"') as raised:
        sftp_server.open_store(directory)
    assert "openssh-client" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("subsystem", "error", "message"),
    [
        ("internal-sftp -P hardlink", Refused, "does not offer hardlink@openssh.com"),
        ("internal-sftp -P fsync,hardlink", Refused, "hardlink@openssh.com and fsync@openssh.com"),
        ("/bin/echo welcome to this host", StoreUnreachable, "speaks no SFTP: b'welco'"),
        ("/bin/false", StoreUnreachable, "could not connect"),
    ],
)
def test_a_server_that_will_not_do_says_why(subsystem: str, error: type[PghavenError], message: str) -> None:
    with running_server(subsystem) as server, pytest.raises(error, match=message):
        server.open_store(server.make_directory())


def test_without_statvfs_everything_else_works() -> None:
    with running_server("internal-sftp -P statvfs,limits") as server:
        root = server.make_directory()
        store = server.open_store(root)
        store.create(NAME, CONTENT)
        assert store.read(NAME) == WHOLE
        assert store.free_bytes() is None
        assert store.find("nowhere") is None
        shutil.rmtree(root)
        with pytest.raises(StoreUnreachable, match="there is no directory"):
            store.find("nowhere")
        store.close()


def test_making_a_root_makes_what_is_missing_above_it(sftp_server: SftpServer, directory: Path) -> None:
    address = sftp_server.address(directory / "one" / "two")
    with pytest.raises(StoreUnreachable, match="there is no directory"):
        SftpStore.open(address)
    for _ in range(2):
        store = SftpStore.create_root(address)
        store.close()
    store.create("a", [b"x"])
    assert (directory / "one" / "two" / "a").read_bytes() == b"x"
    store.close()
