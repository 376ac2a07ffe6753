"""Faults on a real cluster that fails over by itself: nodes in network namespaces, Patroni, etcd, a ledger.

The one idea: every fault ends with the same questions (who lost what, who took over when, does the archive lead from
the oldest backup to now), asked of the servers and the repository themselves.
"""
