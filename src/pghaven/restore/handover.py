"""The small files that make a server of a restored directory: label, configuration, recovery settings, signal.

The one idea: they are written after the data and say exactly what the plan says, whatever the restored configuration
held; our settings stand in one marked block at the end of ``postgresql.auto.conf``, where they have the last word.
"""

from __future__ import annotations

import os

from pghaven.events import Listener, Notice
from pghaven.postgres.recovery import (
    quote_setting,
    render_recovery_settings,
    render_settings_block,
    replace_settings_block,
)
from pghaven.repository.manifest import ConfigFile, Manifest
from pghaven.restore.places import CONFIG_DIRECTORY
from pghaven.restore.request import RestorePlan
from pghaven.runtime.durable import OwnerOf, write_durably

_NAMES = {"config": "postgresql.conf", "hba": "pg_hba.conf", "ident": "pg_ident.conf"}


def write_label(target: str, manifest: Manifest, owner: OwnerOf | None) -> None:
    """``backup_label`` tells the server where replay must begin; without it the copy would start and be corrupt."""
    _replace(f"{target}/backup_label", manifest.facts.backup_label, owner)


def write_configuration(target: str, manifest: Manifest, owner: OwnerOf | None, listener: Listener) -> None:
    """Configuration that lay outside the data directory (Debian's /etc/postgresql).

    The originals are put into ``pghaven.config/``; files that the data directory itself lacks are made from them, so
    that it can be started as it is.
    """
    outside = manifest.config_files
    if not outside:
        return
    directory = f"{target}/{CONFIG_DIRECTORY}"
    os.makedirs(directory, 0o700, exist_ok=True)
    if owner is not None:
        owner.give(directory)
    for number, file in enumerate(outside):
        _replace(f"{directory}/{number}-{os.path.basename(file.path)}", file.content, owner)
    made = [file for file in outside if file.role in _NAMES and not os.path.exists(f"{target}/{_NAMES[file.role]}")]
    for file in made:
        content = _inside(file, target, outside) if file.role == "config" else file.content
        _replace(f"{target}/{_NAMES[file.role]}", content, owner)
    places = ", ".join(sorted({os.path.dirname(file.path) for file in outside}))
    text = (
        f"the server's configuration lay in {places}: its files are in {CONFIG_DIRECTORY}/, and "
        f"{', '.join(_NAMES[file.role] for file in made) or 'none'} in the data directory were made from them"
    )
    listener(Notice(level="info", code="configuration", text=text))


def _inside(file: ConfigFile, target: str, outside: tuple[ConfigFile, ...]) -> bytes:
    """The main configuration file for use inside the data directory: where files lie is overridden at its end."""
    lines = [
        "",
        f"# Added by pghaven: this is a copy of {file.path} for starting this directory by itself.",
        f"data_directory = {quote_setting(target)}",
        f"hba_file = {quote_setting(target + '/pg_hba.conf')}",
        f"ident_file = {quote_setting(target + '/pg_ident.conf')}",
        "external_pid_file = ''",
    ]
    for number, other in enumerate(outside):
        if other.role == "include":
            lines.insert(
                2, f"include_if_exists = {quote_setting(f'{CONFIG_DIRECTORY}/{number}-{os.path.basename(other.path)}')}"
            )
    body = file.content.decode("utf-8", "surrogateescape")
    kept = [
        f"# {line}  # (pghaven: see the end of this file)" if _is_include(line) else line for line in body.splitlines()
    ]
    return "\n".join([*kept, *lines, ""]).encode("utf-8", "surrogateescape")


def _is_include(line: str) -> bool:
    return line.lstrip().startswith(("include", "include_dir", "include_if_exists"))


def write_recovery(plan: RestorePlan, restore_command: str, owner: OwnerOf | None) -> None:
    """Recovery settings and the signal file."""
    target, wal, request = plan.request.target_dir, plan.wal, plan.request
    settings = [
        *render_recovery_settings(
            wal.recovery,
            restore_command=restore_command,
            timeline="latest" if request.standby else wal.timeline,
        )
    ]
    if not request.archiving:
        settings.append(("archive_mode", "off"))
    header = (
        f"Restored by pghaven from backup {plan.backup.label} of cluster {request.cluster}.\n"
        "These settings lead recovery to the planned point; pghaven.restore.json holds the plan."
    )
    if not request.archiving:
        header += "\narchive_mode is off: a copy must not write into the archive of the cluster it was copied from."
    path = f"{target}/postgresql.auto.conf"
    text = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    _replace(path, replace_settings_block(text, render_settings_block(settings, header)), owner)
    _replace(f"{target}/{'standby' if request.standby else 'recovery'}.signal", "", owner)


def _replace(path: str, content: str | bytes, owner: OwnerOf | None) -> None:
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    write_durably(path, data, 0o600, owner)
