"""Three members under Patroni, one etcd and one repository, each in a network namespace of its own.

The one idea: everything is what it is in production (Patroni's own program, etcd's, PostgreSQL's, our command line in
``archive_command``, ``restore_command`` and the hooks); only the times are short and the files small.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pghaven.repository.backups import BackupCatalog
from pghaven.repository.repository import Repository, create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.probe import probe_server
from pghaven.server.programs import Programs
from pghaven.store.open import create_root
from pghaven.wal.commands import render_archive_command, render_restore_command
from tests.chaos.clocks import render_environment, set_offset
from tests.chaos.network import Host, network
from tests.support.commands import PghavenCommand
from tests.support.places import own, plain_user, run_as_plain
from tests.support.protected import lineage_of
from tests.support.waiting import wait_until

SCOPE = "shop"
NODES = ("n1", "n2", "n3")
TTL, LOOP, RETRY = 20, 2, 3
_DISK_BYTES = 400 << 20


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The programs a cluster is made of."""

    patroni: str
    etcd: str
    postgres: Programs
    pghaven: PghavenCommand


@dataclass(kw_only=True)
class Member:
    """One node: its namespace, its directory (a file system of its own), its Patroni while that runs."""

    name: str
    host: Host
    place: Path
    engine: Engine
    process: subprocess.Popen[bytes] | None = None
    clock_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_directory(self) -> Path:
        return self.place / "data"

    @property
    def config(self) -> Path:
        return self.place / "pghaven.toml"

    @property
    def log(self) -> Path:
        return self.place.parent / f"{self.name}.log"

    @property
    def conninfo(self) -> str:
        return f"host={self.host.address} port=5432 user=postgres dbname=postgres connect_timeout=3"

    def start(self) -> None:
        words = as_plain(self.host, [self.engine.patroni, str(self.place / "patroni.yml")])
        libraries = Path(self.engine.postgres.bin_dir).parent / "lib"
        environment = {"PATH": "/usr/bin:/bin", "HOME": plain_user().home, "LANG": "C.UTF-8"}
        if (libraries / "libpq.so.5").exists():
            environment["LD_LIBRARY_PATH"] = str(libraries)
        environment.update(self.clock_environment)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def make_clock(self) -> None:
        """Have what is started from now on ask a clock that ``set_clock`` sets."""
        self.set_clock(0)
        self.clock_environment = render_environment(self.place / "clock")

    def set_clock(self, seconds: int) -> None:
        """So far ahead of the time, or behind it where negative, at once."""
        set_offset(self.place / "clock", seconds)

    def ask(self, path: str = "/patroni") -> tuple[int, dict[str, Any]]:
        """What Patroni's REST interface says; status 0 for no answer."""
        try:
            with urllib.request.urlopen(f"http://{self.host.address}:8008{path}", timeout=2) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
            try:
                return error.code, json.loads(body or b"{}")
            except ValueError:
                return error.code, {}
        except (OSError, ValueError):
            return 0, {}

    @contextlib.contextmanager
    def connect(self, **options: Any) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with psycopg.connect(self.conninfo, autocommit=True, **options) as connection:
            yield connection

    def value(self, query: str) -> Any:
        """The first column of the first row; None when the server cannot be asked."""
        try:
            with self.connect(options="-c statement_timeout=5s") as connection:
                row = connection.execute(query.encode()).fetchone()
                return None if row is None else row[0]
        except psycopg.Error:
            return None

    def read_timeline(self) -> int:
        """Of a primary. Raises psycopg.Error where it is none (any more)."""
        with self.connect() as connection:
            row = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
        assert row is not None
        return int(row[0][:8], 16)

    def signal_all(self, number: signal.Signals) -> None:
        """To everything that runs on this host."""
        for pid in self.host.list_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """As when the power goes: Patroni, the server, all they started."""
        while self.host.list_pids():
            self.signal_all(signal.SIGKILL)
            if self.process is not None:
                self.process.wait()
                self.process = None

    def wipe(self) -> None:
        """Lose the data directory."""
        shutil.rmtree(self.data_directory, ignore_errors=True)


