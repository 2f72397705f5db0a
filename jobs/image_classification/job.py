"""Any folder of pictures: which class does this picture show?

Networks of four families, written here from their papers and trained on what the folder holds; the
better one on validation pictures serves. Convolutions, because a thing stays what it is wherever it
is in the picture; changed copies, because it stays what it is however it is turned and lit.

Data:    the CIFAR-10 subset, Fashion-MNIST, ants and bees (job.toml), or a folder of your own with
         a folder for each class; the sample is ten drawn shapes.
Source:  LeCun et al., Proceedings of the IEEE 1998; the papers of the networks in `model`.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from slipway import Content, Field, Input, Job, Media, Output, Run, store
from slipway.run import read_json

from . import charts, commands, data, measures, pictures, recipes, shapes, studies, trust
from . import weights as starts
from .team import Team

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession
    from torch.nn import Module

CLASSES = ("SmallCNN", "VGG", "ResNet", "MobileNetV2")
TRUSTED = tuple(f"jobs.image_classification.model.{name}" for name in CLASSES)
DATASETS = ("pictures", "cifar10", "fashion", "hymenoptera")
GARMENTS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
            "ankle boot")  # fmt: skip
ALIKE = 0.95
"""Share of the held-out pictures that a lossy form must call as the network does."""
CALIBRATED = 100
"""Validation pictures from which on a temperature is fitted to them."""
PROVEN = 500
"""Held-out pictures on which both forms are compared."""
DATASET = click.option(
    "--dataset", type=click.Choice(DATASETS), default="pictures", show_default=True,
    help="Which of job.toml's; --data PATH is a folder or archive of your own.",
)  # fmt: skip
job = Job.here(__file__, trusted=TRUSTED, tolerance=1e-4)


@job.prepare
@DATASET
@click.option("--side", type=click.IntRange(16, 512), default=None,
              help="Pixels of a side; by default the usual one, at most 64.")  # fmt: skip
def prepare(run: Run, seed: int, dataset: str, side: int | None) -> None:
    """Read the pictures, say what could not be read, and keep some apart to choose by."""
    if Team().size > 1:
        raise click.UsageError("torchrun is for train alone: prepare first, in one process")
    run.part = dataset  # each has bars of its own
    source = read(run, dataset, side)
    parts = data.split_up(source, seed, run.limit)
    folder = run.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        data.write(folder / f"{name}.npz", part)
        run.log(**{f"{name}_pictures": len(part.labels)})
    (folder / "classes.json").write_text(json.dumps(source.classes) + "\n", "utf-8")
    run.log(skipped_files=len(source.skipped), side=parts[data.TRAIN].images.shape[1])
    if source.skipped:
        shown = source.skipped[:50]
        run.table("skipped", shown, f"Files left out: {len(source.skipped)} (the first "
                  f"{len(shown)}); a picture that is no picture teaches nothing")  # fmt: skip
    show_pictures(run, parts[data.TRAIN], source.classes)


def read(run: Run, dataset: str, side: int | None) -> data.Source:
    """Return the pictures of a dataset, of a path of the user's own, or of the sample."""
    if dataset == "fashion":
        pairs = {
            part: tuple(run.data(f"fashion_{name}_{what}") for what in ("images", "labels"))
            for part, name in ((data.TRAIN, "train"), (data.TEST, "test"))
        }
        return data.of_idx(pairs, GARMENTS, side)  # type: ignore[arg-type]
    path = run.data(dataset)
    if run.tier != "sample":
        return data.read_source(path, side, pictures.array)
    source, best = shapes.source(path)
    run.log(best_possible_accuracy=best)
    run.note(
        f"These are drawn shapes. Some are wholly covered, so no classifier can be right more "
        f"often than in {best:.1%} of the held-out pictures; the distance to that is what counts."
    )
    return source


