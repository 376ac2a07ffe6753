"""Named bytes kept somewhere, without any meaning.

The one idea: whatever offers put-if-absent, reading, listing and deleting can hold a repository. ``api`` says in
words what every implementation promises, ``tests/contract/test_store.py`` holds each of them to it.
"""
