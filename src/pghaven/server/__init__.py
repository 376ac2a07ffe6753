"""A running PostgreSQL and the host it runs on: connecting, asking, bracketing backups, starting and stopping.

The one idea: facts are gathered here and handed on as values. ``instance``, ``programs`` and ``identity`` work without
a database connection and without importing psycopg; everything else takes a connection made by ``connection``.
"""
