"""``pghaven wal`` as people type it, and as PostgreSQL is told to."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pghaven.cli.wal_run import choose_cluster, run_words
from pghaven.config.loading import parse_config
from pghaven.errors import NotFound, UsageError
from pghaven.postgres.lsn import Lsn
from pghaven.wal.commands import render_archive_command, render_restore_command
from tests.support.walfile import (
    CLUSTER,
    PROGRAM,
    SEGMENT_SIZE,
    WalSite,
    make_segment,
    render_history,
    run_in,
    segment_name,
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WalSite:
    made = WalSite(tmp_path)
    monkeypatch.chdir(made.data_directory)
    return made


# -- the short way -----------------------------------------------------------------------------------------------------


def test_the_rendered_commands_are_recognised_word_for_word(site: WalSite) -> None:
    path = site.write(segment_name(3), make_segment(segment_name(3)))
    archive = render_archive_command("pghaven", str(site.config_path), CLUSTER).partition("exec ")[2]
    archive = archive.replace("%p", path)
    assert run_words(shlex.split(archive)[1:]) == 0
    restore = render_restore_command("pghaven", str(site.config_path), CLUSTER, None)
    restore = restore.partition("esac; ")[2].partition(";")[0]
    words = shlex.split(restore.replace("%p", "pg_wal/out"))[1:]
    assert run_words([str(segment_name(3)) if word == "%f" else word for word in words]) == 0
    assert run_words([str(segment_name(4)) if word == "%f" else word for word in words]) == 86
    assert run_words(["x" if word == "%f" else word for word in [*words[:-1], "no/where"]]) == 86


def test_without_a_status_of_its_own_absence_is_1(site: WalSite) -> None:
    assert run_words(["wal", "get", *site.options, str(segment_name(3)), "pg_wal/out"]) == 1


def test_errors_are_reported_on_the_short_way_too(site: WalSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_words(["wal", "push", "--config", "nowhere.toml", "pg_wal/1"]) == 2
    assert run_words(["wal", "get", "--config", "nowhere.toml", "1", "2"]) == 255
    assert capsys.readouterr().err.count("nowhere.toml") == 2


@pytest.mark.parametrize(
    "line",
    [
        "",
        "wal",
        "wal push",
        "wal push a b",
        "wal push --json a",
        "wal push --config",
        "wal push --config c",
        "wal push --config=c a",
        "wal push --config c --config d a",
        "wal push --config --cluster a",
        "wal push --plan p a",
        "wal push a --cluster c",
        "wal push --help",
        "wal get a",
        "wal get a b c",
        "wal get --absent-status 0 a b",
        "wal get --absent-status 256 a b",
        "wal get --absent-status x a b",
        "wal get --absent-status -1 a b",
        "wal get -- a b",
        "wal list",
        "--config c wal push a",
        "backup",
    ],
)
def test_any_other_line_takes_the_long_way(line: str) -> None:
    assert run_words(line.split()) is None


# -- which cluster -----------------------------------------------------------------------------------------------------


def test_the_cluster_is_named_or_the_only_one_or_the_one_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    repository = '[repository.r]\nurl = "file:///r"\n'
    one = parse_config(f'{repository}[cluster.a]\ndata_directory = "{tmp_path}/a"\n', "one")
    two = parse_config(
        f'{repository}[cluster.a]\ndata_directory = "{tmp_path}/a"\n[cluster.b]\ndata_directory = "{tmp_path}/b"\n',
        "two",
    )
    monkeypatch.chdir(tmp_path)
    assert choose_cluster(one, None).name == "a"
    assert choose_cluster(two, "b").name == "b"
    with pytest.raises(UsageError, match="several clusters"):
        choose_cluster(two, None)
    with pytest.raises(NotFound):
        choose_cluster(two, "c")
    monkeypatch.chdir(tmp_path / "b")
    assert choose_cluster(two, None).name == "b"
    assert choose_cluster(two, "a").name == "a"


# -- as a process ------------------------------------------------------------------------------------------------------


def test_a_push_says_nothing_when_all_is_well(site: WalSite) -> None:
    ended = site.push(site.write(segment_name(3), make_segment(segment_name(3))))
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_a_push_in_json_tells_where_the_file_went(site: WalSite) -> None:
    ended = site.push(site.write(segment_name(3), make_segment(segment_name(3))), "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["result"] == {
        "file_name": str(segment_name(3)),
        "kind": "segment",
        "size_bytes": SEGMENT_SIZE,
        "pushes": [{"repository": "r0", "outcome": "stored"}],
        "missed": [],
    }


def test_a_quarantined_push_is_a_success_and_is_loud(site: WalSite) -> None:
    site.push(site.write("00000002.history", render_history((1, Lsn(4 * SEGMENT_SIZE)))))
    path = site.write(segment_name(4), make_segment(segment_name(4)))
    for options in ((), ("--json",)):
        ended = site.push(path, *options)
        assert ended.status == 0
        assert f'warning: quarantined "{segment_name(4)}"' in ended.err


@pytest.mark.parametrize("status", [1, 86, 99, 255])
def test_absence_ends_with_the_status_that_was_asked_for(site: WalSite, status: int) -> None:
    for options in ((), ("--json",)):  # the short way and the long one
        ended = site.get(segment_name(3), "--absent-status", str(status), *options)
        assert ended.status == status


def test_the_list_shows_ranges_gaps_and_quarantine(site: WalSite) -> None:
    assert "no WAL yet" in site.run("list").out
    for number in (3, 4, 6):
        site.push(site.write(segment_name(number), make_segment(segment_name(number))))
    site.push(site.write("00000002.history", render_history((1, Lsn(7 * SEGMENT_SIZE)))))
    site.push(site.write(segment_name(8), make_segment(segment_name(8))))
    text = site.run("list").out
    assert text.index(str(segment_name(4))) < text.index("(gap)") < text.index(str(segment_name(6)))
    assert "files in quarantine:  1" in text
    (archive,) = json.loads(site.run("list", "--json").out)["archives"]
    first, second = archive["timelines"]
    assert [(r["first_segment"], r["last_segment"], r["segments"]) for r in first["ranges"]] == [
        (str(segment_name(3)), str(segment_name(4)), 2),
        (str(segment_name(6)), str(segment_name(6)), 1),
    ]
    assert second["ancestors"] == [{"timeline": 1, "left_at_lsn": "0/700000"}]
    assert len(archive["quarantine"]) == 1


def test_help_tells_of_each(site: WalSite) -> None:
    for words in (["wal"], ["wal", "push", "--help"], ["wal", "list", "--help"]):
        shown = run_in(site.root, [*PROGRAM, *words])
        assert "Traceback" not in shown.err
        assert "WAL" in shown.out + shown.err
