"""What can be wrong before anything has failed: one line each, with what to do.

The one idea: each of these has kept a cluster from failing over, or let it do so wrongly, and none of them shows while
all is quiet.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pghaven.errors import PghavenError, ServerUnsuitable
from pghaven.ha.dynamic import find_drift, render_dynamic
from pghaven.ha.etcd import Etcd
from pghaven.ha.files import plan_files
from pghaven.ha.overrides import find_overrides
from pghaven.ha.patroni_file import list_wanted_settings
from pghaven.ha.rest import RestApi
from pghaven.ha.services import unit_name
from pghaven.ha.spec import HaNode, HaSpec, LocalPlaces
from pghaven.ha.units import find_keepers, is_there
from pghaven.ha.view import ClusterView, look
from pghaven.proof.results import CheckResult, fail, good, skip, warn
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.server.identity import OsUser, child_identity
from pghaven.setup.program import find_closed_directory, try_program
from pghaven.units import render_time

ENGINE_VERSION: Final = "4.1."
"""The versions of Patroni that the tests have run with begin so."""
_LEASE_SECONDS_MIN: Final = 20
_WATCHDOG: Final = "/dev/watchdog"
_TRY_SECONDS: Final = 30
_LINE_BYTES_MAX: Final = 4096
# On a standby Patroni keeps what somebody may need after a failover; nobody reads that there.
_SLOTS = """SELECT slot_name FROM pg_replication_slots WHERE NOT active AND NOT temporary
    AND (slot_type = 'physical' OR NOT pg_is_in_recovery()) ORDER BY 1"""
_STALE_FAILOVER_SLOTS = """SELECT slot_name FROM pg_replication_slots
    WHERE failover AND NOT synced AND pg_is_in_recovery() ORDER BY 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HaCheckSettings:
    """``nodes`` are those of this host; ``user`` is the service's, None when it is ourselves."""

    spec: HaSpec
    places: LocalPlaces
    nodes: tuple[HaNode, ...]
    user: OsUser | None
    conninfo: str
    now: datetime


def run_ha_checks(settings: HaCheckSettings, api: RestApi) -> tuple[CheckResult, ...]:
    """Every check; one that cannot be made is a failure or skipped, never silence."""
    results = [*_check_etcd(settings), *_check_program(settings)]
    for node in settings.nodes:
        if not node.witness:
            results += [*_check_files(settings, node), *_check_environment(settings, node)]
            results += _check_units(settings, node)
    results += _check_watchdog(settings)
    try:
        view = look(settings.spec, api, without_dcs=True)
    except ServerUnsuitable as error:
        return (*results, fail("patroni", error.message, error.hint), skip("shared configuration", "nobody answers"))
    results += [*_check_members(settings, api, view), *_check_shared(settings, view)]
    results += [*_check_pause(settings, view), *_check_server(settings, view)]
    return tuple(results)


def _check_etcd(settings: HaCheckSettings) -> Iterator[CheckResult]:
    spec = settings.spec
    hosts, silent = spec.dcs_hosts, Etcd(spec.dcs_hosts, spec.cluster).find_silent()
    for host, reason in silent.items():
        lost = len(silent) * 2 >= len(hosts)
        text = f"{host} does not answer: {reason}"
        hint = "Start etcd there." + (" Without a majority of its members nobody can lead." if lost else "")
        yield fail("etcd", text, hint) if lost else warn("etcd", text, hint)
    if not silent:
        yield good("etcd", f"all {len(hosts)} members answer")
    if len(hosts) < 3:
        text = f"it has {len(hosts)} members, so it survives the loss of none"
        yield warn("etcd", text, "Run it on three hosts; a node with witness = true needs no server.")


