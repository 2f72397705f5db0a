"""A job's verbs over HTTP: ``POST /prepare /train /evaluate``, as runs; and ``POST /reload``.

Off unless asked for, and then only with a bearer token: whoever holds it may spend the machine.
A verb is a process of its own, with the command line that a person would type, so it has the
contract's exit codes, checkpoints at SIGTERM and resumes. What it trained is served after
``/reload`` and not before: a model is to be evaluated first.
"""

from __future__ import annotations

import hmac
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import Flask, Response, jsonify, request

from slipway import store
from slipway.errors import InputInvalid, Stopped
from slipway.executor import Executor, NotNow
from slipway.ledger import Ledger, Run, encoded, put, read_object
from slipway.run import STAGES, read_json
from slipway.server import OURS
from slipway.types import example

if TYPE_CHECKING:
    from slipway.runs import Routes
    from slipway.scorer import Service

log = logging.getLogger("slipway.control")

TOKEN, SECRET = "SLIPWAY_CONTROL_TOKEN", "SLIPWAY_WEBHOOK_SECRET"
SHORTEST_TOKEN = 16
LINE_BYTES = 4096
LINES = 10_000
"""Lines of a verb's log that are kept as events."""
LOOK_SECONDS = 0.2
KILL_SECONDS = 30.0
"""A verb leaves within 25 s of SIGTERM; one that does not is killed."""
PROGRESS = re.compile(r"(?P<label>[^:]+): (?P<done>\d+)(?: of (?P<total>\d+))?")
MEANING = {
    0: "done",
    1: "our fault; the log has the traceback",
    2: "usage: a wrong option",
    3: "a bar of [accept] was missed",
    4: "the device that was asked for is absent",
    5: "data, weights or a folder: missing, unreachable or wrong",
    6: "an input is invalid",
    33: "the infrastructure failed; the same request may succeed later",
    143: "stopped, with a checkpoint where the verb has one; the same request goes on from there",
}


class Wrong(InputInvalid):
    """One option that the verb does not take, or not so."""

    def __init__(self, path: str, found: Any, wanted: str) -> None:
        super().__init__(f"{path}: found {found!r:.80}; wanted {wanted}")
        self.fields = [{"path": f"/{path}", "found": f"{found!r:.80}", "wanted": wanted}]


