"""One answer as a person reads it: the verdict, how sure the model is, and the rest as a table.

The verdict is the field ``prediction`` (or ``label``, ``class``). A field of probabilities by
class becomes bars; so does a number that the schema holds between 0 and 1. All text is escaped:
a model may answer with whatever it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

VERDICTS = ("prediction", "label", "class")
MOST_BARS = 10
MOST_ROWS = 50


def shown(answer: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return an answer as HTML; ``schema`` is that of the scorer's answers."""
    properties = schema.get("properties", {})
    verdict = next((name for name in VERDICTS if _plain(answer.get(name))), "")
    parts, rest = [], []
    if verdict:
        parts.append(f'<p class="verdict">{escape(words(answer[verdict]))}</p>')
    for name, value in answer.items():
        bars = _bars(name, value, properties.get(name, {}))
        if bars:
            parts.append(f'<div class="bars">{"".join(bars)}</div>')
        elif name != verdict:
            rest.append((name, _cell(value, properties.get(name, {}))))
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{cell}</td></tr>" for name, cell in rest)
    return f'<div class="answer">{"".join(parts)}{f"<table>{rows}</table>" if rows else ""}</div>'


def wrong(told: str, fields: Iterable[Mapping[str, str]] = ()) -> str:
    """Return a refusal as HTML, with a line for each field that is wrong."""
    lines = [
        f"<li><b>{escape(entry.get('path', '').strip('/') or 'the row')}</b>: "
        f"found {escape(entry.get('found', ''))}; wanted: {escape(entry.get('wanted', ''))}</li>"
        for entry in fields
    ]
    return f'<div class="wrong" role="alert"><p>{escape(told)}.</p><ul>{"".join(lines)}</ul></div>'


def waiting(told: str, seconds: float) -> str:
    """Return why there is no answer yet as HTML."""
    return (
        f'<div class="waiting" role="status">{escape(told)}; asking again in {seconds:g} s …</div>'
    )


def words(value: Any) -> str:
    """Return one value as a person writes it."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "none" if value is None else str(value)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _bars(name: str, value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return the bars of a field that holds shares of one, else none."""
    if _is_share(value, schema):
        return [_bar(name, value)]
    if isinstance(value, list) and name.startswith("prob"):
        value = {str(number): share for number, share in enumerate(value)}
    if isinstance(value, dict) and value and all(_within(share) for share in value.values()):
        ranked = sorted(value.items(), key=lambda entry: -entry[1])
        return [_bar(label, share) for label, share in ranked[:MOST_BARS]]
    return []


def _within(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_share(value: Any, schema: Mapping[str, Any]) -> bool:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    return schema.get("type") == "number" and (low, high) == (0, 1) and _within(value)


def _bar(label: str, share: float) -> str:
    return (
        f'<div class="bar"><span class="name">{escape(str(label))}</span>'
        f'<span class="track"><span class="fill" style="width:{share * 100:.1f}%"></span></span>'
        f'<span class="share">{_percent(share)}</span></div>'
    )


def _percent(share: float) -> str:
    """Return a share in percent; never 100 for what is not quite sure."""
    if 0 < share < 0.001:
        return "&lt;0.1 %"
    return "&gt;99.9 %" if 0.999 < share < 1 else f"{share * 100:.1f} %"


def _cell(value: Any, schema: Mapping[str, Any]) -> str:
    media = str(schema.get("contentMediaType", ""))
    if media.startswith("image/") and isinstance(value, str):
        return f'<img src="data:{escape(media)};base64,{escape(value)}" alt="">'
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return _table(value)
    if isinstance(value, list | dict):
        return f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>"
    return escape(words(value))


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(row.get(name), {})}</td>' for name in names)}</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"
