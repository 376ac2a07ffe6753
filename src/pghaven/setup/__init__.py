"""Setting a cluster up: its place in the repository, its server's settings, the program its server calls.

The one idea: what is wrong is shown with its reason before anything is changed, and doing it again changes nothing.
"""
