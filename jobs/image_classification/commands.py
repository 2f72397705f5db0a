"""The verbs that come after training, and the chapters of the report that they share with it.

Data:    the split that `prepare` wrote and the network that `train` saved.
Source:  in the modules that do the work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway import Run, idx, store
from slipway.data import written
from slipway.logs import say

from . import attack, data, more_charts, trust
from . import explain as explaining
from . import variants as forms

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

    from .data import Split

EXPLAINED = 8
"""Pictures in the chapter on explanations."""
LOOKED_AT = 500
"""Held-out pictures that attacks and corruptions meet, unless --limit says otherwise."""
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
POINTED = 200
"""Held-out pictures on which it is measured whether maps point at what counts."""
DELETED = 0.25
"""Share of a picture that is greyed to see whether a map points at what counts."""
TUNED = 4
"""Epochs of a form that is trained, unless --epochs says otherwise."""
HARDENED = 5


def network_of(run: Run) -> Module:
    """Return the trained network."""
    from . import model

    return store.load(run.out / "model", model.TRUSTED)  # type: ignore[no-any-return]


def split(run: Run, name: str, most: int | None = None) -> Split:
    """Return a part of the data; of more pictures than ``--limit`` or ``most`` a random choice."""
    import numpy as np

    part = data.read(run.prepared(f"{name}.npz"))
    number = run.limit or most or len(part.labels)
    order = np.random.default_rng(run.seed).permutation(len(part.labels))
    return data.chosen(part, order[:number])


def explain(run: Run) -> None:
    """Show by Grad-CAM, SHAP, LIME and feature maps why pictures were called what they were."""
    network, test = network_of(run), split(run, "test")
    chosen = picked(trust.logits_of(network, test.images), test)
    show_maps(run, network, test, chosen, split(run, "train").images[:32])
    first = test.images[chosen[0]]
    caption = "The strongest maps of three convolutions, bright where they answer."
    figure = more_charts.feature_maps(first, explaining.feature_maps(network, first))
    run.figure("feature-maps", figure, caption)


def show_maps(
    run: Run, network: Module, test: Split, chosen: Sequence[int], others: np.ndarray | None
) -> None:
    """Draw explanations of chosen pictures; with ``others`` to compare, SHAP and LIME too."""
    images = test.images[list(chosen)]
    called = trust.logits_of(network, images).argmax(axis=1)
    maps = explaining.grad_cam(network, images, called)
    columns: dict[str, Sequence[np.ndarray]] = {
        "the picture": list(images),
        "Grad-CAM": [explaining.overlaid(*pair) for pair in zip(images, maps, strict=True)],
    }
    if others is not None:
        columns["SHAP"] = list(explaining.shap_values(network, images, called, others, run.seed))
        columns["LIME"] = [
            explaining.lime_weights(network, image, int(label), run.seed)
            for image, label in zip(images, called, strict=True)
        ]
    told = [
        f"{network.labels[wanted]}" if wanted == found
        else f"{network.labels[wanted]}, called {network.labels[found]}"
        for wanted, found in zip(test.labels[list(chosen)], called, strict=True)
    ]  # fmt: skip
    kept, pointed, elsewhere = pointing(network, test)
    run.log(chance_plain=kept, chance_without_marked=pointed, chance_without_others=elsewhere)
    title = (
        f"Without the quarter that Grad-CAM marks the class's chance is {pointed:.2f}\ninstead of "
        f"{kept:.2f}; without what it marks in another picture {elsewhere:.2f}"
    )
    caption = (
        "Bright (Grad-CAM) and orange (SHAP, LIME) speaks for the class that was called, purple "
        "against it. The chances are means over 200 held-out pictures with a quarter of their "
        "pixels greyed; a map that points at the thing itself lowers them more than a map that "
        "was made for another picture."
    )
    run.figure("maps", more_charts.explanations(columns, told, title), caption)


def picked(logits: np.ndarray, test: Split, number: int = EXPLAINED) -> list[int]:
    """Return pictures to explain: the first of each class that is called right, then two errors."""
    called = logits.argmax(axis=1)
    right: dict[int, int] = {}
    wrong: list[int] = []
    for place, (wanted, found) in enumerate(
        zip(test.labels.tolist(), called.tolist(), strict=True)
    ):
        if wanted == found:
            right.setdefault(wanted, place)
        else:
            wrong.append(place)
    chosen = list(right.values())[: number - min(2, len(wrong))]
    return chosen + wrong[: number - len(chosen)]


def pointing(network: Module, test: Split) -> tuple[float, float, float]:
    """Return the mean chance of the called class: as it is, without what is marked, what another
    picture's map marks.
    """  # fmt: skip
    import numpy as np

    images = test.images[:POINTED]
    called = trust.logits_of(network, images).argmax(axis=1)
    maps = explaining.grad_cam(network, images, called)
    plain = explaining.deleted(network, images, called, maps, 0.0)
    marked = explaining.deleted(network, images, called, maps, DELETED)
    others = explaining.deleted(network, images, called, np.roll(maps, 1, axis=0), DELETED)
    return float(plain.mean()), float(marked.mean()), float(others.mean())


def compress(run: Run) -> None:
    """Make the smaller and faster forms of the network, each as an ONNX file."""
    from slipway import networks

    from . import compress as recipes

    networks.settle(run)
    shop = recipes.Workshop(
        network_of(run), split(run, "train"), run.epochs or TUNED, run.seed, run.device,
        run.progress,
    )  # fmt: skip
    made = list((run.resume() or {"made": []})["made"])
    for name, recipe in recipes.RECIPES.items():
        if name not in made:
            store.save(recipe(shop), run.out / forms.FOLDER / name)
            made.append(name)
            run.checkpoint({"made": made})
            say(f"compress: {run.out / forms.FOLDER / name}")
    validation = split(run, "validation")
    folders = forms.found_in(run.out)
    rows = [
        forms.row(name, folder, chances, validation)
        for name, folder in folders.items()
        for chances in [forms.chances_of(forms.loaded(folder, "cpu", 1), validation.images)]
    ]
    run.table("forms", rows, "Forms of the network on the validation pictures")


@click.option("--backend", type=click.Choice(forms.BACKENDS), default="cpu", show_default=True,
              help="What runs the forms; cuda and tensorrt fail where they are not.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Threads of one call.")  # fmt: skip
def variants(run: Run, backend: str, threads: int) -> None:
    """Measure size, accuracy, latency and throughput of every form in one table."""
    import torch

    torch.set_num_threads(threads)
    network, test = network_of(run), split(run, "test")
    folders = forms.found_in(run.out)
    models = {name: forms.loaded(folder, backend, threads) for name, folder in folders.items()}
    models = {forms.EAGER: forms.eager(network)} | models
    speed = forms.timed(models, test.images)
    rows = [
        forms.row(name, folders.get(name), forms.chances_of(model, test.images), test) | speed[name]
        for name, model in models.items()
    ]
    parity = parted(network, models["float32"], test)
    run.table("variants", rows, f"Forms of the network on the held-out pictures; {backend}, "
              f"{threads} thread{'s' if threads > 1 else ''}, all timed in turns")  # fmt: skip
    if backend == "cpu":
        run.table("bars", forms.bars(rows), "What eight bits and onnxruntime gain")
    run.note(f"ONNX and PyTorch differ by {parity:.1e} at most (chances; wanted 1e-4).")
    run.figure("variants", more_charts.variants(rows), "Upper left is best: fast and right.")
    with written(run.out / forms.FOLDER / "table.json") as part:
        part.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    run.log(**{f"{row['variant'].replace('-', '_')}_accuracy": row["accuracy"]
               for row in rows if row["variant"] != forms.EAGER})  # fmt: skip


def parted(network: Module, exported: forms.Model, test: Split) -> float:
    """Return how far the chances of the exported graph are from the network's, at most."""
    import numpy as np

    pair = [forms.chances_of(run, test.images) for run in (exported, forms.eager(network))]
    return float(np.abs(pair[0] - pair[1]).max())


