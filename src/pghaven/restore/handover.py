"""The small files that make a server of a restored directory: label, configuration, recovery settings, signal.

The one idea: they are written after the data and say exactly what the plan says, whatever the restored configuration
held; our settings stand in one marked block at the end of ``postgresql.auto.conf``, where they have the last word.
"""

from __future__ import annotations

import os
import re

from pghaven.events import Listener, Notice
from pghaven.postgres.datadir import CONFIG_COPY_DIRECTORY, RESTORE_PLAN_FILE
from pghaven.postgres.recovery import (
    quote_setting,
    render_recovery_settings,
    render_settings_block,
    replace_settings_block,
)
from pghaven.repository.manifest import ConfigFile
from pghaven.restore.request import RestorePlan
from pghaven.restore.targetfiles import Directories
from pghaven.runtime.durable import OwnerOf, write_durably

_MADE = "# Added by pghaven:"
# Includes lie elsewhere in the copy, and a file with the server's process number is the original's.
_NOT_HERE = re.compile(r"\s*(include|external_pid_file)", re.IGNORECASE)
# Subscriptions would use the original's slots, and take changes away from it.
_BESIDE = (("max_logical_replication_workers", "0"), ("synchronous_standby_names", ""))
_DATA_DIRECTORY = re.compile(r"^[ \t]*data_directory[ \t]*=?[ \t]*'((?:[^']|'')*)'", re.IGNORECASE | re.MULTILINE)
_NAMES = {"config": "postgresql.conf", "hba": "pg_hba.conf", "ident": "pg_ident.conf"}


