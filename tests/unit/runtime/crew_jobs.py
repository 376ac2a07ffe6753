"""What the workers of ``test_crew`` do. A module of its own, because workers import it and nothing more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from pghaven.errors import Damaged, Refused
from pghaven.runtime.pace import Pace
from pghaven.store.api import Store
from tests.support.waiting import wait_until


class Echo:
    """Returns the job; at the end how many there were."""

    def __init__(self, settings: str) -> None:
        self._settings = settings
        self._count = 0

    def __call__(self, job: object) -> object:
        self._count += 1
        return job

    def close(self) -> object:
        return self._settings, self._count


class Foresee:
    """Each job but the last ends when the next one was foreseen; returns what was foreseen before its turn."""

    def __init__(self, settings: int) -> None:
        self._last = settings
        self._foreseen: list[object] = []

    def foresee(self, job: object) -> None:
        self._foreseen.append(job)

    def __call__(self, job: int) -> bool:
        is_known = job in self._foreseen
        if job != self._last:
            wait_until(lambda: job + 1 in self._foreseen, "the next job")
        return is_known

    def close(self) -> None:
        return None


class Take:
    """Takes so many bytes of the pace that it was given."""

    def __init__(self, settings: Pace) -> None:
        self._pace = settings

    def __call__(self, job: int) -> None:
        self._pace.take(job)

    def close(self) -> None:
        return None


class Write:
    """Writes an object of three bytes under the name that it is given."""

    def __init__(self, settings: Store) -> None:
        self._store = settings

    def __call__(self, job: str) -> None:
        self._store.create(job, [b"xyz"])

    def close(self) -> None:
        return None


class Act:
    """Does what the job's name says; ``settings`` is a directory for signs of life."""

    def __init__(self, settings: Path) -> None:
        self._directory = settings
        self._sign("started")

    def __call__(self, job: str) -> object:
        return getattr(self, f"do_{job}")()

    def close(self) -> None:
        return None

    def do_nothing(self) -> str:
        return "nothing"

    def do_pid(self) -> int:
        return os.getpid()

    def do_refuse(self) -> NoReturn:
        raise Refused("no such luck", detail="Really.", hint="Ask again.")

    def do_divide_by_zero(self) -> float:
        return 1 / (1 - 1)

    def do_raise_strange_error(self) -> NoReturn:
        raise StrangeError(1, 2)

    def do_return_the_unpicklable(self) -> object:
        return lambda: None

    def do_meet(self) -> str:
        self._sign("meeting")
        wait_until(lambda: len(list(self._directory.glob("meeting-*"))) >= 2, "the other worker")
        return "met"

    def do_die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_exit(self) -> None:
        os._exit(7)

    def do_print(self) -> str:
        print("where does this go")
        return "printed"

    def do_wait_for_a_word(self) -> str:
        wait_until((self._directory / "word").exists, "a word from outside")
        return "heard"

    def do_wait_for_ever(self) -> None:
        """Until stopped; leaves a sign that its cleaning up ran."""
        try:
            self._sign("waiting")
            threading.Event().wait()
        finally:
            self._sign("cleaned")

    def do_ignore_being_stopped(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._sign("waiting")
        threading.Event().wait()

    def _sign(self, what: str) -> None:
        (self._directory / f"{what}-{os.getpid()}").touch()


class StrangeError(Exception):
    """Cannot be unpickled: its arguments are not its constructor's."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail_setup(settings: str) -> Echo:
    raise Damaged(f"no {settings}")


def wait_for_file(settings: Path) -> Echo:
    wait_until(settings.exists, f"{settings}")
    return Echo("waited")


class Grow:
    """A result of as many bytes as the job says, or is long."""

    def __init__(self, settings: None) -> None: ...

    def __call__(self, job: int | bytes | tuple[bytes, int]) -> bytes | tuple[int, bytes]:
        if isinstance(job, tuple):
            return len(job[0]), bytes(job[1])
        return bytes(job) if isinstance(job, int) else job

    def close(self) -> None:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected by its parent does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def names_of_imported() -> list[str]:
    return sorted(sys.modules)


class Imports:
    def __init__(self, settings: None) -> None: ...

    def __call__(self, job: object) -> list[str]:
        return names_of_imported()

    def close(self) -> None:
        return None


class Niceness:
    """Of the thread at work, and of one that it starts."""

    def __init__(self, settings: None) -> None: ...

    def __call__(self, job: object) -> list[int]:
        found = [os.getpriority(os.PRIO_PROCESS, 0)]
        thread = threading.Thread(target=lambda: found.append(os.getpriority(os.PRIO_PROCESS, 0)))
        thread.start()
        thread.join()
        return found

    def close(self) -> None:
        return None