def uncertainty(run: Run) -> None:
    """Measure calibration, doubt, and how well strange pictures are told from known ones."""
    network, test = network_of(run), split(run, "test")
    logits = trust.logits_of(network, test.images)
    show_calibration(run, network, logits, test)
    show_doubt(run, network, logits, test)
    show_strangers(run, network, test)


def show_calibration(run: Run, network: Module, logits: np.ndarray, test: Split) -> None:
    """Compare chances with what is right, without and with the temperature that `train` fitted."""
    degree = float(network.temperature)
    pairs = [trust.softmax(logits), trust.softmax(logits, degree)]
    before, after = (trust.calibration_error(chances, test.labels) for chances in pairs)
    run.log(temperature=degree, calibration_error_plain=before, calibration_error=after)
    bins = [trust.reliability(chances, test.labels) for chances in pairs]
    caption = "Held-out pictures; the temperature was fitted on the validation pictures."
    figure = more_charts.reliability(*bins, (before, after), degree)
    run.figure("calibration", figure, caption)


def show_doubt(run: Run, network: Module, logits: np.ndarray, test: Split) -> None:
    """Hand the most doubtful pictures over, by several kinds of doubt."""
    import numpy as np

    cool = float(network.temperature)
    right = logits.argmax(axis=1) == test.labels
    chances = trust.softmax(logits, cool)
    kept = {"1 - largest chance": trust.kept_share(1 - chances.max(axis=1), right, SHARES)}
    for name, members in doubters(run, network, test).items():
        mean = members.mean(axis=0)
        better = mean.argmax(axis=1) == test.labels
        kept[f"{name}, entropy"] = trust.kept_share(trust.entropy(mean), better, SHARES)
        apart = trust.disagreement(members)
        kept[f"{name}, disagreement"] = trust.kept_share(apart, better, SHARES)
        area = trust.separation(apart[better], apart[~better]) if 0 < better.sum() < len(better) \
            else 0.5  # fmt: skip
        word = name.split()[0].lower()
        run.log(**{f"{word}_accuracy": float(better.mean()), f"{word}_errors_auroc": area})
    figure = more_charts.doubts(SHARES, kept)
    told = np.round(float(right.mean()), 4)
    run.figure("doubt", figure, f"Held-out pictures; the network alone is right in {told:.1%}.")


