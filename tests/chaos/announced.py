"""What ``pghaven ha status`` announced of a failover's losses, moment by moment, to be held against what was lost.

The one idea: an announcement is a position that outlasts the primary, and a time for which it may write on; both are
judged, and no number is compared with one of another moment.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pghaven.config.loading import load_config
from pghaven.errors import PghavenError
from pghaven.ha.described import describe_cluster
from pghaven.ha.loss import assess_loss
from pghaven.ha.rest import RestApi
from pghaven.ha.secrets import make_secrets
from pghaven.ha.spec import HaSpec
from pghaven.ha.view import look
from pghaven.postgres.lsn import Lsn
from tests.chaos.members import LOOP, TTL, Cluster, Member
from tests.support.places import own, plain_user, run_as_plain

_EVERY_SECONDS = 1.0
_CLUSTER = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Asked and answered by the clock of the ledger's clients. ``position`` is what the best standby had on
    ``timeline``, ``now_bytes`` what the primary had beyond it, None where that was not known."""

    asked_at: float
    at: float
    timeline: int
    position: Lsn
    now_bytes: int | None
    lease_seconds: int


def write_status_config(cluster: Cluster, durability: str) -> Path:
    """A configuration that describes the cluster as it runs, for ``ha status`` alone."""
    place = cluster.place / "status"
    place.mkdir(exist_ok=True)
    own(place)
    secrets = place / "secrets.toml"
    make_secrets(str(secrets), plain_user())
    first = cluster.members[0]
    ha: dict[str, Any] = {
        "durability": durability,
        "failover_after": f"{TTL}s",
        "check_every": f"{LOOP}s",
        "fencing": "none",
        "secrets": str(secrets),
        "directory": str(place),
        "unit_directory": str(place),
        "service_user": plain_user().name,
        "dcs": [f"{cluster.etcd_host.address}:2379"],
    }
    lines = [
        f'[repository.main]\nurl = "file://{cluster.repository_directory}"\n\n[cluster.{_CLUSTER}]',
        f'data_directory = "{first.data_directory}"\nconninfo = "{first.conninfo}"',
        f'pg_bin = "{cluster.engine.postgres.bin_dir}"',
        f"[cluster.{_CLUSTER}.ha]",
        *(f"{name} = {json.dumps(value)}" for name, value in ha.items()),
    ]
    for member in cluster.members:
        lines += [f'[[cluster.{_CLUSTER}.ha.node]]\nname = "{member.name}"\naddress = "{member.host.address}"']
        lines += ["etcd = false"]
    path = place / f"{durability}.toml"
    path.write_text("\n".join(lines) + "\n")
    own(path)
    return path


class Announcer:
    """Asks what ``ha status`` asks, each second, while its block lasts."""

    def __init__(self, cluster: Cluster, durability: str) -> None:
        self._cluster = cluster
        self._config = write_status_config(cluster, durability)
        described = load_config(str(self._config), environment={}).get_cluster(_CLUSTER)
        self._spec: HaSpec = describe_cluster(described)
        self._api = RestApi("")
        self._stop = threading.Event()
        self._heard: list[Announcement] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self._listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30)

    @property
    def heard(self) -> list[Announcement]:
        return list(self._heard)

    def ask_command(self, member: Member) -> Announcement:
        """By the command itself, as people do."""
        asked_at = time.monotonic()
        words = [*self._cluster.engine.pghaven.words, "--config", str(self._config), "--json"]
        done = run_as_plain([*words, "ha", "status", _CLUSTER, "--no-archive"], timeout=60)
        assert done.returncode in (0, 1, 2), f"ha status: {(done.stderr or done.stdout).strip()[-600:]}"
        body = json.loads(done.stdout)
        loss = body["loss"]
        assert loss is not None and loss["position"] is not None, f"ha status announces nothing: {body}"
        timeline = next(one["timeline"] for one in body["members"] if one["name"] == loss["candidate"])
        announced = Announcement(
            asked_at=asked_at,
            at=time.monotonic(),
            timeline=int(timeline),
            position=Lsn.parse(loss["position"]),
            now_bytes=loss["now_bytes"],
            lease_seconds=loss["lease_seconds"],
        )
        self._heard.append(announced)
        return announced

    def _listen(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            asked_at = time.monotonic()
            try:
                view = look(self._spec, self._api)
            except PghavenError:
                continue
            loss = assess_loss(self._spec, view)
            best = None if loss is None or loss.candidate is None else view.find(loss.candidate)
            if loss is None or loss.position is None or best is None or best.timeline is None:
                continue
            self._heard.append(
                Announcement(
                    asked_at=asked_at,
                    at=time.monotonic(),
                    timeline=best.timeline,
                    position=Lsn(loss.position),
                    now_bytes=loss.now_bytes,
                    lease_seconds=loss.lease_seconds,
                )
            )
