"""A first configuration file, for ``pghaven init`` when there is none.

The one idea: what is written names only what this cluster needs; every other option stays at its default and is
looked up in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def render_starter(
    cluster: str, data_directory: str, conninfo: str, repository_url: str, options: Mapping[str, object] | None = None
) -> str:
    """A whole file with one repository, "main", and one cluster; ``options`` are the repository's, beside its URL."""
    return (
        "# The configuration of pghaven.\n"
        "# Every option with its default: docs/reference/configuration.md\n\n"
        + render_repository("main", repository_url, options)
        + "\n"
        + render_cluster(cluster, data_directory, conninfo, ("main",))
    )


def render_repository(name: str, url: str, options: Mapping[str, object] | None = None) -> str:
    lines = "".join(f"{option} = {_render(value)}\n" for option, value in (options or {}).items())
    return f"[repository.{name}]\nurl = {_quote(url)}\n{lines}"


def render_cluster(name: str, data_directory: str, conninfo: str, repositories: tuple[str, ...]) -> str:
    lines = [f"[cluster.{name}]", f"data_directory = {_quote(data_directory)}"]
    if conninfo:
        lines.append(f"conninfo = {_quote(conninfo)}")
    lines.append(f"repositories = [{', '.join(_quote(repository) for repository in repositories)}]")
    return "\n".join(lines) + "\n"


def _render(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else _quote(str(value))


def _quote(text: str) -> str:
    """A TOML basic string."""
    return '"' + "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in text) + '"'
