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

from slipway import Field, Input, Job, Media, Output, Run, store
from slipway.errors import InputInvalid
from slipway.types import model_validator

from . import cloning, engine_verbs, folds, strangers, trust_verbs
from .engines import Size, flite

if TYPE_CHECKING:
    from flask import Blueprint

    from slipway.scorer import Service

    from .network import Converter
    from .retrieval import Retriever
    from .speech import Speech

job = Job.here(__file__, trusted=("jobs.voice_cloning.network.Converter",))

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@job.prepare
@click.option(
    "--source",
    type=click.Choice(flite.VOICES),
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
@click.option("--method", type=click.Choice(cloning.METHODS), default="ridge", show_default=True,
              help="How frames are mapped.")  # fmt: skip
def train(run: Run, method: str) -> Converter:
    """Learn to map the source voice's frames to the target's."""
    from . import learning, preparing

    return learning.fit(run, preparing.pairs(run, "train", "choose"), method, run.epochs)


@job.evaluate
@click.option("--ways", type=click.Choice(["chosen", "all"]), default="chosen", show_default=True,
              help="Measure the chosen way to map, or all of them.")  # fmt: skip
@click.option("--new", type=click.IntRange(1, 12), default=None,
              help="New sentences to say; default 12, and 3 on the sample.")  # fmt: skip
@click.option("--hubert", type=engine_verbs.FOLDER, default=None,
              help="HuBERT's trained weights: measures retrieval by them, too.")  # fmt: skip
def evaluate(run: Run, model: Converter, ways: str, new: int | None, hubert: Path | None) -> None:
    """Say held-out and new sentences by source and clone; measure, draw and let listen."""
    from . import outcomes, preparing

    chosen = model.settings["method"]
    asked = ["source", chosen] if ways == "chosen" else ["source", "pitch", *cloning.METHODS]
    held = preparing.pairs(run, "held_out")
    others = {"hubert": retriever(run, "full", hubert)} if hubert else {}
    asked += others
    said = outcomes.collected(run, model, held, asked, new or preparing.new_count(run), others)
    outcomes.told(run, model, said, asked)


def retriever(run: Run, size: Size, weights: Path | None) -> Retriever:
    """Return what retrieves from the prepared clips, those held out aside."""
    from . import preparing, retrieval

    encoder = retrieval.encoder(size, weights, run.device)
    run.note(f"Retrieval by HuBERT. Its weights: {encoder.weights}.")
    clips = [pair.real for pair in preparing.pairs(run, "train", "choose")]
    return retrieval.retriever(encoder, clips)


@job.command
@click.argument("text")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="The WAV file; default spoken.wav in the artifacts.")  # fmt: skip
@click.option("--voice", type=click.Choice(["clone", *flite.VOICES]), default="clone",
              show_default=True)  # fmt: skip
def speak(run: Run, text: str, to: Path | None, voice: str) -> None:
    """Say a text, in the learned voice or in one of flite's."""
    from . import releasing

    path, folder = to or run.out / "spoken.wav", run.out / "model"
    weights = store.identity(folder) if voice == "clone" else flite.Flite.weights
    releasing.kept(path, said(job.load(folder), text, voice), voice, weights, text=text)
    click.echo(path)


@job.command
@click.argument("recording", type=FILE)
@click.option("--consent", type=FILE, default=None, help="Of the one who speaks in the recording.")
@click.option("--by", type=click.Choice(["mapping", "hubert"]), default="mapping",
              show_default=True, help="What train learned, or retrieval from the prepared clips "
              "by what HuBERT hears.")  # fmt: skip
@click.option("--size", type=click.Choice(["tiny", "random", "full"]), default="full",
              show_default=True, help="Of HuBERT: a small network or the published one with "
              "random weights, or the trained weights.")  # fmt: skip
@engine_verbs.WEIGHTS
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="The WAV file; default converted.wav in the artifacts.")  # fmt: skip
def convert(run: Run, recording: Path, consent: Path | None, by: str, size: Size,
            weights: Path | None, to: Path | None) -> None:  # fmt: skip
    """Turn a recording into the target's voice."""
    from . import releasing
    from . import speech as sound

    if weights and by != "hubert":
        raise click.UsageError("--weights are those of HuBERT: found them without --by hubert")
    content, folder = recording.read_bytes(), run.out / "model"
    agreed = releasing.permitted(content, consent or "", "convert")
    given, path = sound.read(content, recording.name), to or run.out / "converted.wav"
    if by == "hubert":
        target = retriever(run, size, weights)
        found, engine, named = target.converted(given), by, target.encoder.weights
    else:
        found, engine = cloning.converted(job.load(folder), given), "clone"
        named = store.identity(folder)
    releasing.kept(path, found, engine, named, agreed, source=content)
    click.echo(path)


@job.export
def export(model: Converter, folder: Path) -> None:
    """Write the network as ONNX: 405 inputs to 120 outputs a frame; the vocoder is no graph."""
    import torch

    from slipway import networks

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

    _began: float = 0.0
    """Seconds of the same output that came before: the mark goes on from there."""

    def piece(self, text: str, began: float) -> Request:
        """Return the request for a part of the text, so far into what is streamed."""
        found = self.model_copy(update={"text": text})
        found._began = began
        return found

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
                cloning.check_voiced(sound.heard(self.reference, "reference", REFERENCE)[0])
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
    speech = releasing.marked(speech, agreed, row._began)
    voice = "reference" if row.reference else row.voice
    return Spoken(audio=sound.written(speech), seconds=round(speech.seconds, 4), rate=speech.rate,
                  voice=voice, repairs=repairs)  # fmt: skip


def in_borrowed_voice(model: Converter, said: str, row: Request) -> tuple[Speech, list[str]]:
    """Say a text in a voice that is known from one recording alone."""
    from . import speech as sound

    reference, repairs = sound.heard(row.reference, "reference", longest=REFERENCE)
    if reference.seconds < cloning.ENOUGH:
        repairs.append(f"reference: {reference.seconds:.1f} s are few: wanted {cloning.ENOUGH:g} s "
                       "or more, so it sounds less alike")  # fmt: skip
    source = flite.Flite().synthesize(said, model.settings["source"])
    return cloning.borrowed(source, reference), repairs


def said(model: Converter, text: str, voice: str) -> Speech:
    """Say a text in the learned voice, or in one of flite's."""
    if voice == "clone":
        return cloning.spoken(model, text)
    return flite.Flite().synthesize(text, voice)


@job.routes
def routes(routes: Blueprint, scorer: Service) -> None:
    """Add a route that answers with sound instead of JSON."""
    from .streaming import add_route

    add_route(routes, scorer)


for verb in (folds.folds, *strangers.VERBS, *engine_verbs.VERBS, *trust_verbs.VERBS):
    job.command(verb)
