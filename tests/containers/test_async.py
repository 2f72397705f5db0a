"""Long work: runs outlive a killed server, and a job's verbs start over HTTP."""

import json
import re

import pytest

pytestmark = pytest.mark.once
OVER = ("succeeded", "failed", "cancelled")
TOKEN = "a-token-for-this-test"
RUNS = 40
LISTS = 8  # long bodies, so that the kill finds runs that are not over


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
    names = []
    with subject.serving(place) as server:
        wait_for(lambda: server.status("/readyz") == 200)
        many = (rows * LISTS)[: most_rows(server)]
        wanted = server.score(many)[1]
        for number in range(RUNS):
            code, headers, run = ask(
                server, "/score", many, Prefer="respond-async", Idempotency_Key=f"key {number}"
            )
            assert code in (200, 202)  # 200: it is over already
            assert headers["Location"] == f"/runs/{run['id']}"
            names.append(run["id"])
        before = [run_of(server, name)["state"] for name in names]
        server.container.kill("SIGKILL")
    with subject.serving(place) as server:
        wait_for(lambda: server.status("/readyz") == 200)
        runs = [wait_for(lambda name=name: over(server, name)) for name in names]
        again = ask(server, "/score", many, Prefer="respond-async", Idempotency_Key="key 0")
        events = server.ask(f"/runs/{names[-1]}/events")[2]
        seen = re.findall(r"id: (\d+)\nevent: (\w+)", events)
        rest = server.ask(f"/runs/{names[-1]}/events", Last_Event_ID=seen[-2][0])[2]
        result = server.ask(f"/runs/{names[-1]}/result")[2]
    assert [run["state"] for run in runs] == ["succeeded"] * RUNS
    assert all(run["answer"] in (wanted, None) for run in runs)
    assert json.loads(result) == wanted
    assert (again[0], again[2]["id"]) == (200, names[0])
    assert [kind for _, kind in seen][0 :: len(seen) - 1] == ["queued", "completed"]
    assert re.findall(r"event: (\w+)", rest) == ["completed"]
    figures[f"{subject.spec.name} runs through SIGKILL"] = (
        f"{RUNS - before.count('succeeded')} of {RUNS} were not over, none was lost"
    )


def test_a_verb_runs_over_http_and_its_model_is_served_after_reload(
    subject, trained, make_folder, described, wait_for
):
    place = make_folder(trained)
    (place / "token").write_text(TOKEN, "utf-8")
    bearer = f"Bearer {TOKEN}"
    with subject.serving(place, "--control", "--control-token-file", "/artifacts/token") as server:
        wait_for(lambda: server.status("/readyz") == 200)
        assert ask(server, "/prepare", {})[0] == 401
        code, _, told = ask(server, "/prepare", {"no such option": 1}, Authorization=bearer)
        assert (code, told["fields"][0]["path"]) == (422, "/no such option")
        code, _, run = ask(server, "/prepare", {"seed": 3}, Authorization=bearer)
        assert code == 202
        done = wait_for(lambda: over(server, run["id"]))
        code, _, swapped = ask(server, "/reload", {}, Authorization=bearer)
        assert (code, swapped["model"]) == (200, swapped["before"])
    assert done["state"] == "succeeded", done
    assert done["answer"]["exit_code"] == 0
