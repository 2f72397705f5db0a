"""What users would pick instead of our server and our file scorer, measured beside them.

Runs in the image of ``images/bench.Dockerfile``: `slipway.host.bench` starts it.
"""
