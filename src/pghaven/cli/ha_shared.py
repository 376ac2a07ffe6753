"""What the commands of ``pghaven ha`` have in common: the cluster, its description, this host's nodes."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pghaven.cli.invocation import Invocation
from pghaven.errors import UsageError

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.ha.acts import Acts
    from pghaven.ha.rest import RestApi
    from pghaven.ha.spec import HaNode, HaSpec, LocalPlaces
    from pghaven.server.identity import OsUser


@dataclass(frozen=True, slots=True, kw_only=True)
class HaContext:
    """A cluster under Patroni, as this host's configuration describes it."""

    cluster: ClusterConfig
    spec: HaSpec
    places: LocalPlaces
    api: RestApi

    @property
    def acts(self) -> Acts:
        from pghaven.clock import SYSTEM_CLOCK
        from pghaven.ha.acts import Acts

        return Acts(self.spec, self.api, SYSTEM_CLOCK)


def open_context(invocation: Invocation, name: str | None, *, make_secrets: bool = False) -> HaContext:
    """Raises ConfigError, NotFound, NotPermitted, UsageError."""
    from pghaven.ha import secrets
    from pghaven.ha.described import describe_cluster, find_places
    from pghaven.ha.rest import RestApi

    config, cluster = invocation.config, invocation.get_cluster(name)
    spec = describe_cluster(cluster)
    path = cluster.ha.secrets
    assert path is not None  # a configuration with nodes and without it is not loaded
    found = secrets.make_secrets(path, find_service_user(cluster)) if make_secrets else secrets.read_secrets(path)
    places = find_places(config, cluster, found)
    return HaContext(cluster=cluster, spec=spec, places=places, api=RestApi(found.rest))


def find_service_user(cluster: ClusterConfig) -> OsUser | None:
    """Whom Patroni runs as; None when that is ourselves, or we could not act for it anyway."""
    from pghaven.server.identity import get_os_user

    return get_os_user(cluster.ha.service_user) if os.geteuid() == 0 else None


def choose_nodes(spec: HaSpec, names: Sequence[str]) -> tuple[HaNode, ...]:
    """The named nodes; without names those whose address or name is this host's. Raises NotFound, UsageError."""
    if names:
        return tuple(spec.get_node(name) for name in names)
    found = tuple(node for node in spec.nodes if node.name == socket.gethostname() or _is_here(node.address))
    if len(found) == 1:
        return found
    what = "no node has an address of this host" if not found else "several nodes have an address of this host"
    raise UsageError(f"{what}: name the one that is meant", hint="Use --node NAME, once for each.")


def _is_here(address: str) -> bool:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.bind(place)
    except OSError:
        return False
    return True
