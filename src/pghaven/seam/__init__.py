"""The seam between failover and backup: what Patroni calls when it builds, promotes and changes a member.

The one idea: each call is a program that Patroni starts by its own rules, so the rules come first (what it is given,
what its exit status does, how long it may take), and the work itself is that of backups, restores and the WAL archive.
"""
