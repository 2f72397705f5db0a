"""What is trained and how, unless options say otherwise: found on validation pictures.

Data:    none.
Source:  the sizes and rates below were chosen on the validation pictures of the CIFAR-10 subset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from .training import Settings

AUGMENTS = ("flip", "crop", "rotate", "zoom", "shift", "brightness", "contrast", "noise", "cutout",
            "mixup", "cutmix")  # fmt: skip
FAMILIES = ("small_cnn", "vgg", "resnet", "mobilenet_v2")
USUAL, ADAM = 32, 0.002
"""Pictures in a step from which on a recipe's rate holds; Adam's rate."""
MANY = 5_000
"""From so many training pictures on a larger network is worth its time."""
FEWEST = 6
"""Epochs, whatever the number of pictures."""
STEPS = 50
"""Of an epoch at least: batches are smaller where pictures are few."""


@dataclass(frozen=True)
class Recipe:
    """How one family learns: ``seen`` pictures in all set the number of epochs, up to ``most``."""

    seen: int
    most: int
    rate: float
    augment: tuple[str, ...]
    network: dict[str, Any]


RECIPES = {
    "small_cnn": Recipe(220_000, 20, 0.04, ("flip", "crop"), {"dropout": 0.1}),
    "vgg": Recipe(270_000, 60, 0.05, ("flip", "crop", "cutout"), {}),
    "resnet": Recipe(400_000, 60, 0.1, ("flip", "crop", "cutout"), {}),
    "mobilenet_v2": Recipe(270_000, 60, 0.05, ("flip", "crop", "cutout"), {}),
}
OF_MANY = {
    "small_cnn": Recipe(
        405_000, 60, 0.06, ("flip", "crop"), {"dropout": 0.2, "widths": [48, 96, 192]}
    ),
}
"""Recipes that differ from `MANY` pictures on: more is to be learned from them."""

Verb = TypeVar("Verb", bound=Callable[..., Any])
OPTIONS = (
    click.option("--augment", default=None, metavar="NAMES",
                 help=f"Changes of the pictures, with commas: {', '.join(AUGMENTS)}, or none."),
    click.option("--batch-size", type=click.IntRange(2), default=128, show_default=True,
                 help="Pictures in a step."),
    click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd",
                 show_default=True, help="How to step down the gradient."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), default=None,
                 help="Highest learning rate of the cycle."),
    click.option("--decay", type=click.FloatRange(0), default=5e-4, show_default=True,
                 help="Weight of the L2 penalty."),
    click.option("--smoothing", type=click.FloatRange(0, 0.5), default=0.1, show_default=True,
                 help="Share of each label that is spread over all classes."),
    click.option("--loss", type=click.Choice(["cross-entropy", "focal"]), default="cross-entropy",
                 show_default=True, help="What the network is to make small."),
    click.option("--balance", type=click.Choice(["none", "weights", "oversample", "undersample"]),
                 default="none", show_default=True, help="What to do about rare classes."),
    click.option("--tuned", type=click.Choice(["all", "last", "head"]), default="all",
                 show_default=True, help="Layers that learn: all, the last third, the head."),
    click.option("--spread", type=click.FloatRange(0, 1, min_open=True), default=1.0,
                 show_default=True, help="First layers' learning rate, in rates of the head."),
    click.option("--patience", type=click.IntRange(0), default=0, show_default=True,
                 help="Stop after so many epochs without a better validation loss; 0 for never."),
    click.option("--average", type=click.FloatRange(0, 1, max_open=True), default=0.0,
                 show_default=True, help="Decay of averaged weights; 0 for none."),
    click.option("--mixed", is_flag=True, help="Half precision: float16 on a GPU, else bfloat16."),
)  # fmt: skip


def recipe(family: str, pictures: int) -> Recipe:
    """Return how a family learns from so many pictures, and what is set of its network."""
    return (OF_MANY if pictures >= MANY else {}).get(family) or RECIPES[family]


def family(usual: str) -> Callable[[Verb], Verb]:
    """Return the option of a verb that trains one kind of network."""
    return click.option("--family", type=click.Choice(FAMILIES), default=usual, show_default=True,
                        help="The network.")  # fmt: skip


def options(verb: Verb) -> Verb:
    """Add to a verb the options of `settings`."""
    for option in reversed(OPTIONS):
        verb = option(verb)
    return verb


def settings(family: str, pictures: int, epochs: int | None, given: dict[str, Any]) -> Settings:
    """Return how to train a family on so many pictures, as options say; else as its recipe."""
    from .training import Settings

    found, chosen = recipe(family, pictures), dict(given)
    told, rate = chosen.pop("augment"), chosen.pop("rate")
    names = found.augment if told is None else changes(told)
    usual = max(FEWEST, min(found.most, found.seen // max(1, pictures)))
    batch = min(chosen.pop("batch_size"), max(16, pictures // STEPS))
    if rate is None:
        # A step of few pictures points less surely, so it is shorter.
        rate = ADAM if chosen["optimizer"] == "adam" else found.rate * min(1, batch / USUAL)
    return Settings(epochs=epochs or usual, batch=batch, augment=names, rate=rate, **chosen)


def changes(told: str) -> tuple[str, ...]:
    """Return the names in a list with commas; UsageError names one that is not known."""
    names = tuple(name.strip() for name in told.split(",") if name.strip() not in ("", "none"))
    for name in names:
        if name not in AUGMENTS:
            raise click.UsageError(f"--augment: found {name}; wanted some of {', '.join(AUGMENTS)}")
    return names


def chosen_families(told: tuple[str, ...], pictures: int) -> list[str]:
    """Return the families to train: those asked for, else what the number of pictures is worth."""
    if told:
        return list(dict.fromkeys(told))
    return ["small_cnn"] if pictures < MANY else ["small_cnn", "resnet"]
