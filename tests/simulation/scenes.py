"""Whole histories: who is in them, how they begin, and the calm in which they end.

The one idea: half of them are long, with days between two commands, the other half are a rush of everybody at once;
then nothing fails any more, time passes, and what must be there is, and what must not is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from pghaven.errors import Cancelled
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.removal import Removal, RetireOrder
from tests.simulation.content import CLUSTER, Span
from tests.simulation.engine import HOUR, MINUTE, STORE_HOST, Actor, Choice, Rates, draw_rates
from tests.simulation.world import REAL, Parts, World
from tests.simulation.writer import BackupWriter

_HOSTS = ("db1", "db2", "ops", STORE_HOST)
EVERYBODY = frozenset(
    {"load", "backup-db1", "backup-db2", "expire-db1", "expire-ops", "collect-db1", "collect-ops"}
    | {"compact", "operator", "restore", "rival", "retain-db1", "retain-ops", "backup-standby"}
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A few, who in a rush do what they do ``rounds`` times, or without one for as long as there are backups to make
    and then watch each other closely. Faults come at the given rates; the ``slow`` stand still while they list, page
    after page. ``places`` are what an actor's labels begin with, by turns, and so where they are listed. With
    ``lone_wal_goes`` nothing of it stays while there is no backup.
    """

    cast: frozenset[str]
    rates: Rates
    rounds: int | None = 2
    grace: timedelta = timedelta(0)
    keep: int = 1
    slow: frozenset[str] = frozenset()
    page: int | None = None
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ends_in_calm: bool = False
    lone_wal_goes: bool = False


def play(
    seed: str,
    *,
    parts: Parts = REAL,
    rates: Rates | None = None,
    scene: Scene | None = None,
    script: Sequence[Choice] | None = None,
) -> World:
    """One history. Raises Violation; ``run`` a World to have it afterwards all the same."""
    world = World(seed, parts=parts, script=script)
    run(world, rates, scene)
    return world


def run(world: World, rates: Rates | None = None, scene: Scene | None = None) -> None:
    """Raises Violation."""
    simulation = world.simulation
    source = random.Random(f"{simulation.seed}/cast")
    if scene is not None:
        world.grace, world.keep, world.places = scene.grace, scene.keep, scene.places
        if scene.lone_wal_goes:
            world.oracle.expect_lone_wal_to_go()
    world.oracle.expect_policy(world.keep)
    _prepare(world, source)
    if source.random() < 0.5:
        for host in _HOSTS:
            simulation.set_clock(host, source.choice((0.0, MINUTE, 2 * HOUR, 30 * HOUR)) * source.choice((-1, 1)))
    cast = EVERYBODY if source.random() < 0.2 else EVERYBODY - {"rival"}
    simulation.rates = draw_rates(simulation.seed) if rates is None else rates
    if source.random() < 0.5:
        world.rush = source.randrange(1, 4)
    if scene is not None:
        cast, simulation.rates, world.rush = scene.cast, scene.rates, scene.rounds
        if scene.rounds is None:
            world.tempo, world.alertness = 0.01, 1.0
        simulation.slow = scene.slow
        simulation.page = scene.page or simulation.page
    _start(world, cast, world.cluster.segment + source.randrange(2, 10))
    simulation.run()
    world.oracle.judge_end()
    if scene is None or scene.ends_in_calm:
        simulation.heal()
        world.work("tidy", "ops", world.tidy)
        simulation.run()
        world.oracle.judge_end()
        world.oracle.judge_garbage()
    if simulation.violation is not None:
        raise simulation.violation


class _Interrupted(BackupWriter):
    """Stores its packs, and is interrupted."""

    def stop(self) -> Span:
        raise Cancelled("interrupted")


def _prepare(world: World, source: random.Random) -> None:
    """What there is when it begins: backups, some of them expired, and interrupted ones; made without any mistake."""
    kinds = [source.choice((BackupWriter, BackupWriter, _Interrupted)) for _ in range(source.randrange(5))]
    expired = source.randrange(2)

    def back_up(actor: Actor) -> None:
        for kind in kinds:
            world.change(actor)
            with suppress(Cancelled):
                kind(world, actor).run()
        catalog = BackupCatalog(world.repository(actor), CLUSTER)
        for entry in catalog.list_committed()[:-1][:expired]:
            Removal(catalog).retire(entry.label, RetireOrder(reason="old", not_before=actor.clock.now()))

    world.work("prepare", "db1", back_up)
    world.serve("archiver", "db1", world.archiver)
    world.simulation.run()


def _start(world: World, cast: frozenset[str], segments: int) -> None:
    world.serve("archiver", "db1", world.archiver)
    add = world.serve if world.rush is None else world.work
    count = 4 if world.rush is None else 1
    everybody: tuple[tuple[Callable[..., None], str, str, Callable[[Actor], None]], ...] = (
        (world.work, "load", "db1", lambda actor: world.load(actor, segments)),
        (world.work, "backup-db1", "db1", lambda actor: world.back_up(actor, count)),
        (world.work, "backup-db2", "db2", lambda actor: world.back_up(actor, count)),
        (add, "expire-db1", "db1", world.expire),
        (add, "expire-ops", "ops", world.expire),
        (add, "collect-db1", "db1", world.collect),
        (add, "collect-ops", "ops", world.collect),
        (add, "succession", "db1", world.succeed),
        (add, "compact", "ops", world.compact),
        (add, "operator", "ops", world.operate),
        (add, "expire-newest", "ops", world.expire_newest),
        (add, "hold-newest", "ops", world.hold_newest),
        (add, "undo-newest", "ops", world.undo_newest),
        (add, "restore", "db3", world.restore),
        (add, "rival", "db9", world.rival),
        (add, "retain-db1", "db1", world.retain),
        (add, "retain-ops", "ops", world.retain),
        (world.work, "backup-standby", "db3", lambda actor: world.back_up_lagging(actor, count)),
    )
    for start, name, host, program in everybody:
        if name in cast:
            start(name, host, program)
