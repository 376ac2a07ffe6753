"""What a check found: one line, a verdict, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The values are the words people search the output for."""

    OK = "OK"
    WARNING = "WARNING"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """``name`` is stable, ``text`` says what was found in words of the trade, ``hint`` what to do. ``database`` and
    ``relation`` (with its schema) are given where a single relation is meant."""

    name: str
    verdict: Verdict
    text: str
    hint: str | None = None
    seconds: float | None = None
    database: str | None = None
    relation: str | None = None


def good(name: str, text: str, *, seconds: float | None = None) -> CheckResult:
    return CheckResult(name=name, verdict=Verdict.OK, text=text, seconds=seconds)


def warn(name: str, text: str, hint: str | None = None) -> CheckResult:
    return CheckResult(name=name, verdict=Verdict.WARNING, text=text, hint=hint)


def fail(name: str, text: str, hint: str | None = None) -> CheckResult:
    return CheckResult(name=name, verdict=Verdict.FAILED, text=text, hint=hint)


def skip(name: str, text: str) -> CheckResult:
    return CheckResult(name=name, verdict=Verdict.SKIPPED, text=text)


def judge(results: Iterable[CheckResult]) -> Verdict:
    """The worst of them: FAILED, WARNING or OK."""
    verdicts = {result.verdict for result in results}
    return next((one for one in (Verdict.FAILED, Verdict.WARNING) if one in verdicts), Verdict.OK)


def count_files(number: int) -> str:
    """ "1 finished WAL file waits", "3 finished WAL files wait"."""
    return "1 finished WAL file waits" if number == 1 else f"{number} finished WAL files wait"
