"""Finding and reading the configuration file, with every problem told at once and where it stands.

The one idea: reading goes on past a problem and collects it, so that one run shows all of them; a configuration with
any problem is never used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from pghaven.config.ha_values import find_problems
from pghaven.config.places import Path, find_line, find_places
from pghaven.config.plaintoml import parse_plain_toml
from pghaven.config.repository_values import RepositoryConfig
from pghaven.config.schema import SECTION_NAME, SECTION_NAME_RULE, Invalid, Option, Section
from pghaven.config.values import SECTIONS, ClusterConfig, Config, find_nearest
from pghaven.errors import ConfigError
from pghaven.light import pattern, replace
from pghaven.store.settings import scheme_of

LOCAL_FILE = "pghaven.toml"
SYSTEM_FILE = "/etc/pghaven/pghaven.toml"
FILE_VARIABLE = "PGHAVEN_CONFIG"

_WHERE_DESCRIBED = "Every option is described in docs/reference/configuration.md."
_TOML_PLACE = pattern(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)")


def load_config(path: str | None = None, *, environment: Mapping[str, str] | None = None) -> Config:
    """Read the configuration: from ``path``, else $PGHAVEN_CONFIG, ./pghaven.toml, /etc/pghaven/pghaven.toml.

    ``environment`` is the process's own unless given; its PGHAVEN_SECTION__NAME__OPTION variables override the file.
    Raises ConfigError.
    """
    variables = os.environ if environment is None else environment
    source, content = _read_first(path, variables)
    return parse_config(_decode(source, content), source, variables)


def find_config_file(path: str | None = None, *, environment: Mapping[str, str] | None = None) -> str | None:
    """Which file ``load_config`` would read, as an absolute path; None when nothing is named and none is there.

    A file that was named by ``path`` or the environment is returned whether it exists or not.
    """
    variables = os.environ if environment is None else environment
    named = path or variables.get(FILE_VARIABLE)
    if named:
        return os.path.abspath(named)
    return next((os.path.abspath(place) for place in (LOCAL_FILE, SYSTEM_FILE) if os.path.lexists(place)), None)


def parse_config(text: str, source: str, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``text``, with overrides from ``environment``. Pure. Raises ConfigError."""
    document = parse_plain_toml(text)
    if document is None:
        document = _parse_toml(text, source)
    reading = _Reading(document, source, text)
    reading.apply_overrides(environment or {})
    return reading.finish()


def environment_name(*path: str) -> str:
    """The variable that overrides an option: ``PGHAVEN_CLUSTER__MAIN__PROCESSES``."""
    return f"PGHAVEN_{'__'.join(path)}".replace("-", "_").upper()


