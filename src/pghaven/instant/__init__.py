"""Kept snapshots: local restore points of a cluster that are taken, and cloned, in an instant.

The one idea: a kept snapshot is a backup whose files never left the host; so it starts and stops as one, and is
recovered as one, with the WAL of the repository leading on from it.
"""
