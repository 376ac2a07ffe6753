"""Standbys by hand: built from the repository or the primary, promoted, rejoined, and looked at.

The one idea: what would be lost, and what is in the way, is known and told before anything is changed; and what a
server has that nobody else has is kept before it is made into something else.
"""
