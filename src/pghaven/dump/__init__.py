"""SQL dumps: taken with pg_dump, kept like backups at the cost of what changed, loaded with pg_restore.

The one idea: a dump is files, and files are what a repository keeps; so a dump is a label with a manifest like any
backup, under the same decision, collection and verification, and only what its files are and how they are cut is here.
"""
