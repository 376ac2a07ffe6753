"""The demonstration: a shop on a PostgreSQL of its own is protected, loses a table, and gets every row back.

The one idea: nothing in it is staged. Server, archiving, backup and restore are the real ones, run in a directory of
their own, and every number told at the end was measured on the way.
"""
