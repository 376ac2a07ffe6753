from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pghaven.config.loading import find_config_file, load_config, parse_config
from pghaven.config.retention_values import RetentionConfig
from pghaven.errors import ConfigError
from tests.support.waiting import PATIENCE_SECONDS

GOOD = """
[repository.main]
url = "file:///var/lib/pghaven"

[cluster.main]
data_directory = "/var/lib/postgresql/17/main"
conninfo = "host=/run/postgresql"
repositories = ["main"]
"""


def problems_of(text: str, environment: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "/etc/p.toml", environment)
    return caught.value.problems


def with_cluster(line: str) -> str:
    return GOOD + line + "\n"


def test_a_file_becomes_typed_values_with_defaults() -> None:
    config = parse_config(GOOD, "/etc/p.toml")
    cluster = config.get_cluster("main")
    assert config.source == "/etc/p.toml"
    assert cluster.data_directory == "/var/lib/postgresql/17/main"
    assert cluster.conninfo == "host=/run/postgresql"
    assert cluster.compression_level == 3
    assert cluster.backup_archive_timeout_seconds == 600.0
    assert cluster.wal_timeout_seconds == 60.0
    assert cluster.processes is None
    assert cluster.pg_bin is None
    assert [r.url for r in config.get_repositories(cluster)] == ["file:///var/lib/pghaven"]


def test_an_empty_file_configures_nothing() -> None:
    config = parse_config("", "/etc/p.toml")
    assert not config.clusters
    assert not config.repositories


def test_every_option_can_be_written() -> None:
    text = with_cluster(
        'pg_bin = "/usr/lib/postgresql/17/bin/"\nprocesses = 4\ncompression_level = 1\n'
        'backup_archive_timeout = "1.5h"\nwal_timeout = "90 s"'
    )
    cluster = parse_config(text, "/etc/p.toml").get_cluster()
    assert cluster.pg_bin == "/usr/lib/postgresql/17/bin"
    assert cluster.processes == 4
    assert cluster.compression_level == 1
    assert cluster.backup_archive_timeout_seconds == 5400.0
    assert cluster.wal_timeout_seconds == 90.0


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """
[repository.main]
url = "/var/lib/pghaven"

[cluster.main]
data_directroy = "/x"
processes = true
wal_timeout = 5
"""
    assert problems_of(text) == (
        '/etc/p.toml:3: "url" in [repository.main] must be a URL such as "file:///var/lib/pghaven", '
        'not "/var/lib/pghaven"',
        '/etc/p.toml:5: [cluster.main] has no "data_directory", which is required',
        '/etc/p.toml:6: unknown option "data_directroy" in [cluster.main]; did you mean "data_directory"?',
        '/etc/p.toml:7: "processes" in [cluster.main] must be a whole number from 1 to 256, not true',
        '/etc/p.toml:8: "wal_timeout" in [cluster.main] must have a unit, such as "5s" or "5min", not 5',
    )


def test_the_error_counts_the_problems_and_lists_them_as_detail() -> None:
    with pytest.raises(ConfigError, match=r"^the configuration has 2 problems$") as caught:
        parse_config(with_cluster("a = 1\nb = 2"), "/etc/p.toml")
    assert caught.value.detail is not None
    assert len(caught.value.detail.splitlines()) == 2
    assert caught.value.exit_status == 2


