"""MNIST: which digit is this?

Models from ten straight cuts through 784 dimensions to a small convolutional network, each fitted
on the same 54,000 digits and compared on the same 10,000. The network that serves is chosen on
6,000 others. Convolutions, because a stroke means the same wherever it stands; distorted copies,
because nobody writes like the 250 writers did.

Data:    MNIST, 60,000 and 10,000 digits, 28 x 28, the four original files (job.toml).
Source:  LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 1998; Géron, Hands-On Machine
         Learning, chapter 3.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from slipway import Content, Field, Input, Job, Media, Output, Run, images, store

from . import charts, classic, digits, learning, pictures, sections, sheets
from .bench import TITLES, Bench

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession
    from torch.nn import Module

NETS = ("jobs.mnist.nets.Perceptron", "jobs.mnist.nets.Convolutional")
TRUSTED = (*NETS, "sklearn.tree._tree.Tree")
NETWORKS = ("mlp", "cnn")
MOST_PIXELS = 16_000_000
job = Job.here(__file__, trusted=TRUSTED, tolerance=1e-5)


@job.prepare
def prepare(run: Run, seed: int) -> None:
    """Check the digits, and keep a tenth of the training digits apart to choose by."""
    files = {name: run.data(name) for name in job.spec.data}
    if run.tier == "sample":
        known, test = digits.sample(files["train_images"])
    else:
        known = digits.read(files["train_images"], files["train_labels"])
        test = digits.read(files["test_images"], files["test_labels"])
    known, test = (digits.Part(*(column[: run.limit] for column in part)) for part in (known, test))
    fit, validation = digits.split(known, seed)
    (run.out / "data").mkdir(parents=True, exist_ok=True)
    for name, part in (("train", fit), ("validation", validation), ("test", test)):
        digits.write(run.out / "data" / f"{name}.npz", part)
        run.log(**{f"{name}_digits": len(part.labels)})
    run.figure("classes", charts.class_counts(fit.labels), "Training digits of each class.")
    some = [fit.images[fit.labels == digit][:4] for digit in range(10)]
    run.figure(
        "digits",
        charts.gallery([image for four in some for image in four], [""] * 40,
                       "Four training digits of each class: hands differ", 8),
        "As the models see them, 28 x 28.",
    )  # fmt: skip


@job.train
@click.option(
    "--models", multiple=True, type=click.Choice([*classic.RECIPES, *NETWORKS]),
    default=[*classic.RECIPES, *NETWORKS], help="Fit these only; a network must be among them.",
)  # fmt: skip
def train(run: Run, models: tuple[str, ...]) -> Module:
    """Fit the models and keep the network that is best on validation."""
    if not set(models) & set(NETWORKS):
        raise click.UsageError(f"--models: found no network; wanted one of {', '.join(NETWORKS)}")
    fit = digits.read_split(run.prepared("train.npz"))
    validation = digits.read_split(run.prepared("validation.npz"))
    state = run.resume() or {"fitted": {}}
    fitted: dict[str, Any] = state.pop("fitted")
    for name in run.progress([name for name in models if name not in fitted], "models"):
        started = time.process_time()
        model, curve = fit_one(run, name, fit, validation, state | {"fitted": fitted})
        store.save(model, run.out / "benchmarks" / name)
        fitted[name] = {"curve": curve, "cpu seconds": time.process_time() - started}
        state = {}
        run.checkpoint({"fitted": fitted})
    (run.out / "benchmarks" / "fitted.json").write_text(json.dumps(fitted), "utf-8")
    last = {name: fitted[name]["curve"][-1] for name in NETWORKS if name in fitted}
    best = max(last, key=lambda name: last[name]["validation accuracy"])
    run.log(**{f"{name}_validation_accuracy": last[name]["validation accuracy"] for name in last})
    for name in last:
        caption = f"{TITLES[name]}: training without distortion, its first 6,000 digits."
        run.figure(f"curves-{name}", charts.curves(fitted[name]["curve"]), caption)
    return store.load(run.out / "benchmarks" / best, TRUSTED)


def fit_one(
    run: Run, name: str, fit: digits.Part, validation: digits.Part, state: dict[str, Any]
) -> tuple[Any, list[dict[str, float]]]:
    """Return one fitted model, and for a network its curve; goes on where ``state`` ends."""
    if name not in NETWORKS:
        return classic.fitted(name, fit, run.seed), []
    fitted = state.pop("fitted")

    def keep(epoch: dict[str, Any], tensors: dict[str, Any]) -> None:
        run.checkpoint({"fitted": fitted} | epoch, tensors)

    return learning.trained(run, name, fit, validation, state, keep)


@job.evaluate
def evaluate(run: Run, model: Module) -> None:
    """Compare the models on the held-out digits, and look closely at those of the chosen one."""
    bench = Bench(run, TRUSTED, model)
    names = [name for name in TITLES if bench.has(name)]
    run.log(**{f"{name}_accuracy": bench.accuracy(name) for name in names})
    rows = [bench.row(name) for name in names]
    run.table("comparison", rows, "Models on the held-out digits; intervals are Wilson's")
    run.figure("comparison", charts.comparison(rows), "Held-out digits.")
    for section in (sections.errors, sections.improvement, sections.detector,
                    sections.several_labels, sections.denoising, sections.filters):  # fmt: skip
        section(bench)
    show_scorer(run, model, bench.test)


def show_scorer(run: Run, model: Module, test: digits.Part) -> None:
    """Score held-out digits as people send them, and one picture step by step."""
    import numpy as np

    number = min(500, max(100, len(test.labels) // 20))
    draw = np.random.default_rng(run.seed)
    shares = {}
    for kind, sheet in sheets.SHEETS.items():
        sent = [Picture(image=sheet(image, draw)) for image in test.images[:number]]
        found = [verdict.digit for verdict in score(model, sent)]
        shares[kind] = float(np.mean(found == test.labels[:number]))
    run.log(scorer_accuracy=shares["as in MNIST"], scorer_accuracy_lowest=min(shares.values()))
    caption = f"The first {len(test.labels[:number])} held-out digits, each as a file."
    run.figure("sheets", charts.on_sheets(shares), caption)
    one = Picture(image=base64.b64decode(EXAMPLE))
    seen = images.rgba(images.opened(one.image))
    chart = charts.single(seen, one.image.read, score(model, [one])[0].probabilities)
    run.figure("single", chart, "The example of the scorer's form.")


EXAMPLE = base64.b64encode(Path(__file__).with_name("sample").joinpath("seven.png").read_bytes())


def field_of(content: bytes) -> np.ndarray:
    """Return the digit of a file as (28, 28) uint8. Raises ValueError where there is no ink."""
    field = pictures.normalised(images.opened(content, MOST_PIXELS))
    if field is None:
        raise ValueError("a picture with a digit on it: this one is empty, all of one colour")
    return field


class Picture(Input):
    """A picture of one digit: drawn, scanned or photographed, of any size and colours."""

    image: Annotated[Content, Media("image/png", "image/jpeg", drawn=True, reader=field_of)] = (
        Field(examples=[EXAMPLE.decode()])
    )


class Verdict(Output):
    """The likeliest digit, its probability, and the probabilities of 0 to 9."""

    digit: int = Field(ge=0, le=9)
    probability: float = Field(ge=0, le=1)
    probabilities: list[float] = Field(min_length=10, max_length=10)


def verdicts(chances: np.ndarray) -> list[Verdict]:
    """Return the answers for chances (n, 10)."""
    return [
        Verdict(digit=int(row.argmax()), probability=float(row.max()), probabilities=row.tolist())
        for row in chances.clip(0, 1)
    ]


def fields(rows: list[Picture]) -> np.ndarray:
    """Return the digits of rows as (n, 28, 28) uint8."""
    import numpy as np

    return np.stack([row.image.read for row in rows])


@job.score
def score(model: Module, rows: list[Picture]) -> list[Verdict]:
    """Call the digits with the network."""
    return verdicts(learning.chances(model, fields(rows))) if rows else []


@job.export
def export(model: Module, folder: Path) -> None:
    """Write the network as an ONNX graph."""
    import torch

    from slipway import networks

    from . import nets

    two = torch.zeros(2, 1, digits.SIDE, digits.SIDE)
    store.save(networks.to_onnx(nets.Chances(model), two, "images", "chances"), folder)


@job.exported
def score_exported(session: InferenceSession, rows: list[Picture]) -> list[Verdict]:
    """Call the digits with the ONNX graph, without PyTorch."""
    import numpy as np

    given = fields(rows)[:, None].astype(np.float32) / 255
    return verdicts(session.run(None, {"images": given})[0])


@job.held_out
def held_out(run: Run) -> list[Picture]:
    """Return the first 1,000 held-out digits, as PNG files."""
    test = digits.read_split(run.prepared("test.npz"))
    return [Picture(image=sheets.as_png(image)) for image in test.images[:1000]]


def benched(run: Run) -> Bench:
    """Return what `train` fitted and chose."""
    return Bench(run, TRUSTED, job.load(run.out / "model"))


@job.command
def compare_sgd_rf(run: Run) -> None:
    """Set the linear SVM beside the random forest."""
    sections.pair(benched(run), "sgd", "forest")


@job.command
def compare_ovr_ovo(run: Run) -> None:
    """Set one against the rest beside one against one."""
    sections.pair(benched(run), "sgd", "sgd_pairs")


@job.command
def error_analysis(run: Run) -> None:
    """Show where the chosen network errs."""
    sections.errors(benched(run))


@job.command
def improve(run: Run) -> None:
    """Tell three patterns of errors, a remedy each, and what shifted copies mend."""
    sections.improvement(benched(run))


@job.command
def multilabel(run: Run) -> None:
    """Tell of each digit whether it is large and whether it is odd."""
    sections.several_labels(benched(run))


@job.command
def multioutput(run: Run) -> None:
    """Clean noisy digits, 784 pixels at once."""
    sections.denoising(benched(run))


@job.command
def features(run: Run) -> None:
    """Draw what the first layer of the chosen network looks for."""
    sections.filters(benched(run))
