"""The command line, through its edge: exit codes, streams, help and options."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slipway import __main__ as entry
from slipway import verbs
from slipway.errors import InputInvalid
from slipway.job import load_job


def platform(tmp_path: Path, **hyperparameters: str) -> Path:
    """Make SageMaker's folder and return the file it reads a failure from."""
    base = tmp_path / "opt-ml"
    (base / "output").mkdir(parents=True)
    (base / "input" / "config").mkdir(parents=True)
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    return base / "output" / "failure"


def test_run_prints_the_metrics_the_tier_and_the_report(toy) -> None:
    code, out, err = toy("run", "--data", "sample", "--out", str(toy.out))

    assert 0 == code
    assert re.search(r"average_precision +1\.0000  >= 0\.9 reached", out)
    assert "data    tier sample, seed 0, device cpu" in out
    assert f"report  {toy.out}/report.html" in out
    assert "train: seed 0, device cpu" in err
    assert "our fault" not in err
    written = {path.name for path in toy.out.iterdir()}

    assert {"data", "metrics.json", "model", "report.html", "report.json", "run.json"} <= written


def test_two_runs_of_one_seed_are_equal_byte_for_byte(trained) -> None:
    def content() -> dict[str, bytes]:
        names = ("metrics.json", "model/model.skops", "report.json")
        return {name: (trained.out / name).read_bytes() for name in names}

    before = content()
    code, _, _ = trained("run", "--data", "sample", "--out", str(trained.out))

    assert 0 == code
    assert before == content()


def test_a_missed_bar_is_exit_code_3(trained, monkeypatch) -> None:
    monkeypatch.setenv("TOY_WORSE", "0.5")
    code, out, err = trained("evaluate", "--out", str(trained.out))

    assert 3 == code
    assert "missed" in out
    assert "error: average_precision is 0.5000, wanted >= 0.9 (tier sample)" in err


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["fail", "SlipwayError"], 1, "message of SlipwayError"),
        (["fail", "BarMissed"], 3, "message of BarMissed"),
        (["fail", "DeviceAbsent"], 4, "message of DeviceAbsent"),
        (["fail", "DataUnavailable"], 5, "message of DataUnavailable"),
        (["fail", "InputInvalid"], 6, "message of InputInvalid"),
        (["fail", "Retryable"], 33, "message of Retryable"),
        (["fail", "Stopped"], 143, "message of Stopped"),
        (["fail", "denied"], 5, "/some/file: cannot be read or written (Permission denied)"),
        (["fail", "full"], 33, "/some/file: cannot be read or written (No space left"),
        (["fail"], 2, "Missing argument 'KIND'"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["train", "--seed", "x"], 2, "'x' is not a valid integer"),
        (["train", "--seed", "-1"], 2, "-1 is not in the range"),
        (["train", "--limit", "0"], 2, "0 is not in the range"),
        (["train", "--device", "tpu"], 2, "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["prepare", "--data", "no-such-file"], 5, "--data no-such-file: no such file"),
        (["prepare", "--data", "real"], 5, "dataset messages: real: http://127.0.0.1:9"),
        (["train"], 5, "fit.tsv: no such file; run prepare first"),
        (["evaluate"], 5, "no model; run train first"),
        (["score", "in.jsonl", "out.jsonl"], 5, "in.jsonl: no such file"),
        (["score", "in.txt", "out.txt"], 2, "wanted a name that ends in .jsonl"),
        (["export"], 5, "no model; run train first"),
        (["bench", "--seconds", "0.1"], 5, "no model; run train first"),
    ],
)
def test_an_error_is_one_line_an_exit_code_and_no_traceback(
    toy, finished_run, args, code, told
) -> None:
    model = ["--out", str(finished_run / "out" if args[0] == "score" else toy.out)]
    found, out, err = toy(*args, *(model if args[0] != "nonsense" else []))

    assert (code, "") == (found, out)
    assert told in err
    assert "Traceback" not in err


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has the device")
def test_an_absent_device_is_exit_code_4(toy) -> None:
    code, _, err = toy("train", "--device", "cuda", "--out", str(toy.out))

    assert 4 == code
    assert "--gpus all" in err


