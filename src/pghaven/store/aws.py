"""AWS's files of keys and configuration, as its own tools read them.

The one idea: only what a store needs is read (keys, region, address), and a profile that says something else about
keys is refused with the way round it, instead of being read half.

Source: the AWS SDKs and Tools Reference Guide, "Shared config and credentials files" and "Process credential provider".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pghaven.errors import NotPermitted, UsageError
from pghaven.store.settings import StoreSettings

_PROCESS_SECONDS = 60
_OTHER_WAYS = ("sso_session", "sso_start_url", "role_arn", "login_session")


@dataclass(frozen=True, slots=True)
class Keys:
    """What a request is signed with. Printed without it."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """``keys`` is None where the client is to look for them itself: the environment, the services of a host."""

    keys: Keys | None = None
    region: str | None = None
    endpoint: str | None = None


def read_profile(settings: StoreSettings, environment: Mapping[str, str]) -> Profile:
    """What the files say of the chosen profile. A file or profile that was named must exist.

    Raises UsageError, NotPermitted.
    """
    name = settings.profile or environment.get("AWS_PROFILE") or "default"
    named_file = settings.credentials_file or environment.get("AWS_SHARED_CREDENTIALS_FILE")
    credentials = _read_section(
        named_file or _home(".aws/credentials"), [name], required=bool(settings.credentials_file)
    )
    config_file = environment.get("AWS_CONFIG_FILE") or _home(".aws/config")
    config = _read_section(config_file, [f"profile {name}"] + ([name] if name == "default" else []), required=False)
    said = settings.profile is not None or settings.credentials_file is not None
    if said and not credentials and not config:
        raise UsageError(
            f'there is no profile "{name}" in {named_file or "~/.aws/credentials"}',
            hint="The option profile of the repository, or $AWS_PROFILE, chooses one.",
        )
    if settings.credentials_file is not None:
        keys = _find_keys(name, credentials, {})
    elif settings.profile is None and (environment.get("AWS_ACCESS_KEY_ID") or _has_web_identity(environment)):
        keys = None
    else:
        keys = _find_keys(name, credentials, config)
    both = {**config, **credentials}
    return Profile(keys=keys, region=both.get("region"), endpoint=both.get("endpoint_url"))


def _has_web_identity(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"))


def _home(path: str) -> str:
    return os.path.join(os.path.expanduser("~"), path)


def _read_section(path: str, names: list[str], *, required: bool) -> dict[str, str]:
    from configparser import Error, RawConfigParser

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise UsageError(
                f"could not read {path}: it does not exist", hint="The option is credentials_file."
            ) from None
        return {}
    except PermissionError:
        if required:
            raise NotPermitted(f"could not read {path}: permission denied", hint="It must be ours to read.") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"could not read {path}: {type(error).__name__}") from None
    parser = RawConfigParser()
    try:
        parser.read_string(text)
    except Error as error:
        # Its message would repeat the line, and with it a key.
        raise UsageError(f"{path} is not an AWS file of profiles ({type(error).__name__})") from None
    return {key: value for name in names if parser.has_section(name) for key, value in parser.items(name)}


def _find_keys(name: str, credentials: Mapping[str, str], config: Mapping[str, str]) -> Keys | None:
    for section in (credentials, config):
        if "aws_access_key_id" in section and "aws_secret_access_key" in section:
            token = section.get("aws_session_token") or None
            return Keys(section["aws_access_key_id"], section["aws_secret_access_key"], token)
        if command := section.get("credential_process"):
            return _run_process(name, command)
    other = next((way for way in _OTHER_WAYS for section in (credentials, config) if way in section), None)
    if other is not None:
        raise UsageError(
            f'profile "{name}" gets its keys by {other}, which is not supported',
            hint=f"Its credential_process can be: aws configure export-credentials --profile {name} --format process",
        )
    return None


def _run_process(name: str, command: str) -> Keys:
    import json
    import shlex
    import subprocess

    what = f'the credential_process of profile "{name}"'
    try:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROCESS_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise NotPermitted(f"{what} failed: {type(error).__name__}") from None
    if done.returncode != 0:
        raise NotPermitted(f"{what} ended with status {done.returncode}")
    try:
        said = json.loads(done.stdout)
        return Keys(str(said["AccessKeyId"]), str(said["SecretAccessKey"]), said.get("SessionToken"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotPermitted(f"{what} did not print keys in the form of version 1") from None
