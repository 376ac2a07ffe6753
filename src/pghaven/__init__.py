"""pghaven keeps PostgreSQL recoverable: backups, WAL archive, restore to any second, proof."""

__version__ = "0.1.0"
