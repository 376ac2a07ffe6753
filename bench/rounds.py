"""What all side-by-side measurements have in common: options, the cluster, the server, and where results go."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.common import DEFAULT_SCRATCH, RESULTS, BenchError, describe_machine, save, scratch_directory
from bench.data import QUICK_SHAPES, SHAPES, BenchServer, Shape, describe_cluster, find_bench_programs, get_cluster
from bench.tools import TOOLS, Tool, open_tools

Run = Callable[[BenchServer, Sequence[Tool], int], tuple[Mapping[str, Any], ...]]
Render = Callable[[Mapping[str, Any], str], str]


@dataclass(frozen=True, kw_only=True)
class Options:
    shapes: tuple[Shape, ...]
    rounds: int
    major: int
    pg_bin: str | None
    tools: tuple[str, ...]
    scratch: Path
    keep: bool
    results: Path


def parse_options(description: str, shapes: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: " + ", ".join(shapes))
    parser.add_argument("--rounds", type=int, help="default: 3; quick: 2")
    parser.add_argument("--major", type=int, default=15, help="PostgreSQL's major version; default: %(default)s")
    parser.add_argument("--pg-bin", metavar="DIR", help="PostgreSQL's programs")
    parser.add_argument("--tool", choices=TOOLS, action="append", help="default: all")
    parser.add_argument("--scratch", type=Path, default=DEFAULT_SCRATCH, help="default: %(default)s; on a real disk")
    parser.add_argument("--keep", action="store_true", help="leave the clusters for the next time")
    parser.add_argument("--quick", action="store_true", help="small clusters: whether it works, not how fast it is")
    parser.add_argument("--results", type=Path, help="default: bench/results; quick: not kept")
    given = parser.parse_args()
    shapes_there = QUICK_SHAPES if given.quick else SHAPES
    return Options(
        shapes=tuple(shapes_there[name] for name in given.shape or shapes),
        rounds=given.rounds or (2 if given.quick else 3),
        major=given.major,
        pg_bin=given.pg_bin,
        tools=tuple(given.tool or TOOLS),
        scratch=given.scratch,
        keep=given.keep,
        results=given.results or (given.scratch / "results" if given.quick else RESULTS),
    )


def run_stand_alone(name: str, run: Run, renders: Sequence[Render], shapes: Sequence[str] = ("mixed",)) -> None:
    """The whole of one program: measure for each shape, show and save. Ends the process with 1 when it cannot."""
    os.umask(0o022)
    options = parse_options(f"Measure: {name}.", shapes)
    try:
        with scratch_directory(options.scratch, keep=options.keep) as scratch:
            for shape in options.shapes:
                _run_shape(name, shape, scratch, options, run, renders)
    except BenchError as error:
        sys.exit(f"bench: {error}")


def _run_shape(name: str, shape: Shape, scratch: Path, options: Options, run: Run, renders: Sequence[Render]) -> None:
    server = get_cluster(scratch, shape, find_bench_programs(options.major, options.pg_bin))
    what = describe_cluster(server)
    title = f"{shape.name}, PostgreSQL {what['postgresql']}, {int(what['bytes']) / 1e9:.2f} GB in {what['files']} files"
    print(title, flush=True)
    with server.running():
        results = run(server, open_tools(server, options.tools), options.rounds)
    table = "\n".join(render(result, title) for render, result in zip(renders, results, strict=True))
    machine = describe_machine()
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, "cluster": what, "rounds": options.rounds}
    note = (
        f"{facts['date']}, {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}; medians of {options.rounds} rounds\n\n"
    )
    save(f"{name}-{shape.name}-{options.major}", facts | {"results": results}, note + table, options.results)
