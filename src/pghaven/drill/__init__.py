"""Drills: a backup restored to a place of its own, started where nobody reaches it, questioned, and removed.

The one idea: a backup is real when it was restored, and a drill that cannot tell is a failed drill."""
