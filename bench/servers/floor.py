"""Serve the constant answer with granian, as our server serves a model."""

import os
import sys

from granian import Granian
from granian.constants import HTTPModes, Interfaces

if __name__ == "__main__":
    workers = len(os.sched_getaffinity(0))
    Granian(
        "bench.servers.floor_app:app",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=workers,
        log_access=False,
        log_level="warning",
    ).serve()
