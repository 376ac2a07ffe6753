"""What every repository carries along: a program and a page that get its data back without pghaven.

The one idea: ``rescue.py`` is written from ``docs/format.md`` alone and imports nothing of pghaven, so it also proves
that the page is enough.
"""