class Handover:
    """Writes these files below directories that were reached without following a link.

    The restore may run as root while the directories already belong to the server's user, who could exchange one for
    a link at any moment; so each is named by its open descriptor.
    """

    def __init__(self, plan: RestorePlan, places: Directories, owner: OwnerOf | None) -> None:
        self._plan = plan
        self._places = places
        self._owner = owner

    def write_label(self) -> None:
        """``backup_label`` tells the server where replay must begin; without it the copy would start and be corrupt."""
        self._replace("", "backup_label", self._plan.manifest.facts.backup_label)

    def write_control(self) -> None:
        """``global/pg_control``: with it the directory can be started, so everything else must be durable before."""
        self._replace("global", "pg_control", self._plan.manifest.control)
        os.fsync(self._places.open(""))

    def write_configuration(self, listener: Listener) -> None:
        """Configuration that lay outside the data directory (Debian's /etc/postgresql).

        The originals are put into ``pghaven.config/``; files that the data directory itself lacks, or has from an
        earlier restore, are made from them, so that it can be started as it is, and starts nothing else.
        """
        outside = self._plan.manifest.config_files
        own = self._read(_NAMES["config"])
        if not any(file.role == "config" for file in outside) and (settled := _settle(own, self._plan)) != own:
            self._replace("", _NAMES["config"], settled)
            text = f"postgresql.conf said where the files of another directory lie: {self._plan.request.target_dir} now"
            listener(Notice(level="info", code="configuration", text=text))
        if not outside:
            return
        owner = (self._owner.uid, self._owner.gid) if self._owner else (-1, -1)
        self._places.make(CONFIG_COPY_DIRECTORY, 0o700, owner)
        for number, file in enumerate(outside):
            self._replace(CONFIG_COPY_DIRECTORY, f"{number}-{os.path.basename(file.path)}", file.content)
        is_made = _MADE in own
        made = [file for file in outside if file.role in _NAMES and (is_made or not self._exists(_NAMES[file.role]))]
        for file in made:
            content = _inside(file, self._plan.request.target_dir, outside) if file.role == "config" else file.content
            self._replace("", _NAMES[file.role], content)
        places = ", ".join(sorted({os.path.dirname(file.path) for file in outside}))
        text = (
            f"the server's configuration lay in {places}: its files are in {CONFIG_COPY_DIRECTORY}/, and "
            f"{', '.join(_NAMES[file.role] for file in made) or 'none'} in the data directory were made from them"
        )
        listener(Notice(level="info", code="configuration", text=text))

    def write_recovery(self, restore_command: str) -> None:
        """Recovery settings and the signal file."""
        wal, request = self._plan.wal, self._plan.request
        settings = [
            *render_recovery_settings(
                wal.recovery,
                restore_command=restore_command,
                timeline="latest" if request.standby else wal.timeline,
            )
        ]
        header = (
            f"Restored by pghaven from backup {self._plan.backup.label} of cluster {request.cluster}.\n"
            f"These settings lead recovery to the planned point; {RESTORE_PLAN_FILE} holds the plan."
        )
        if not request.archiving:
            settings.append(("archive_mode", "off"))
            header += "\narchive_mode is off: a copy must not write into the archive of the cluster it was copied from."
            if request.target_dir != self._plan.manifest.facts.data_directory:
                settings.append(("external_pid_file", ""))  # it names the original's process
        if self._plan.is_cloned:
            settings += _BESIDE
            header += (
                "\nA clone works beside its original: it takes nothing of what is sent there, and waits for no standby."
            )
        if request.port is not None:
            settings.append(("port", str(request.port)))
        text = self._read("postgresql.auto.conf")
        self._replace("", "postgresql.auto.conf", replace_settings_block(text, render_settings_block(settings, header)))
        self._replace("", f"{'standby' if request.standby else 'recovery'}.signal", "")

    def _replace(self, directory: str, name: str, content: str | bytes) -> None:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        write_durably(f"/proc/self/fd/{self._places.open(directory)}/{name}", data, 0o600, self._owner)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._places.open(""), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _read(self, name: str) -> str:
        """A restored file's text; empty when the backup had none. Links are not followed."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._places.open(""))
        except FileNotFoundError:
            return ""
        with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()


def _inside(file: ConfigFile, target: str, outside: tuple[ConfigFile, ...]) -> bytes:
    """The main configuration file for use inside the data directory: where files lie is overridden at its end."""
    includes = [
        f"include_if_exists = {quote_setting(f'{CONFIG_COPY_DIRECTORY}/{number}-{os.path.basename(other.path)}')}"
        for number, other in enumerate(outside)
        if other.role == "include"
    ]
    lines = ["", f"{_MADE} this is a copy of {file.path} for starting this directory by itself.", *includes]
    body = file.content.decode("utf-8", "surrogateescape")
    kept = [
        f"# {line}  # (pghaven: see the end of this file)" if _NOT_HERE.match(line) else line
        for line in body.splitlines()
    ]
    return "\n".join([*kept, *lines, *_render_places(target), ""]).encode("utf-8", "surrogateescape")


def _render_places(target: str) -> list[str]:
    return [
        f"data_directory = {quote_setting(target)}",
        f"hba_file = {quote_setting(target + '/pg_hba.conf')}",
        f"ident_file = {quote_setting(target + '/pg_ident.conf')}",
    ]


def _settle(text: str, plan: RestorePlan) -> str:
    """A postgresql.conf that lay in the data directory, without its naming another directory as that: whoever starts
    this one would start that one."""
    target, original = plan.request.target_dir, plan.manifest.facts.data_directory
    named = [match[1].replace("''", "'") for match in _DATA_DIRECTORY.finditer(text)]
    if not named or named[-1] == target:
        return text
    places = _render_places(target)
    if _MADE not in text:
        # Somebody's own: only what lay in the old directory is looked for in the new one.
        roles = {file.role for file in plan.manifest.config_files}
        places = [places[0]] + [
            line for line, role in zip(places[1:], ("hba", "ident"), strict=True) if role not in roles
        ]
    head = f"{_MADE} the data directory was {original}."
    return "\n".join([text.rstrip("\n"), "", head, *places, ""])