def _check_program(settings: HaCheckSettings) -> Iterator[CheckResult]:
    """A service's user that cannot execute the interpreter leaves Patroni bootstrapping for ever, without a word."""
    engine, name = settings.places.engine[0], settings.places.service_user
    try:
        done = subprocess.run(
            [*settings.places.engine, "--version"],
            capture_output=True,
            text=True,
            timeout=_TRY_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
            **child_identity(settings.user),
        )
    except PermissionError:
        closed = _find_closed(engine, settings.user)
        reason = "permission denied" if closed is None else f'"{closed}" is closed to that user'
        hint = "Open it, or install Patroni elsewhere and name that directory as engine."
        yield fail("engine", f'user "{name}" cannot run {engine}: {reason}', hint)
        return
    except (OSError, subprocess.TimeoutExpired, PghavenError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        hint = "Install it where that user can run it: pip install 'pghaven[ha]', or name its directory as engine."
        yield fail("engine", f'user "{name}" cannot run {engine}: {reason}', hint)
        return
    found = re.search(r"[0-9]+\.[0-9.]+", done.stdout)
    if done.returncode != 0 or found is None:
        lines = (done.stderr or done.stdout).strip().splitlines()
        text = f'user "{name}" cannot run {engine}: {lines[-1] if lines else f"exit status {done.returncode}"}'
        yield fail("engine", text, "Every directory above it and its interpreter must be open to that user.")
    elif not found[0].startswith(ENGINE_VERSION):
        text = f"Patroni is {found[0]}; pghaven is tested with {ENGINE_VERSION}x"
        yield fail("engine", text, "pip install 'pghaven[ha]' brings the right one.")
    else:
        yield good("engine", f'user "{name}" runs Patroni {found[0]}')
    followed = settings.spec.followed
    fetched = settings.spec.cluster if followed is None else followed.cluster
    failure = try_program(settings.places.program, settings.places.config_path, fetched, settings.user)
    if failure is not None:
        yield fail("program", failure.reason, failure.hint)
    else:
        yield good("program", f'user "{name}" runs pghaven and reaches the repository')


def _find_closed(program: str, user: OsUser | None) -> str | None:
    """The directory that keeps a user from a program, or from the interpreter that its first line names."""
    try:
        with open(program, "rb") as file:
            first = file.readline(_LINE_BYTES_MAX)
    except OSError:
        first = b""
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    for path in (program, *words[:1]):
        for place in (path, os.path.realpath(path)):
            if closed := find_closed_directory(place, user):
                return closed
    return None


def _check_files(settings: HaCheckSettings, node: HaNode) -> Iterator[CheckResult]:
    spec = settings.spec
    stale = [one for one in plan_files(spec, node, settings.places) if one.change != "same"]
    for one in stale:
        what = "is not written yet" if one.change == "new" else "is not what the configuration says"
        yield fail("files", f"{one.path} {what}", f"Run: pghaven ha apply {spec.cluster} --node {node.name}")
    if not stale:
        yield good("files", f'the files of node "{node.name}" are what the configuration says')


def _check_environment(settings: HaCheckSettings, node: HaNode) -> Iterator[CheckResult]:
    """PGPASSWORD and its kind in Patroni's environment go before its own passwords, and standbys cannot log in."""
    pid = _find_patroni(settings.places.path(node, "patroni.yml"))
    if pid is None:
        yield skip("environment", f'Patroni of node "{node.name}" does not run on this host')
        return
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            names = {entry.partition(b"=")[0].decode(errors="replace") for entry in file.read().split(b"\0")}
    except OSError as error:
        yield skip("environment", f"cannot be read: {(error.strerror or str(error)).lower()}")
        return
    wrong = sorted(name for name in names if name.startswith("PG") and not name.startswith("PGHAVEN"))
    if wrong:
        text = f'Patroni of node "{node.name}" has {", ".join(wrong)} in its environment'
        yield fail("environment", text, "Take them out of its unit or shell and restart it; its unit unsets them.")
    else:
        yield good("environment", f'no PG… variables mislead Patroni of node "{node.name}"')


def _find_patroni(file: str) -> int | None:
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as found:
                words = found.read().split(b"\0")
        except OSError:
            continue
        if os.fsencode(file) in words and any(word.endswith(b"/patroni") for word in words):
            return int(name)
    return None


def _check_units(settings: HaCheckSettings, node: HaNode) -> Iterator[CheckResult]:
    """Another unit that is enabled for the server, beside ours, starts it too after a reboot."""
    ours, cluster = unit_name("patroni", settings.spec, node), settings.spec.cluster
    if not is_there():
        yield skip("units", "systemd does not run this host")
        return
    try:
        keepers = find_keepers(settings.places.data_directory, [ours])
    except ServerUnsuitable as error:
        yield skip("units", f"{error.message}: {error.detail}")
        return
    for keeper in keepers:
        if keeper.is_active:
            hint = f"Have ours take its place: pghaven ha apply {cluster} --node {node.name} --start"
            yield fail("units", f'{keeper.name} has the server of node "{node.name}"', hint)
        elif keeper.is_enabled:
            text = f'{keeper.name} is enabled for the server of node "{node.name}": after a reboot two would start it'
            yield fail("units", text, f"Run: systemctl disable {keeper.name}")
    if not any(keeper.is_active or keeper.is_enabled for keeper in keepers):
        yield good("units", f'no other unit of systemd starts the server of node "{node.name}"')


def _check_watchdog(settings: HaCheckSettings) -> Iterator[CheckResult]:
    fencing = settings.spec.fencing
    if fencing == "none":
        text = "nothing stops a primary whose Patroni is dead or hangs"
        yield warn("fencing", text, 'Set fencing = "watchdog-required" where the host has a watchdog.')
        return
    tried = subprocess.run(["test", "-w", _WATCHDOG], check=False, capture_output=True, **child_identity(settings.user))
    if tried.returncode == 0:
        yield good("fencing", f"{_WATCHDOG} is there and open to Patroni")
        return
    what = "does not exist" if not os.path.exists(_WATCHDOG) else "cannot be written by the service's user"
    text, hint = f"{_WATCHDOG} {what}", "Load a module for it: modprobe softdog. The unit of Patroni opens it."
    yield fail("fencing", text, hint) if fencing == "watchdog-required" else warn("fencing", text, hint)


def _check_members(settings: HaCheckSettings, api: RestApi, view: ClusterView) -> Iterator[CheckResult]:
    spec = settings.spec
    for member in view.members:
        if member.silence is not None:
            yield fail("patroni", member.silence, "Does its service run there?")
        elif member.version is not None and not member.version.startswith(ENGINE_VERSION):
            text = f'node "{member.name}" runs Patroni {member.version}; pghaven is tested with {ENGINE_VERSION}x'
            yield fail("patroni", text, "pip install 'pghaven[ha]' there brings the right one.")
        else:
            yield good("patroni", f'node "{member.name}" answers, {member.state}')
    if view.dcs_is_silent:
        return
    known = {node.name: node for node in spec.servers}
    for one in api.ask(spec.servers, "/cluster").get("members", []):
        name, place = str(one.get("name")), f"{one.get('host')}:{one.get('port')}"
        node = known.get(name)
        if node is None:
            text = f'the cluster has a member "{name}" at {place} that the configuration does not know'
            yield fail("names", text, "Add its [[…ha.node]], or stop its Patroni.")
        elif one.get("port") and place != f"{node.address}:{node.port}":
            text = f'the member "{name}" is at {place}, and in the configuration at {node.address}:{node.port}'
            yield fail("names", text, "Two nodes may have one name; give each its own.")


def _check_shared(settings: HaCheckSettings, view: ClusterView) -> Iterator[CheckResult]:
    spec = settings.spec
    if view.config is None:
        hint = "Start etcd." if view.dcs_is_silent else "Does Patroni's service run on the nodes?"
        yield fail("shared configuration", "nobody tells what is in etcd", hint)
        return
    ttl = view.config.get("ttl")
    if isinstance(ttl, int) and ttl < _LEASE_SECONDS_MIN:
        text = f"ttl is {ttl} in etcd; Patroni takes {_LEASE_SECONDS_MIN} instead"
        yield fail("shared configuration", text, f"Run: pghaven ha apply {spec.cluster}")
    drifts = find_drift(render_dynamic(spec, settings.places), view.config)
    for drift in drifts:
        text = f"{drift.path} is {drift.found!r} in etcd, and {drift.wanted!r} in the configuration"
        yield warn("shared configuration", text, f"Run: pghaven ha apply {spec.cluster}")
    if not drifts:
        yield good("shared configuration", "is what the configuration says")
    for member in view.members:
        if member.pending_restart:
            text = f'settings of node "{member.name}" wait for a restart of its server'
            yield warn("shared configuration", text, f"patronictl restart {spec.cluster} {member.name}")


def _check_pause(settings: HaCheckSettings, view: ClusterView) -> Iterator[CheckResult]:
    """While it is paused nothing fails over, and all looks as ever."""
    if view.dcs_is_silent:
        yield skip("pause", "it stands in etcd")
    elif not view.paused:
        yield good("pause", "the cluster is not paused")
    if not view.paused:
        return
    until, hint = view.paused_until, f"To end it: pghaven ha resume {settings.spec.cluster}"
    if until is not None and until < settings.now:
        yield fail("pause", f"the pause was to end at {render_time(until)}, and goes on: nothing fails over", hint)
    else:
        text = "the cluster is paused" + ("" if until is None else f" until {render_time(until)}")
        yield warn("pause", f"{text}: nothing fails over", hint)


def _check_server(settings: HaCheckSettings, view: ClusterView) -> Iterator[CheckResult]:
    """What only this host's server knows: its slots, and what ALTER SYSTEM has set on it."""
    kept = (view.config or {}).get("slots")
    permanent = set(kept) if isinstance(kept, Mapping) else set()
    try:
        with connect(settings.conninfo) as connection:
            is_standby = bool(fetch_one(connection, "SELECT pg_is_in_recovery()")[0])
            idle, stale = _list_slots(connection)
            overrides = find_overrides(connection, list_wanted_settings(settings.spec, settings.places))
    except PghavenError as error:
        yield skip("slots", f"this host's server does not answer: {error.message}")
        return
    members = {re.sub(r"[^a-z0-9_]", "_", node.name) for node in settings.spec.servers}
    # Patroni keeps the permanent ones on every node, and reads them on none but the primary.
    may_idle = permanent if view.config is not None else set(idle)
    strange = [name for name in idle if name not in members and not (is_standby and name in may_idle)]
    for name in strange:
        text = f'nobody reads the slot "{name}", and it is no member\'s: it keeps WAL for nobody'
        left = f"SELECT pg_drop_replication_slot('{name}')"
        if name in permanent:
            left = f"patronictl edit-config {settings.spec.cluster} -s slots.{name}=null, or Patroni makes it again"
        yield warn("slots", text, f"If it is left over: {left}")
    for name in stale:
        text = f'the slot "{name}" is left from when this standby was the primary, and is not synchronised any more'
        yield fail("slots", text, f"Drop it here: SELECT pg_drop_replication_slot('{name}')")
    if not strange and not stale:
        yield good("slots", "every slot is somebody's")
    for one in overrides:
        text = f"{one.name} is {one.found} in postgresql.auto.conf, which goes before the configured {one.wanted}"
        if one.name == "summarize_wal":
            text += ": a promoted server waits for its WAL summarizer, half a minute at worst"
        hint = f"Here: ALTER SYSTEM RESET {one.name}; SELECT pg_reload_conf(). Or: pghaven ha apply"
        yield warn("settings", text, f"{hint} {settings.spec.cluster}")
    if not overrides:
        yield good("settings", "nothing in postgresql.auto.conf goes before what is configured")


def _list_slots(connection: Connection) -> tuple[list[str], list[str]]:
    """Those that nobody reads, which keep WAL until the disk is full or until it is more than a slot may keep; and
    those for a failover that a former primary still has."""
    with server_errors(connection, "list replication slots"):
        idle = [str(row[0]) for row in connection.execute(_SLOTS.encode()).fetchall()]
        stale: list[str] = []
        if connection.info.server_version >= 17_00_00:
            stale = [str(row[0]) for row in connection.execute(_STALE_FAILOVER_SLOTS.encode()).fetchall()]
    return idle, stale
