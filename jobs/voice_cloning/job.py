"""Voice cloning: a sentence in the voice of someone who never said it, and how good that is.

What speaks here and now is flite; what clones is a mapping learned from the target's recordings and
flite reading the same sentences, through the WORLD vocoder. It needs two minutes of speech, no hub
and no GPU. Open models that clone better (XTTS, CSM) stand behind the same protocol in `engines`
and need their weights. No voice is cloned without its owner's consent, and every output is marked.

Data:    LJ Speech, VCTK and LibriSpeech, subsets (job.toml); the sample is made by flite's voices.
Source:  Morise et al., WORLD, IEICE 2016; Toda, Black and Tokuda, IEEE TASLP 2007; Wan et al.,
         GE2E, ICASSP 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import click

from slipway import Field, Input, Job, Media, Output, Run
from slipway.errors import InputInvalid
from slipway.types import model_validator

from . import engine_verbs, trust_verbs

if TYPE_CHECKING:
    from flask import Blueprint

    from slipway.scorer import Service

    from .network import Converter
    from .speech import Speech

job = Job.here(__file__, trusted=("jobs.voice_cloning.network.Converter",))

FLITE = ("slt", "rms", "awb", "kal16")
METHODS = ("ridge", "mlp", "knn", "mix")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@job.prepare
@click.option(
    "--source",
    type=click.Choice(FLITE),
    default=None,
    help="The voice of flite to map from; default slt, and rms for the sample.",
)
@click.option("--fold", type=click.IntRange(0, 4), default=0, show_default=True,
              help="Which fifth of the sentences is held out.")  # fmt: skip
@click.option("--consent", type=FILE, default=None, help="The speaker's, for data of your own.")
def prepare(run: Run, source: str | None, fold: int, consent: Path | None) -> None:
    """Cut, level and check the target's clips; have the source voice read the same sentences."""
    from . import preparing, releasing

    path = run.data("ljspeech")
    if run.tier == "own" and not preparing.is_recipe(path):
        releasing.permitted_all(path, consent or "", "train")
    preparing.prepared(run, source, fold)


@job.train
@click.option("--method", type=click.Choice(METHODS), default="ridge", show_default=True,
              help="How frames are mapped.")  # fmt: skip
def train(run: Run, method: str) -> Converter:
    """Learn to map the source voice's frames to the target's."""
    from . import corpus, learning, preparing

    rows = corpus.read_table(run.prepared("corpus.json"))
    pairs = preparing.pairs(run, "train", "choose")
    return learning.fit(run, pairs, method, rows[0]["voice"], rows[0]["speaker"], run.epochs)


@job.evaluate
@click.option("--ways", type=click.Choice(["chosen", "all"]), default="chosen", show_default=True,
              help="Measure the chosen way to map, or all of them.")  # fmt: skip
@click.option("--new", type=click.IntRange(1, 12), default=None,
              help="New sentences to say; default 12, and 3 on the sample.")  # fmt: skip
def evaluate(run: Run, model: Converter, ways: str, new: int | None) -> None:
    """Say held-out and new sentences by source and clone; measure, draw and let listen."""
    from . import outcomes

    chosen = model.settings["method"]
    asked = ["source", chosen] if ways == "chosen" else ["source", "pitch", *METHODS]
    said = outcomes.collected(run, model, asked, new or (3 if run.tier == "sample" else 12))
    outcomes.told(run, model, said, asked)


@job.command
@click.argument("text")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="The WAV file; default spoken.wav in the artifacts.")  # fmt: skip
@click.option("--voice", type=click.Choice(["clone", *FLITE]), default="clone", show_default=True)
def speak(run: Run, text: str, to: Path | None, voice: str) -> None:
    """Say a text, in the learned voice or in one of flite's."""
    from . import releasing

    path = to or run.out / "spoken.wav"
    spoken = said(job.load(run.out / "model"), text, voice)
    releasing.kept(path, spoken, voice, "of this job's training", text=text)
    click.echo(path)


