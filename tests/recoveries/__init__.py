"""Real servers recover through a ``restore_command`` while something is wrong with the archive: which come up short?

The one idea: the exit status of that command decides whether PostgreSQL stops or opens the database with what it has
got so far, so what a command does is judged by the server that believed it. Any command can be judged:

    python -m tests.recoveries                                  the page of results
    python -m tests.recoveries --command 'cp {archive}/%f %p'   any other command, over plain copies of WAL files
"""