def show_pictures(run: Run, fit: data.Split, classes: list[str]) -> None:
    """Draw what the network learns from."""
    import numpy as np

    counts = np.bincount(fit.labels, minlength=len(classes))
    run.figure("classes", charts.sizes(dict(zip(classes, counts.tolist(), strict=True))),
               "Where classes differ much, look at --balance.")  # fmt: skip
    chosen = [place for label in range(min(len(classes), 12))
              for place in np.flatnonzero(fit.labels == label)[:8]]  # fmt: skip
    told = [classes[fit.labels[place]] for place in chosen]
    title = f"Each class varies; pictures are {fit.images.shape[1]} pixels wide"
    run.figure("pictures", charts.tiles([fit.images[at] for at in chosen], told, title, 8),
               "Training pictures, as the network gets them.")  # fmt: skip


@job.train
@click.option(
    "--family",
    "families",
    multiple=True,
    type=click.Choice(recipes.FAMILIES),
    help="Train these; by default a small CNN and, of many pictures, a ResNet.",
)
@click.option(
    "--weights",
    default=None,
    metavar="NAME|FOLDER",
    help="Start from resnet18 or mobilenet_v2 of torchvision, backbone (of pretrain), or "
    "a folder with a network.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 0.9),
    default=None,
    help="Share of the head's inputs that a step leaves out.",
)
@click.option(
    "--init",
    type=click.Choice(["he", "xavier", "normal"]),
    default="he",
    show_default=True,
    help="How weights are drawn.",
)
@recipes.options
def train(
    run: Run, families: tuple[str, ...], weights: str | None, dropout: float | None, init: str,
    **given: Any,
) -> Module:  # fmt: skip
    """Train networks and keep the one that is best on validation."""
    fit, validation = studies.known(run)
    if weights and not families:
        families = (starts.shape_of(run, weights, "")[0],)
    names = recipes.chosen_families(families, len(fit.labels))
    team = Team()
    state = run.resume() or {}
    done: dict[str, Any] = state.pop("done", {})
    for name in run.progress([name for name in names if name not in done], "networks"):
        own = {"init": init} | ({} if dropout is None else {"dropout": dropout})
        started, waited = time.process_time(), time.perf_counter()
        network, curve = studies.trained(
            run, studies.Plan(name, own, weights, run.epochs, given), fit, validation,
            state, {"done": done},
        )  # fmt: skip
        took = {"CPU seconds": time.process_time() - started,
                "seconds": time.perf_counter() - waited}  # fmt: skip
        done[name] = {"curve": curve} | took
        state = {}
        if team.first:
            store.save(network, run.out / "networks" / name)
            run.checkpoint({"done": done})
    team.leave()
    network = chosen(run, done, fit)
    if len(validation.labels) >= CALIBRATED:
        from . import training

        logits = training.logits(network, validation.images)
        network.temperature.fill_(trust.temperature(logits, validation.labels))
        run.log(temperature=float(network.temperature))
    return network


def chosen(run: Run, done: dict[str, Any], fit: data.Split) -> Module:
    """Report the networks that were trained, and return the best on validation."""
    last = {name: max(entry["validation accuracy"] for entry in found["curve"][-1:])
            for name, found in done.items()}  # fmt: skip
    run.log(**{f"{name}_validation_accuracy": value for name, value in last.items()})
    rows = []
    for name, found in done.items():
        network = store.load(run.out / "networks" / name, TRUSTED)
        caption = f"{name}, from its first epoch to its last."
        run.figure(f"curves-{name}", charts.curves(found["curve"], name), caption)
        seen = len(found["curve"]) * len(fit.labels)
        rows.append({
            "network": name, "weights": sum(entry.numel() for entry in network.parameters()),
            "epochs": len(found["curve"]), "validation accuracy": round(last[name], 4),
            "minutes": round(found["seconds"] / 60, 1),
            "pictures a second": round(seen / found["seconds"]),
        })  # fmt: skip
    run.table("networks", rows, "Networks that were trained, and how long that took here")
    return store.load(run.out / "networks" / max(last, key=last.__getitem__), TRUSTED)  # type: ignore[no-any-return]


