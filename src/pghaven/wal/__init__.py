"""Archiving WAL and giving it back: what PostgreSQL's ``archive_command`` and ``restore_command`` call.

The one idea: both commands answer with an exit status that PostgreSQL acts upon without asking back, so a status says
only what is proven: archived means durable, absent means that every repository answered so.
"""
