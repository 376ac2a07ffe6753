"""Recovery from several repositories of which the first is not down but slow: it takes connections and says nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.recovering import Recovery
from tests.support.waiting import wait_until
from tests.support.walfile import WalSite, make_segment, segment_name

FIRST, LAST = 3, 8


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server whose kernel takes connections, and that answers none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def site(tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> WalSite:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    made = WalSite(tmp_path)
    for number in range(FIRST, LAST + 1):
        made.archive.put(str(segment_name(number)), make_segment(segment_name(number)), {})
    text = made.config_path.read_text().replace('"r0"', '"slow", "r0"')
    made.config_path.write_text(
        f'[repository.slow]\nurl = "s3://bucket"\nendpoint = "{silent}"\n{text}wal_patience = "300ms"\n'
    )
    return made


def test_the_next_one_serves_what_a_slow_one_does_not(site: WalSite) -> None:
    ended = site.get(segment_name(FIRST))
    assert ended.status == 0, ended
    assert site.fetched == make_segment(segment_name(FIRST))
    assert "the next repository is asked too" in ended.err


def test_what_the_next_one_lacks_is_not_absent(site: WalSite) -> None:
    site.config_path.write_text(site.config_path.read_text().replace('"1min"', '"2s"'))
    ended = site.get(segment_name(LAST + 1))
    assert ended.status == 255, ended
    assert "could not fetch" in ended.err
    assert "wal_timeout" in ended.err


def test_what_follows_is_fetched_ahead_without_the_slow_one(site: WalSite) -> None:
    with Recovery(site) as recovery:
        wanted = {str(segment_name(number)) for number in range(FIRST + 1, LAST + 1)}

        def is_spooled() -> bool:
            assert recovery.spools.exists() or recovery.get(segment_name(FIRST)) == 0
            return recovery.ready >= wanted

        wait_until(is_spooled, "all files in the spool")
        assert recovery.take(segment_name(FIRST + 1)) == 0
