"""MedSAM-2: which voxels of an MRI scan belong to the tumour that one prompt points at?

A volume is a video of slices: SAM 2 gets one click, box or outline on one of them and tracks it
both ways, by memories of the slices before. MedSAM-2 sorts these memories by confidence and
unlikeness instead of by time. SAM 2 is the package sam2 as it is; the bank is `memory`, since the
authors' released code has it for single images only. Without a checkpoint a small network of the
package's own classes, trained on phantoms, stands in: it shows the method, not its quality.

Data:    BraTS folders or the Decathlon's Task01; one patient of TCGA-LGG (job.toml); phantoms.
Source:  Zhu et al., MedSAM-2, arXiv 2408.00874; Ravi et al., SAM 2, arXiv 2408.00714; Menze et
         al., BraTS, IEEE TMI 2015.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from slipway import Field, Input, Job, Media, Output, Run, machine, store
from slipway.errors import InputInvalid
from slipway.scoring.shards import parse_shard
from slipway.types import model_validator

from . import (
    asking,
    baseline,
    brats,
    cohort,
    fitting,
    network,
    outcomes,
    propagation,
    sections,
    segmenting,
    studies,
)

if TYPE_CHECKING:
    from .predictor import Segmenter

job = Job.here(__file__, trusted=(*network.TRUSTED, baseline.UNET))

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
HOW = (
    click.option("--bank", type=click.Choice(propagation.BANKS), default="selfsort",
                 show_default=True, help="Which memories a slice is segmented with."),
    click.option("--k", type=click.IntRange(1, 6), default=6, show_default=True,
                 help="Memories in the self-sorting bank."),
    click.option("--threshold", type=click.FloatRange(0, 1), default=0.6, show_default=True,
                 help="Confidence that lets a slice into the bank."),
    click.option("--directions", type=click.Choice(propagation.DIRECTIONS), default="both",
                 show_default=True, help="Ways to go from the prompted slice."),
    click.option("--orders", type=click.Choice(["two", "six"]), default="two", show_default=True,
                 help="Six: all three planes, and a vote."),
    click.option("--keep", type=click.Choice(propagation.KEEP), default="connected",
                 show_default=True, help="What hangs together with the prompt, or all."),
    click.option("--modalities", default=",".join(brats.CHANNELS), show_default=True,
                 help="What goes into the three channels; one name fills all."),
)  # fmt: skip


def how(function: Any) -> Any:
    """Give a verb the options of propagation."""
    for option in reversed(HOW):
        function = option(function)
    return function


def trained(run: Run) -> Segmenter:
    """Return the run's network where it computes."""
    found: Segmenter = job.load(run.out / "model").to(run.device)
    return found


def settings_of(run: Run, given: dict[str, Any]) -> propagation.Settings:
    """Return the settings that the options of `how` mean."""
    names = tuple(name.strip().lower() for name in given.pop("modalities").split(","))
    if len(names) not in (1, 3) or not set(names) <= set(brats.MODALITIES):
        raise click.UsageError(
            f"--modalities: found {','.join(names)}; wanted one or three of "
            f"{', '.join(brats.MODALITIES)}"
        )
    return propagation.Settings(seed=run.seed, modalities=names, **given)


@job.prepare
@click.option("--phantoms", type=click.IntRange(1), default=None,
              help="How many of the sample's phantoms to make.")  # fmt: skip
def prepare(run: Run, phantoms: int | None) -> None:
    """Read every patient once, and part those to train on from those that are held out."""
    parts = cohort.prepared(run, phantoms)
    run.log(**{f"{name}_patients": len(found) for name, found in parts.items()})
    rows = []
    for case in sections.each(run):
        ml = {name: outcomes.region_of(case, name).sum() * outcomes.volume_of(case) / 1000
              for name in brats.REGIONS}  # fmt: skip
        rows.append({"patient": case.name, "voxels": " x ".join(map(str, case.shape)),
                     "mm a voxel": " x ".join(f"{side:g}" for side in case.spacing),
                     **{f"{name} (ml)": f"{size:.1f}" for name, size in ml.items()}})  # fmt: skip
    run.table("held out", rows, "Held-out patients, and how large their tumours are.")
    if run.tier in ("real", "mirror"):
        run.note("The labels of this patient are the majority vote of five algorithms, not drawn "
                 "by a radiologist: Dice with them is agreement with a vote.")  # fmt: skip


@job.train
@click.option("--start", type=click.Choice(["shipped", "nothing"]), default="shipped",
              show_default=True, help="Weights to begin with.")  # fmt: skip
@click.option("--steps", type=click.IntRange(0), default=None,
              help="Of training; default: none from shipped weights.")  # fmt: skip
@click.option("--checkpoint", default=None, metavar="FILE or ADDRESS",
              help="Weights of SAM 2 or MedSAM-2 instead.")  # fmt: skip
@click.option("--sha256", default=None, help="Of what the address gives.")
@click.option("--config", type=click.Choice([*network.CONFIGS]), default=None,
              help="What the checkpoint is of.")  # fmt: skip
