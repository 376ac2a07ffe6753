"""Proof that a cluster can be brought back: every link tried, and what could be restored at this moment.

The one idea: nothing is concluded that can be tried or measured, and what could not be tried is told as such.
"""
