"""Snapshots of file systems on ZFS, Btrfs and LVM thin volumes, behind one small interface.

The one idea: what a file system can do is asked of its own programs, and nothing here knows what the files are for.
"""
