"""Long work: runs outlive a killed server, and a job's verbs start over HTTP."""

import base64
import hmac
import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from slipway.ledger import Run
from tests.receiver import receiving
from tests.running import gateway

pytestmark = pytest.mark.once
OVER = ("succeeded", "failed", "cancelled")
DONE = (0, 3)  # whether the bars are reached is for others to say
TOKEN = "a-token-for-this-test"
SECRET = "a-secret-of-this-test"
RUNS = 80  # half of them are accepted when the server is killed
LISTS = 40  # long bodies, so that the kill finds runs that are not over
CLIENTS = 4


def ask(server, path, body, **headers):
    code, found, text = server.ask(
        path, json.dumps(body).encode(), Content_Type="application/json", **headers
    )
    return code, found, json.loads(text)


def run_of(server, name):
    return json.loads(server.ask(f"/runs/{name}")[2])


def over(server, name):
    run = run_of(server, name)
    return run if run["state"] in OVER else None


def most_rows(server):
    found = json.loads(server.ask("/openapi.json")[2])["paths"]["/score"]["post"]["requestBody"]
    return found["content"]["application/json"]["schema"]["oneOf"][1]["maxItems"]


def test_a_server_killed_in_the_middle_loses_no_run(
    subject, trained, make_folder, rows, wait_for, figures
):
    place = make_folder(trained)
    with subject.serving(place) as server:
        wait_for(lambda: server.status("/readyz") == 200)
        many = (rows * LISTS)[: most_rows(server)]
        wanted = server.score(many)[1]
        names = {}
        with ThreadPoolExecutor(CLIENTS) as pool:
            for start in range(CLIENTS):
                numbers = range(start, RUNS, CLIENTS)
                pool.submit(ask_until_it_is_gone, server, many, numbers, names)
            wait_for(lambda: len(names) >= RUNS // 2, pause=0.001)
            server.container.kill("SIGKILL")
    cut_short = sum(not Run(place / "runs" / name).over for name in names.values())
    assert cut_short, "every run was over before the kill"
    (first, *_), (*_, last) = names.items(), names.values()
    with subject.serving(place) as server:
        wait_for(lambda: server.status("/readyz") == 200)
        runs = [wait_for(lambda name=name: over(server, name)) for name in names.values()]
        key = f"key {first[0]}"
        again = ask(server, "/score", many, Prefer="respond-async", Idempotency_Key=key)
        events = server.ask(f"/runs/{last}/events")[2]
        seen = re.findall(r"id: (\d+)\nevent: (\w+)", events)
        rest = server.ask(f"/runs/{last}/events", Last_Event_ID=seen[-2][0])[2]
        result = server.ask(f"/runs/{last}/result")[2]
    assert [run["state"] for run in runs] == ["succeeded"] * len(names)
    assert all(run["answer"] in (wanted, None) for run in runs)
    assert json.loads(result) == wanted
    assert (again[0], again[2]["id"]) == (200, first[1])
    assert [kind for _, kind in seen][0 :: len(seen) - 1] == ["queued", "completed"]
    assert re.findall(r"event: (\w+)", rest) == ["completed"]
    figures[f"{subject.spec.name} runs through SIGKILL"] = (
        f"{cut_short} of {len(names)} were not over, none was lost"
    )


def ask_until_it_is_gone(server, body, numbers, names):
    """Ask for runs and note the names of those that were accepted, by number."""
    for number in numbers:
        key = f"key {number}"
        try:
            code, _, run = ask(server, "/score", body, Prefer="respond-async", Idempotency_Key=key)
        except (OSError, http.client.HTTPException):
            return
        assert code in (200, 202)  # 200: it is over already
        names[number] = run["id"]


def test_a_receiver_that_fails_twice_is_told_after_a_restart(
    subject, trained, make_folder, rows, wait_for, figures
):
    place = make_folder(trained)
    environ = {"SLIPWAY_WEBHOOK_SECRET": SECRET}
    with receiving(gateway(subject.client)) as receiver:
        receiver.statuses = [503, 500]
        headers = {"Prefer": "respond-async", "Slipway_Webhook": receiver.url}
        with subject.serving(place, environ=environ) as server:
            wait_for(lambda: server.status("/readyz") == 200)
            run = ask(server, "/score", rows, **headers)[2]
            wait_for(lambda: receiver.got, pause=0.002)
            server.container.kill("SIGKILL")
        before = len(receiver.got)
        with subject.serving(place, environ=environ) as server:
            wait_for(lambda: server.status("/readyz") == 200)
            hook = wait_for(lambda: delivered(server, run["id"]))
    assert before in (1, 2), "the restart came after the event was taken"
    assert hook["state"] == "delivered"
    assert len(receiver.got) == 3
    [name] = {sent["webhook-id"] for sent, _ in receiver.got}
    told = receiver.told[-1]
    assert (told["type"], told["data"]["id"]) == ("run.completed", run["id"])
    assert told["data"]["state"] == "succeeded"
    sent, body = receiver.got[-1]
    content = f"{name}.{sent['webhook-timestamp']}.".encode() + body
    mark = base64.b64encode(hmac.digest(SECRET.encode(), content, "sha256")).decode()
    assert sent["webhook-signature"] == f"v1,{mark}"
    figures[f"{subject.spec.name} webhook"] = (
        f"refused twice, {before} of these before SIGKILL, then taken"
    )


def delivered(server, name):
    """Return what a run says of its webhook once the receiver has taken the event."""
    hook = run_of(server, name)["webhook"]
    return hook if hook["state"] != "pending" else None


def test_the_verbs_run_over_http_and_their_model_is_served_after_reload(
    subject, trained, make_folder, wait_for
):
    place = make_folder(trained)
    (place / "token").write_text(TOKEN, "utf-8")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    wanted = json.loads((trained / "metrics.json").read_text("utf-8"))["evaluate"]
    done = {}
    with subject.serving(place, "--control", "--control-token-file", "/artifacts/token") as server:
        wait_for(lambda: server.status("/readyz") == 200)
        assert ask(server, "/prepare", {})[0] == 401
        code, _, told = ask(server, "/prepare", {"no such option": 1}, **bearer)
        assert (code, told["fields"][0]["path"]) == (422, "/no such option")
        for verb in ("prepare", "train", "evaluate"):
            code, _, run = ask(server, f"/{verb}", {"seed": 0, "data": "sample"}, **bearer)
            assert code == 202
            done[verb] = wait_for(lambda name=run["id"]: over(server, name))["answer"]
        code, _, swapped = ask(server, "/reload", {}, **bearer)
    assert [done[verb]["exit_code"] for verb in ("prepare", "train")] == [0, 0], done
    assert done["evaluate"]["exit_code"] in DONE
    assert done["evaluate"]["metrics"] == wanted
    assert (code, swapped["model"]) == (200, swapped["before"])
