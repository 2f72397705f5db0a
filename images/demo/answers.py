"""One answer as a person reads it: the verdict, how sure the model is, and the rest as a table.

The verdict is the field ``prediction`` (or ``label``, ``class``), else the first plain one.
Probabilities by class become bars, and so does a number that the schema holds between 0 and 1;
a field with a media type becomes a picture, a player or a file to take. All text is escaped: a
model may answer with whatever it was given.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from . import media

Schema = Mapping[str, Any]
Shares = list[tuple[str, float]]

VERDICTS = ("prediction", "label", "class")
MOST_BARS = 10  # of classes in the order of their shares
MOST_CLASSES = 20  # of classes in their own order
MOST_ROWS = 50
MOST_ITEMS = 12
LONGEST = 2000


def shown(answer: Mapping[str, Any], schema: Schema) -> str:
    """Return an answer as HTML; ``schema`` is that of the scorer's answers."""
    properties = schema.get("properties", {})
    verdict = _verdict(answer, properties)
    charts: dict[str, Shares] = {}
    files, rest = [], []
    for name, value in answer.items():
        entry = properties.get(name, {})
        shares = _shares(name, value, entry, properties.get(verdict, {}).get("enum", ()))
        if shares:
            charts[name] = shares
        elif _media_type(entry):  # a file that was not asked for is not there
            files += [_figure(name, value, entry)] if value else []
        elif name != verdict:
            rest.append((_title(name, entry), _cell(value, entry)))
    head = _head(answer[verdict], properties.get(verdict, {}), charts) if verdict else ""
    bars = "".join(_chart(name, shares, answer, properties) for name, shares in charts.items())
    rows = "".join(f"<tr><th>{title}</th><td>{cell}</td></tr>" for title, cell in rest)
    table = f"<table>{rows}</table>" if rows else ""
    return f'<div class="answer">{head}{bars}{"".join(files)}{table}</div>'


def wrong(told: str, fields: Iterable[Mapping[str, str]] = ()) -> str:
    """Return a refusal as HTML, with a line for each field that is wrong.

    Each line carries its field's name and the reason, which the page also puts at the field.
    """
    lines = [
        f'<li data-field="{escape(_field_of(entry))}" data-told="{escape(_reason(entry))}">'
        f"<b>{escape(entry.get('path', '').strip('/') or 'the row')}</b>: "
        f"{escape(_reason(entry))}</li>"
        for entry in fields
    ]
    return f'<div class="wrong" role="alert"><p>{escape(told)}.</p><ul>{"".join(lines)}</ul></div>'


def _field_of(entry: Mapping[str, str]) -> str:
    return entry.get("path", "").strip("/").partition("/")[0]


def _reason(entry: Mapping[str, str]) -> str:
    """Return what was found and wanted in words, without what only a program wants to know."""
    found, wanted = (entry.get(key, "") for key in ("found", "wanted"))
    wanted = wanted.removeprefix("Value error, ")
    return f"found {found}; wanted: {wanted}" if found else f"wanted: {wanted}"


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
    if isinstance(value, int) and abs(value) >= 100_000:
        return f"{value:,}"
    return "none" if value is None else str(value)


def _verdict(answer: Mapping[str, Any], properties: Mapping[str, Schema]) -> str:
    """Return the name of the field that is the answer in one word, nothing where there is none."""
    plain = [
        name
        for name, value in answer.items()
        if isinstance(value, str | int | float) and not _media_type(properties.get(name, {}))
    ]
    named = [name for name in VERDICTS if name in plain]
    unsure = [name for name in plain if not _is_share(answer[name], properties.get(name, {}))]
    short = [name for name in unsure if len(str(answer[name])) <= MOST_ITEMS * 10]
    return next(iter([*named, *short]), "")


def _head(value: Any, schema: Schema, charts: Mapping[str, Shares]) -> str:
    """Return the verdict with its unit and its probability, and what the schema says of it."""
    by_class = next((dict(shares) for shares in charts.values() if len(shares) > 1), {})
    share = by_class.get(words(value), by_class.get(str(value)))
    sure = f' <span class="sure">{_percent(share)}</span>' if share is not None else ""
    told = schema.get("description", "")
    hint = f'<p class="told">{escape(told)}</p>' if told else ""
    return f'<p class="verdict">{escape(_with_unit(value, schema))}{sure}</p>{hint}'


def _with_unit(value: Any, schema: Schema) -> str:
    unit = schema.get("unit", "")
    return f"{words(value)} {unit}" if unit and value is not None else words(value)


def _title(name: str, schema: Schema) -> str:
    told = schema.get("description", "")
    hint = f'<span class="told">{escape(told)}</span>' if told else ""
    return f"{escape(_named(name, schema))}{hint}"


def _named(name: str, schema: Schema) -> str:
    """Return a field's name for a person: what the schema says, unless that is the name itself."""
    title = str(schema.get("title") or name)
    same = title.lower().replace(" ", "_") == name.lower()
    return name.replace("_", " ") if same else title


