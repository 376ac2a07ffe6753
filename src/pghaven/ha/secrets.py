"""The passwords that the nodes of a cluster use among themselves, in a file of their own.

The one idea: they are in no other file of the configuration, and a file that others can read is refused.
"""

from __future__ import annotations

import os
import secrets
import stat
import tomllib
from dataclasses import fields

from pghaven.errors import ConfigError, NotFound, NotPermitted
from pghaven.ha.spec import Secrets
from pghaven.server.identity import OsUser

_NAMES = tuple(one.name for one in fields(Secrets))


def read_secrets(path: str) -> Secrets:
    """Raises NotFound, NotPermitted for a file that others can read, ConfigError for one that is not complete."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            document = tomllib.loads(file.read().decode())
    except FileNotFoundError:
        raise NotFound(
            f'the file of passwords "{path}" does not exist',
            hint="On the first node: pghaven ha apply --make-secrets. Then copy the file to the others.",
        ) from None
    except OSError as error:
        raise NotPermitted(f'could not read "{path}": {(error.strerror or str(error)).lower()}') from error
    except ValueError as error:
        raise ConfigError(f'the file of passwords "{path}" is not valid TOML: {error}') from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise NotPermitted(f'others can read the passwords in "{path}"', hint=f"Run: chmod 600 {path}")
    wrong = [name for name in _NAMES if not isinstance(document.get(name), str) or not document[name]]
    if wrong:
        raise ConfigError(f'the file of passwords "{path}" has no {" and no ".join(wrong)}')
    return Secrets(**{name: document[name] for name in _NAMES})


def make_secrets(path: str, user: OsUser | None) -> Secrets:
    """Write new passwords, for ``user`` alone; a file that is there stays and is read. Raises as ``read_secrets``."""
    if os.path.lexists(path):
        return read_secrets(path)
    text = "".join(f'{name} = "{secrets.token_urlsafe(24)}"\n' for name in _NAMES)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if user is not None:
            os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise NotPermitted(f'could not write "{path}": {(error.strerror or str(error)).lower()}') from error
    return read_secrets(path)
