"""The page itself: a form of the scorer's fields, and a tab for whole files.

Nothing leaves the machine: no analytics, no fonts or scripts of others, and a content security
policy that lets a browser ask this server alone.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import answers, files, media
from .fields import Description, Field, NotAValue
from .scorer import Refused, Scorer, Waiting
from .widgets import is_wide, widget

CSS = Path(__file__).with_name("page.css")
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:;"
    " style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
LARGEST = "32mb"
SHOWN_LINES = 100
IN_COLUMNS = 4  # from so many small fields on a form has columns
AT_ONCE = 12  # fields of a form; of a longer one only what is needed is open
TOO_LARGE = 413
# Puts the reason why a field is wrong at the field, and takes old ones away.
MARK = """() => {
    for (const old of document.querySelectorAll("[data-wrong]")) old.removeAttribute("data-wrong");
    const wrong = [...document.querySelectorAll("#result li[data-field]")];
    const at = (line) => document.getElementById("field-" + line.dataset.field);
    for (const line of wrong) at(line)?.setAttribute("data-wrong", line.dataset.told);
    const first = wrong.map(at).find(Boolean) ?? document.getElementById("result");
    first.scrollIntoView({block: "nearest", behavior: "smooth"});
}"""
KEEP_SECONDS = 600
TIERS = {
    "real": "real data",
    "mirror": "real data (tier mirror)",
    "sample": "the small sample",
    "own": "its user's own data",
}


def make_app(scorer: Scorer, description: Description) -> FastAPI:
    """Return the page as an ASGI app, with ``/healthz`` beside it."""
    app = FastAPI(openapi_url=None)

    @app.get("/healthz")
    def healthz() -> dict[str, bool]:
        return {"ready": True}

    app.add_middleware(Guard)
    blocks = make_blocks(scorer, description)
    gr.mount_gradio_app(
        app,
        blocks,
        path="",
        footer_links=[],
        max_file_size=LARGEST,
        run_history=False,
        show_error=True,
        ssr_mode=False,
        theme=gr.themes.Default(
            primary_hue="blue",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css=CSS.read_text("utf-8"),
    )
    return app


@dataclass(frozen=True)
class Guard:
    """Puts the security policy on every answer; one that a browser no longer wants is no error."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and add headers to what comes back."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, guarded)


def make_blocks(scorer: Scorer, description: Description) -> gr.Blocks:
    """Return the page: a heading that tells what model answers, the form, the file tab."""
    with gr.Blocks(
        title=description.title,
        analytics_enabled=False,
        delete_cache=(KEEP_SECONDS, KEEP_SECONDS),
    ) as blocks:
        gr.HTML(
            f"<h1>{escape(description.title)}</h1><p>{escape(description.question)}</p>",
            elem_id="heading",
        )
        if any(field.binary for field in description.fields):
            _form(scorer, description)
        else:
            with gr.Tab("Try it"):
                _form(scorer, description)
            with gr.Tab("Score a file"):
                _files(scorer, description)
        model = gr.HTML(elem_id="model")
        blocks.load(lambda: about(scorer.version()), outputs=model, api_visibility="private")
    return blocks


def about(version: dict[str, Any]) -> str:
    """Return a line about the model: its data, its figures on held-out data, the data's licence."""
    if not version.get("model"):
        return "The scorer has not said yet which model answers."
    tier = version.get("tier", "")
    named = f"Model {version['model']} ({version.get('form', 'trained')} form)"
    parts = [f"{named}, trained on {TIERS.get(tier, f'{tier} data')}"]
    figures = version.get("figures") or {}
    if figures:
        told = (
            f"{name.replace('_', ' ')} {answers.words(value)}" for name, value in figures.items()
        )
        parts.append(f"on held-out data: {', '.join(told)}")
    if version.get("licences"):
        parts.append(f"licence of the data: {', '.join(version['licences'])}")
    return escape("; ".join(parts) + ".")


def _form(scorer: Scorer, description: Description) -> None:
    many = sum(not is_wide(field) for field in description.fields) >= IN_COLUMNS
    with gr.Row(elem_classes="sides", equal_height=False):
        with gr.Column(scale=2 if many else 1, min_width=320):
            widgets = _widgets(description.fields, many)
            button = gr.Button("Score", variant="primary", elem_id="score")
        with gr.Column(min_width=320, elem_classes="reply"):
            result = gr.HTML('<div class="hint">The answer comes here.</div>', elem_id="result")

    def ask(*values: Any) -> Iterator[str]:
        yield from one(scorer, description, values)

    short = (gr.Textbox, gr.Number)
    events = [button.click, *(box.submit for box in widgets if isinstance(box, short))]
    for event in events:
        asked = event(ask, widgets, result, show_progress="minimal", api_visibility="private")
        asked.then(None, js=MARK)


