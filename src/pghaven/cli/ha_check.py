"""``pghaven ha check``: what can keep a cluster from failing over, one line each."""

from __future__ import annotations

import click

from pghaven.cli.ha_shared import choose_nodes, find_service_user, open_context
from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable
from pghaven.errors import EXIT_WARNINGS, CheckFailed


@click.command("check")
@click.argument("cluster", required=False)
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Default: the node of this host.")
@click.pass_obj
def command(invocation: Invocation, cluster: str | None, nodes: tuple[str, ...]) -> int:
    """Look for what keeps CLUSTER from failing over, or lets it do so wrongly: on this host, in etcd, at every node.

    Ends with 17 when a check fails, with 3 when there are only warnings.
    """
    from pghaven.clock import SYSTEM_CLOCK
    from pghaven.ha.checks import HaCheckSettings, run_ha_checks
    from pghaven.proof.results import Verdict, judge

    context = open_context(invocation, cluster)
    settings = HaCheckSettings(
        spec=context.spec,
        places=context.places,
        nodes=choose_nodes(context.spec, nodes),
        user=find_service_user(context.cluster),
        conninfo=context.cluster.conninfo,
        now=SYSTEM_CLOCK.now(),
    )
    results = run_ha_checks(settings, context.api)
    text = ""
    for one in results:
        text += f"{one.name}: {make_printable(one.text)}: {one.verdict}\n"
        text += f"    HINT:  {make_printable(one.hint)}\n" if one.hint else ""
    verdict = judge(results)
    status = invocation.show("ha-check", {"results": results, "verdict": verdict}, text)
    if verdict is Verdict.FAILED:
        failed = sum(one.verdict is Verdict.FAILED for one in results)
        if invocation.json:
            return CheckFailed.exit_status
        raise CheckFailed("1 check failed" if failed == 1 else f"{failed} checks failed")
    return EXIT_WARNINGS if verdict is Verdict.WARNING else status
