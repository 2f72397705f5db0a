"""Slipway's runtime: what a job imports, and nothing of the host.

Names are looked up on first use, so that importing the package costs nothing: a verb loads
only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.job import Job as Job
    from slipway.run import Run as Run
    from slipway.types import Content as Content
    from slipway.types import Field as Field
    from slipway.types import Input as Input
    from slipway.types import Media as Media
    from slipway.types import Output as Output

_HOME = {
    "Job": "slipway.job",
    "Run": "slipway.run",
    "Content": "slipway.types",
    "Field": "slipway.types",
    "Input": "slipway.types",
    "Media": "slipway.types",
    "Output": "slipway.types",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'slipway' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
