"""Retention: which backups and which WAL stay, which go, and why."""
