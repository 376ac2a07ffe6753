"""What only a person at a terminal can be asked: a passphrase, and whether a key was kept.

The one idea: without a terminal the answer is None or no, never a wait. Nothing typed or shown here is kept or logged.
"""

from __future__ import annotations

import sys


def is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask_passphrase() -> str | None:
    """The passphrase as typed, unseen; None where nobody can be asked."""
    return _ask("passphrase of the repository: ")


def ask_new_passphrase() -> str | None:
    """A new passphrase, typed twice; None where nobody can be asked. Raises UsageError when they differ."""
    from pghaven.errors import UsageError

    first = _ask("new passphrase: ")
    if first is not None and _ask("the same again: ") != first:
        raise UsageError("the two passphrases differ", hint="Run the command again.")
    return first


def show_recovery_key(text: str) -> bool:
    """Show a key, and have its end typed back; whether that was right."""
    shown = (
        "\nThis key opens every backup, also when this host is lost. Write it down, or store it where you keep\n"
        f"passwords; not on this host. It is not shown again.\n\n    {text}\n\n"
    )
    sys.stderr.write(shown)
    typed = _ask("Type its last six characters to say that it is kept: ", hidden=False)
    return typed is not None and typed.strip() == text[-6:]


def _ask(prompt: str, *, hidden: bool = True) -> str | None:
    if not is_interactive():
        return None
    if hidden:
        from getpass import getpass

        return getpass(prompt) or None
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline()