def _read_first(path: str | None, environment: Mapping[str, str]) -> tuple[str, bytes]:
    named = path or environment.get(FILE_VARIABLE)
    places = (named,) if named else (LOCAL_FILE, SYSTEM_FILE)
    for place in places:
        source = os.path.abspath(place)
        try:
            with open(source, "rb") as file:
                return source, file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            raise ConfigError(
                f'could not read configuration file "{source}": permission denied',
                hint="Run pghaven as a user who may read it, usually the one that runs PostgreSQL.",
            ) from None
        except OSError as reason:
            raise ConfigError(f'could not read configuration file "{source}": {_reason(reason)}') from None
    if named:
        origin = "--config" if path else f"${FILE_VARIABLE}"
        raise ConfigError(
            f'configuration file "{os.path.abspath(named)}" does not exist', hint=f"It was named by {origin}."
        )
    raise ConfigError(
        "there is no configuration file",
        [f"looked for {os.path.abspath(place)}" for place in places],
        hint="Name one with --config FILE or $PGHAVEN_CONFIG, or have one written: pghaven init CLUSTER",
    )


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _decode(source: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        raise ConfigError(
            f"configuration file is not UTF-8 text: {source}:{line}: byte 0x{content[reason.start]:02x}",
            hint="Save the file as UTF-8.",
        ) from None


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = _place_toml_error(source, text, error)
    except (ValueError, RecursionError):
        reason = f"{source}: a number is too long, or values are nested too deeply"
    raise ConfigError(f"configuration file is not valid TOML: {reason}")


def _place_toml_error(source: str, text: str, error: Exception) -> str:
    message = str(error)
    match = _TOML_PLACE.fullmatch(message)
    if match:
        message, place = match[1], f"{source}:{match[2]}:{match[3]}"
    else:
        message, place = message.removesuffix(" (at end of document)"), f"{source}:{text.count(chr(10)) + 1}"
    return f"{place}: {message[:1].lower()}{message[1:]}"


class _Reading:
    """One document on its way to a Config, and the problems found in it."""

    def __init__(self, document: dict[str, Any], source: str, text: str) -> None:
        self._source = source
        self._text = text
        self._places: dict[Path, int] | None = None
        self._problems: list[tuple[int, str]] = []
        # Each section that is written, and each part of one whether it is written or not, by its path.
        self._sections: dict[Path, Section] = {}
        self._written: dict[Path, dict[str, Any]] = {}
        self._overridden: dict[Path, str] = {}
        known = {section.name for section in SECTIONS}
        for name, value in document.items():
            if name not in known:
                self._note((name,), _unknown_top_level(name, value, known))
        for section in SECTIONS:
            self._take_sections(section, document.get(section.name, {}))

    def apply_overrides(self, environment: Mapping[str, str]) -> None:
        if not any(variable.startswith("PGHAVEN_") and "__" in variable for variable in environment):
            return
        targets: dict[str, list[tuple[Path, Option]]] = {}
        for path, section in self._sections.items():
            for option in section.options.values():
                targets.setdefault(environment_name(*path, option.name), []).append((path, option))
        for variable, text in sorted(environment.items()):
            if not variable.startswith("PGHAVEN_") or "__" not in variable:
                continue
            if variable not in targets:
                self._note_variable(variable, "overrides nothing that is configured" + _did_you_mean(variable, targets))
            elif len(targets[variable]) > 1:
                self._note_variable(variable, f"could mean {' and '.join(_title(p) for p, _ in targets[variable])}")
            else:
                path, option = targets[variable][0]
                self._written[path][option.name] = option.kind.from_text(text)
                self._overridden[*path, option.name] = variable

    def finish(self) -> Config:
        built = {
            section.name: {
                path[1]: self._build(path, name=path[1]) for path, kind in self._sections.items() if kind is section
            }
            for section in SECTIONS
        }
        repositories: dict[str, RepositoryConfig] = built["repository"]
        clusters: dict[str, ClusterConfig] = built["cluster"]
        clusters = {name: self._link(cluster, repositories) for name, cluster in clusters.items()}
        for cluster in clusters.values():
            self._check_required(cluster)
            self._check_ha(cluster, clusters)
        if self._problems:
            problems = [text for _, text in sorted(self._problems)]
            what = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise ConfigError(f"the configuration has {what}", problems, hint=_WHERE_DESCRIBED)
        return Config(repositories=repositories, clusters=clusters, source=self._source)

    def _take_sections(self, section: Section, tables: object) -> None:
        if not isinstance(tables, dict):
            self._note((section.name,), f'"{section.name}" must be written as sections [{section.name}.NAME]')
            return
        for name, table in tables.items():
            path = (section.name, name)
            if not isinstance(table, dict):
                self._note(path, f'"{name}" stands in [{section.name}], but options belong in [{section.name}.NAME]')
            elif not SECTION_NAME.fullmatch(name):
                self._note(path, f'"{name}" cannot name a {section.name}: {SECTION_NAME_RULE}')
            else:
                self._take_section(section, path, dict(table))

    def _take_section(self, section: Section, path: Path, table: dict[str, Any]) -> None:
        for part in section.parts:
            within = table.pop(part.name, {})
            if not isinstance(within, dict):
                self._note((*path, part.name), f'"{part.name}" must be written as section {_title((*path, part.name))}')
                within = {}
            self._take_section(part, (*path, part.name), dict(within))
        for part in section.repeated:
            tables = table.pop(part.name, [])
            if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
                self._note((*path, part.name), f'"{part.name}" must be written as [{_title((*path, part.name))}]')
                tables = []
            for number, one in enumerate(tables, start=1):
                self._take_section(part, (*path, part.name, str(number)), dict(one))
        self._sections[path] = section
        self._written[path] = table

    def _build(self, path: Path, **values: Any) -> Any:
        """The value of one section and its parts; ``values`` are fields that are no options."""
        section = self._sections[path]
        options = section.options
        for key, value in self._written[path].items():
            if key not in options:
                self._note((*path, key), _unknown_option(section, path, key, value))
                continue
            option = options[key]
            try:
                values[option.field] = option.kind.parse(value)
            except Invalid as reason:
                self._note((*path, key), f'"{key}" in {_title(path)} {reason}')
                values[option.field] = None
        for option in options.values():
            if option.required and option.field not in values:
                self._note(path, f'{_title(path)} has no "{option.name}", which is required')
                values[option.field] = None
        self._note_foreign(path, options, values.get("url"))
        given = [key for key in section.one_of if key in self._written[path]]
        if len(given) > 1:
            names = " and ".join(f'"{key}"' for key in given)
            self._note((*path, given[1]), f"{names} stand in {_title(path)}, but only one of them can count")
        for part in section.parts:
            values[part.name] = self._build((*path, part.name))
        for part in section.repeated:
            paths = [one for one, kind in self._sections.items() if kind is part and one[:-1] == (*path, part.name)]
            values[part.name] = tuple(self._build(one) for one in paths)
        return section.type(**values)

    def _note_foreign(self, path: Path, options: Mapping[str, Option], url: str | None) -> None:
        """Options that do not go with the kind of store that the section's URL names."""
        scheme = scheme_of(url) if url else None
        for key in self._written[path] if scheme else ():
            if key in options and options[key].schemes and scheme not in options[key].schemes:
                *others, last = [f"{one}://" for one in options[key].schemes]
                takers = f"{', '.join(others)} and {last}" if others else last
                self._note((*path, key), f'"{key}" in {_title(path)} is for {takers}, but its "url" is {scheme}://')

    def _link(self, cluster: ClusterConfig, repositories: Mapping[str, RepositoryConfig]) -> ClusterConfig:
        path = ("cluster", cluster.name, "repositories")
        if cluster.repositories:
            for name in cluster.repositories:
                if name not in repositories:
                    self._note(
                        path,
                        f'"repositories" in [cluster.{cluster.name}] names "{name}", but there is no '
                        f"[repository.{name}]{_did_you_mean(name, repositories)}",
                    )
            return cluster
        if "repositories" in self._written["cluster", cluster.name]:
            return cluster
        if len(repositories) == 1:
            return replace(cluster, repositories=tuple(repositories))
        if repositories:
            names = ", ".join(f'"{name}"' for name in repositories)
            self._note(path, f'[cluster.{cluster.name}] must choose its "repositories" from {names}')
        else:
            self._note(path, f"[cluster.{cluster.name}] has nowhere to keep backups: there is no [repository.NAME]")
        return cluster

    def _check_required(self, cluster: ClusterConfig) -> None:
        required, there = cluster.wal_required, len(cluster.repositories or ())
        if required is not None and required > there > 0:
            path = ("cluster", cluster.name, "wal_required")
            self._note(path, f'"wal_required" in {_title(path[:2])} is {required}, but there are {there} repositories')

    def _check_ha(self, cluster: ClusterConfig, clusters: Mapping[str, ClusterConfig]) -> None:
        path = ("cluster", cluster.name, "ha")
        if self._problems or not cluster.ha.is_configured:
            return
        for key, text in find_problems(cluster.ha):
            self._note((*path, key), f"{_title(path)}: {text}")
        followed = cluster.ha.follow
        if followed is not None and (followed not in clusters or followed == cluster.name):
            self._note(
                (*path, "follow"),
                f'"follow" in {_title(path)} names "{followed}", but there is no other [cluster.{followed}]'
                f"{_did_you_mean(followed, clusters)}",
            )

    def _note(self, path: Path, text: str) -> None:
        if path in self._overridden:
            self._note_variable(self._overridden[path], text)
            return
        if self._places is None:
            self._places = find_places(self._text)
        line = find_line(self._places, path)
        self._problems.append((line or 0, f"{self._source}:{line}: {text}" if line else f"{self._source}: {text}"))

    def _note_variable(self, variable: str, text: str) -> None:
        self._problems.append((0, f"environment variable {variable}: {text}"))


def _unknown_top_level(name: str, value: object, known: Iterable[str]) -> str:
    written = f"[{name}]" if isinstance(value, dict) else f'"{name}"'
    what = "section" if isinstance(value, dict) else "option"
    return f"unknown {what} {written}{_did_you_mean(name, known)}"


def _unknown_option(section: Section, path: Path, key: str, value: object) -> str:
    nearest = _did_you_mean(key, [*section.options, *(part.name for part in (*section.parts, *section.repeated))])
    if isinstance(value, dict):
        return f"unknown section {_title((*path, key))}{nearest}"
    for other in SECTIONS:
        if key in other.options:
            return f'"{key}" stands in {_title(path)}, but belongs in [{other.name}.NAME]'
        for part in other.parts:
            if key in part.options:
                return f'"{key}" stands in {_title(path)}, but belongs in [{other.name}.NAME.{part.name}]'
    return f'unknown option "{key}" in {_title(path)}{nearest}'


def _title(path: Path) -> str:
    return f"[{'.'.join(path)}]"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = find_nearest(name, known)
    return f'; did you mean "{nearest}"?' if nearest else ""
