"""Clusters that fail over by themselves: Patroni, etcd and HAProxy described, generated, asked, and told what to do.

The one idea: Patroni is an engine that runs as a service of its own. It is reached through its configuration file, its
REST interface and the hooks it calls, and nothing of it is ever imported.
"""
