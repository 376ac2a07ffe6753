"""What keeps an unfinished segment in a repository: few pieces, whatever happens to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pghaven.clock import Clock, ManualClock
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.receive import keeper
from pghaven.receive.keeper import KeeperPlan, run_keeper
from pghaven.repository import layout
from pghaven.repository.keyset import make_first_key
from pghaven.repository.keysource import KeySource
from pghaven.repository.keytext import render_key_file
from pghaven.repository.partials import find_newest_partial, list_pieces
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.repository import create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import create_root
from pghaven.store.settings import StoreSettings
from tests.support.keys import SealedSite, sealing_with
from tests.support.walfile import (
    CLUSTER,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    segment_name,
)

ONE = segment_name(3)
SENT = "2026-03-01T12:00:00.000000Z"


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    made = WalSite(tmp_path)
    (tmp_path / "spool").mkdir()
    return made


@pytest.fixture
def _interrupts() -> Iterator[None]:
    """A keeper ignores them for good, being a process of its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def follow(
    site: WalSite,
    *orders: str,
    receiver: str = "0" * 8,
    place: RepositoryPlace | None = None,
    clock: Clock | None = None,
    tell: Callable[[Any], None] | None = None,
) -> list[Any]:
    """What one keeper answers, to ``tell`` too if it is given; the spool's file grows with the orders."""
    plan = KeeperPlan(
        cluster=CLUSTER,
        place=place or RepositoryPlace(name="r0", store=StoreSettings(url=site.repository_path.as_uri())),
        directory=str(site.root / "spool"),
        receiver=receiver,
        system_identifier=SYSTEM_IDENTIFIER,
        clock=clock or ManualClock(),
    )
    answers: list[Any] = []
    reader, writer = os.pipe()
    os.write(writer, "".join(f"{order}\n" for order in orders).encode())
    os.close(writer)
    run_keeper(plan, reader, tell or answers.append)
    return answers


def make_sealed_place(root: Path) -> tuple[RepositoryPlace, SealedSite]:
    """A sealed repository that knows the cluster, with its key in a file."""
    url = (root / "sealed").as_uri()
    store, key = create_root(url), make_first_key()
    create_repository(store, sealing=sealing_with(key)).register_lineage(CLUSTER, make_lineage(), new_lineage=False)
    key_file = root / "a.key"
    key_file.write_bytes(render_key_file(key, url, "first"))
    key_file.chmod(0o600)
    source = KeySource(key_file=str(key_file))
    return RepositoryPlace(name="r0", store=StoreSettings(url=url), key=source), SealedSite(store=store, key=key)


def keep(*lengths: int) -> list[str]:
    return [f"keep {ONE} {length} {SENT}" for length in lengths]


def spool(site: WalSite, name: str = f"{ONE}.partial") -> None:
    (site.root / "spool" / name).write_bytes(make_segment(ONE))


@pytest.mark.usefixtures("_interrupts")
class TestKeeper:
    def test_however_often_it_is_kept_there_are_few_pieces(self, site: WalSite) -> None:
        spool(site)
        lengths = range(1000, 101 * 1000, 1000)
        assert follow(site, *keep(*lengths)) == [("done",)] * 100
        partial = find_newest_partial(site.archive, Timeline(1))
        assert partial is not None
        assert partial.end_lsn == ONE.start_lsn + lengths[-1]
        assert partial.read()[: lengths[-1]] == make_segment(ONE)[: lengths[-1]]
        # 100 is 64 + 32 + 4.
        assert len(partial.pieces) == len(list(list_pieces(site.archive, Timeline(1)))) == 3
        assert partial.read_facts()["source_mtime"] == SENT

    def test_a_restart_covers_what_was_there(self, site: WalSite) -> None:
        spool(site)
        follow(site, *keep(1000, 2000, 3000))
        follow(site, *keep(3000))
        assert [(one.begin, one.end) for one, _ in list_pieces(site.archive, Timeline(1))] == [(0, 3000)]

    def test_no_piece_of_a_large_segment_takes_much_memory(
        self, site: WalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        most = 1 << 16
        monkeypatch.setattr(keeper, "_PIECE_BYTES_MAX", most)
        spool(site)
        content = make_segment(ONE)
        answers = follow(site, *keep(5 * most, 5 * most + 1000, *range(6 * most, SEGMENT_SIZE + 1, 10000)))
        # A slow store is given time for each of them.
        assert answers[:6] == [("goes_on",)] * 4 + [("done",)] * 2
        pieces = [one for one, _ in list_pieces(site.archive, Timeline(1))]
        assert max(one.end - one.begin for one in pieces) <= most
        assert len(pieces) < 2 * SEGMENT_SIZE // most + 20
        partial = find_newest_partial(site.archive, Timeline(1))
        assert partial is not None
        end = partial.end_lsn - ONE.start_lsn
        assert end > SEGMENT_SIZE - 10000
        assert partial.read()[:end] == content[:end]

    def test_pieces_go_when_the_segment_is_archived_and_not_before(self, site: WalSite) -> None:
        spool(site, str(ONE))
        follow(site, *keep(1000), f"whole {ONE}")
        assert len(list(list_pieces(site.archive, Timeline(1)))) == 1
        site.archive.put(str(ONE), make_segment(ONE), {})
        follow(site, f"whole {ONE}")
        assert list(list_pieces(site.archive, Timeline(1))) == []

    def test_what_turned_out_to_be_different_is_another_partial(self, site: WalSite) -> None:
        spool(site)
        follow(site, *keep(1000), "anew", *keep(500))
        receivers = {one.receiver: one.end for one, _ in list_pieces(site.archive, Timeline(1))}
        assert sorted(receivers.values()) == [500, 1000]

    def test_what_a_later_timeline_left_behind_is_not_kept(self, site: WalSite) -> None:
        spool(site)
        site.archive.put("00000002.history", render_history((1, Lsn(2 * SEGMENT_SIZE))), {})
        assert follow(site, *keep(1000)) == [("done",)]
        assert list(list_pieces(site.archive, Timeline(1))) == []

    def test_a_file_that_is_gone_is_nothing_to_do(self, site: WalSite) -> None:
        assert follow(site, *keep(1000)) == [("done",)]

    def test_what_is_kept_after_a_rotation_opens_with_no_key_from_before(self, site: WalSite) -> None:
        spool(site)
        clock = ManualClock()
        place, sealed = make_sealed_place(site.root)
        answers: list[Any] = []

        def hear(answer: Any) -> None:
            answers.append(answer)
            if len(answers) == 2:
                sealed.rotate()
                clock.advance(61)

        follow(site, *keep(1000, 2000, 3000, 4000), place=place, clock=clock, tell=hear)
        assert answers == [("done",)] * 4
        key_id = sealed.open().keyring.current_key_id
        assert key_id is not None
        archive = WalArchive(sealed.open(), CLUSTER, SYSTEM_IDENTIFIER, SEGMENT_SIZE)
        pieces = [one for one, _ in list_pieces(archive, Timeline(1))]
        assert pieces[-1].end == 4000
        for info in sealed.store.list(layout.partials_prefix(CLUSTER, SYSTEM_IDENTIFIER)):
            assert key_id in sealed.store.read(info.name), f"{info.name} is sealed under an earlier data key"

    def test_a_failure_is_told_and_tried_again(self, site: WalSite) -> None:
        spool(site)
        site.repository_path.rename(site.root / "away")
        ((what, told),) = follow(site, *keep(1000))
        assert (what, told[0]) == ("failed", "StoreUnreachable")
        (site.root / "away").rename(site.repository_path)
        assert follow(site, *keep(1000)) == [("done",)]
