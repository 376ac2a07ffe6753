"""What a command gets from the words before and around it: the configuration, a listener, a way to show its result.

The one idea: a command module gathers, calls, and ends in ``return invocation.show(...)``, which decides between text
and JSON and between "done" and "done, with warnings" for all commands alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pghaven.cli.output import write_error, write_out
from pghaven.errors import EXIT_DONE, EXIT_WARNINGS

if TYPE_CHECKING:
    from pghaven.cli.progress import Reporter
    from pghaven.config.values import ClusterConfig, Config


class Invocation:
    """The global options of one run, filled in while the command line is parsed. A command takes it by
    ``@click.pass_obj``."""

    def __init__(self) -> None:
        self.config_path: str | None = None
        self.json = False
        self.quiet = False
        self.verbose = False
        self._config: Config | None = None
        self._reporter: Reporter | None = None

    @property
    def config(self) -> Config:
        """The configuration, read at the first use. Raises ConfigError."""
        if self._config is None:
            from pghaven.config.loading import load_config

            self._config = load_config(self.config_path)
        return self._config

    def get_cluster(self, name: str | None) -> ClusterConfig:
        """The named cluster, or the only one. Raises ConfigError, NotFound, UsageError."""
        return self.config.get_cluster(name)

    @property
    def reporter(self) -> Reporter:
        """The listener for operations. Use it as a block (``with invocation.reporter as listener``) around anything
        that reports progress; it is always the same one, so all warnings end up in the result."""
        if self._reporter is None:
            from pghaven.cli.progress import Reporter

            self._reporter = Reporter(quiet=self.quiet, verbose=self.verbose)
        return self._reporter

    def show(self, name: str, body: Mapping[str, object], text: str) -> int:
        """Show the command's result: with --json ``body`` under the schema ``pghaven/<name>/1``, else ``text``.

        Returns the exit status: "done", or "done, with warnings" if the reporter heard one.
        """
        notices = self._reporter.notices if self._reporter else []
        if self.json:
            from pghaven.cli.render import render_json

            requests = _count_requests()
            counted = {"requests": requests} if requests else {}
            write_out(render_json(name, {**body, **counted, "notices": notices}))
        else:
            write_out(text)
            if self.verbose:
                write_error("".join(f"pghaven: {line}\n" for line in _describe_requests()))
        return EXIT_WARNINGS if any(notice.level == "warning" for notice in notices) else EXIT_DONE


def _count_requests() -> list[dict[str, Any]]:
    """What was asked of each repository that this process opened, by its workers too."""
    from dataclasses import asdict

    from pghaven.store.metered import METERS

    return [{"url": store.url, **asdict(store.requests)} for store in METERS.stores]


def _describe_requests() -> list[str]:
    from pghaven.units import render_size

    return [
        f"{one['url']}: {one['put']} put, {one['get']} get, {one['head']} head, {one['list']} list, "
        f"{one['delete']} delete; {render_size(one['sent_bytes'])} sent, {render_size(one['received_bytes'])} received"
        for one in _count_requests()
    ]