def test_what_is_our_fault_is_exit_code_1_with_its_trace(toy) -> None:
    code, _, err = toy("fail", "fault", "--out", str(toy.out))

    assert 1 == code
    assert "error: our fault: ZeroDivisionError: division by zero" in err
    assert "Traceback" in err


def test_sigterm_in_train_keeps_a_checkpoint_and_a_rerun_ends_in_the_same_model(
    trained, monkeypatch
) -> None:
    model = trained.out / "model" / "model.skops"
    whole = model.read_bytes()
    monkeypatch.setenv("TOY_SIGTERM", "1")
    code, _, err = trained("train", "--data", "sample", "--out", str(trained.out))

    assert 143 == code
    assert "train stopped by SIGTERM; kept in" in err

    model.unlink()
    monkeypatch.delenv("TOY_SIGTERM")
    code, _, err = trained("train", "--data", "sample", "--out", str(trained.out))

    assert 0 == code
    assert "resuming train from" in err
    assert whole == model.read_bytes()


def test_sigterm_in_an_early_stage_of_run_ends_it_after_the_stage(toy) -> None:
    code, _, err = toy("run", "--interrupt", "--data", "sample", "--out", str(toy.out))

    assert 143 == code
    assert "stopped by SIGTERM after prepare" in err
    assert {"prepare"} == set(json.loads((toy.out / "run.json").read_text("utf-8")))


def test_hyperparameters_are_strings_and_arrive_as_the_options_types(trained, tmp_path) -> None:
    platform(tmp_path, decay="0.5", seed="7", sagemaker_program="x")
    code, _, err = trained("train", "--data", "sample", "--out", str(trained.out))
    options = json.loads((trained.out / "run.json").read_text("utf-8"))["train"]["options"]

    assert 0 == code, err
    assert (0.5, 7) == (options["decay"], options["seed"])


def test_an_option_wins_over_a_hyperparameter(trained, tmp_path) -> None:
    platform(tmp_path, seed="7")
    trained("train", "--seed", "8", "--data", "sample", "--out", str(trained.out))

    assert (
        8 == json.loads((trained.out / "run.json").read_text("utf-8"))["train"]["options"]["seed"]
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [({"decay": "x"}, "'x' is not a valid float"), ({"dekay": "1"}, "dekay is no")],
)
def test_a_wrong_hyperparameter_is_usage_and_told_to_the_platform(
    toy, tmp_path, given, told
) -> None:
    failure = platform(tmp_path, **given)
    code, _, err = toy("train", "--out", str(toy.out))

    assert 2 == code
    assert told in err
    assert told in failure.read_text("utf-8")


def test_a_damaged_hyperparameters_file_is_invalid_input(toy, tmp_path) -> None:
    platform(tmp_path)
    (tmp_path / "opt-ml/input/config/hyperparameters.json").write_text("{")
    code, _, err = toy("train", "--out", str(toy.out))

    assert 6 == code
    assert "hyperparameters.json: " in err


def test_a_failure_is_told_to_sagemaker_in_its_file(toy, tmp_path) -> None:
    failure = platform(tmp_path)
    toy("fail", "fault", "--out", str(toy.out))

    assert failure.read_text("utf-8").startswith("our fault: ZeroDivisionError")
    assert len(failure.read_text("utf-8")) <= 1024


def test_a_failure_file_that_cannot_be_written_does_not_hide_the_error(toy, tmp_path) -> None:
    platform(tmp_path).mkdir()
    code, _, err = toy("fail", "InputInvalid", "--out", str(toy.out))

    assert 6 == code
    assert "message of InputInvalid" in err


@pytest.mark.parametrize(
    "args", [["fail", "fault"], ["prepare", "--data", "sample"], ["train", "-x"]]
)
def test_with_log_format_json_every_line_on_stderr_is_json(toy, monkeypatch, args) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    _, _, err = toy(*args, "--out", str(toy.out))
    lines = [json.loads(line) for line in err.splitlines()]

    assert lines
    assert all({"time", "severity", "logger", "message"} <= set(line) for line in lines)


