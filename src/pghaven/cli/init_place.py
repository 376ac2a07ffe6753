"""Where ``init`` works: the cluster as configured, or as the options say where there is no configuration yet.

The one idea: a configuration file is written only where there is none; one that is there has the word, and an option
that says otherwise is an error instead of a silent change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pghaven.cli.sealing import wants_sealing
from pghaven.config.loading import FILE_VARIABLE, LOCAL_FILE, SYSTEM_FILE, find_config_file, load_config, parse_config
from pghaven.config.repository_values import KEY_OPTIONS, RepositoryConfig
from pghaven.config.schema import options_of
from pghaven.config.starter import render_cluster, render_repository, render_starter
from pghaven.config.values import ClusterConfig
from pghaven.errors import NotPermitted, StoreUnreachable, UsageError
from pghaven.repository.keysource import PASSPHRASE_VARIABLE
from pghaven.runtime.durable import OwnerOf, make_directories_durably, write_durably

# Root's file is for the server's user to read, and for nobody else: a conninfo may hold a password after all.
_FILE_MODE = 0o640
_DIRECTORY_MODE = 0o755
_REPOSITORY_NAME = "main"
_OPTION_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What was given on the command line; None for what was not.

    ``encryption`` is whether a new repository is to be sealed; without a word object stores are, directories are not.
    ``store_options`` are options of the repository, each as NAME=VALUE.
    """

    data_directory: str | None
    conninfo: str | None
    repository_url: str | None
    encryption: bool | None = None
    key_file: str | None = None
    store_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InitPlace:
    """``is_new``: ``config_path`` is still to be written, with ``options`` as those of the repository beside its URL.
    ``cluster.data_directory`` may be empty as long as it is."""

    config_path: str
    is_new: bool
    cluster: ClusterConfig
    repositories: tuple[RepositoryConfig, ...]
    options: Mapping[str, object] = field(default_factory=dict)

    def with_data_directory(self, data_directory: str) -> InitPlace:
        """Completed with what the server says, if nobody else has said it."""
        if self.cluster.data_directory:
            return self
        return replace(self, cluster=replace(self.cluster, data_directory=data_directory))


def find_place(config_path: str | None, cluster: str, options: InitOptions) -> InitPlace:
    """Raises ConfigError, and UsageError for options that contradict the configuration or are missing without one."""
    found = find_config_file(config_path)
    if found is not None and os.path.lexists(found):
        return _configured(found, cluster, options)
    path = found or os.path.abspath(SYSTEM_FILE if os.geteuid() == 0 else LOCAL_FILE)
    if options.repository_url is None:
        raise UsageError(
            f"there is no configuration file, and --repository does not say where backups are to be kept in {path}",
            hint=f"For example: pghaven init {cluster} --repository file:///var/lib/pghaven",
        )
    made = ClusterConfig(
        name=cluster,
        data_directory="" if options.data_directory is None else os.path.abspath(options.data_directory),
        conninfo=options.conninfo or "",
        repositories=(_REPOSITORY_NAME,),
    )
    written = _parse_options(options.store_options)
    if options.key_file is not None or (
        wants_sealing(options.repository_url, options.encryption) and not written.keys() & set(KEY_OPTIONS)
    ):
        beside = os.path.join(os.path.dirname(path), f"{_REPOSITORY_NAME}.key")
        written["key_file"] = os.path.abspath(options.key_file or beside)
    elif options.encryption is False and PASSPHRASE_VARIABLE in os.environ:
        written["encryption"] = False  # else the next command would take it for this repository's
    repository = RepositoryConfig(name=_REPOSITORY_NAME, url=options.repository_url)
    if written:
        text = render_repository(_REPOSITORY_NAME, options.repository_url, written)
        repository = parse_config(text, "the command line").repositories[_REPOSITORY_NAME]
    return InitPlace(config_path=path, is_new=True, cluster=made, repositories=(repository,), options=written)


def _parse_options(given: Sequence[str]) -> dict[str, object]:
    """Options of a repository as TOML would give them. Those that there are not are told by whoever reads them."""
    known = {option.name: option for option in options_of(RepositoryConfig)}
    found: dict[str, object] = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator or not _OPTION_NAME.fullmatch(name) or name == "url":
            raise UsageError(
                f'--store-option "{one}" is not of the form NAME=VALUE',
                hint="For example: --store-option endpoint=https://s3.example.com; "
                "docs/reference/configuration.md lists the options of a repository.",
            )
        found[name] = known[name].kind.from_text(value) if name in known else value
    return found


def _configured(path: str, cluster: str, options: InitOptions) -> InitPlace:
    config = load_config(path)
    if cluster not in config.clusters:
        lines = render_cluster(cluster, options.data_directory or "/…", options.conninfo or "", (_REPOSITORY_NAME,))
        raise UsageError(
            f'cluster "{cluster}" is not in the configuration {path}',
            detail=f"Add a section such as:\n{lines.rstrip()}",
            hint="init writes a configuration only where there is none.",
        )
    known = config.clusters[cluster]
    repositories = config.get_repositories(known)
    urls = [one.url for one in repositories]
    _require_same(path, "--data-directory", options.data_directory, [known.data_directory])
    _require_same(path, "--conninfo", options.conninfo, [known.conninfo])
    _require_same(path, "--repository", options.repository_url, urls)
    if options.key_file is not None:
        _require_same(path, "--key-file", options.key_file, [one.key_file or "" for one in repositories])
    for name, value in _parse_options(options.store_options).items():
        text = render_repository(_REPOSITORY_NAME, urls[0], {name: value})
        wanted = parse_config(text, "the command line").repositories[_REPOSITORY_NAME]
        said = next(one.field for one in options_of(RepositoryConfig) if one.name == name)
        if all(getattr(one, said) != getattr(wanted, said) for one in repositories):
            raise UsageError(
                f"--store-option {name} contradicts the configuration {path}",
                hint="Change it there, or leave the option out.",
            )
    return InitPlace(config_path=config.source, is_new=False, cluster=known, repositories=repositories)


def _require_same(path: str, option: str, given: str | None, configured: list[str]) -> None:
    if given is not None and given.rstrip("/") not in [one.rstrip("/") for one in configured]:
        raise UsageError(
            f'{option} is "{given}", but {path} says "{configured[0]}"',
            hint="Change it there, or leave the option out.",
        )


def write_starter(place: InitPlace, group: int | None) -> None:
    """Write the first configuration file. ``group`` may read it, where root writes it for a server's user.

    Raises NotPermitted, StoreUnreachable; never replaces a file.
    """
    cluster = place.cluster
    repository = place.repositories[0]
    text = render_starter(cluster.name, cluster.data_directory, cluster.conninfo, repository.url, place.options)
    owner = None if group is None else OwnerOf(uid=os.geteuid(), gid=group)
    try:
        make_directories_durably(os.path.dirname(place.config_path), _DIRECTORY_MODE)
        if os.path.lexists(place.config_path):
            raise UsageError(f"{place.config_path} was made by somebody else just now", hint="Run the command again.")
        write_durably(place.config_path, text.encode(), _FILE_MODE, owner)
    except PermissionError as error:
        raise NotPermitted(
            f"could not write {place.config_path}: permission denied",
            hint=f"Name another place with --config FILE or ${FILE_VARIABLE}.",
        ) from error
    except OSError as error:
        raise StoreUnreachable(f"could not write {place.config_path}: {error.strerror}") from error