@dataclass(kw_only=True)
class Cluster:
    """``members`` in the order of ``NODES``. ``repository_directory`` is what they all archive to."""

    place: Path
    engine: Engine
    members: list[Member]
    etcd_host: Host
    etcd: subprocess.Popen[bytes] | None = None
    _repository: Repository | None = None
    system_identifier: int = 0
    segment_size: int = 1 << 20
    durability: str = field(default="async")

    @property
    def repository_directory(self) -> Path:
        return self.place / "repository"

    @property
    def repository(self) -> Repository:
        assert self._repository is not None
        return self._repository

    @property
    def archive(self) -> WalArchive:
        return WalArchive(self.repository, "main", self.system_identifier, self.segment_size)

    @property
    def catalog(self) -> BackupCatalog:
        return BackupCatalog(self.repository, "main")

    # -- coming and going -------------------------------------------------------------------------------------------

    def start_etcd(self) -> None:
        address = self.etcd_host.address
        with (self.place / "etcd.log").open("ab") as log:
            self.etcd = subprocess.Popen(
                as_plain(
                    self.etcd_host,
                    [
                        *(self.engine.etcd, "--data-dir", str(self.place / "etcd"), "--name", "e"),
                        *("--listen-client-urls", f"http://{address}:2379"),
                        *("--advertise-client-urls", f"http://{address}:2379"),
                        *("--listen-peer-urls", "http://127.0.0.1:2380"),
                        *("--initial-advertise-peer-urls", "http://127.0.0.1:2380"),
                        *("--initial-cluster", "e=http://127.0.0.1:2380"),
                    ],
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "ETCD_UNSUPPORTED_ARCH": "arm64"},
                start_new_session=True,
            )

    def stop_etcd(self) -> None:
        if self.etcd is not None:
            self.etcd.kill()
            self.etcd.wait()
            self.etcd = None

    def set_up(self) -> None:
        """From nothing to a healthy cluster with a repository that it archives to."""
        own(self.place)
        for member in self.members:
            self._prepare(member)
        self.start_etcd()
        self.members[0].start()
        wait_until(lambda: self.members[0].ask("/primary")[0] == 200, "the first primary", 60)
        wait_until(lambda: self.members[0].value("SELECT NOT pg_is_in_recovery()"), "its end of recovery", 60)
        self.repository_directory.mkdir()
        with self.members[0].connect() as connection:
            facts = probe_server(connection)
        repository = create_repository(create_root(f"file://{self.repository_directory}"))
        repository.register_lineage("main", lineage_of(facts), new_lineage=False)
        self._repository = repository
        self.system_identifier, self.segment_size = facts.system_identifier, facts.wal_segment_size
        user = plain_user()
        subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", str(self.repository_directory)], check=True)
        for member in self.members[1:]:
            member.start()
        self.wait_healthy(120)

    def _prepare(self, member: Member) -> None:
        member.place.mkdir()
        options = f"size={_DISK_BYTES},mode=0755,uid={plain_user().uid},gid={plain_user().gid}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, f"chaos-{member.name}", str(member.place)], check=True)
        member.config.write_text(
            f'[repository.main]\nurl = "file://{self.repository_directory}"\n\n[cluster.main]\n'
            f'data_directory = "{member.data_directory}"\n'
            f'conninfo = "{member.conninfo}"\n'
            f'pg_bin = "{self.engine.postgres.bin_dir}"\nstate_directory = "{member.place}/state"\n'
            f'program = {json.dumps(" ".join(self.engine.pghaven.words))}\nprocesses = 1\nwal_timeout = "10s"\n'
            f"wal_nodes = {json.dumps([one.conninfo for one in self.members if one is not member])}\n"
            "[cluster.main.retention]\ncount = 2\n"
        )
        (member.place / "patroni.yml").write_text(json.dumps(self._render(member), indent=1))
        for path in (member.config, member.place / "patroni.yml"):
            own(path)

    def _render(self, member: Member) -> dict[str, Any]:
        words, config = self.engine.pghaven.words, str(member.config)
        hook = " ".join([*words, "--config", config, "ha", "hook"])
        node = f"--node {member.name}"
        network_of = f"{member.host.address.rpartition('.')[0]}.0/24"
        parameters = {
            "archive_mode": "on",
            "archive_command": render_archive_command(words, config, "main"),
            "wal_log_hints": "on",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 40,
            "wal_sender_timeout": "5s",
            "wal_receiver_timeout": "5s",
            "tcp_user_timeout": "5s",
            "max_wal_size": "48MB",
            "min_wal_size": "16MB",
            "wal_keep_size": "16MB",
            "max_slot_wal_keep_size": "64MB",
            "jit": "off",
            "huge_pages": "off",
            "dynamic_shared_memory_type": "mmap",
            "log_line_prefix": "%m [%p] %q%a ",
        }
        return {
            "scope": SCOPE,
            "name": member.name,
            "restapi": {"listen": f"{member.host.address}:8008", "connect_address": f"{member.host.address}:8008"},
            "etcd3": {"host": f"{self.etcd_host.address}:2379"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": LOOP,
                    "retry_timeout": RETRY,
                    "maximum_lag_on_failover": 1 << 20,
                    "check_timeline": True,
                    "primary_start_timeout": 20,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": parameters},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums", {"wal-segsize": "1"}],
            },
            "postgresql": {
                "listen": f"{member.host.address}:5432",
                "connect_address": f"{member.host.address}:5432",
                "data_dir": str(member.data_directory),
                "bin_dir": self.engine.postgres.bin_dir,
                "pgpass": str(member.place / "pgpass"),
                "authentication": {
                    name: {"username": "postgres", "password": "x"} for name in ("superuser", "replication", "rewind")
                },
                "pg_hba": [
                    "local all all trust",
                    f"host all all {network_of} trust",
                    f"host replication all {network_of} trust",
                ],
                "parameters": {"unix_socket_directories": str(member.place)},
                "recovery_conf": {"restore_command": render_restore_command(words, config, "main", None)},
                "create_replica_methods": ["pghaven_repo", "basebackup"],
                "pghaven_repo": {
                    "command": f"{hook} replica main --node {member.name}",
                    "keep_data": True,
                    "no_leader": True,
                },
                "basebackup": [{"checkpoint": "fast"}],
                "pre_promote": f"{hook} pre-promote main --node {member.name}",
                "callbacks": dict.fromkeys(("on_role_change", "on_start"), f"{hook} role-change main {node}"),
            },
            "tags": {},
        }

    def tear_down(self) -> None:
        for member in self.members:
            member.signal_all(signal.SIGCONT)
            member.kill()
        self.stop_etcd()
        for member in self.members:
            subprocess.run(["umount", "-l", str(member.place)], capture_output=True, check=False)

    # -- what it is like --------------------------------------------------------------------------------------------

    def find_leader(self) -> Member | None:
        """Who says that it is the primary, and holds the lock."""
        return next((one for one in self.members if one.ask("/primary")[0] == 200), None)

    def await_leader(self) -> Member:
        """The one, also where it steps down and up just now because it has noticed late what had happened."""
        return wait_until(self.find_leader, "a primary", 60)

    def await_turns(self) -> None:
        """Until each Patroni has come to its next turn. One whose clock was set back waits for the time that it was, or
        for its lease to end; what happens to it before that it does not notice (in Patroni, ``schedule_next_run``)."""
        for one in self.members:
            before = one.ask()[1].get("dcs_last_seen")
            wait_until(lambda on=one, was=before: on.ask()[1].get("dcs_last_seen") != was, f"a turn of {one.name}", 60)

    def list_replicas(self) -> list[Member]:
        leader = self.find_leader()
        return [one for one in self.members if one is not leader]

    def find_flaw(self) -> str | None:
        """What keeps the cluster from being healthy; None if it is."""
        leaders = [one for one in self.members if one.ask("/primary")[0] == 200]
        if len(leaders) != 1:
            return f"{len(leaders)} leaders"
        (leader,) = leaders
        timeline = leader.ask()[1].get("timeline")
        if leader.value("SELECT pg_is_in_recovery()") is not False:
            return f"{leader.name} is in recovery"
        for member in self.members:
            if member is leader:
                continue
            status, told = member.ask("/replica")
            if status != 200 or told.get("timeline") != timeline or told.get("replication_state") != "streaming":
                return f"{member.name}: {status} {told.get('state')} {told.get('replication_state')} timeline " + str(
                    told.get("timeline")
                )
        return self._find_unsafe()

    def _find_unsafe(self) -> str | None:
        """Where no standby is synchronous yet by etcd's own word, nobody may take over. Members answer by what they
        knew of it a loop ago."""
        if self.durability == "async":
            return None
        sync = self._read_key("sync")
        if not sync.get("sync_standby"):
            return "no standby is synchronous"
        is_quorum = bool(sync.get("quorum"))
        return None if is_quorum is (self.durability == "quorum") else "the way of being synchronous is not changed yet"

    def _read_key(self, name: str) -> dict[str, Any]:
        """What Patroni keeps in etcd under a name; empty where there is nothing, or etcd does not answer."""
        key = base64.b64encode(f"/service/{SCOPE}/{name}".encode()).decode()
        url = f"http://{self.etcd_host.address}:2379/v3/kv/range"
        try:
            with urllib.request.urlopen(url, data=json.dumps({"key": key}).encode(), timeout=2) as answer:
                found = json.loads(answer.read()).get("kvs")
            value = json.loads(base64.b64decode(found[0]["value"])) if found else {}
        except (OSError, ValueError, KeyError):
            return {}
        return value if isinstance(value, dict) else {}

    def wait_healthy(self, seconds: float) -> None:
        """One leader, the others streaming on its timeline, with nobody's hand."""
        flaw: list[str | None] = [""]

        def is_healthy() -> bool:
            flaw[0] = self.find_flaw()
            return flaw[0] is None

        try:
            wait_until(is_healthy, "a healthy cluster", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {flaw[0]}") from None

    def set_durability(self, name: str) -> None:
        """One of "async", "sync", "quorum", "strict"; waits until the primary acts on it."""
        mode: dict[str, object] = {"async": "off", "sync": "on", "quorum": "quorum", "strict": "on"}
        leader = self.find_leader()
        assert leader is not None
        body = {"synchronous_mode": mode[name], "synchronous_mode_strict": name == "strict"}
        request = urllib.request.Request(
            f"http://{leader.host.address}:8008/config", data=json.dumps(body).encode(), method="PATCH"
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
        self.durability = name
        wanted = name != "async"
        query = "SELECT current_setting('synchronous_standby_names') <> ''"
        wait_until(lambda: leader.value(query) is wanted, f"durability {name}", 60)
        self.wait_healthy(60)

    def run_on(self, member: Member, *words: str, tells: tuple[int, ...] = (0, 3)) -> str:
        """Our command on a node, by its clock; what it writes. ``tells`` are the exit statuses that are well."""
        command = [*self.engine.pghaven.words, "--config", str(member.config), *words]
        done = run_as_plain(command, timeout=180, env={**os.environ, **member.clock_environment})
        assert done.returncode in tells, f"{' '.join(words)} on {member.name}: {done.stderr.strip()[-600:]}"
        return done.stdout

    def drop_leader_key(self) -> None:
        """What its end would do: the lock of a leader that is dead for certain."""
        self._etcdctl("del", f"/service/{SCOPE}/leader")

    def _etcdctl(self, *words: str) -> None:
        program = shutil.which("etcdctl")
        if program is None:
            key = base64.b64encode(words[1].encode()).decode()
            request = urllib.request.Request(
                f"http://{self.etcd_host.address}:2379/v3/kv/deleterange",
                data=json.dumps({"key": key}).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert answer.status == 200
            return
        subprocess.run(
            [program, "--endpoints", f"http://{self.etcd_host.address}:2379", *words],
            env={**os.environ, "ETCDCTL_API": "3"},
            check=True,
            capture_output=True,
        )


def as_plain(host: Host, words: list[str]) -> list[str]:
    """A command on a host as the servers' user, that ends with whoever started it."""
    user = plain_user()
    return host.words(
        *("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups", "--pdeathsig", "KILL", "--"),
        *words,
    )


@contextlib.contextmanager
def running_cluster(
    place: Path, engine: Engine, *, prepare: Callable[[Cluster], None] | None = None
) -> Iterator[Cluster]:
    """A healthy cluster that ends with the block; its logs stay in ``place``."""
    with network([*NODES, "e"]) as hosts:
        members = [Member(name=name, host=hosts[name], place=place / name, engine=engine) for name in NODES]
        cluster = Cluster(place=place, engine=engine, members=members, etcd_host=hosts["e"])
        try:
            if prepare is not None:
                prepare(cluster)
            cluster.set_up()
            yield cluster
        finally:
            cluster.tear_down()