def read_token(file: Path | None) -> str:
    """Return the token that control asks for. Raises UsageError where there is none or a short one.

    It comes from a file, as secrets are mounted, or from the environment.
    """
    try:
        token = (file.read_text("utf-8") if file else os.environ.get(TOKEN, "")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--control-token-file {file}: {error}") from None
    if len(token) < SHORTEST_TOKEN:
        told = f"--control: wanted a token of {SHORTEST_TOKEN} characters or more in {TOKEN}"
        raise click.UsageError(f"{told} or --control-token-file")
    return token


def add_routes(app: Flask, service: Service, executor: Executor, routes: Routes) -> None:
    """Add the verbs that the job has, and reload, behind the token."""
    from slipway.verbs import command_line

    token = executor.ledger.settings.control_token
    commands = command_line(service.job).commands
    generation = Generation(service, executor.ledger)
    executor.verb = Verbs(service, executor.ledger).perform
    executor.steps.append(generation.follow)

    def reload() -> tuple[Response, int] | Response:
        return unauthorised(token) or generation.reload()

    def verb() -> Response:
        name = str(request.endpoint)
        refusal = unauthorised(token)
        if refusal:
            return refusal
        body = request.get_data()
        try:
            asked = arguments(commands[name], _options(body))
        except Wrong as error:
            answer = jsonify(error=str(error), fields=error.fields)
            answer.status_code = 422
            return answer
        return routes.accept("verb", {"verb": name, "arguments": asked}, io.BytesIO(body))

    for name in [stage for stage in STAGES if stage in commands]:
        routes.direct.add(name)
        app.add_url_rule(f"/{name}", name, verb, methods=["POST"])
    routes.direct.add("reload")
    app.add_url_rule("/reload", "reload", reload, methods=["POST"])


def unauthorised(token: str) -> Response | None:
    """Return the refusal of a request without the token: 401 without any, 403 with another."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        answer = jsonify(error="wanted Authorization: Bearer TOKEN")
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Bearer realm="slipway"'
        return answer
    if hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode()):
        return None
    answer = jsonify(error="this is not the token")
    answer.status_code = 403
    return answer


def _options(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Wrong("", body[:40], f"a JSON object of options ({error})") from None
    if not isinstance(found, dict):
        raise Wrong("", found, "a JSON object of options")
    return found


def arguments(command: click.Command, given: dict[str, Any]) -> list[str]:
    """Return options as a command line that click has agreed to. Raises Wrong."""
    known = {
        str(option.name): option
        for option in command.params
        if isinstance(option, click.Option) and option.name != "out"
    }
    found: list[str] = []
    for name, value in given.items():
        option = known.get(name.replace("-", "_"))
        if option is None:
            raise Wrong(name, value, f"one of {', '.join(sorted(known))}")
        found += _spelt(name, option, value)
    try:
        command.make_context(str(command.name), list(found), resilient_parsing=False).close()
    except click.UsageError as error:
        parameter = getattr(error, "param", None)
        name = str(parameter.name) if parameter is not None else ""
        raise Wrong(name, given.get(name), error.format_message()) from None
    return found


def _spelt(name: str, option: click.Option, value: Any) -> list[str]:
    """Return one option with its value as a command line has it."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise Wrong(name, value, "true or false")
        chosen = option.opts if value else option.secondary_opts
        return [chosen[0]] if chosen else []
    values = value if option.multiple and isinstance(value, list) else [value]
    return [f"{option.opts[0]}={_text(name, entry)}" for entry in values]


def _text(name: str, value: Any) -> str:
    """Return a value as an argument of a process: text without the byte 0, or a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Wrong(name, value, "a text or a number")
    text = str(value)
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        size = -1
    if "\0" in text or not 0 <= size <= LINE_BYTES:
        raise Wrong(name, value, f"at most {LINE_BYTES} bytes of text")
    return text


class Verbs:
    """Executes runs of the job's verbs, each as a process."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self.service = service
        self.ledger = ledger

    def perform(self, run: Run, claim: int) -> None:
        """Run a verb to its end. Raises NotNow when the server left before it did."""
        asked = run.request()
        verb = str(asked.get("verb"))
        process = self._start(verb, [str(part) for part in asked.get("arguments", [])], claim)
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(run, process, over), daemon=True)
        watch.start()
        try:
            self._follow(run, process)
        finally:
            code = process.wait()
            over.set()
            watch.join()
        if self.service.draining() and code in (Stopped.exit_code, -signal.SIGTERM):
            raise NotNow
        self._conclude(run, verb, code)

    def _start(self, verb: str, options: list[str], claim: int) -> subprocess.Popen[bytes]:
        """Start the process. It shares the claim, so that none runs beside one left alone."""
        command = [sys.executable, "-m", "slipway", verb, *options, f"--out={self.service.out}"]
        hidden = {TOKEN, SECRET, "LOG_FORMAT", OURS, *os.environ.get(OURS, "").split()}
        environ = {name: text for name, text in os.environ.items() if name not in hidden}
        return subprocess.Popen(
            command,
            env=environ | {"SLIPWAY_JOB": str(self.service.job.spec.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(claim,),
            start_new_session=True,
        )

    def _watch(self, run: Run, process: subprocess.Popen[bytes], over: threading.Event) -> None:
        """Send SIGTERM, once, when the run is cancelled or the server leaves; kill what stays."""
        while not (run.unwanted or self.service.draining()):
            if over.wait(LOOK_SECONDS):
                return
        process.terminate()
        if not over.wait(KILL_SECONDS):
            os.killpg(process.pid, signal.SIGKILL)

    def _follow(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        """Make an event of each line, and progress of those that tell of it."""
        for number, line in enumerate(_lines(process), start=1):
            log.info("%s %s", run.id, line)
            with suppress(OSError):  # what the process does matters more than what is told of it
                _tell(run, number, line)

    def _conclude(self, run: Run, verb: str, code: int) -> None:
        meaning = MEANING.get(code, f"ended by signal {-code}" if code < 0 else f"exit code {code}")
        try:
            metrics = read_json(self.service.out / "metrics.json").get(verb, {})
        except InputInvalid:
            metrics = {}
        kept = metrics if code in (0, 3) else {}
        answer = {"verb": verb, "exit_code": code, "meaning": meaning, "metrics": kept}
        put(run.folder / "result", encoded(answer))
        stopped = run.unwanted and code in (Stopped.exit_code, -signal.SIGTERM, -signal.SIGKILL)
        state = "cancelled" if stopped else "failed" if code else "succeeded"
        told = {"headers": [["Content-Type", "application/json"]], "exit_code": code}
        error = f"exit code {code}: {meaning}" if code else None
        self.ledger.finish(run, state, error=error, status=200, **told)


def _tell(run: Run, number: int, line: str) -> None:
    progress = PROGRESS.fullmatch(line)
    if progress:
        told = {name: _number(text) for name, text in progress.groupdict().items()}
        run.change(progress=told)
        run.append("progress", **told)
    elif number < LINES:
        run.append("log", text=line)
    elif number == LINES:
        run.append("log", text="the rest of the log is in the server's own")


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines of a process, a long one in pieces."""
    assert process.stdout
    with process.stdout as stream:
        for line in iter(lambda: stream.readline(LINE_BYTES), b""):
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                yield text


def _number(text: str | None) -> str | int | None:
    return int(text) if text and text.isdecimal() else text


class Generation:
    """Which model is served: a number on disk that each worker follows."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self.service = service
        self.file = ledger.folder / "generation.json"
        self.seen = self._number()
        self.form = service.form
        """What was asked for; a service itself keeps what it found."""
        self.lock = threading.Lock()

    def _number(self) -> Any:
        return read_object(self.file).get("number")

    def follow(self) -> bool:
        """Load the model anew when another worker has."""
        number = self._number()
        if number != self.seen:
            self.seen = number
            told = self._swap()
            if told:
                log.error("the model was not loaded anew: %s", told)
        return False

    def reload(self) -> Response:
        """Load the model that is on disk now; the old one answers until the new is warm."""
        before = self.service.model_id
        told = self._swap()
        if told:
            answer = jsonify(error=f"not loaded, {before or 'none'} is still served: {told}")
            answer.status_code = 409
            return answer
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.seen = time.time_ns()
            put(self.file, encoded({"number": self.seen}))
        except OSError as error:
            log.warning("other workers are not told of the new model: %s", error)
        return jsonify(model=self.service.model_id, before=before)

    def _swap(self) -> str:
        """Put a model that has scored a row in the old one's place; return why not."""
        service = self.service
        with self.lock:
            if service.state != "ready":
                service.form = self.form
                service.warm()
                return "" if service.state == "ready" else service.state
            folder = service.out / "model"
            try:
                name, model = store.identity(folder), service.job.load(folder, self.form)
                service.job.answers(model, [service.job.row(**example(service.job.row))])
            except Exception as error:
                return str(error) or type(error).__name__
            service.model, service.model_id = model, name
            service.form = service.job.form(model)
        log.info("model %s is served", name)
        return ""
