"""The unit says what systemd will run, whatever the paths hold."""

from __future__ import annotations

import pytest

from pghaven.agent.unit import render_unit


def test_words_come_through_as_they_are() -> None:
    unit = render_unit(["/opt/a b/pghaven", "agent", "--config", '/etc/100%/$x"\\.toml'], "postgres")
    assert 'ExecStart="/opt/a b/pghaven" agent --config "/etc/100%%/$$x\\"\\\\.toml"\n' in unit
    assert "User=postgres\n" in unit
    assert "Type=notify\n" in unit


def test_what_a_unit_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        render_unit(["/opt/pghaven\nUser=root"], "postgres")