@job.evaluate
def evaluate(run: Run, model: Module) -> None:
    """Measure the network on the held-out pictures, and look at its errors."""
    from . import training

    test = data.read(run.prepared("test.npz"))
    started = time.perf_counter()
    logits = training.logits(model.to(run.device), test.images)
    speed = len(test.labels) / (time.perf_counter() - started)
    found = trust.softmax(logits, float(model.temperature))
    figures = measures.overall(test.labels, found)
    part = read_json(run.out / "run.json").get("prepare", {}).get("part", "pictures")
    prefix = "" if part == "pictures" else f"{part}_"
    run.log(**{f"{prefix}{name}": value for name, value in figures.items()})
    for name in recipes.FAMILIES:
        if (run.out / "networks" / name).is_dir():
            other = store.load(run.out / "networks" / name, TRUSTED)
            called = training.logits(other.to(run.device), test.images).argmax(axis=1)
            run.log(**{f"{prefix}{name}_accuracy": float((called == test.labels).mean())})
    run.note(
        f"{figures['accuracy']:.1%} of {len(test.labels)} held-out pictures are called right. With "
        f"so many the true share lies between {figures['accuracy_low']:.1%} and "
        f"{figures['accuracy_high']:.1%} (95 %). In batches of 500 the network calls "
        f"{speed:,.0f} pictures a second here."
    )
    model.cpu()
    show_classes(run, test, found, model.labels)
    show_errors(run, test, found, model.labels)
    commands.chapters(run, model, test, logits)


def show_classes(run: Run, test: data.Split, found: np.ndarray, names: list[str]) -> None:
    """Report each class: what is confused with what, and how sure that is."""
    called = found.argmax(axis=1)
    run.figure("confusion", charts.confusion(test.labels, called, names),
               "A row is what pictures show, a column what they are called.")  # fmt: skip
    rows = measures.by_class(test.labels, found, names, run.seed)
    run.table("classes", [measures.shown(row) for row in rows],
              "Precision: of what is called so, how much is. Recall: of what is, how much is "
              "called so. Intervals: Wilson's for recall, bootstrap for areas")  # fmt: skip
    run.figure("classes", charts.by_class(rows),
               "A long bar is a class with too few held-out pictures to say more.")  # fmt: skip
    caption = "One class against all others; grey: the classes between the best and the worst."
    run.figure("operating", charts.operating(test.labels, found, names, rows), caption)


def show_errors(run: Run, test: data.Split, found: np.ndarray, names: list[str]) -> None:
    """Draw the errors that the network is surest of: often the picture is odd."""
    import numpy as np

    called = found.argmax(axis=1)
    wrong = np.flatnonzero(called != test.labels)
    worst = wrong[np.argsort(-found[wrong].max(axis=1), kind="stable")][:24]
    told = [f"{names[test.labels[at]]}\nas {names[called[at]]}\n{found[at].max():.2f}"
            for at in worst]  # fmt: skip
    title = f"{len(wrong)} of {len(called)} are called wrong; it is surest of these"
    run.figure("worst", charts.tiles([test.images[at] for at in worst], told, title, 8),
               "What it is, what it is called, and with which probability.")  # fmt: skip
    run.table("worst", [{"file": test.files[at], "is": names[test.labels[at]],
              "called": names[called[at]], "probability": round(float(found[at].max()), 3)}
              for at in worst[:10]], "The files of the surest errors")  # fmt: skip


EXAMPLE = base64.b64encode(Path(__file__).with_name("sample").joinpath("star.png").read_bytes())


class Picture(Input):
    """A picture of one thing, of any size, colours and kind of file."""

    image: Annotated[Content, Media(*pictures.TYPES, reader=pictures.array)] = Field(
        examples=[EXAMPLE.decode()]
    )
    explain: bool = Field(default=False, description="Also draw what speaks for the answer.")


class Verdict(Output):
    """The likeliest class and the probabilities of all of them.

    ``unfamiliar`` is the energy of the network's answer: the higher, the less the picture looks
    like those it was trained on. ``heatmap`` is a PNG, as base64: bright where the picture speaks
    for the label.
    """

    label: str
    probability: float = Field(ge=0, le=1)
    probabilities: dict[str, float]
    unfamiliar: float | None = None
    heatmap: str | None = Field(
        default=None,
        json_schema_extra={"contentMediaType": "image/png", "contentEncoding": "base64"},
    )