@click.option("--size", type=click.IntRange(64), default=None, help="Pixels of a side for it.")
def train(
    run: Run, start: str, steps: int | None, checkpoint: str | None, sha256: str | None,
    config: str | None, size: int | None,
) -> Segmenter:  # fmt: skip
    """Take weights, or train the small network on phantoms or on the prepared patients."""
    if (checkpoint is None) != (config is None):
        raise click.UsageError("--checkpoint and --config go together; found one of them")
    if checkpoint is not None and config is not None:
        file = network.file_of(checkpoint, sha256, config)
        found: Segmenter = network.load(file, config, size)
        run.note(f"The weights are {found.name}, as they were downloaded. Their licence: "
                 f"{network.CONFIGS[config][2]}.")  # fmt: skip
        return found
    return fitting.small(run, start, steps)


@job.evaluate
@click.option("--prompt", "kinds", multiple=True, type=click.Choice(propagation.KINDS),
              default=["box"], show_default=True, help="Kinds; pictures of the first.")  # fmt: skip
@click.option("--place", type=click.Choice([*propagation.PLACES, "largest"]), default="middle",
              show_default=True, help="The prompted slice of the tumour.")  # fmt: skip
@how
def evaluate(run: Run, model: Segmenter, kinds: tuple[str, ...], place: str, **given: Any) -> None:
    """Segment the held-out patients from one prompt, and measure and show what came of it."""
    settings = settings_of(run, given)
    model.to(run.device)
    found = outcomes.Outcomes()
    where = propagation.PLACES.get(place, place)
    unet = fitting.unet(run)
    for case in sections.each(run):
        asked = {kind: propagation.asked(case, kind, where, seed=run.seed) for kind in kinds}
        outcomes.add_case(found, sections.folder_of(run), case, asked, model, settings, unet)
    found.save(sections.folder_of(run))
    run.note(f"Segmented by {model.name}, bank {settings.bank}. {sections.route(model)}")
    sections.scores(run, found)
    for section in (sections.spread, sections.overlay, sections.failures):
        section(run, found, kinds[0])
    sections.method(run)


@job.command
@click.option(
    "--cases",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="A folder of patients, or one NIfTI file.",
)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where masks go; default segmented/ in the artifacts.",
)
@click.option(
    "--prompt", default=None, help="For all patients: " + asking.WANTED + ", or mask:FILE."
)
@click.option(
    "--region",
    type=click.Choice([*brats.REGIONS]),
    default="WT",
    show_default=True,
    help="What --prompt points at.",
)
@click.option("--prompts", type=FILE, default=None, help="CSV: case, region, prompt.")
@click.option(
    "--kind",
    type=click.Choice(propagation.KINDS),
    default=None,
    help="Make prompts of the labels instead, on the middle slice.",
)
@click.option("--shard", default=None, metavar="I/N", help="Every N-th patient, from the I-th on.")
@how  # fmt: skip
def segment(
    run: Run, cases: Path, to: Path | None, prompt: str | None, region: str, prompts: Path | None,
    kind: str | None, shard: str | None, **given: Any,
) -> None:  # fmt: skip
    """Write a NIfTI mask for each patient of a folder, and go on where it was stopped."""
    wishes = segmenting.Wishes(segmenting.read_table(prompts), prompt, region, kind)
    files = segmenting.mine(segmenting.patients(cases), parse_shard(shard))[: run.limit]
    model, identity = trained(run), store.identity(run.out / "model")
    segmenting.segment_all(run, model, identity, files, wishes, settings_of(run, given),
                           to or run.out / "segmented")  # fmt: skip


@job.command
@click.option("--steps", type=click.IntRange(1), default=baseline.STEPS, show_default=True)
@click.option("--phantoms", type=click.IntRange(1), default=16, show_default=True,
              help="To train on where no patients are prepared for it.")  # fmt: skip
def baseline_unet(run: Run, steps: int, phantoms: int) -> None:
    """Train the U-Net that evaluate sets beside, on the same patients."""
    store.save(fitting.fit_unet(run, steps, phantoms), run.out / "benchmarks" / "unet")
    click.echo(run.out / "benchmarks" / "unet")


@job.command
@click.option("--patients", type=click.IntRange(1), default=None, help="Of the held-out ones.")
def prompt_study(run: Run, patients: int | None) -> None:
    """Vary the kind, place, jitter and slice of the prompt, and the modalities."""
    studies.prompts(run, trained(run), patients)


@job.command
@click.option("--patients", type=click.IntRange(1), default=None, help="Of the held-out ones.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
def bank_study(run: Run, patients: int | None, seeds: int) -> None:
    """Compare the banks on clean, shuffled and corrupted volumes, and K and the threshold."""
    studies.banks(run, trained(run), patients, seeds)


@job.command
@click.option("--size", "sizes", type=click.IntRange(64), multiple=True, default=[128, 192, 256],
              show_default=True, help="Pixels of a side.")  # fmt: skip
@click.option("--config", type=click.Choice([*network.CONFIGS]), default=None,
              help="A network of this kind with random weights, not this run's.")  # fmt: skip
@click.option("--slices", type=click.IntRange(2), default=16, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
def measure_speed(
    run: Run, sizes: tuple[int, ...], config: str | None, slices: int, turns: int
) -> None:
    """Measure seconds a slice and memory, beside the package's own predictor."""
    from . import speed

    networks = speed.networks(job.load(run.out / "model") if config is None else config, sizes)
    speed.measured(run, networks, slices, turns)


@job.command
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), default=None,
              help="Default: weights/ in the artifacts.")  # fmt: skip