def test_an_unknown_kind_of_store_is_told_with_all_other_problems() -> None:
    problems = problems_of('[repository.main]\nurl = "ftp://host/path"\nmore = 1\n')
    assert problems[0].startswith('/etc/p.toml:2: "url" in [repository.main] must begin with file://, ')
    assert problems[0].endswith('not "ftp://"')
    assert "more" in problems[1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("processes = 0", "must be a whole number from 1 to 256, not 0"),
        ("processes = 1.5", "must be a whole number from 1 to 256, not 1.5"),
        ('processes = "2"', 'must be a whole number from 1 to 256, not "2"'),
        ("compression_level = 20", "must be a whole number from 1 to 19, not 20"),
        ('pg_bin = "bin"', 'must be an absolute path, not "bin"'),
        ("pg_bin = 3", "must be text in quotes, not 3"),
        ('pg_bin = "/a\\nb"', "must not contain line breaks or other control characters"),
        ('wal_timeout = "0s"', 'must be more than zero, not "0s"'),
        ('wal_timeout = "soon"', '"soon" is not a duration such as "15min"'),
        ("wal_timeout = true", "must be text in quotes, not true"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_problem(line: str, problem: str) -> None:
    (only,) = problems_of(with_cluster(line))
    assert only.startswith("/etc/p.toml:9: ")
    assert problem in only


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('"main"', 'must be a list of names such as ["main"], not "main"'),
        ("[]", 'must be a list of names such as ["main"], not a list'),
        ('["main", "main"]', 'contains "main" twice'),
        ('["a/b"]', 'contains "a/b"'),
        ('["mian"]', 'names "mian", but there is no [repository.mian]; did you mean "main"?'),
    ],
)
def test_a_wrong_list_of_repositories_is_a_problem(value: str, problem: str) -> None:
    (only,) = problems_of(GOOD.replace('["main"]', value))
    assert problem in only


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("retention = 3", '/etc/p.toml:1: unknown option "retention"'),
        ("[clusters.main]", '/etc/p.toml:1: unknown section [clusters]; did you mean "cluster"?'),
        ("cluster = 3", '/etc/p.toml:1: "cluster" must be written as sections [cluster.NAME]'),
        ("[[cluster]]", '/etc/p.toml:1: "cluster" must be written as sections [cluster.NAME]'),
        ("[repository]\nurl = 1", '/etc/p.toml:2: "url" stands in [repository], but options belong in'),
        ('[repository."a b"]', '/etc/p.toml:1: "a b" cannot name a repository'),
        ("[repository.-x]", '/etc/p.toml:1: "-x" cannot name a repository'),
    ],
)
def test_a_section_that_does_not_exist_is_a_problem(text: str, problem: str) -> None:
    (only,) = problems_of(text)
    assert only.startswith(problem)


def test_a_section_for_what_does_not_exist_yet_is_a_problem() -> None:
    assert problems_of(GOOD + '\n[cluster.main.schedule]\nbackup = "0 2 * * *"\n') == (
        "/etc/p.toml:10: unknown section [cluster.main.schedule]",
    )


RETENTION = GOOD + "\n[cluster.main.retention]\n"


def test_a_section_within_a_section_becomes_a_value_of_it() -> None:
    text = RETENTION + (
        'window = "7d"\ncount = 3\nkeep_daily = 7\nkeep_weekly = 4\nkeep_monthly = 6\nkeep_yearly = 10\ngrace = "3d"'
    )
    assert parse_config(text, "/etc/p.toml").get_cluster().retention == RetentionConfig(
        window_seconds=604800.0,
        count=3,
        keep_daily=7,
        keep_weekly=4,
        keep_monthly=6,
        keep_yearly=10,
        grace_seconds=259200.0,
    )


def test_without_its_section_nothing_is_said_of_retention() -> None:
    retention = parse_config(GOOD, "/etc/p.toml").get_cluster().retention
    assert retention == RetentionConfig()
    assert retention.window_seconds is None
    assert retention.grace_seconds == 86400.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (RETENTION + "count = 0", '11: "count" in [cluster.main.retention] must be a whole number from 1 to 100000'),
        (
            RETENTION + 'widnow = "7d"',
            '11: unknown option "widnow" in [cluster.main.retention]; did you mean "window"?',
        ),
        (RETENTION + "processes = 3", '11: "processes" stands in [cluster.main.retention], but belongs in [cluster'),
        (GOOD + 'window = "7d"', '9: "window" stands in [cluster.main], but belongs in [cluster.NAME.retention]'),
        (GOOD + "retention = 3", '9: "retention" must be written as section [cluster.main.retention]'),
        (GOOD + "[cluster.main.retentoin]", '9: unknown section [cluster.main.retentoin]; did you mean "retention"?'),
        (GOOD + "[repository.main.retention]", "9: unknown section [repository.main.retention]"),
    ],
)
def test_a_problem_within_a_section_of_a_section_is_placed(text: str, problem: str) -> None:
    (only,) = problems_of(text)
    assert only.startswith(f"/etc/p.toml:{problem}")


def test_an_override_reaches_a_section_within_a_section() -> None:
    variable = "PGHAVEN_CLUSTER__MAIN__RETENTION__WINDOW"
    for text in (GOOD, RETENTION + 'window = "7d"'):
        retention = parse_config(text, "/etc/p.toml", {variable: "30d"}).get_cluster().retention
        assert retention.window_seconds == 2592000.0
    (only,) = problems_of(RETENTION, {variable: "30"})
    assert only.startswith(f'environment variable {variable}: "window" in [cluster.main.retention]')


def test_an_option_in_the_wrong_section_is_told_where_it_belongs() -> None:
    (only,) = problems_of(with_cluster('url = "file:///x"'))
    assert only == '/etc/p.toml:9: "url" stands in [cluster.main], but belongs in [repository.NAME]'


