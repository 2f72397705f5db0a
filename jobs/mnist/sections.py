"""The parts of the report on the held-out digits; a verb of the job shows one of them alone.

Data:    a `Bench` of fitted models; a part whose models were not fitted is left out.
Source:  Géron, Hands-On Machine Learning, chapter 3: the detector of fives, several labels,
         several outputs, shifted copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import charts, digits, learning, patterns
from .bench import TITLES, Bench

if TYPE_CHECKING:
    import numpy as np

PRECISION = 0.9
"""What the detector of fives is to reach on validation."""


def pair(bench: Bench, one: str, other: str) -> None:
    """Set two models side by side, and tell whether the difference could be chance."""
    labels = bench.test.labels
    bench.run.table(
        f"{one}-{other}", [bench.row(one), bench.row(other)],
        f"{TITLES[one]} beside {TITLES[other]}, held-out digits",
    )  # fmt: skip
    told = patterns.better(labels, bench.called(one), bench.called(other))
    bench.run.table(f"{one}-{other}-errors", [told], f"Errors of {TITLES[one]}, of {TITLES[other]}")


def errors(bench: Bench) -> None:
    """Show what the network that serves mistakes, and the errors it is surest of."""
    from sklearn.metrics import classification_report

    labels = bench.test.labels
    chances = learning.chances(bench.served, bench.test.images)
    called = chances.argmax(axis=1)
    bench.run.figure("confusion", charts.confusion(labels, called), "Held-out digits.")
    report = classification_report(labels, called, output_dict=True, zero_division=0)
    rows = [
        {"digit": name, "digits": int(row["support"])}
        | {key: round(row[key], 4) for key in ("precision", "recall", "f1-score")}
        for name, row in report.items()
        if isinstance(row, dict)
    ]
    bench.run.table("classification", rows, "The network that serves, held-out digits")
    worst = worst_errors(labels, chances)
    texts = [f"{labels[at]} as {called[at]}\np {chances[at].max():.2f}" for at in worst]
    title = f"The {len(worst)} errors that the network is surest of" if len(worst) else "No error"
    chart = charts.gallery([bench.test.images[at] for at in worst], texts, title, 8)
    bench.run.figure("worst", chart, "Label, what it is called, and with which probability.")


def worst_errors(labels: np.ndarray, chances: np.ndarray, number: int = 24) -> np.ndarray:
    """Return the places of the wrong calls with the highest probability, surest first."""
    import numpy as np

    wrong = np.flatnonzero(chances.argmax(axis=1) != labels)
    order = np.argsort(-chances[wrong].max(axis=1), kind="stable")
    found: np.ndarray = wrong[order][:number]
    return found


def improvement(bench: Bench) -> None:
    """Find three patterns on validation, and count on the held-out digits what shifts mend."""
    if not bench.has("knn", "knn_shifts"):
        return
    known, test = bench.validation, bench.test
    rows = patterns.found(known.images, known.labels, bench.called("knn", "validation"))
    before, after = bench.called("knn"), bench.called("knn_shifts")
    shown = [{key: row[key] for key in row if key not in ("label", "called")} for row in rows]
    bench.run.table(
        "patterns", shown,
        "The three commonest errors of nearest neighbours, found on the validation digits",
    )  # fmt: skip
    impact = [patterns.better(test.labels, before, after)]
    for row in rows:
        mine = test.labels == row["label"]
        impact.append(
            {
                "pattern": row["pattern"],
                "errors before": int((before[mine] == row["called"]).sum()),
                "errors after": int((after[mine] == row["called"]).sum()),
                "mended": "",
                "newly wrong": "",
                "p (McNemar)": "",
            }
        )
    bench.run.log(improvement_errors_mended=impact[0]["errors before"] - impact[0]["errors after"])
    caption = "Nearest neighbours without and with copies shifted by a pixel; held-out digits"
    bench.run.table("improvement", impact, caption)
    bench.run.figure("improvement", charts.before_and_after(impact), caption)


def detector(bench: Bench) -> None:
    """Choose the threshold of a detector of fives on validation, and measure it held out."""
    from sklearn.metrics import f1_score, precision_score, recall_score

    if not bench.has("sgd"):
        return
    fives = bench.test.labels == 5
    known = scores_of_five(bench.model("sgd"), bench.validation.images)
    threshold = threshold_at(bench.validation.labels == 5, known, PRECISION)
    scores = scores_of_five(bench.model("sgd"), bench.test.images)
    rows = []
    for name, cut in (("0, as fitted", 0.0), (f"precision {PRECISION:g}", threshold)):
        measured = {
            "threshold for": name,
            "threshold": cut,
            "precision": precision_score(fives, scores >= cut, zero_division=0),
            "recall": recall_score(fives, scores >= cut),
            "F1": f1_score(fives, scores >= cut),
        }
        rows.append({key: round(value, 4) if key != "threshold for" else value
                     for key, value in measured.items()})  # fmt: skip
    bench.run.table("fives", rows, "Linear SVM as a detector of fives; threshold of validation")
    bench.run.log(five_precision=rows[1]["precision"], five_recall=rows[1]["recall"])
    linear = operating(fives, scores)
    bench.run.figure("fives", charts.detector(linear, threshold, PRECISION), "Held-out digits.")
    found = {TITLES["sgd"]: linear}
    if bench.has("forest"):
        by_trees = scores_of_five(bench.model("forest"), bench.test.images)
        found[TITLES["forest"]] = operating(fives, by_trees)
    bench.run.log(five_f1=rows[0]["F1"], five_roc_auc=linear["roc_auc"])
    bench.run.figure("roc", charts.operating_curves(found), "Held-out digits.")


def scores_of_five(model: Any, images: np.ndarray) -> np.ndarray:
    """Return how much a classifier of ten digits holds each image for a five, (n,)."""
    given = digits.flat(images)
    scores = getattr(model, "decision_function", None) or model.predict_proba
    found: np.ndarray = scores(given)[:, 5]
    return found


def threshold_at(labels: np.ndarray, scores: np.ndarray, precision: float) -> float:
    """Return the threshold of highest recall whose precision is reached, else the strictest."""
    from sklearn.metrics import precision_recall_curve

    reached, _, thresholds = precision_recall_curve(labels, scores)
    enough = thresholds[reached[:-1] >= precision]
    return float(enough.min() if len(enough) else thresholds.max())


def operating(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return precision, recall and rates at every threshold, and the area below the ROC curve."""
    from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

    precision, recall, thresholds = precision_recall_curve(labels, scores)
    false, true, _ = roc_curve(labels, scores)
    return {
        "precision": precision,
        "recall": recall,
        "thresholds": thresholds,
        "false_positives": false,
        "true_positives": true,
        "roc_auc": float(roc_auc_score(labels, scores)),
    }