def arrays(rows: list[Picture], side: int) -> np.ndarray:
    """Return the pictures of rows as the network sees them, (n, side, side, 3) uint8."""
    import numpy as np

    return np.stack([data.fitted(row.image.read, side) for row in rows])


def verdicts(
    names: list[str], chances: np.ndarray, energies: np.ndarray, maps: list[bytes | None]
) -> list[Verdict]:
    """Return the answers for chances (n, k), energies (n,) and heat maps."""
    return [
        Verdict(
            label=names[int(row.argmax())],
            probability=float(row.max()),
            probabilities=dict(zip(names, row.tolist(), strict=True)),
            unfamiliar=float(energy),
            heatmap=drawn and base64.b64encode(drawn).decode(),
        )
        for row, energy, drawn in zip(chances.clip(0, 1), energies, maps, strict=True)
    ]


@job.score
def score(model: Module, rows: list[Picture]) -> list[Verdict]:
    """Call the pictures with the network."""
    from . import explain, training

    images = arrays(rows, model.side)
    logits = training.logits(model, images)
    maps = [
        explain.heatmap(model, image, int(own.argmax())) if row.explain else None
        for row, image, own in zip(rows, images, logits, strict=True)
    ]
    chances = trust.softmax(logits, float(model.temperature))
    return verdicts(model.labels, chances, trust.energy(logits), maps)


@job.export
@click.option("--variant", default="float32", show_default=True,
              help="The form to serve: float32, or one that compress made.")  # fmt: skip
def export(model: Module, folder: Path, variant: str = "float32") -> Any:
    """Write the network, or a smaller form of it, as an ONNX graph that knows its classes."""
    import onnx

    from slipway.export import Lossy

    from . import compress

    exact = variant == "float32"
    graph = compress.graph_of(model) if exact else commands.form(folder.parent.parent, variant)
    del graph.metadata_props[:]
    told = {"labels": json.dumps(model.labels), "side": str(model.side)}
    onnx.helper.set_model_props(graph, told)
    store.save(graph, folder)
    return None if exact else Lossy(ALIKE)


@job.exported
def score_exported(session: InferenceSession, rows: list[Picture]) -> list[Verdict]:
    """Call the pictures with the ONNX graph, without PyTorch."""
    import numpy as np

    from . import explain

    told = session.get_modelmeta().custom_metadata_map
    images = arrays(rows, int(told["side"]))
    outputs = [output.name for output in session.get_outputs()]
    wanted = ["chances", "energy"]
    heat = "heat" in outputs and any(row.explain for row in rows)
    pixels = np.divide(images.transpose(0, 3, 1, 2), 255, dtype=np.float32, order="C")
    found = session.run(wanted + ["heat"] * heat, {"pixels": pixels})
    maps = [
        explain.drawn(image, found[2][place]) if heat and row.explain else None
        for place, (row, image) in enumerate(zip(rows, images, strict=True))
    ]
    return verdicts(json.loads(told["labels"]), found[0], found[1], maps)


@job.held_out
def held_out(run: Run) -> list[Picture]:
    """Return held-out pictures, as PNG files."""
    test = data.read(run.prepared("test.npz"))
    return [Picture(image=data.as_png(image)) for image in test.images[:PROVEN]]


@job.command
@DATASET
@recipes.family("resnet")
@recipes.options
def pretrain(run: Run, dataset: str, family: str, **given: Any) -> None:
    """Train a backbone on other pictures, for train --weights backbone."""
    source = read(run, dataset, None)
    parts = data.split_up(source, run.seed, run.limit)
    plan = studies.Plan(family, {"labels": source.classes}, None, run.epochs, given)
    network, curve = studies.trained(
        run, plan, parts[data.TRAIN], parts[data.VALIDATION], run.resume(), {}
    )
    store.save(network, run.out / "backbone")
    run.log(backbone_validation_accuracy=curve[-1]["validation accuracy"])
    run.figure("curves", charts.curves(curve, "backbone"), "The backbone on its own pictures.")


for verb in (
    studies.kfold, studies.ensemble, studies.compare, studies.search,
    commands.explain, commands.compress, commands.variants, commands.uncertainty,
    commands.robustness, commands.adv_train,
):  # fmt: skip
    job.command(verb)
