"""Workers, child programs and durable files: what every operation needs and none of them is about.

The one idea: nothing here knows what pghaven is for. Programs end when their block ends, and a file is either
durable or not yet written.
"""
