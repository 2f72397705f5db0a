"""The widget that makes a field's value, with the scorer's own example in it."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from .fields import Field

LONG = 200  # characters from which a text has several lines
INK = gr.Brush(colors=["#111111", "#ffffff"], default_size=14, color_mode="fixed")


def widget(field: Field, **more: Any) -> gr.components.Component:
    """Return the widget of one field; ``more`` are options that every widget takes."""
    spare = not field.required and not field.value and field.kind != "yes_no"
    label = f"{field.label} (may be empty)" if spare else field.label
    more |= {"label": label, "elem_id": f"field-{field.name}"}
    hint = {"info": field.hint or None}
    match field.kind:
        case "yes_no":
            return gr.Checkbox(bool(field.value), **hint, **more)
        case "choice":
            return gr.Dropdown(list(field.choices), value=field.value, **hint, **more)
        case "whole" | "number":
            return _number(field, **hint, **more)
        case "image":
            return _drawing(**more)
        case "audio":
            return gr.Audio(sources=["microphone", "upload"], type="filepath", **more)
        case "file":
            return gr.File(type="filepath", **more)
        case "json":
            return gr.Code(json.dumps(field.value), language="json", **more)
    lines = 1 if field.longest and field.longest <= LONG else 4
    return gr.Textbox(field.value, lines=lines, max_length=field.longest, **hint, **more)


def _number(field: Field, **more: Any) -> gr.components.Component:
    """Return a slider where both ends are known and a value is needed, else a box."""
    if field.required and not field.nullable and field.low is not None and field.high is not None:
        return gr.Slider(field.low, field.high, value=field.value, step=field.step, **more)
    precision = 0 if field.kind == "whole" else None
    return gr.Number(field.value, precision=precision, **more)


def _drawing(**more: Any) -> gr.components.Component:
    """Return a sheet to draw on, or to put a picture on; its value is a PNG file."""
    return gr.Sketchpad(
        type="filepath",
        image_mode="RGB",
        sources=["upload", "clipboard"],
        brush=INK,
        layers=False,
        canvas_size=(400, 400),
        **more,
    )