def _shares(name: str, value: Any, schema: Schema, labels: Any) -> Shares:
    """Return the shares of one that a field holds by their labels, none where it holds no such."""
    if _is_share(value, schema):
        return [(_named(name, schema), value)]
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return _ranked(value)
    if isinstance(value, list) and _by_class(name, value, schema):
        labels = labels if len(labels) == len(value) else range(len(value))
        return [(str(label), share) for label, share in zip(labels, value, strict=True)]
    if isinstance(value, dict) and value and all(_within(share) for share in value.values()):
        return list(value.items())
    return []


def _by_class(name: str, value: list[Any], schema: Schema) -> bool:
    """Tell whether a list holds one probability a class."""
    if len(value) < 2 or not all(_within(share) for share in value):
        return False
    items = schema.get("items") or {}
    limited = (items.get("minimum"), items.get("maximum")) == (0, 1)
    return name.startswith("prob") or limited or abs(sum(value) - 1) < 1e-3


def _ranked(entries: list[dict[str, Any]]) -> Shares:
    """Return what a list of a label and a share each says, none where it says more or less."""
    found: Shares = []
    for entry in entries:
        texts = [cell for cell in entry.values() if isinstance(cell, str)]
        shares = [cell for cell in entry.values() if isinstance(cell, float) and _within(cell)]
        if len(entry) != 2 or len(texts) != 1 or len(shares) != 1:
            return []
        found.append((texts[0], shares[0]))
    return found


def _within(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_share(value: Any, schema: Schema) -> bool:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    return schema.get("type") == "number" and (low, high) == (0, 1) and _within(value)


def _chart(name: str, shares: Shares, answer: Schema, properties: Mapping[str, Schema]) -> str:
    """Return bars: numbered classes and lists in their own order, others the largest first."""
    in_order = len(shares) <= MOST_CLASSES and (
        isinstance(answer[name], list) or all(label.isdecimal() for label, _ in shares)
    )
    ranked = sorted(shares, key=lambda entry: -entry[1])
    drawn = shares if in_order else ranked[:MOST_BARS]
    best = ranked[0][0] if len(shares) > 1 else ""
    bars = "".join(_bar(label, share, label == best) for label, share in drawn)
    left = len(shares) - len(drawn)
    more = f'<p class="told">and {left:,} more, each less probable</p>' if left else ""
    entry = properties.get(name, {})
    head = f"<h3>{_title(name, entry)}</h3>" if len(shares) > 1 else ""
    return f'<div class="bars">{head}{bars}{more}</div>'


def _bar(label: str, share: float, best: bool = False) -> str:
    return (
        f'<div class="bar{" best" if best else ""}"><span class="name">{escape(label)}</span>'
        f'<span class="track"><span class="fill" style="width:{share * 100:.1f}%"></span></span>'
        f'<span class="share">{_percent(share)}</span></div>'
    )


def _percent(share: float) -> str:
    """Return a share in percent; never 100 for what is not quite sure."""
    if 0 < share < 0.001:
        return "&lt;0.1 %"
    return "&gt;99.9 %" if 0.999 < share < 1 else f"{share * 100:.1f} %"


def _media_type(schema: Schema) -> str:
    """Return the media type of a field, or of the entries of a list, that holds files."""
    inner = schema.get("items") if isinstance(schema.get("items"), dict) else schema
    return str((inner or {}).get("contentMediaType", ""))


def _figure(name: str, value: Any, schema: Schema) -> str:
    """Return the pictures, sounds or files of a field below its name."""
    contents = value if isinstance(value, list) else [value]
    shown = "".join(_content(str(one), _media_type(schema), name) for one in contents)
    return f"<figure>{shown}<figcaption>{_title(name, schema)}</figcaption></figure>"


def _content(text: str, media_type: str, name: str) -> str:
    content = media.decoded(text)
    media_type = media.kind_of(content) or media_type
    source = f"data:{escape(media_type)};base64,{base64.b64encode(content).decode()}"
    kind = media_type.partition("/")[0]
    if media_type in media.SHOWN:
        return f'<img src="{source}" alt="{escape(name)}">'
    if kind in ("audio", "video"):
        return f'<{kind} controls src="{source}"></{kind}>'
    told = f"{escape(name)} ({media.size(content)})"
    return f'<a download="{escape(name)}" href="{source}">{told}</a>'


def _cell(value: Any, schema: Schema) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return _table(value)
    if isinstance(value, dict) and value and all(map(_plain, value.values())):
        rows = [
            f"<tr><th>{escape(k)}</th><td>{escape(words(v))}</td></tr>" for k, v in value.items()
        ]
        return f"<table>{''.join(rows[:MOST_ROWS])}</table>"
    if isinstance(value, list) and all(map(_plain, value)):
        told = ", ".join(map(words, value[:MOST_ITEMS]))
        more = f", … ({len(value):,} values)" if len(value) > MOST_ITEMS else ""
        return escape(told + more) or "none"
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False)
        return f"<code>{escape(text[:LONGEST])}{' …' if len(text) > LONGEST else ''}</code>"
    return escape(_with_unit(value, schema))


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(row.get(name), {})}</td>' for name in names)}</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"
