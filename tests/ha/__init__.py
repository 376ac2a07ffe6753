"""The seam between failover and backup, on real servers."""
