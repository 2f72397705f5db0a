"""The verbs about engines: what they are, how fast, fine-tuned, and in another format.

Data:    one sentence to time; for fine-tuning the clips that `prepare` made, or recordings given.
Source:  those of each engine's module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway import logs
from slipway.errors import InputInvalid
from slipway.run import read_json

from . import engines, retrieval
from .engines.orpheus import CODEC
from .engines.weights import RANDOM, how

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from slipway import Run

    from .finetune import Clip, Memory, Recipe, Tuned

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
BLUE, AMBER, GREY = "#1864ab", "#e8890c", "#868e96"
TITLE, LABEL = 16, 14
SIZE = click.option("--size", type=click.Choice(["tiny", "random", "full"]), default="tiny",
                    show_default=True, help="A small network or the published one with random "
                    "weights, or the trained weights.")  # fmt: skip
WEIGHTS = click.option("--weights", type=FOLDER, default=None,
                       help="Folder of the trained weights; see the verb facts.")  # fmt: skip


def facts(run: Run) -> None:
    """Show what each engine is, can and cannot, its licence, and how to get its weights."""
    made = {name: engines.make(name).facts for name in engines.NAMES}
    rows = [
        {"engine": name, "model": one.title, "hub id": one.hub or "part of the image",
         "revision": one.revision[:12], "GB": f"{one.size_bytes / 1e9:.2f}" if one.hub else "",
         "sha256": one.sha256[:12] or ("pinned by git" if one.hub else ""),
         "licence": one.licence, "gated": "yes" if one.gated else "no"}
        for name, one in made.items()
    ]  # fmt: skip
    run.table("engines", rows, "Engines, and what their weights are. None is fetched unasked.")
    for name, one in made.items():
        more = f" {how(one)}." if one.hub else ""
        run.note(f"{name} can: {one.can}. {name} cannot: {one.cannot.rstrip('.')}.{more}")
    run.note(f"orpheus also wants {CODEC.title}. {how(CODEC)}.")
    run.note(f"convert --by hubert wants {retrieval.FACTS.title}. {how(retrieval.FACTS)}.")


@click.option("--text", required=True, help="What to say.")
@click.option("--engine", "name", type=click.Choice(engines.NAMES), default="xtts",
              show_default=True)  # fmt: skip
@SIZE
@WEIGHTS
@click.option("--voice", default=None, help="One of the engine's own; its first otherwise.")
@click.option("--reference", type=FILE, default=None, help="A recording of the voice to clone.")
@click.option("--consent", type=FILE, default=None, help="The speaker's, for a reference.")
@click.option("--adapters", type=FOLDER, default=None, help="What finetune wrote.")
def say(
    run: Run, text: str, name: str, size: engines.Size, weights: Path | None, voice: str | None,
    reference: Path | None, consent: Path | None, adapters: Path | None,
) -> None:  # fmt: skip
    """Speak with an engine: in a voice of its own or, with consent, in that of a recording."""
    from . import heeding, releasing
    from .engines.text import joined
    from .speech import read

    agreed = None
    if reference:
        agreed = releasing.permitted(reference.read_bytes(), consent or "", "clone")
    engine = engines.make(name, size, weights, run.device)
    engine.load()
    if adapters:
        adapt(engine, adapters)
    cloned = engine.clone(read(reference.read_bytes(), reference.name)) if reference else None
    said = heeding.said(engine, text, cloned or voice or engine.voices[0])
    file = run.out / "said" / f"{name}.wav"
    spoken = joined([piece.speech for piece in said])
    releasing.kept(file, spoken, name, engine.weights, agreed, text)
    rows = [{"piece": piece.text, "seconds": round(piece.speech.seconds, 2), "turns": piece.turns,
             "words heard otherwise": "" if piece.wrong is None else f"{piece.wrong:.0%}"}
            for piece in said]  # fmt: skip
    run.table("said", rows, f"{file}, by {name}. Weights: {engine.weights}.")


def adapt(engine: engines.Engine, folder: Path) -> None:
    """Merge what finetune wrote into an engine's weights; InputInvalid where it is of another."""
    from peft import PeftModel

    from . import adapting

    task = adapting.task(engine)
    path = folder / "adapter_config.json"
    found = read_json(path).get("base_model_name_or_path")
    if found != task.hub:
        raise InputInvalid(f"{path}: found adapters of {found}; wanted some of {task.hub}")
    task.finish(PeftModel.from_pretrained(task.network, folder))


