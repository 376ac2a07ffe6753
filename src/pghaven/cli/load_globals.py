"""``pghaven load --globals-only``: the roles and tablespaces of a dump."""

from __future__ import annotations

from pghaven.cli.dump_finding import open_meant_dump
from pghaven.cli.invocation import Invocation


def load_globals_only(
    invocation: Invocation,
    label: str | None,
    *,
    cluster: str | None,
    target: str | None,
    repository: str | None,
    dry_run: bool,
) -> int:
    from pghaven.cli.load_command import find_calling, find_reach, fit_calling
    from pghaven.dump.globalsload import load_globals

    chosen = invocation.get_cluster(cluster)
    conninfo, owner, bin_dir = find_reach(chosen, target)
    with invocation.reporter as listener:
        dump = open_meant_dump(invocation, chosen, repository, label, with_databases=False)
        calling = fit_calling(find_calling(conninfo, owner, bin_dir), dump, bin_dir)
        reach = conninfo, owner.name if owner else None
        result = load_globals(dump, calling, reach, listener, dry_run=dry_run)
    text = f"roles and tablespaces of dump {result.label}: {len(result.made)} statements "
    text += "would be carried out" if dry_run else "carried out"
    text += f", {len(result.other)} differ and are left\n" if result.other else "\n"
    body = {
        "label": result.label,
        "dry_run": dry_run,
        "made_globals": list(result.made),
        "other_globals": list(result.other),
    }
    return invocation.show("load-globals", body, text)
