"""What goes to stderr, where results do not go: plain lines, or JSON with ``LOG_FORMAT=json``."""

import json
import logging
import os
import sys


def say(message: str, severity: str = "INFO") -> None:
    """Tell the user something on stderr."""
    if os.environ.get("LOG_FORMAT") == "json":
        message = JsonLines().format(
            logging.makeLogRecord({"name": "slipway", "levelname": severity, "msg": message})
        )
    print(message, file=sys.stderr, flush=True)


class JsonLines(logging.Formatter):
    """A log record as one JSON object: time, severity, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        entry = {
            "time": self.formatTime(record),
            "severity": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure_logging() -> None:
    """Send logs to stderr: plain lines, or JSON with ``LOG_FORMAT=json``."""
    handler = logging.StreamHandler()
    if os.environ.get("LOG_FORMAT") == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # its advice is for who draws
    logging.captureWarnings(True)