@click.option("--engine", "names", type=click.Choice(engines.NAMES), multiple=True,
              help="Of these only; all of them otherwise.")  # fmt: skip
@SIZE
@click.option("--weights", type=FOLDER, default=None,
              help="Folder with a folder NAME of trained weights for each engine.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(2), default=10, show_default=True)
@click.option("--most-batch", type=click.IntRange(1), default=16, show_default=True,
              help="The largest batch that is tried.")  # fmt: skip
def compare(
    run: Run, names: tuple[str, ...], size: engines.Size, weights: Path | None, repeats: int,
    most_batch: int,
) -> None:  # fmt: skip
    """Time every engine: real-time factor, first sound, memory and largest batch, in one table."""
    from .engine_speed import Wish, measured

    rows = []
    for name in run.progress(names or engines.NAMES, "engines"):
        folder = weights / name if weights else None
        threads = max(1, int(run.spec.resources.cpus))
        rows.append(measured(Wish(name, size, folder, run.device, repeats, most_batch, threads)))
    run.table("engines", rows, "One sentence, after two turns to warm up. RTF is the real-time "
              "factor: seconds of work for a second of speech; first sound is what one waits for "
              "where speech is streamed.")  # fmt: skip
    run.figure("speed", paces(rows), "Median and 95th percentile of the real-time factor. "
               "Left of the line an engine speaks faster than it is listened to.")  # fmt: skip
    if any(row["weights"] == RANDOM for row in rows):
        run.note(f"{RANDOM.capitalize()}. They speak no words, and all pieces are of one length; "
                 "tiny networks are faster than the published ones.")  # fmt: skip


def paces(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the real-time factor of each engine, the fastest on top."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    timed = sorted((row for row in rows if row["RTF p50"]), key=lambda row: -row["RTF p50"])
    fastest, some = timed[-1], any(row["weights"] == RANDOM for row in timed)
    figure = Figure(figsize=(10, 1.6 + 0.8 * len(timed)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(timed):
        colour = AMBER if row["weights"] == RANDOM else BLUE
        axes.plot([row["RTF p50"], row["RTF p95"]], [place, place], color=colour, lw=4)
        axes.plot(row["RTF p50"], place, color=colour, marker="o", ms=14)
        axes.text(row["RTF p50"], place + 0.22, f"{row['RTF p50']:.2g}", ha="center",
                  fontsize=LABEL)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1)
    axes.set_ylim(-0.6, len(timed) - 0.2)
    axes.axvline(1, color=GREY, lw=2, ls="--")
    axes.set_yticks(range(len(timed)), [row["engine"] for row in timed], fontsize=LABEL)
    axes.tick_params(axis="x", labelsize=LABEL - 1)
    axes.set_xlabel("seconds of work for a second of speech; left of the line: faster than it is "
                    "listened to", fontsize=LABEL - 2)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    told = f"\namber: {RANDOM}" if some else ""
    figure.suptitle(f"{fastest['engine']} needs least: {fastest['RTF p50']:.2g} s of work for a "
                    f"second of speech{told}", fontsize=TITLE, x=0.01, ha="left")  # fmt: skip
    return figure


@click.option("--engine", "name", type=click.Choice(["xtts", "csm"]), default="xtts",
              show_default=True)  # fmt: skip
@SIZE
@WEIGHTS
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=2, show_default=True,
              help="Clips that a gradient is computed of at once.")  # fmt: skip
@click.option("--accumulate", type=click.IntRange(1), default=2, show_default=True,
              help="Gradients that are added up for a step.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=2e-4, show_default=True)
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True, help="Of LoRA.")
@click.option("--checkpointing/--no-checkpointing", default=True, show_default=True,
              help="Compute activations twice instead of keeping them.")  # fmt: skip
@click.option("--bf16/--no-bf16", default=True, show_default=True,
              help="Compute in mixed precision.")  # fmt: skip
@click.option("--every", type=click.IntRange(1), default=5, show_default=True,
              help="Steps between checkpoints.")  # fmt: skip
@click.option("--listen", type=click.IntRange(0), default=50, show_default=True,
              help="Steps until held-out sentences are spoken again; 0 for never.")  # fmt: skip
def finetune(run: Run, name: str, size: engines.Size, weights: Path | None, **given: Any) -> None:
    """Fine-tune XTTS or CSM on the prepared clips, by adapters that are saved ready for a hub."""
    import torch

    from slipway import networks

    from . import adapting
    from .finetune import Recipe, adapted, memories, saved, tune

    networks.settle(run)
    if run.device == "cuda":  # where the cross-entropy of a sequence has no deterministic form
        torch.use_deterministic_algorithms(True, warn_only=True)
    recipe = Recipe(seed=run.seed, **given)
    learned, held_out = clips(run)
    engine = engines.make(name, size, weights, run.device)
    engine.load()
    task = adapting.task(engine)
    own = adapted(task, recipe)
    needed = memories(task, own, learned, recipe)
    tuned = tune(task, own, learned, held_out, recipe, run.resume(), run.checkpoint)
    folder = run.out / "adapters" / name
    saved(tuned, task, recipe, folder)
    shown(run, name, engine.weights, recipe, tuned, needed)
    run.note(f"Adapters: {folder}, ready to be uploaded; README.md there is their card.")


def clips(run: Run) -> tuple[list[Clip], list[Clip]]:
    """Return the prepared clips to learn from and the held-out ones, at their own rate."""
    from . import corpus
    from .finetune import Clip
    from .speech import read

    found: dict[str, list[Clip]] = {"train": [], "held_out": []}
    path = run.prepared("corpus.json")
    for row in corpus.read_table(path):
        if row["part"] in found:
            file = run.prepared(f"native/{row['name']}.wav")
            found[row["part"]].append(Clip(row["text"], read(file.read_bytes(), file.name)))
    if not all(found.values()):
        raise InputInvalid(f"{path}: found no clips to learn from or none held out; run prepare")
    return found["train"], found["held_out"]


def shown(
    run: Run, name: str, weights: str, recipe: Recipe, tuned: Tuned, needed: dict[bool, Memory]
) -> None:
    """Put figures, curve and memory into the report, and the run into MLflow."""
    figures = {
        "loss_first": tuned.curve[0][1], "loss_last": tuned.curve[-1][1],
        "held_out_loss_before": tuned.before, "held_out_loss_after": tuned.after,
        "trained_weights": sum(part.numel() for part in tuned.adapted.trained),
        "kept_mb_plain": needed[False].kept / 2**20,
        "kept_mb_checkpointed": needed[True].kept / 2**20,
    }  # fmt: skip
    if tuned.heard:
        figures |= {"distortion_before": tuned.heard[0][1], "distortion_after": tuned.heard[-1][1]}
    run.log(**{f"{name}_{label}": value for label, value in figures.items()})
    curves = {"step/loss": {step + 1: loss for step, loss in tuned.curve},
              "step/distortion_db": dict(tuned.heard)}  # fmt: skip
    run.track(f"finetune-{name}", asdict(recipe) | {"weights": weights}, figures, curves=curves)
    run.figure(f"loss-{name}", losses(name, weights, tuned),
               "Loss of each step and its running mean; mel-cepstral distortion of held-out "
               "sentences, spoken in the voice of a clip that is learned from. Weights: "
               f"{weights}.")  # fmt: skip
    rows = [
        {"checkpointing": "yes" if on else "no",
         "kept for the backward pass (MB)": f"{one.kept / 2**20:.1f}",
         "GPU peak (MB)": f"{one.peak / 2**20:.0f}" if one.peak else "no GPU"}
        for on, one in needed.items()
    ]  # fmt: skip
    run.table(f"memory-{name}", rows, f"{name}, {recipe.batch} clips at once: each storage that "
              f"the forward pass keeps, without weights. Weights: {weights}.")  # fmt: skip


def losses(name: str, weights: str, tuned: Tuned) -> Figure:
    """Draw the loss over steps; a title that says what became of held-out clips."""
    import numpy as np
    from matplotlib.figure import Figure

    steps, values = np.array(tuned.curve).T
    width = max(1, len(values) // 10)
    smooth = np.convolve(values, np.ones(width) / width, "valid")
    figure = Figure(figsize=(13 if tuned.heard else 10, 5), layout="constrained")
    every = figure.subplots(1, 2 if tuned.heard else 1, squeeze=False)[0]
    every[0].plot(steps + 1, values, color=GREY, lw=1, marker=".")
    every[0].plot(steps[width - 1 :] + 1, smooth, color=BLUE, lw=3)
    labels = ["loss (nats a code)", "distortion of held-out sentences (dB)"]
    if tuned.heard:
        every[1].plot(*zip(*tuned.heard, strict=True), color=AMBER, lw=3, marker="o", ms=8)
    for axes, label in zip(every, labels, strict=False):
        axes.tick_params(labelsize=LABEL - 1)
        axes.set_xlabel("step", fontsize=LABEL)
        axes.set_ylabel(label, fontsize=LABEL)
        axes.spines[["top", "right"]].set_visible(False)
    way = "falls" if tuned.after < tuned.before else "does not fall"
    told = f"\n{RANDOM}" if weights == RANDOM else ""
    figure.suptitle(f"{name}: the loss of held-out clips {way}, from {tuned.before:.2f} to "
                    f"{tuned.after:.2f}{told}", fontsize=TITLE, x=0.01, ha="left")  # fmt: skip
    return figure


NO_GRAPH = {
    "flite": "flite is a program, not a network",
    "xtts": "XTTS writes one code after another, and how many is decided as it goes",
    "csm": "CSM writes frames one after another, each by two networks in turn",
    "orpheus": "Orpheus writes one token after another, and when it ends is decided as it goes",
}


@click.option("--engine", "name", type=click.Choice(engines.NAMES), default="kokoro",
              show_default=True)  # fmt: skip
@SIZE
@WEIGHTS
def export_engine(run: Run, name: str, size: engines.Size, weights: Path | None) -> None:
    """Write an engine as ONNX, and compare durations, sound and speed with PyTorch's."""
    if name in NO_GRAPH:
        raise InputInvalid(f"{name} has no ONNX form: {NO_GRAPH[name]}; wanted kokoro")
    from .engines import kokoro
    from .onnx_parity import compared

    engine = kokoro.made(size, weights, "cpu")
    engine.load()
    folder = run.out / "onnx"
    folder.mkdir(exist_ok=True)
    file = folder / "kokoro.onnx"
    kokoro.exported(engine, file)
    logs.say(f"{file}: {file.stat().st_size / 1e6:.0f} MB")
    rows = compared(engine, file)
    run.table("onnx", rows, f"Kokoro in onnxruntime beside PyTorch, weights: {engine.weights}. The "
              "source of its voice is noise drawn anew each time, so two runs of PyTorch differ, "
              "too: sound is compared by its log-mel spectrogram.")  # fmt: skip
    wrong = [row for row in rows if not row["durations equal"]]
    if wrong:
        raise InputInvalid(f"{file}: durations differ from PyTorch's at {len(wrong)} lengths")


VERBS = [facts, say, compare, finetune, export_engine]
