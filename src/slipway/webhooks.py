"""Tell a receiver what became of a run: signed, at least once, and to no address that must not be.

An event that is not delivered yet is a line of the run's own file, so a restart loses none. The
signature is that of the Standard Webhooks specification. The address that was checked is the one
that is connected to: a name that resolves anew in between gains nothing. No redirect is followed
and nothing of the answer is read but its status.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any
from urllib.parse import SplitResult, urlsplit

from werkzeug.datastructures import Headers

from slipway.errors import InputInvalid
from slipway.ledger import Ledger, LongWork, Run, encoded, put, read_object

log = logging.getLogger("slipway.webhooks")

EVENTS = ("start", "progress", "completed")
SECONDS = 10
"""For a whole delivery: connecting, sending, and the first line of the answer."""
LONGEST_PAUSE = 3600
ATTEMPTS = 24
"""With pauses of 1, 2, 4 ... 3600 s these take about half a day."""
GONE = 410
# Clouds give out credentials there, and it is no link-local address.
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128")
)
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(InputInvalid):
    """An address that no webhook may go to."""


def asked(headers: Headers, settings: LongWork) -> dict[str, Any] | None:
    """Return the webhook that a request asks for, or None.

    Raises InputInvalid for one that cannot be: no secret, a wrong address, an unknown event.
    """
    url = headers.get("Slipway-Webhook")
    if url is None:
        return None
    if not settings.webhook_secret:
        raise InputInvalid("webhooks are off: SLIPWAY_WEBHOOK_SECRET is not set where this runs")
    vet(url, settings.webhook_hosts)
    events = re.split(r"[,\s]+", headers.get("Slipway-Webhook-Events", "completed").strip())
    unknown = sorted(set(events) - set(EVENTS))
    if unknown:
        told = f"Slipway-Webhook-Events: found {unknown[0]!r}; wanted some of {', '.join(EVENTS)}"
        raise InputInvalid(told)
    return {"url": url, "events": events}


def vet(url: str, hosts: tuple[str, ...]) -> SplitResult:
    """Return the parts of an address that a webhook may go to. Raises Forbidden."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Forbidden(f"Slipway-Webhook: {error}") from None
    if not re.fullmatch(r"[!-~]{1,2000}", url) or parts.scheme not in ("http", "https"):
        raise Forbidden("Slipway-Webhook: wanted an http or https address of printable ASCII")
    if not parts.hostname or parts.username is not None or port == 0:
        raise Forbidden("Slipway-Webhook: wanted a host, and no user or password in the address")
    if hosts and not _listed(parts.hostname, hosts):
        raise Forbidden(f"Slipway-Webhook: {parts.hostname} is none of --webhook-hosts")
    with suppress(OSError):  # a name: looked up at each delivery
        _resolve(parts, hosts, socket.AI_NUMERICHOST)
    return parts


def _listed(host: str, hosts: tuple[str, ...]) -> bool:
    return any(fnmatch(host.lower(), pattern.lower()) for pattern in hosts)


def _resolve(parts: SplitResult, hosts: tuple[str, ...], flags: int = 0) -> tuple[Any, Any]:
    """Return family and address of a host, all of whose addresses are allowed."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM, flags=flags)
    for _, _, _, _, address in found:
        reason = forbidden(str(address[0]), bool(hosts))
        if reason:
            raise Forbidden(f"Slipway-Webhook: {parts.hostname} is {reason}")
    return found[0][0], found[0][4]


def forbidden(text: str, named: bool = False) -> str:
    """Return why no webhook may go to an address, or nothing.

    This machine itself is allowed only where ``--webhook-hosts`` named the host.
    """
    address = _plain(ipaddress.ip_address(text.partition("%")[0]))
    if address.is_link_local or any(address in network for network in METADATA):
        return "a link-local or metadata address"
    if address.is_multicast or address.is_unspecified or address == ipaddress.ip_address(2**32 - 1):
        return "no address of one machine"
    if address.is_loopback and not named:
        return "this machine itself; --webhook-hosts would have to name it"
    return ""


def _plain(address: Any) -> Any:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if address.version == 4:
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if not inner and (address in TRANSLATED or 1 < int(address) < 2**32):
        inner = ipaddress.ip_address(int(address) & 0xFFFFFFFF)
    return inner or address


def keys(secret: str) -> list[bytes]:
    """Return the keys of a secret; several, for a change of keys, are set apart by spaces.

    ``whsec_`` is followed by base64, as the specification has it; anything else is the key itself.
    """
    found = []
    for part in secret.split():
        try:
            raw = part.removeprefix("whsec_")
            found.append(base64.b64decode(raw, validate=True) if raw != part else part.encode())
        except binascii.Error:
            raise InputInvalid("SLIPWAY_WEBHOOK_SECRET: after whsec_ wanted base64") from None
        if len(found[-1]) < 16:
            raise InputInvalid("SLIPWAY_WEBHOOK_SECRET: wanted at least 16 bytes")
    return found


def signed(secret: str, name: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that tell a receiver who sent a body, and when."""
    content = f"{name}.{timestamp}.".encode() + body
    marks = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)) for key in keys(secret)]
    return {
        "webhook-id": name,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{mark.decode()}" for mark in marks),
    }