def doubters(run: Run, network: Module, test: Split) -> dict[str, np.ndarray]:
    """Return the chances (m, n, k) of the network's several selves, and of its ensemble's."""
    import numpy as np
    from torch import nn

    found = {}
    if any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in network.modules()):
        found["dropout left on"] = trust.with_dropout(network, test.images, run.seed)
    members = members_of(run)
    if members:
        every = [network, *members]
        found["ensemble"] = np.stack([
            trust.softmax(trust.logits_of(member, test.images), float(member.temperature))
            for member in every
        ])  # fmt: skip
    return found


def members_of(run: Run) -> list[Module]:
    """Return the networks that `ensemble` trained beside the one of the model."""
    from . import model

    folders = sorted(path.parent for path in (run.out / "members").glob("*/model.safetensors"))
    return [store.load(folder, model.TRUSTED) for folder in folders]


def show_strangers(run: Run, network: Module, test: Split) -> None:
    """Tell noise and pictures of other things from the known classes, by three scores."""
    fit = split(run, "train")
    distance = trust.Distance(trust.pooled(network, fit.images), fit.labels)
    known = trust.strangeness(network, distance, test.images)
    kind, garments = other_pictures(run)
    made = trust.strangers(network.side, len(test.labels), run.seed, garments)
    strange = {
        {"other pictures": kind}.get(name, name): trust.strangeness(network, distance, images)
        for name, images in made.items()
    }
    rows = trust.table_of_strangers(known, strange)
    run.table("strangers", rows, "Area below the ROC curve: held-out against strange pictures")
    run.log(**{f"auroc_{word(row['pictures'])}_energy": row["energy"] for row in rows})
    score = "energy"
    spread = {name: scores[score] for name, scores in strange.items()}
    figure = more_charts.strangers(known[score], spread, rows, score)
    run.figure("strangers", figure, "The network was never told that there are other things.")


def word(text: str) -> str:
    """Return a few words as the name of a figure."""
    return text.lower().replace("-", "_").replace(" ", "_")


