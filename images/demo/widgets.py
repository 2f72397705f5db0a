"""The widget that makes a field's value, with the scorer's own example in it."""

from __future__ import annotations

import io
import json
from typing import Any

import gradio as gr
from PIL import Image

from . import columns, media
from .fields import Field

LONG = 200  # characters from which a text has several lines
WIDE = ("image", "sheet", "audio", "video", "file", "columns", "json")
CANVAS = 400  # pixels; a stroke is about as thick as a pen's on a note of that size
INK = gr.Brush(colors=["#111111", "#ffffff"], default_size=14, color_mode="fixed")


def is_wide(field: Field) -> bool:
    """Tell whether a widget needs the whole width of a form."""
    return field.kind in WIDE or (field.kind == "text" and _lines(field) > 1)


def widget(field: Field, **more: Any) -> gr.components.Component:
    """Return the widget of one field; ``more`` are options that every widget takes."""
    more |= {"label": _label(field), "elem_id": f"field-{field.name}"}
    if field.binary:
        return _file(field, **more)
    hint = {"info": field.hint or None}
    match field.kind:
        case "yes_no" if not field.nullable:
            return gr.Checkbox(bool(field.value), **hint, **more)
        case "yes_no" | "choice":
            return gr.Dropdown(_choices(field), value=_chosen(field), **hint, **more)
        case "whole" | "number":
            return _number(field, **hint, **more)
        case "date" | "moment":
            # Gradio's own keeps the last good date and says nothing of a bad one
            shape = "YYYY-MM-DD" if field.kind == "date" else "YYYY-MM-DD HH:MM:SS"
            value = str(field.value or "").replace("T", " ")
            return gr.Textbox(value, placeholder=shape, max_lines=1, **hint, **more)
        case "json":
            return gr.Code(json.dumps(field.value), language="json", **more)
        case "columns":
            told = field.hint or "A header and a line of CSV, or a JSON object."
            value = columns.written(field.value)
            return gr.Textbox(value, lines=3, max_lines=12, info=told, **more)
    lines = _lines(field)
    more |= hint | {"lines": lines, "max_lines": 1 if lines == 1 else 20}
    return gr.Textbox(field.value, max_length=field.longest, **more)


def _label(field: Field) -> str:
    """Return what stands above a widget; those of files have no other place for a hint."""
    spare = not field.required and not field.value and field.kind != "yes_no"
    label = f"{field.label} (may be empty)" if spare else field.label
    # what the type says of itself tells a program, not a person
    plain = field.hint and not field.hint.startswith("One of ")
    return f"{label}: {field.hint}" if field.binary and plain else label


def _lines(field: Field) -> int:
    return 1 if field.longest and field.longest <= LONG else 4


def _choices(field: Field) -> list[tuple[str, Any]]:
    """Return label and value of each choice; an empty one where nothing need be chosen."""
    named: list[tuple[str, Any]] = [(str(one), one) for one in field.choices]
    if field.kind == "yes_no":
        named = [("Yes", "true"), ("No", "false")]
    return [*([] if field.required and not field.nullable else [("not given", "")]), *named]


def _chosen(field: Field) -> Any:
    if field.kind == "yes_no" and field.value is not None:
        return str(field.value).lower()
    return "" if field.value is None and (field.nullable or not field.required) else field.value


def _number(field: Field, **more: Any) -> gr.components.Component:
    """Return a slider where both ends are known and a value is needed, else a box.

    One that may stay empty is a box of text: Gradio's box of numbers shows 0 for nothing.
    """
    if field.required and not field.nullable and field.low is not None and field.high is not None:
        return gr.Slider(field.low, field.high, value=field.value, step=field.step, **more)
    if field.value is None:
        return gr.Textbox("", placeholder=field.wanted, max_lines=1, **more)
    precision = 0 if field.kind == "whole" else None
    return gr.Number(field.value, precision=precision, **more)


def _file(field: Field, **more: Any) -> gr.components.Component:
    match field.kind:
        case "sheet":
            return _sheet(**more)
        case "image":
            return gr.Image(
                _example(field), type="filepath", image_mode=None, format="png",
                sources=["upload", "clipboard"], buttons=[], height=320, **more,
            )  # fmt: skip
        case "audio":
            value = media.decoded(field.value) or None
            return gr.Audio(
                value, sources=["microphone", "upload"], type="filepath", buttons=[], **more
            )
        case "video":
            return gr.Video(sources=["upload"], **more)
    return gr.File(type="filepath", height=140, **more)


def _example(field: Field) -> Any:
    """Return what gives the example's picture at each visit: uploads are removed after a while."""
    content = media.decoded(field.value)
    return (lambda: Image.open(io.BytesIO(content))) if media.kind_of(content) else None


def _sheet(**more: Any) -> gr.components.Component:
    """Return a sheet to draw on, or to put a picture on; its value is a PNG file."""
    return gr.Sketchpad(
        type="filepath",
        image_mode="RGB",
        format="png",
        sources=["upload", "clipboard"],
        brush=INK,
        layers=False,
        transforms=[],
        buttons=[],
        canvas_size=(CANVAS, CANVAS),
        **more,
    )
