"""Restoring: target, plan, fetch, recovery settings, hand over."""