@job.command
@click.argument("recording", type=FILE)
@click.option("--consent", type=FILE, default=None, help="Of the one who speaks in the recording.")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="The WAV file; default converted.wav in the artifacts.")  # fmt: skip
def convert(run: Run, recording: Path, consent: Path | None, to: Path | None) -> None:
    """Turn a recording into the learned voice."""
    from . import cloning, releasing
    from . import speech as sound

    content = recording.read_bytes()
    agreed = releasing.permitted(content, consent or "", "convert")
    found = cloning.converted(job.load(run.out / "model"), sound.read(content, recording.name))
    path = to or run.out / "converted.wav"
    releasing.kept(path, found, "clone", "of this job's training", agreed, source=content)
    click.echo(path)


@job.export
def export(model: Converter, folder: Path) -> None:
    """Write the network as ONNX: 405 inputs to 120 outputs a frame; the vocoder is no graph."""
    import torch

    from slipway import networks, store

    from .conversion import INPUTS

    graph = networks.to_onnx(model.mlp, torch.zeros(2, INPUTS), "frames", "path")
    store.save(graph, folder)


REFERENCE = 60.0
"""Seconds of a reference that are used."""
SOUND = Media("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg")


class Request(Input):
    """A text, and whose voice it shall be said in."""

    max_rows: ClassVar[int] = 32
    max_bytes: ClassVar[int] = 32 * 2**20

    text: str = Field(min_length=1, max_length=2_000,
                      examples=["The weather will be sunny in the morning."])  # fmt: skip
    voice: Literal["clone", "slt", "rms", "awb", "kal16"] = Field(
        "clone", description="clone is the learned voice, or the reference's; others are flite's."
    )
    reference: Annotated[bytes, SOUND] = Field(
        b"", description="A recording of 3 s or more whose voice is borrowed."
    )
    consent: str = Field(
        "", max_length=10_000, description="The consent of the reference's speaker, as JSON."
    )

    @model_validator(mode="after")
    def _can_be_said(self) -> Request:
        """Refuse a row by itself: what fails later would take its whole batch along."""
        from . import releasing
        from . import speech as sound
        from .engines import text

        try:
            text.english(self.text)
            if self.reference:
                releasing.permitted(self.reference, self.consent, "clone")
                sound.heard(self.reference, "reference", longest=REFERENCE)
        except InputInvalid as error:
            raise ValueError(str(error)) from None
        return self


class Spoken(Output):
    """The sound as WAV, 16 bits, and what was put right in the request."""

    audio: Annotated[bytes, Media("audio/wav")]
    seconds: float = Field(ge=0)
    rate: int
    voice: str
    repairs: list[str]


@job.score
def score(model: Converter, rows: list[Request]) -> list[Spoken]:
    """Say each text."""
    return [answered(model, row) for row in rows]


def answered(model: Converter, row: Request) -> Spoken:
    """Say one text; in the reference's voice where there is one."""
    from . import releasing
    from . import speech as sound
    from .engines import text

    speakable, repairs = text.english(row.text)
    agreed = None
    if row.reference:
        agreed = releasing.permitted(row.reference, row.consent, "clone")
        speech, more = in_borrowed_voice(model, speakable, row)
        repairs = repairs + more
    else:
        speech = said(model, speakable, row.voice)
    speech = releasing.marked(speech, agreed)
    voice = "reference" if row.reference else row.voice
    return Spoken(audio=sound.written(speech), seconds=round(speech.seconds, 4), rate=speech.rate,
                  voice=voice, repairs=repairs)  # fmt: skip


def in_borrowed_voice(model: Converter, said: str, row: Request) -> tuple[Speech, list[str]]:
    """Say a text in a voice that is known from one recording alone."""
    from . import cloning
    from . import speech as sound
    from .engines.flite import Flite

    reference, repairs = sound.heard(row.reference, "reference", longest=REFERENCE)
    return cloning.borrowed(Flite().synthesize(said, model.settings["source"]), reference), repairs


def said(model: Converter, text: str, voice: str) -> Speech:
    """Say a text in the learned voice, or in one of flite's."""
    from . import cloning
    from .engines.flite import Flite

    return cloning.spoken(model, text) if voice == "clone" else Flite().synthesize(text, voice)


@job.routes
def routes(routes: Blueprint, scorer: Service) -> None:
    """Add a route that answers with sound instead of JSON."""
    from .streaming import add_route

    add_route(routes, scorer)


for verb in (*engine_verbs.VERBS, *trust_verbs.VERBS):
    job.command(verb)
