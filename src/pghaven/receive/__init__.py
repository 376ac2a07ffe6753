"""Receiving WAL as a server writes it: a spool on this host, and from there the way that ``wal`` pushes into.

``run.run_receive`` is the way in; ``pghaven wal receive`` and the agent go through it.
"""