def keep_weights(run: Run, to: Path | None) -> None:
    """Write this run's network as the job's folder has one: 16-bit numbers, and what made them."""
    click.echo(fitting.keep(run, job.load(run.out / "model"), to or run.out / "weights"))


@job.command
def overlay(run: Run) -> None:
    """Draw the held-out patients again, with more slices to scroll through."""
    sections.overlay(run, *sections.evaluated(run))


@job.command
def failures(run: Run) -> None:
    """Show the worst patients and slices, and what is wrong with them."""
    sections.failures(run, *sections.evaluated(run))


@job.command
def paper_summary(run: Run) -> None:
    """Print what the paper adds to SAM 2, and the published figures with their sources."""
    sections.method(run)


NIFTI = Media("application/gzip", "application/x-nifti")
EXAMPLE = Path(__file__).with_name("sample").joinpath("tiny.nii.gz")


class Scan(Input):
    """A patient's volumes as NIfTI files, and one prompt on one slice."""

    max_rows: ClassVar[int] = 32
    max_bytes: ClassVar[int] = 64 * 2**20

    volume: Annotated[bytes, NIFTI] = Field(
        b"", examples=[base64.b64encode(EXAMPLE.read_bytes()).decode()],
        description="One modality, or a file of four dimensions: FLAIR, T1, T1Gd, T2.",
    )  # fmt: skip
    flair: Annotated[bytes, NIFTI] = b""
    t1: Annotated[bytes, NIFTI] = b""
    t1ce: Annotated[bytes, NIFTI] = b""
    t2: Annotated[bytes, NIFTI] = b""
    prompt: str = Field(pattern=asking.PATTERN, examples=["box:2:8,10,18,20"],
                        description=asking.WANTED)  # fmt: skip
    region: Literal["WT", "TC", "ET"] = Field(
        "WT", description="What is prompted for; names the answer, and sizes a point's disk."
    )
    bank: Literal["fifo", "selfsort", "selfsort-noresample", "prompt-only"] = "selfsort"

    @model_validator(mode="after")
    def _is_readable(self) -> Scan:
        try:
            asking.parse(self.prompt, case_of(self))
        except InputInvalid as error:
            raise ValueError(str(error)) from None
        return self


class Mask(Output):
    """The mask as NIfTI on the grid of the input, and how sure the network is of its slices."""

    mask: Annotated[bytes, Media("application/gzip")]
    region: Literal["WT", "TC", "ET"]
    voxels: int = Field(ge=0)
    ml: float = Field(ge=0)
    slices: list[int]
    confidence: float = Field(ge=0, le=1)
    network: str


@job.export
def export(model: Segmenter, folder: Path) -> None:
    """Refuse: which memories a slice looks at is decided as it goes, and no graph holds that."""
    raise InputInvalid(f"{model.name}: a network with a memory bank has no ONNX form")


def case_of(row: Scan) -> brats.Case:
    """Return the volumes of a row; one modality alone stands for all three channels."""
    given = {name: content for name in brats.MODALITIES if (content := getattr(row, name))}
    if bool(given) == bool(row.volume):
        found = f"volume and {', '.join(given)}" if given else "no volume"
        raise InputInvalid(f"found {found}; wanted volume, or some of flair, t1, t1ce, t2")
    if given:
        return brats.read(brats.Files("scan", given), [*given])
    return brats.read_one(row.volume, "scan")


@job.score
def score(model: Segmenter, rows: list[Scan]) -> list[Mask]:
    """Segment each scan from its prompt."""
    model.to("cuda" if machine.on_gpu(job.spec) else "cpu")
    return [segmented(model, row) for row in rows]


def segmented(model: Segmenter, row: Scan) -> Mask:
    """Segment one scan."""
    import numpy as np

    case = case_of(row)
    asked = asking.parse(row.prompt, case)
    settings = propagation.Settings(row.bank, plane=asked.plane, modalities=brats.three_of(case))
    found = propagation.answered(model, case, {row.region: asked.prompt}, settings)
    mask, sure = found.masks[row.region], found.confidence[row.region]
    held = np.flatnonzero(mask.any(axis=(0, 1))).tolist()
    return Mask(
        mask=brats.encoded(mask, case), region=row.region, voxels=int(mask.sum()),
        ml=float(mask.sum() * outcomes.volume_of(case) / 1000), slices=held,
        confidence=round(float(np.nanmean(sure.clip(0, 1))), 4),  # the rest is the threads' doing
        network=model.name,
    )  # fmt: skip