def other_pictures(run: Run) -> tuple[str, np.ndarray]:
    """Return what the strange pictures show, and them, (n, h, w) uint8: garments, or digits.

    Digits are those of scikit-learn: a sample stays a sample.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    if "fashion_test_images" in run.spec.data and run.tier in ("real", "mirror"):
        return "garments", idx.read(run.data("fashion_test_images"))
    return "digits", (load_digits().images * (255 / 16)).astype(np.uint8)


def robustness(run: Run) -> None:
    """Measure the accuracy on pictures made worse by chance, and by who knows the network."""
    network, test = network_of(run), split(run, "test", LOOKED_AT)
    show_corruptions(run, network, test, attack.SEVERITIES)
    show_attacks(run, {"": network}, test)


def show_corruptions(run: Run, network: Module, test: Split, severities: Sequence[int]) -> None:
    """Draw what each kind of harm does to the accuracy, and what it looks like."""
    found = {
        kind: [
            attack.accuracy(network, attack.corrupted(test.images, kind, level, run.seed),
                            test.labels)
            for level in severities
        ]
        for kind in run.progress(list(attack.CORRUPTIONS), "corruptions")
    }  # fmt: skip
    plain = attack.accuracy(network, test.images, test.labels)
    mean = sum(sum(values) for values in found.values()) / (len(found) * len(severities))
    run.log(accuracy_untouched=plain, accuracy_corrupted=mean)
    caption = f"{len(test.labels)} held-out pictures; mean of all fields: {mean:.3f}."
    run.figure("corruptions", more_charts.corruptions(found, plain), caption)
    shown = [attack.corrupted(test.images[:1], kind, 3, run.seed)[0] for kind in found]
    title = "One picture, harmed in ten ways, each at severity 3 of 5"
    figure = more_charts.gallery([test.images[0], *shown], ["untouched", *found], title, 6)
    run.figure("harms", figure, "As the network sees them.")


def show_attacks(run: Run, nets: dict[str, Module], test: Split) -> None:
    """Draw the accuracy of networks under FGSM and PGD, over what the attack may change."""
    found: dict[str, list[float]] = {}
    looks = []
    for name, network in nets.items():
        plain = attack.accuracy(network, test.images, test.labels)
        for kind in ("fgsm", "pgd"):
            told = kind.upper() + (f", {name}" if name else "")
            results = [
                attack.under_attack(network, test.images, test.labels, kind, budget, run.seed)
                for budget in attack.BUDGETS
            ]
            found[told] = [plain, *(share for share, _ in results)]
            looks.append(results[-1][1][0])
            keyed = f"{word(name)}_{kind}" if name else kind
            run.log(**{f"{keyed}_{budget}_accuracy": share for budget, (share, _)
                       in zip(attack.BUDGETS, results, strict=True)})  # fmt: skip
    title = attack_title(found)
    caption = f"{len(test.labels)} held-out pictures. PGD: {attack.STEPS} steps."
    run.figure("attacks", more_charts.attacks(attack.BUDGETS, found, title), caption)
    title = f"A change of {attack.BUDGETS[-1]} of 255 is hardly seen"
    figure = more_charts.gallery([test.images[0], *looks], ["untouched", *found], title, 6)
    run.figure("attacked", figure, "The same picture untouched and attacked.")


def attack_title(found: dict[str, list[float]]) -> str:
    """Say what an attack of the second budget does to each network."""
    strong = {name: values for name, values in found.items() if name.startswith("PGD")}
    told = [
        f"{name.partition(', ')[2] or 'the network'}: {values[0]:.0%} right untouched, "
        f"{values[2]:.0%} after changes of {attack.BUDGETS[1]} of 255"
        for name, values in strong.items()
    ]
    return "\n".join(told)[0].upper() + "\n".join(told)[1:]


def adv_train(run: Run) -> None:
    """Train a copy of the network against attacks, and compare both."""
    from slipway import networks

    networks.settle(run)
    network = network_of(run)
    hard = attack.hardened(
        network, split(run, "train"), run.epochs or HARDENED, run.seed, run.progress
    )
    store.save(hard, run.out / "hardened")
    test = split(run, "test", LOOKED_AT)
    show_attacks(run, {"as trained": network, "trained against attacks": hard}, test)
    say(f"adv-train: the hardened network is {run.out / 'hardened'}")


def chapters(run: Run, network: Module, test: Split, logits: np.ndarray) -> None:
    """Put the chapters on explanation and trust into a report that evaluates a network."""
    show_maps(run, network, test, picked(logits, test), None)
    show_calibration(run, network, logits, test)
    show_strangers(run, network, test)


def form(out: Path, variant: str) -> Any:
    """Return the ONNX graph of a form that `compress` made."""
    import onnx

    source = forms.found_in(out).get(variant)
    if source is None:
        raise click.UsageError(f"--variant {variant}: run compress first")
    return onnx.load(source / store.ONNX)