def _widgets(fields: Sequence[Field], many: bool) -> list[gr.components.Component]:
    """Return the widgets in the order of their fields.

    What is needed stands first; in a long form the rest waits behind a fold.
    """
    first = [field for field in fields if field.required]
    rest = [field for field in fields if not field.required]
    made: dict[str, gr.components.Component] = {}
    if len(fields) <= AT_ONCE or not first or not rest:
        _lay(fields, many, made)
    else:
        _lay(first, many, made)
        with gr.Accordion(f"{len(rest)} more, none of them needed", open=False, elem_id="more"):
            _lay(rest, many, made)
    return [made[field.name] for field in fields]


def _lay(fields: Sequence[Field], many: bool, made: dict[str, gr.components.Component]) -> None:
    """Make widgets: small ones side by side where there are many, wide ones below each other."""
    for wide, group in itertools.groupby(fields, is_wide):
        if wide or not many:
            made |= {field.name: widget(field) for field in group}
        else:
            with gr.Row(elem_classes="grid"):
                made |= {field.name: widget(field, min_width=160) for field in group}


def one(scorer: Scorer, description: Description, values: Sequence[Any]) -> Iterator[str]:
    """Yield what to show while one row is scored, at last its answer or what is wrong."""
    try:
        for step in scorer.answer(*description.body(values)):
            if isinstance(step, Waiting):
                yield answers.waiting(step.told, step.seconds)
            else:
                yield answers.shown(step, description.answer)
    except NotAValue as error:
        yield answers.wrong("Please look again at what is marked", error.fields)
    except Refused as refusal:
        yield answers.wrong(str(refusal), at_fields(refusal, description, values))


def at_fields(
    refusal: Refused, description: Description, values: Sequence[Any]
) -> list[dict[str, str]]:
    """Return where a refusal belongs: a body that is too large is due to its largest file."""
    files = [one for one in description.fields if one.binary]
    if refusal.status == TOO_LARGE and files:
        field, content = max(description.binary(values), key=lambda entry: len(entry[1]))
        wanted = "a smaller file"
        return [{"path": f"/{field.name}", "found": media.size(content), "wanted": wanted}]
    unseen = {f"/{field.name}" for field in files}  # bytes say nothing to a person
    return [entry | ({"found": ""} if entry["path"] in unseen else {}) for entry in refusal.fields]


def _files(scorer: Scorer, description: Description) -> None:
    needed = [field for field in description.fields if field.required]
    names = ", ".join(f"`{field.name}`" for field in needed if field.kind != "columns")
    told = f" whose header names {names}; further columns stay as they are" if names else ""
    gr.Markdown(
        f"A CSV file{told}. "
        f"At most {files.MOST_LINES:,} rows here; `slipway score` takes any number."
    )
    upload = gr.File(
        label="CSV file", file_types=[".csv"], type="binary", height=120, elem_id="upload"
    )
    button = gr.Button("Score the file", variant="primary", elem_id="score-file")
    told = gr.HTML(elem_id="told")
    table = gr.Dataframe(visible=False, interactive=False, wrap=True, elem_id="scored")
    download = gr.DownloadButton("Download all", visible=False)
    button.click(
        lambda content: many(scorer, description, content),
        upload,
        [told, table, download],
        show_progress="minimal",
        api_visibility="private",
    )


def many(scorer: Scorer, description: Description, content: bytes | None) -> Iterator[Any]:
    """Yield what to show while a file is scored: a line of progress, a table, the file to take."""
    hidden = gr.update(visible=False)
    if not content:
        yield answers.wrong("Choose a CSV file first"), hidden, hidden
        return
    try:
        lines = files.read(content, description)
        for step in files.scored(lines, description, scorer):
            if isinstance(step, Waiting):
                yield answers.waiting(step.told, step.seconds), hidden, hidden
            else:
                yield f"<p>{step:,} of {len(lines):,} rows …</p>", hidden, hidden
    except (NotAValue, Refused) as error:
        yield answers.wrong(str(error)), hidden, hidden
        return
    header, cells = files.table(lines)
    bad = sum(1 for line in lines if line.error)
    first = f"; the first {SHOWN_LINES} are shown" if len(lines) > SHOWN_LINES else ""
    value = {"headers": header, "data": cells[:SHOWN_LINES]}
    yield (
        f"<p>{len(lines) - bad:,} rows scored, {bad:,} could not be{first}.</p>",
        gr.update(value=value, visible=True),
        gr.update(value=_kept(files.written(lines)), visible=True),
    )


def _kept(text: str) -> str:
    """Write a file that the page may hand out and return its path; Gradio removes it in time."""
    folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
    path = Path(folder) / "scored.csv"
    path.write_text(text, "utf-8")
    return str(path)
