"""Errors a user can meet: one type for each exit code of the container contract.

A message names the file, the line or field, what was found and what was wanted. They are
caught at the two edges only, the command line and HTTP; anything else that reaches an edge is
our fault and exits with 1.
"""

import json
import logging

log = logging.getLogger("slipway.errors")


class SlipwayError(Exception):
    """An expected failure, shown to the user without a traceback."""

    exit_code = 1


class BarMissed(SlipwayError):
    """A metric does not reach its bar in ``[accept]``."""

    exit_code = 3


class DeviceAbsent(SlipwayError):
    """The device that was asked for is not on this machine."""

    exit_code = 4


class DataUnavailable(SlipwayError):
    """Data or weights are missing, unreachable or have another checksum."""

    exit_code = 5


class ContentWrong(DataUnavailable):
    """A file is there and is not the one that was declared; never passed over for another."""


class InputInvalid(SlipwayError):
    """The content of an input is not what the job takes."""

    exit_code = 6


class CapReached(SlipwayError):
    """A batch took more time or money than it was allowed, and was stopped."""

    exit_code = 7


class Retryable(SlipwayError):
    """The infrastructure failed; the same command may succeed later."""

    exit_code = 33


class Stopped(SlipwayError):
    """SIGTERM came; the work up to the last checkpoint is kept."""

    exit_code = 143


class NotReady(Retryable):
    """The model is not in memory yet, or the scorer is about to leave; over HTTP a 503."""


class Busy(Retryable):
    """More rows wait than the scorer takes; over HTTP a 429 with Retry-After."""


def refusal(error: Exception) -> tuple[int, dict[str, str], bytes]:
    """Return HTTP status, headers and JSON body of an error; one that no one foresaw is logged."""
    if isinstance(error, InputInvalid):
        return 422, {}, _told(error)
    if isinstance(error, Busy | NotReady):
        return 429 if isinstance(error, Busy) else 503, {"Retry-After": "1"}, _told(error)
    log.error("score failed", exc_info=error)
    return 500, {}, _told("the scorer failed; its log has the reason")


def _told(message: object) -> bytes:
    return json.dumps({"error": str(message)}).encode()