def test_a_log_record_with_a_traceback_is_one_line(monkeypatch, capsys) -> None:
    import logging

    monkeypatch.setenv("LOG_FORMAT", "json")
    verbs.configure_logging()
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("toy").exception("failed")
    entry = json.loads(capsys.readouterr().err)

    assert ("failed", "toy", "ERROR") == (entry["message"], entry["logger"], entry["severity"])
    assert "ValueError: x" in entry["trace"]


def test_every_stage_has_the_common_options_once(toy) -> None:
    group = verbs.command_line(toy.job)
    for name in ("run", "prepare", "train", "evaluate", "fail"):
        names = [option.name for option in group.commands[name].params]

        assert {"seed", "device", "data", "epochs", "limit", "out"} <= set(names)
        assert len(names) == len(set(names))
    assert {"decay", "interrupt"} <= {option.name for option in group.commands["run"].params}


def test_every_verb_has_help(toy) -> None:
    code, out, _ = toy("--help")

    assert 0 == code
    for name, command in verbs.command_line(toy.job).commands.items():
        assert name in out
        assert command.help
    assert "Weight of the L2 penalty." in toy("train", "--help")[1]


def test_the_output_folder_may_come_from_the_environment(toy, monkeypatch) -> None:
    monkeypatch.setenv("SLIPWAY_OUT", str(toy.out))
    monkeypatch.setenv("SLIPWAY_HOST_OUT", "artifacts/toy")
    code, _, _ = toy("prepare", "--data", "sample")

    assert 0 == code
    assert (toy.out / "data" / "fit.tsv").is_file()
    assert "artifacts/toy/report.html" == verbs.shown_path(toy.out / "report.html", toy.out)


def test_a_verb_of_the_jobs_own_prints_what_it_reports(toy) -> None:
    code, out, err = toy("study", "--out", str(toy.out))
    home = toy.out / "report" / "study-curve.png"

    assert (0, True) == (code, home.is_file()), err
    assert out.splitlines() == [
        "",
        "What was found",
        "model     RMSE",
        "a         0.1235",
        "longer b  38,834",
        "The second errs more.",
        f"A curve.  {home}",
    ]


def test_card_prints_the_figures_with_their_tier(trained) -> None:
    code, out, _ = trained("card", "--out", str(trained.out))

    assert 0 == code
    assert "| average_precision | 1.0000 | >= 0.9 | reached |" in out
    assert "Data tier **sample**, seed 0" in out


def test_models_lists_and_promotes(trained) -> None:
    code, out, _ = trained("models", "--out", str(trained.out))

    assert 0 == code
    assert re.search(r"^ +1 train +candidate", out)

    _, out, _ = trained("models", "--promote", "1", "production", "--out", str(trained.out))

    assert "candidate,production" in out


@pytest.mark.parametrize("args", [["--promote", "99", "shadow"], []])
def test_a_model_that_is_not_registered_is_told(trained, toy, finished_run, args) -> None:
    if not args:  # a store in which nothing was ever registered
        trained.folder.rename(trained.folder.with_name("other"))
        trained.folder = trained.folder.with_name("other")
    code, _, err = trained("models", *args, "--out", str(trained.out))

    assert 5 == code, err
    assert "not found" in err


def test_show_describes_the_job_as_json(toy) -> None:
    _, out, _ = toy("show")
    told = json.loads(out)

    assert "toy" == told["name"]
    assert {"average_precision": ">= 0.9"} == told["accept"]["real"]
    assert 50 == told["input"]["properties"]["text"]["maxLength"]
    assert {"run", "train", "score", "serve", "fail", "models"} <= set(told["verbs"])


def invoke_entry(monkeypatch, folder: Path | None, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["slipway", *args])
    if folder is None:
        monkeypatch.delenv("SLIPWAY_JOB", raising=False)
    else:
        monkeypatch.setenv("SLIPWAY_JOB", str(folder))
    try:
        entry.main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    return 0


