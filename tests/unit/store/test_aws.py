"""AWS's files of keys and configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.errors import NotPermitted, UsageError
from pghaven.store.aws import Keys, read_profile
from pghaven.store.settings import StoreSettings

CREDENTIALS = """
[default]
aws_access_key_id = DEFAULT
aws_secret_access_key = of-default
[backup]
aws_access_key_id = BACKUP
aws_secret_access_key = of-backup
aws_session_token = token
"""
CONFIG = """
[default]
region = eu-west-1
[profile backup]
region = eu-central-1
endpoint_url = https://s3.example.com
[profile process]
credential_process = sh -c 'echo "{\\"AccessKeyId\\": \\"P\\", \\"SecretAccessKey\\": \\"of-process\\"}"'
[profile failing]
credential_process = sh -c 'echo hunter2; exit 3'
[profile babbling]
credential_process = echo hunter2
[profile signed-in]
sso_session = work
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "credentials").write_text(CREDENTIALS)
    (tmp_path / "config").write_text(CONFIG)
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }


def settings(**values: str) -> StoreSettings:
    return StoreSettings(url="s3://bucket/x", **values)  # type: ignore[arg-type]


def test_the_profile_is_the_option_then_the_variable_then_default(environment: dict[str, str]) -> None:
    default = read_profile(settings(), environment)
    assert (default.keys, default.region, default.endpoint) == (Keys("DEFAULT", "of-default", None), "eu-west-1", None)
    for chosen in (
        read_profile(settings(profile="backup"), environment),
        read_profile(settings(), environment | {"AWS_PROFILE": "backup"}),
    ):
        assert chosen.keys == Keys("BACKUP", "of-backup", "token")
        assert (chosen.region, chosen.endpoint) == ("eu-central-1", "https://s3.example.com")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_the_environment_wins_over_files_but_not_over_what_is_configured(
    environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    environment[name] = "x"
    assert read_profile(settings(), environment).keys is None
    assert read_profile(settings(profile="backup"), environment).keys == Keys("BACKUP", "of-backup", "token")
    file = tmp_path / "own"
    file.write_text("[default]\naws_access_key_id = OWN\naws_secret_access_key = s\n")
    assert read_profile(settings(credentials_file=str(file)), environment).keys == Keys("OWN", "s", None)


def test_keys_may_be_printed_by_a_process(environment: dict[str, str]) -> None:
    assert read_profile(settings(profile="process"), environment).keys == Keys("P", "of-process", None)
    for name in ("failing", "babbling"):
        with pytest.raises(NotPermitted, match=f'credential_process of profile "{name}"') as raised:
            read_profile(settings(profile=name), environment)
        assert "hunter2" not in str(raised.value)


def test_a_way_to_keys_that_is_not_known_is_told_with_the_way_round_it(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="sso_session, which is not supported") as raised:
        read_profile(settings(profile="signed-in"), environment)
    assert "export-credentials --profile signed-in" in str(raised.value.hint)


def test_what_was_named_must_be_there_and_what_is_usual_need_not(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='no profile "nobody"'):
        read_profile(settings(profile="nobody"), environment)
    with pytest.raises(UsageError, match="does not exist"):
        read_profile(settings(credentials_file=str(tmp_path / "nowhere")), environment)
    nothing = {"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere"}
    assert read_profile(settings(), nothing).keys is None


def test_keys_are_not_printed() -> None:
    shown = repr(Keys("AK", "hunter2", "token"))
    assert "hunter2" not in shown
    assert "token" not in shown