def test_the_only_repository_is_the_default_of_a_cluster() -> None:
    text = GOOD.replace('repositories = ["main"]\n', "")
    assert parse_config(text, "/etc/p.toml").get_cluster().repositories == ("main",)


def test_a_cluster_must_choose_among_several_repositories() -> None:
    text = GOOD.replace('repositories = ["main"]\n', "") + '\n[repository.far]\nurl = "file:///far"\n'
    (only,) = problems_of(text)
    assert only == '/etc/p.toml:5: [cluster.main] must choose its "repositories" from "main", "far"'


def test_a_cluster_without_any_repository_is_a_problem() -> None:
    (only,) = problems_of('[cluster.main]\ndata_directory = "/x"\n')
    assert only.endswith("has nowhere to keep backups: there is no [repository.NAME]")


def test_a_name_in_an_inline_table_is_placed_at_the_table() -> None:
    (first, *_) = problems_of('\ncluster.main = { data_directory = "/x", porcesses = 3 }\n')
    assert first.startswith("/etc/p.toml:2: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=\n", "/etc/p.toml:1:3: invalid value"),
        ("\n[x\n", "/etc/p.toml:2:3: expected ']' at the end of a table declaration"),
        ('x = """abc', "/etc/p.toml:1: unterminated string"),
        ("a = " + "9" * 5000, "/etc/p.toml: a number is too long, or values are nested too deeply"),
        ("a = " + "[" * 9000, "/etc/p.toml: a number is too long, or values are nested too deeply"),
    ],
    ids=["value", "table", "string", "number", "nesting"],
)
def test_bad_toml_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "/etc/p.toml")
    assert caught.value.message == f"configuration file is not valid TOML: {message}"


def test_the_environment_overrides_the_file() -> None:
    config = parse_config(
        GOOD,
        "/etc/p.toml",
        {
            "PGHAVEN_CLUSTER__MAIN__PROCESSES": "4",
            "PGHAVEN_CLUSTER__MAIN__WAL_TIMEOUT": "2min",
            "PGHAVEN_CLUSTER__MAIN__REPOSITORIES": "main",
            "PGHAVEN_REPOSITORY__MAIN__URL": "file:///elsewhere",
            "PGHAVEN_CONFIG": "/etc/p.toml",
            "HOME": "/",
        },
    )
    assert config.get_cluster().processes == 4
    assert config.get_cluster().wal_timeout_seconds == 120.0
    assert config.repositories["main"].url == "file:///elsewhere"


def test_an_override_reaches_a_name_with_a_dash() -> None:
    text = GOOD.replace("[cluster.main]", "[cluster.eu-west]")
    cluster = parse_config(text, "/etc/p.toml", {"PGHAVEN_CLUSTER__EU_WEST__PROCESSES": "2"}).get_cluster()
    assert cluster.processes == 2


def test_an_override_may_supply_what_the_file_lacks() -> None:
    text = GOOD.replace('data_directory = "/var/lib/postgresql/17/main"\n', "")
    override = {"PGHAVEN_CLUSTER__MAIN__DATA_DIRECTORY": "/data"}
    assert parse_config(text, "/etc/p.toml", override).get_cluster().data_directory == "/data"


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("PGHAVEN_CLUSTER__MAIN__PROCESSES", "four", 'must be a whole number from 1 to 256, not "four"'),
        ("PGHAVEN_CLUSTER__MAIN__PROCESES", "4", 'did you mean "PGHAVEN_CLUSTER__MAIN__PROCESSES"?'),
        ("PGHAVEN_CLUSTER__MIAN__PROCESSES", "4", "overrides nothing that is configured"),
        ("PGHAVEN_CLUSTER__MAIN__REPOSITORIES", "main,far", 'names "far"'),
    ],
)
def test_a_wrong_override_is_a_problem_of_its_variable(variable: str, value: str, problem: str) -> None:
    (only,) = problems_of(GOOD, {variable: value})
    assert only.startswith(f"environment variable {variable}: ")
    assert problem in only


def test_an_override_that_could_mean_two_sections_is_a_problem() -> None:
    text = GOOD + '\n[cluster.MAIN]\ndata_directory = "/other"\n'
    (only,) = problems_of(text, {"PGHAVEN_CLUSTER__MAIN__PROCESSES": "4"})
    assert only.endswith("could mean [cluster.main] and [cluster.MAIN]")