def post(url: str, body: bytes, headers: dict[str, str], hosts: tuple[str, ...]) -> int:
    """Send a body and return the status. Raises OSError or Forbidden when it was not sent."""
    parts = vet(url, hosts)
    family, address = _resolve(parts, hosts)
    end = time.monotonic() + SECONDS
    with closing(socket.socket(family, socket.SOCK_STREAM)) as plain:
        plain.settimeout(SECONDS)
        plain.connect(address)
        sent = plain
        if parts.scheme == "https":
            context = ssl.create_default_context()
            sent = context.wrap_socket(plain, server_hostname=parts.hostname)
        with closing(sent):
            sent.sendall(_head(parts, headers | {"Content-Length": str(len(body))}) + body)
            return _status(sent, end)


def _head(parts: SplitResult, headers: dict[str, str]) -> bytes:
    host = parts.netloc
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fixed = {"Host": host, "Content-Type": "application/json", "User-Agent": "slipway"}
    lines = [f"{name}: {text}" for name, text in (fixed | headers).items()]
    return "\r\n".join([f"POST {target} HTTP/1.1", *lines, "Connection: close", "", ""]).encode()


def _status(connection: socket.socket, end: float) -> int:
    """Read the first line of an answer, however slowly it comes, until ``end``."""
    line = b""
    while b"\n" not in line and len(line) < 1024:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        piece = connection.recv(1024)
        if not piece:
            break
        line += piece
    found = re.match(rb"HTTP/1\.[01] (\d{3})\b", line)
    if not found:
        raise ConnectionError("the answer is no HTTP")
    return int(found[1])


def pause(attempts: int) -> float:
    """Return how long to wait after so many failures: twice as long each time, with jitter."""
    return min(2.0 ** (attempts - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


@dataclass
class Deliverer:
    """Delivers what is due; any worker's may, one at a time for each run."""

    ledger: Ledger
    clock: Callable[[], float] = time.time

    def once(self) -> bool:
        """Try each delivery that is due and tell whether there was one."""
        return any([self._try(run) for run in self.ledger.undelivered()])

    def _try(self, run: Run) -> bool:
        if not self._is_due(read_object(run.folder / "delivery.json")):
            return False
        with run.claimed("delivery") as held:
            kept = read_object(run.folder / "delivery.json")
            if held is None or not self._is_due(kept):
                return False
            return self._deliver(run, kept)

    def _is_due(self, kept: dict[str, Any]) -> bool:
        wait = _number(kept.get("next")) - self.clock()
        return not 0 < wait <= LONGEST_PAUSE  # further off: the clock was set back

    def _deliver(self, run: Run, kept: dict[str, Any]) -> bool:
        hook = run.request().get("webhook")
        if not isinstance(hook, dict):
            self._close(run)
            return False
        place, event, last = due(run, hook.get("events", []), int(_number(kept.get("after"))))
        if event is None:
            if last:
                self._close(run)
            return False
        attempts = int(_number(kept.get("attempts"))) + 1
        told, lost = self._send(run, str(hook.get("url")), place, event)
        if not told:
            put(run.folder / "delivery.json", encoded({"after": place, "attempts": 0}))
        elif lost or attempts >= ATTEMPTS:
            log.error("run %s: webhook given up: %s", run.id, told)
            note = {"after": place, "attempts": attempts, "error": told, "lost": True}
            put(run.folder / "delivery.json", encoded(note))
            self._close(run)
        else:
            later = {"attempts": attempts, "error": told, "next": self.clock() + pause(attempts)}
            put(run.folder / "delivery.json", encoded(kept | later))
        return True

    def _send(self, run: Run, url: str, place: int, event: dict[str, Any]) -> tuple[str, bool]:
        """Send one event; return what went wrong, and whether it will for ever."""
        secret, hosts = self.ledger.settings.webhook_secret, self.ledger.settings.webhook_hosts
        body = {"type": f"run.{event['type']}", "timestamp": event["time"], "data": event["data"]}
        content = encoded(body)
        try:
            mark = signed(secret, f"{run.id}-{place}", int(self.clock()), content)
            status = post(url, content, mark, hosts)
        except (OSError, InputInvalid, ValueError) as error:
            return str(error) or type(error).__name__, isinstance(error, Forbidden)
        return "" if 200 <= status < 300 else f"HTTP {status}", status == GONE

    def _close(self, run: Run) -> None:
        (self.ledger.deliver / run.id).unlink(missing_ok=True)


def due(run: Run, wanted: list[str], after: int) -> tuple[int, dict[str, Any] | None, bool]:
    """Return the next event to deliver with its id, and whether the run has told its last.

    Progress that something newer has overtaken is passed over.
    """
    found: tuple[int, dict[str, Any] | None] = (after, None)
    last = False
    for place, event in run.events(after):
        last = event["type"] == "completed"
        overtaken = found[1] is None or found[1]["type"] == "progress"
        if event["type"] in wanted and overtaken:
            found = place, event
    return *found, last or (after > 0 and run.over)


def told(run: Run) -> dict[str, Any]:
    """Return how far a run's webhook is, for a reader."""
    kept = read_object(run.folder / "delivery.json")
    waits = (run.folder.parent / ".deliver" / run.id).exists()
    state = "pending" if waits else "failed" if kept.get("lost") else "delivered"
    return {"state": state, "attempts": kept.get("attempts", 0), "error": kept.get("error")}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else 0.0
