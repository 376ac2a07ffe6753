"""Times that tests record and never judge: how fast a machine is at the moment decides no test.

def test_something(record_seconds):
    record_seconds("three nodes, from nothing to healthy", engine.seconds_to_health)

They are shown at the end of the run and kept in ``.cache/measured.txt``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

_PROPERTY = "seconds"


@pytest.fixture
def record_seconds(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Keep what something took, under words that say what."""

    def record(what: str, seconds: float) -> None:
        # Properties of a test come back from worker processes with its report.
        request.node.user_properties.append((_PROPERTY, [what, seconds]))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show and keep what was recorded."""
    lines = []
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call":
            lines += [
                f"{seconds:8.1f} s  {what}  ({report.nodeid.rpartition('::')[2]})"
                for name, (what, seconds) in (one for one in report.user_properties if one[0] == _PROPERTY)
            ]
    if lines:
        terminalreporter.section("times recorded, not judged")
        terminalreporter.write_line("\n".join(lines))
        kept = terminalreporter.config.rootpath / ".cache" / "measured.txt"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("\n".join(lines) + "\n")
