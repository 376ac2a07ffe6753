"""Limits on the command line and in the configuration, and what is changed there while a command runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pghaven.cli.limiting import LOOK_SECONDS, Limits
from pghaven.clock import ManualClock
from pghaven.config.loading import load_config
from pghaven.events import Event, Notice, Step
from pghaven.repository.repository import Repository
from pghaven.store.metered import MeteredStore
from pghaven.store.open import open_store
from tests.cli.running import TIMEOUT_SECONDS, run_pghaven
from tests.cli.site import Site
from tests.support.places import own
from tests.support.synthetic import make_repository

STEP = Step(text="x")


class Running:
    """A command that runs, with its configuration in a file."""

    def __init__(self, place: Path, **given: int) -> None:
        self.path = place / "pghaven.toml"
        self.write()
        (place / "repository").mkdir()
        self.clock = ManualClock()
        self.told: list[Event] = []
        config = load_config(str(self.path))
        self.limits = Limits(config, config.clusters["main"], self.told.append, clock=self.clock, **given)
        store = MeteredStore(open_store(f"file://{place}/repository"))
        self.repository: Repository = self.limits.hold(make_repository(store), "main")
        self.store = store

    def write(self, repository: str = "", cluster: str = "") -> None:
        text = f'[repository.main]\nurl = "file:///r"\n{repository}\n[cluster.main]\ndata_directory = "/d"\n{cluster}\n'
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self.path)

    def go_on(self) -> None:
        self.clock.advance(LOOK_SECONDS)
        self.limits(STEP)

    @property
    def rates(self) -> tuple[float, float]:
        assert self.store.pace is not None
        return self.store.pace.rate, self.limits.pace.rate

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.told if isinstance(event, Notice)]


def test_a_limit_that_is_changed_in_the_file_holds_for_a_running_command(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert running.rates == (0, 0)
    running.write('limit = "2MiB/s"', 'io_limit = "3MiB/s"')
    running.limits(STEP)
    running.go_on()
    assert running.rates == (2 << 20, 3 << 20)
    assert running.texts == [
        'from now on at most 2.00 MiB/s for repository "main"',
        'from now on at most 3.00 MiB/s for the data directory of "main"',
    ]
    running.write()
    running.go_on()
    assert running.rates == (0, 0)
    assert running.texts[2] == 'from now on no limit for repository "main"'
    assert running.told.count(STEP) == 3, "events are passed on"


def test_an_option_goes_before_the_file_until_that_is_changed(tmp_path: Path) -> None:
    running = Running(tmp_path, limit=1 << 20, io_limit=4 << 20)
    running.write(cluster="processes = 3")
    running.go_on()
    assert running.rates == (1 << 20, 4 << 20)
    running.write('limit = "5MiB/s"')
    running.go_on()
    assert running.rates == (5 << 20, 4 << 20)


def test_a_command_that_waits_under_a_limit_and_tells_nothing_follows_the_file_too(tmp_path: Path) -> None:
    running = Running(tmp_path, limit=1 << 10)
    running.write('limit = "5GiB/s"')
    before = running.clock.monotonic()
    running.store.create("a", [bytes(8 << 20)])
    running.store.create("b", [b"x"])
    assert running.rates[0] == 5 << 30
    assert running.clock.monotonic() - before < 2 * LOOK_SECONDS, "not two hours"


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    running = Running(tmp_path, limit=1 << 20)
    running.write("limit = ")
    running.go_on()
    running.go_on()
    assert running.rates == (1 << 20, 0)
    assert len(running.texts) == 1
    running.write('limit = "5MiB/s"')
    running.go_on()
    assert running.rates == (5 << 20, 0)


@pytest.mark.pg
def test_a_running_backup_follows_the_file(site: Site) -> None:
    """It would take most of an hour at the pace that it begins with."""
    site.set_up()
    with site.start_words("--config", str(site.config), "backup", "--io-limit", "64KiB/s", "--verbose") as process:
        try:
            assert process.stderr is not None
            said = ""
            while "reading" not in said and "copying" not in said:
                line = process.stderr.readline()
                assert line, f"it ended: {said}"
                said += line
            fresh = site.config.with_suffix(".new")
            fresh.write_text(site.config.read_text() + 'io_limit = "10GiB/s"\n')
            own(fresh)
            os.replace(fresh, site.config)
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert 'from now on at most 10.0 GiB/s for the data directory of "main"' in err
    assert "is complete" in out


@pytest.mark.parametrize("rate", ["50", "50MiB", "1B/s", "fast"])
@pytest.mark.parametrize(
    "words",
    [
        ("backup", "--limit"),
        ("restore", "x", "--io-limit"),
        ("verify", "--limit"),
        ("repo", "copy", "--limit"),
        ("expire", "--limit"),
    ],
)
def test_what_is_no_rate_is_refused(words: tuple[str, ...], rate: str) -> None:
    ended = run_pghaven(*words, rate)
    assert ended.status == 2
    assert words[-1] in ended.err
