"""Taking a physical backup: list, plan, read in parallel, stop, wait for WAL, commit."""
