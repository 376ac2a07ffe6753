"""The agent: one process of a host that looks after the WAL of its clusters: pushes ahead, refills, starts again.

The one idea: it only makes faster, or does again and again, what the commands do by themselves. Nothing waits for it,
nothing is known by it alone, and it may be killed at any moment.
"""