def several_labels(bench: Bench) -> None:
    """Tell of each digit two things at once: whether it is 7 or more, and whether it is odd."""
    from sklearn.metrics import f1_score

    from .classic import large_and_odd

    if not bench.has("multilabel"):
        return
    wanted = large_and_odd(bench.test)
    found = bench.called("multilabel") > 0
    rows = [
        {
            "label": name,
            "digits": int(wanted[:, place].sum()),
            "accuracy": round(float((wanted[:, place] == found[:, place]).mean()), 4),
            "F1": round(float(f1_score(wanted[:, place], found[:, place])), 4),
        }
        for place, name in enumerate(("7 or more", "odd"))
    ]
    both = float((wanted == found).all(axis=1).mean())
    bench.run.log(multilabel_macro_f1=sum(row["F1"] for row in rows) / 2, multilabel_both=both)
    bench.run.table("multilabel", rows, f"Two labels a digit, both right in {both:.2%} of digits")


def denoising(bench: Bench) -> None:
    """Clean noisy digits, and tell how far from clean they are and how well they are read."""
    import numpy as np

    names = [name for name in ("denoise_linear", "denoise_knn") if bench.has(name)]
    if not names:
        return
    test = bench.test
    noisy = digits.noisy(test.images, bench.run.seed + 1)
    cleaned = {"noisy": noisy}
    for name in names:
        found = bench.model(name).predict(digits.flat(noisy)).reshape(noisy.shape)
        cleaned[name.removeprefix("denoise_")] = found.round().clip(0, 255).astype(np.uint8)
    rows = []
    for name, images in cleaned.items():
        apart = np.sqrt(((images.astype("float32") - test.images) ** 2).mean())
        read = (learning.chances(bench.served, images).argmax(axis=1) == test.labels).mean()
        rows.append({"digits": name, "RMSE, grey levels": round(float(apart), 1),
                     "read right by the network": round(float(read), 4)})  # fmt: skip
        bench.run.log(**{f"denoise_{name}_rmse": float(apart)})
    bench.run.table("denoising", rows, "Noise of 0 to 100 grey levels; held-out digits")
    shown = [images[place] for images in (*cleaned.values(), test.images) for place in range(10)]
    labels = [name for name in (*cleaned, "clean") for _ in range(10)]
    left = [row["RMSE, grey levels"] for row in rows]
    title = f"Of {left[0]} grey levels of noise {min(left)} are left"
    bench.run.figure("denoising", charts.gallery(shown, labels, title), "Ten held-out digits.")


def filters(bench: Bench) -> None:
    """Draw what the first layer looks for."""
    first = next(layer for layer in bench.served.layers if hasattr(layer, "weight"))
    weights = first.weight.detach().numpy()
    side = 3 if weights.ndim == 4 else digits.SIDE
    chart = charts.filters(weights[:64].reshape(-1, side, side))
    bench.run.figure("filters", chart, "Weights of the first layer, each to its own scale.")
