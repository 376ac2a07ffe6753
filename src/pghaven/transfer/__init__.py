"""Copying a cluster's backups and WAL from one repository to another: verified, a part at a time, resumable."""