def test_sealed_help_is_the_same_text_and_needs_no_code(toy, monkeypatch) -> None:
    capsys = toy.capsys
    fresh = {verb: toy(*verb, "--help")[1] for verb in ((), ("train",), ("score",))}
    show = toy("show")[1]

    assert 0 == invoke_entry(monkeypatch, None, "seal", str(toy.folder))
    assert (toy.folder / "sealed.json").is_file()

    (toy.folder / "job.py").write_text("raise SystemExit('was imported')")
    capsys.readouterr()
    for verb, text in fresh.items():
        assert 0 == invoke_entry(monkeypatch, toy.folder, *verb, "--help")
        assert text == capsys.readouterr().out
    assert 0 == invoke_entry(monkeypatch, toy.folder, "show")
    assert json.loads(show) == json.loads(capsys.readouterr().out)


def test_seal_takes_its_argument_before_the_environment(toy, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SLIPWAY_JOB", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["slipway", "seal", str(toy.folder)])
    with pytest.raises(SystemExit) as left:
        entry.main()

    assert 0 == left.value.code
    assert (toy.folder / "sealed.json").is_file()


def test_the_entry_point_wants_a_job(monkeypatch, tmp_path, capsys) -> None:
    assert 1 == invoke_entry(monkeypatch, None, "train")
    assert 6 == invoke_entry(monkeypatch, tmp_path, "train")
    assert "holds no job.py; SLIPWAY_JOB names a job's folder" in capsys.readouterr().err


def test_a_job_that_cannot_be_imported_is_our_fault_without_a_bare_traceback(
    toy, monkeypatch, capsys
) -> None:
    (toy.folder / "job.py").write_text("import no_such_library")

    assert 1 == invoke_entry(monkeypatch, toy.folder, "train")
    assert "error: our fault: ModuleNotFoundError: No module named" in capsys.readouterr().err


def test_a_module_without_a_job_is_told(toy) -> None:
    (toy.folder / "job.py").write_text("pass")

    with pytest.raises(InputInvalid, match="'job' is NoneType; wanted a Job"):
        load_job(toy.folder)


def test_help_imports_nothing_heavy(toy) -> None:
    code = (
        "import sys, slipway.verbs; from slipway.job import load_job; from pathlib import Path;"
        f"slipway.verbs.command_line(load_job(Path({str(toy.folder)!r})));"
        "print([name for name in ('sklearn', 'numpy', 'pandas', 'mlflow', 'matplotlib', 'flask')"
        " if name in sys.modules])"
    )
    source = str(Path(verbs.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "[]\n" == found.stdout, found.stderr


def test_sigterm_before_a_run_begins_is_143(toy) -> None:
    with pytest.raises(SystemExit) as left:
        verbs.at_the_edge(lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert 143 == left.value.code


def test_sigterm_is_143_where_a_library_makes_another_error_of_it(toy) -> None:
    def imported() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            raise ImportError("initialization failed") from None

    with pytest.raises(SystemExit) as left:
        verbs.at_the_edge(imported)

    assert 143 == left.value.code


def test_sigterm_ends_what_swallows_it(toy) -> None:
    program = """
import os, signal, time
from slipway import verbs
verbs.STOP_SECONDS = 0.2
def deaf():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        time.sleep(60)
verbs.at_the_edge(deaf)
"""
    source = str(Path(verbs.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": source},
        timeout=30,
        check=False,
    )

    assert 143 == found.returncode


def test_the_package_gives_only_its_names() -> None:
    import slipway

    assert ["Content", "Field", "Input", "Job", "Media", "Output", "Run"] == slipway.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = slipway.Nothing


@pytest.mark.parametrize("name", ["line", "file"])
def test_an_answer_with_a_column_of_scored_files_does_not_load(toy, name) -> None:
    path = toy.folder / "job.py"
    path.write_text(path.read_text("utf-8").replace("    prediction: bool", f"    {name}: bool"))
    with pytest.raises(InputInvalid, match=rf"job\.py: Verdict has a field '{name}'; wanted anot"):
        verbs.seal(toy.job)


def test_options_without_a_verb_are_those_of_run(toy, monkeypatch) -> None:
    assert 5 == invoke_entry(monkeypatch, toy.folder, "--data", "none.tsv", "--out", str(toy.out))
    assert "none.tsv: no such file" in toy.capsys.readouterr().err
