"""``python -m slipway.host``."""

from slipway.host.cli import main

main()
