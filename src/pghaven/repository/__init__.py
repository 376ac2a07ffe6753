"""Safe keeping on top of a store: objects, packs, block maps, manifests, decision keys, the WAL archive."""
