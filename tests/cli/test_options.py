"""The global options, help and version, as users write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pghaven import __version__
from pghaven.cli.main import COMMANDS
from tests.cli.running import run_pghaven, run_probe

CONFIG = """
[repository.main]
url = "file:///r"

[cluster.main]
data_directory = "/data/main"
"""


def test_the_version_is_told() -> None:
    ended = run_pghaven("--version")
    assert (ended.status, ended.out, ended.err) == (0, f"pghaven {__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-?"])
def test_help_lists_every_command_with_its_summary(option: str) -> None:
    ended = run_pghaven(option)
    assert ended.status == 0
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in ended.out
        assert " ".join(summary.split()) in " ".join(ended.out.split())


def test_no_command_at_all_is_wrong_usage_and_shows_the_help() -> None:
    ended = run_pghaven()
    assert ended.status == 2
    assert ended.out == ""
    assert ended.err.startswith("Usage: pghaven ")


def test_an_unknown_command_is_told_with_the_nearest() -> None:
    ended = run_pghaven("bakcup")
    assert ended.status == 2
    assert ended.err == 'pghaven: error: unknown command "bakcup"\nHINT:  Did you mean: pghaven backup\n'


def test_an_unknown_option_is_told_in_the_form_of_all_errors() -> None:
    ended = run_pghaven("--no-such-option")
    assert ended.status == 2
    assert ended.err == 'pghaven: error: no such option "--no-such-option"\nHINT:  Try: pghaven --help\n'


def test_an_unknown_option_of_a_command_points_at_the_help_of_the_command() -> None:
    ended = run_probe("probe", "show", "--no-such-option")
    assert ended.status == 2
    assert ended.err.endswith("HINT:  Try: pghaven probe show --help\n")


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "--config", "x.toml", "probe", "show"),
        ("probe", "--json", "--config", "x.toml", "show"),
        ("probe", "show", "--json", "--config", "x.toml"),
        ("--json", "probe", "show", "--config", "x.toml"),
        ("--config", "other.toml", "--json", "probe", "show", "--config", "x.toml"),
    ],
)
def test_global_options_may_stand_anywhere_and_the_last_wins(words: tuple[str, ...]) -> None:
    ended = run_probe(*words)
    assert ended.status == 0
    assert json.loads(ended.out) == {
        "schema": "pghaven/probe/1",
        "when": "2026-11-23T04:47:00.000000Z",
        "size_bytes": 5,
        "config": "x.toml",
        "notices": [],
    }


def test_the_configuration_is_found_as_documented(tmp_path: Path) -> None:
    (tmp_path / "pghaven.toml").write_text(CONFIG)
    (tmp_path / "other.toml").write_text(CONFIG.replace("/data/main", "/data/other"))
    assert run_probe("probe", "cluster", cwd=tmp_path).out == "/data/main\n"
    assert run_probe("probe", "cluster", "--config", "other.toml", cwd=tmp_path).out == "/data/other\n"
    assert run_probe("probe", "cluster", cwd=tmp_path, environment={"PGHAVEN_CONFIG": "other.toml"}).out == (
        "/data/other\n"
    )
    override = {"PGHAVEN_CLUSTER__MAIN__DATA_DIRECTORY": "/data/override"}
    assert run_probe("probe", "cluster", cwd=tmp_path, environment=override).out == "/data/override\n"


def test_a_wrong_configuration_stops_the_command(tmp_path: Path) -> None:
    (tmp_path / "pghaven.toml").write_text(CONFIG + "porcesses = 4\n")
    ended = run_probe("probe", "cluster", cwd=tmp_path)
    assert ended.status == 2
    assert ended.err == (
        "pghaven: error: the configuration has a problem\n"
        f'DETAIL:  {tmp_path}/pghaven.toml:7: unknown option "porcesses" in [cluster.main]; '
        'did you mean "processes"?\n'
        "HINT:  Every option is described in docs/reference/configuration.md.\n"
    )


def test_an_unknown_cluster_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "pghaven.toml").write_text(CONFIG)
    assert run_probe("probe", "cluster", "mian", cwd=tmp_path).status == 10


def test_the_shell_completes_commands_without_importing_them() -> None:
    environment = {"_PGHAVEN_COMPLETE": "bash_complete", "COMP_WORDS": "pghaven re", "COMP_CWORD": "1"}
    assert run_pghaven(environment=environment).out == "plain,release\nplain,restore\nplain,repo\n"