def test_the_named_file_comes_before_the_environment_and_that_before_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("named", "variable", "pghaven"):
        (tmp_path / f"{name}.toml").write_text(f'[repository.{name}]\nurl = "file:///x"\n')
    monkeypatch.chdir(tmp_path)
    environment = {"PGHAVEN_CONFIG": "variable.toml"}
    named = load_config("named.toml", environment=environment)
    assert list(named.repositories) == ["named"]
    assert list(load_config(environment=environment).repositories) == ["variable"]
    assert list(load_config(environment={}).repositories) == ["pghaven"]
    assert list(load_config(environment={"PGHAVEN_CONFIG": ""}).repositories) == ["pghaven"]
    assert named.source == str(tmp_path / "named.toml")


def test_the_file_that_would_be_read_is_told_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config_file("new.toml", environment={}) == str(tmp_path / "new.toml")
    assert find_config_file(environment={"PGHAVEN_CONFIG": "other.toml"}) == str(tmp_path / "other.toml")
    (tmp_path / "pghaven.toml").symlink_to("nowhere")
    assert find_config_file(environment={}) == str(tmp_path / "pghaven.toml")


@pytest.mark.parametrize(("path", "environment"), [("gone.toml", {}), (None, {"PGHAVEN_CONFIG": "gone.toml"})])
def test_a_named_file_must_exist(
    path: str | None, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pghaven.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r'configuration file ".*/gone.toml" does not exist'):
        load_config(path, environment=environment)


@pytest.mark.skipif(os.path.exists("/etc/pghaven/pghaven.toml"), reason="this machine has a pghaven configuration")
def test_no_file_anywhere_tells_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no configuration file") as caught:
        load_config(environment={})
    assert caught.value.problems == (
        f"looked for {tmp_path}/pghaven.toml",
        "looked for /etc/pghaven/pghaven.toml",
    )
    assert caught.value.hint is not None
    assert "pghaven init" in caught.value.hint


def test_a_directory_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"could not read configuration file .*: is a directory"):
        load_config(str(tmp_path), environment={})


def test_bad_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(b"# fine\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), environment={})
    assert caught.value.message == f"configuration file is not UTF-8 text: {file}:2: byte 0xe9"


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(str(file), environment={}).get_cluster().name == "main"


def test_a_file_that_may_not_be_read_hides_no_other_file(tmp_path: Path) -> None:
    """Run as a plain user, since root may read anything: the unreadable local file must not give way to another."""
    (tmp_path / "pghaven.toml").write_text(GOOD)
    (tmp_path / "pghaven.toml").chmod(0)
    program = (
        "from pghaven.config.loading import load_config\n"
        "from pghaven.errors import ConfigError\n"
        "import os, sys\n"
        "if os.getuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "try: load_config(environment={})\n"
        "except ConfigError as error: print(error.message)\n"
    )
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == Path(tmp_path).owner() and directory.stat().st_mode & 0o077 == 0:
            directory.chmod(0o711)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == f'could not read configuration file "{tmp_path}/pghaven.toml": permission denied\n'


def test_an_option_of_another_kind_of_store_is_a_problem_at_its_place() -> None:
    text = GOOD.replace('pghaven"\n', 'pghaven"\nregion = "eu-central-1"\nendpoint = "https://x"\n', 1)
    assert problems_of(text) == (
        '/etc/p.toml:4: "region" in [repository.main] is for s3://, but its "url" is file://',
        '/etc/p.toml:5: "endpoint" in [repository.main] is for s3://, gs:// and az://, but its "url" is file://',
    )


@pytest.mark.parametrize("option", ["url", "endpoint"])
@pytest.mark.parametrize("address", ["https://me:hunter2@host/x", "https://host/?sig=hunter2"])
def test_a_password_in_an_address_is_refused_and_not_repeated(option: str, address: str) -> None:
    text = f'[repository.main]\n{option} = "{address}"\n'
    if option != "url":
        text += 'url = "s3://bucket/x"\n'
    (problem,) = problems_of(text)
    assert "must not hold a password" in problem
    assert "hunter2" not in problem


def test_switches_and_addresses_are_checked() -> None:
    section = '[repository.main]\nurl = "s3://bucket/x"\n'
    for line, word in [
        ('path_style = "yes"', "must be true or false"),
        ('endpoint = "s3.example.com"', "must be an address"),
        ('ca_file = "ca.pem"', "absolute path of a file"),
    ]:
        (problem,) = problems_of(section + line + "\n")
        assert word in problem
    variables = {"PGHAVEN_REPOSITORY__MAIN__PATH_STYLE": "false"}
    assert parse_config(section, "/etc/p.toml", variables).repositories["main"].path_style is False
