"""The command line: a file a command, one root for errors and signals, renderers, progress.

The one idea: everything below returns results and emits events; only here are they printed and given an exit status.
"""
