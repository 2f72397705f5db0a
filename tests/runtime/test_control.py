"""Control: who may start a verb, what its options are checked for, what becomes of it."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from slipway import control
from slipway.ledger import LongWork, locked
from slipway.scorer import create_app
from slipway.verbs import command_line

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def process_finds_slipway(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(control.__file__).parent.parent))


@pytest.fixture
def app(trained):
    work = LongWork(control_token=TOKEN)
    return create_app(trained.job, trained.out, background=False, long_work=work)


def ask(client, path: str, options: object = None, **headers: str):
    data = options if isinstance(options, bytes) else json.dumps(options or {}).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return client.post(path, data=data, headers=BEARER | named)


def told(client, reply):
    return client.get(reply.headers["Location"]).json


def logged(executor) -> str:
    events = executor.ledger.latest(1)[0].events()
    return "\n".join(event["data"].get("text", "") for _, event in events)


PATHS = ("/prepare", "/train", "/evaluate", "/reload")


def test_without_control_there_are_no_such_routes(trained) -> None:
    client = create_app(trained.job, trained.out, background=False).test_client()

    assert [404] * 4 == [client.post(path, headers=BEARER).status_code for path in PATHS]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("text", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer  ", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer another-token-of-length", 403),
        (f"Bearer {TOKEN}x", 403),
        ("Bearer caf\u00e9", 403),
    ],
)
def test_without_the_token_nothing_starts(client, executor, path, text, status) -> None:
    headers = {} if text is None else {"Authorization": text}
    reply = client.post(path, headers=headers | {"Prefer": "respond-async"})

    assert status == reply.status_code
    assert (status == 401) == ("WWW-Authenticate" in reply.headers)
    assert [] == executor.ledger.latest(1)


def test_the_server_does_not_start_without_a_token(trained, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(control.TOKEN, raising=False)
    (tmp_path / "short").write_text("short\n")
    for more in ([], ["--control-token-file", str(tmp_path / "short")],
                 ["--control-token-file", str(tmp_path / "none")]):  # fmt: skip
        code, _, err = trained("serve", "--control", "--out", str(trained.out), *more)

        assert 2 == code
        assert "token" in err


def test_the_token_comes_from_a_file_or_the_environment(monkeypatch, tmp_path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv(control.TOKEN, "another-token-of-length")

    assert TOKEN == control.read_token(tmp_path / "token")
    assert "another-token-of-length" == control.read_token(None)


@pytest.mark.parametrize(
    ("path", "options", "field", "wanted"),
    [
        ("/train", {"decoy": 1}, "/decoy", "one of data, decay, "),
        ("/train", {"out": "/tmp"}, "/out", "one of "),
        ("/train", {"help": True}, "/help", "one of "),
        ("/train", {"decay": "much"}, "/decay", "not a valid float"),
        ("/train", {"decay": None}, "/decay", "a text or a number"),
        ("/train", {"decay": [0.1]}, "/decay", "a text or a number"),
        ("/train", {"decay": {"a": 1}}, "/decay", "a text or a number"),
        ("/train", {"decay": True}, "/decay", "a text or a number"),
        ("/train", {"seed": -1}, "/seed", "not in the range"),
        ("/train", {"device": "tpu"}, "/device", "is not one of"),
        ("/train", {"epochs": 1.5}, "/epochs", "not a valid integer"),
        ("/train", {"data": "a\0b"}, "/data", "bytes of text"),
        ("/train", b'{"data": "\\ud800"}', "/data", "bytes of text"),
        ("/prepare", {"interrupt": "yes"}, "/interrupt", "true or false"),
        ("/prepare", [], "/", "a JSON object of options"),
        ("/prepare", b"[1]", "/", "a JSON object of options"),
        ("/prepare", b"{", "/", "a JSON object of options"),
        ("/prepare", b"\xff", "/", "a JSON object of options"),
        ("/prepare", b"[" * 1500, "/", "a JSON object of options"),
    ],
)
def test_an_option_that_the_verb_does_not_take_is_422_by_name(
    client, executor, path, options, field, wanted
) -> None:
    reply = ask(client, path, options if options != [] else b"[]")

    assert 422 == reply.status_code
    assert field == reply.json["fields"][0]["path"]
    assert wanted in reply.json["fields"][0]["wanted"]
    assert [] == executor.ledger.latest(1)


def test_options_become_the_command_line_that_a_person_would_type(trained) -> None:
    commands = command_line(trained.job).commands
    given = {"decay": 0.5, "tag": ["c", "--d"], "words": "-x y", "seed": 7, "limit": "3"}

    assert [
        "--decay=0.5",
        "--tag=c",
        "--tag=--d",
        "--words=-x y",
        "--seed=7",
        "--limit=3",
    ] == control.arguments(commands["train"], given)
    assert ["--interrupt"] == control.arguments(commands["prepare"], {"interrupt": True})
    assert [] == control.arguments(commands["prepare"], {"interrupt": False})


def test_an_option_longer_than_a_process_takes_is_refused(trained) -> None:
    with pytest.raises(control.Wrong, match="at most 4096 bytes of text"):
        control.arguments(command_line(trained.job).commands["train"], {"data": "x" * 4097})


def test_verbs_run_one_after_another_and_their_metrics_are_the_result(client, executor) -> None:
    first = ask(client, "/train", {"decay": 0.2, "seed": 3})
    second = ask(client, "/evaluate", {"data": "sample"})

    assert [202, 202] == [first.status_code, second.status_code]
    assert "Preference-Applied" not in first.headers
    assert executor.verb_once()
    assert ("succeeded", "queued") == (told(client, first)["state"], told(client, second)["state"])

    answer = told(client, first)["answer"]

    assert ("train", 0, "done", {"loss": 0.5}) == tuple(
        answer[name] for name in ("verb", "exit_code", "meaning", "metrics")
    )
    assert {"label": "fits", "done": 3, "total": 3} == told(client, first)["progress"]
    assert "train: seed 3, device cpu" in logged_of(executor, first)
    assert executor.verb_once()
    assert "average_precision" in told(client, second)["answer"]["metrics"]
    assert not executor.verb_once()


def logged_of(executor, reply) -> str:
    run = executor.ledger.run(reply.json["id"])
    return "\n".join(event["data"].get("text", "") for _, event in run.events())


@pytest.mark.parametrize(
    ("path", "options", "environ", "code", "meaning"),
    [
        ("/evaluate", {}, {"TOY_WORSE": "0.9"}, 3, "a bar of [accept] was missed"),
        ("/train", {"device": "cuda"}, {}, 4, "the device that was asked for is absent"),
        ("/prepare", {"data": "/no/such/file"}, {}, 5, "data, weights or a folder"),
        ("/train", {}, {"TOY_SIGTERM": "1"}, 143, "stopped, with a checkpoint"),
    ],
)
def test_an_exit_code_is_told_in_words(
    client, executor, monkeypatch, path, options, environ, code, meaning
) -> None:
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    reply = ask(client, path, options)
    executor.verb_once()
    run = told(client, reply)

    assert ("failed", code) == (run["state"], run["answer"]["exit_code"])
    assert run["answer"]["meaning"].startswith(meaning)
    assert run["error"].startswith(f"exit code {code}: {meaning}")
    assert (code == 3) == bool(run["answer"]["metrics"])


def test_the_token_and_the_secret_stay_with_the_server(client, executor, monkeypatch) -> None:
    monkeypatch.setenv(control.TOKEN, TOKEN)
    monkeypatch.setenv(control.SECRET, "secret")
    seen: list[dict[str, str]] = []
    real = control.subprocess.Popen
    monkeypatch.setattr(
        control.subprocess,
        "Popen",
        lambda *a, env, **k: (seen.append(env), real(*a, env=env, **k))[1],
    )
    ask(client, "/train", {"device": "cuda"})
    executor.verb_once()

    assert not {control.TOKEN, control.SECRET} & set(seen[0])
    assert TOKEN not in "".join(
        path.read_text("utf-8") for path in executor.ledger.folder.rglob("*.json*")
    )


STUCK = """\
#!/bin/sh
echo begun
trap 'echo leaving; exit 143' TERM
while true; do sleep 0.05; done
"""


@pytest.fixture
def stuck(monkeypatch, tmp_path):
    """A verb that goes on until SIGTERM."""
    script = tmp_path / "stuck"
    script.write_text(STUCK)
    script.chmod(0o755)
    monkeypatch.setattr(control.sys, "executable", str(script))


def begun(run) -> bool:
    return any(event["data"].get("text") == "begun" for _, event in run.events())


def performed(executor) -> threading.Thread:
    """Start the verb that waits, and return when it has begun."""
    run = executor.ledger.latest(1)[0]
    thread = threading.Thread(target=executor.verb_once)
    thread.start()
    while not begun(run) and thread.is_alive():
        threading.Event().wait(0.01)
    return thread


def test_a_verb_is_cancelled_by_sigterm(client, executor, stuck) -> None:
    reply = ask(client, "/train")
    thread = performed(executor)

    assert 202 == client.delete(reply.headers["Location"]).status_code

    thread.join(20)

    assert "cancelled" == told(client, reply)["state"]
    assert "leaving" in logged(executor)
    assert 200 == client.delete(reply.headers["Location"]).status_code


def test_a_verb_under_way_keeps_others_waiting(app, client, executor, stuck) -> None:
    first = ask(client, "/train")
    thread = performed(executor)
    second = ask(client, "/evaluate")

    assert not executor.verb_once()
    assert "queued" == told(client, second)["state"]

    client.delete(second.headers["Location"])
    client.delete(first.headers["Location"])
    thread.join(20)

    assert "cancelled" == told(client, second)["state"]


def test_a_server_that_leaves_stops_the_verb_and_the_next_goes_on(
    app, client, executor, stuck
) -> None:
    reply = ask(client, "/train")
    thread = performed(executor)
    app.extensions["slipway"].draining = lambda: True
    thread.join(20)

    assert ("queued", 0) == tuple(told(client, reply)[name] for name in ("state", "attempt"))
    assert [reply.json["id"]] == [run.id for run in executor.ledger.queued("verb")]


def test_a_verb_left_alone_keeps_its_claim(client, executor, stuck) -> None:
    ask(client, "/train")
    run = executor.ledger.latest(1)[0]
    with run.claimed() as claim:
        verbs = control.Verbs(executor.service, executor.ledger)
        process = verbs._start("train", [], claim)
    try:
        assert not executor.verb_once()
        assert "queued" == run.state()["state"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with locked(run.folder / "claim") as claim:  # waits for what the process started, too
        assert claim is not None


def test_reload_serves_the_model_that_is_on_disk_now(trained) -> None:
    work = LongWork(control_token=TOKEN)
    workers = [create_app(trained.job, trained.out, background=False, long_work=work) for _ in "12"]
    before = workers[0].extensions["slipway"].model_id
    code, _, _ = trained("train", "--decay", "9", "--out", str(trained.out))

    assert 0 == code

    client = workers[0].test_client()
    reply = ask(client, "/reload")
    other = workers[1].extensions["slipway"]

    assert (200, before) == (reply.status_code, reply.json["before"])
    assert reply.json["model"] == client.get("/version").json["model"] != before
    assert before == other.model_id

    generation = workers[1].extensions["slipway-runs"].steps[-1]
    generation()

    assert reply.json["model"] == other.model_id


def test_a_model_that_does_not_load_leaves_the_old_one_in_place(trained, client, app) -> None:
    before = client.get("/version").json["model"]
    kept = client.post("/score", json={"text": "win a prize"}).json
    (trained.out / "model" / "model.skops").write_bytes(b"damaged")
    reply = ask(client, "/reload")

    assert 409 == reply.status_code
    assert f"not loaded, {before} is still served: " in reply.json["error"]
    assert kept == client.post("/score", json={"text": "win a prize"}).json
    assert 200 == client.get("/readyz").status_code


def test_a_server_that_had_no_model_is_ready_after_a_reload(toy, finished_run) -> None:
    work = LongWork(control_token=TOKEN)
    app = create_app(toy.job, toy.out, background=False, long_work=work)
    client = app.test_client()

    assert 409 == ask(client, "/reload").status_code

    shutil.copytree(finished_run / "out" / "model", toy.out / "model")

    assert 200 == ask(client, "/reload").status_code
    assert 200 == client.get("/readyz").status_code


def test_reload_works_where_nothing_can_be_written(trained, tmp_path, caplog) -> None:
    (trained.out / "runs").write_text("a file stands where the folder would be")
    work = LongWork(control_token=TOKEN)
    app = create_app(trained.job, trained.out, background=False, long_work=work)

    assert 200 == ask(app.test_client(), "/reload").status_code
    assert "other workers are not told" in caplog.text
