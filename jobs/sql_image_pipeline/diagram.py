"""The entity-relationship diagram, drawn from what the live database says of itself.

Data:    the catalogue of the database, as SQLAlchemy's inspector reads it.
Source:  Chen, The entity-relationship model, ACM TODS 1976; crow's feet after Everest, 1976.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from sqlalchemy import Engine

INK, LINE, KEY, PAPER = "#1d3557", "#8d99ae", "#d95f02", "#f4f6f9"
STEP, WIDTH, GAP_ACROSS, GAP_DOWN = 0.32, 3.6, 1.9, 0.7
COLUMNS = 3
HIDDEN = {"alembic_version"}


@dataclass(frozen=True)
class Described:
    """A table: its columns as (name, type, marks), and its references as (column, table, column)."""

    name: str
    columns: list[tuple[str, str, str]]
    references: list[tuple[str, str, str]]


def described(engine: Engine) -> dict[str, Described]:
    """Return every table that the database has, by name."""
    from sqlalchemy import inspect

    from .database import reading

    with reading(engine) as connection:
        catalogue = inspect(connection)
        names = sorted(set(catalogue.get_table_names()) - HIDDEN)
        return {name: _table(catalogue, name) for name in names}


def _table(catalogue: Any, name: str) -> Described:
    keys = set(catalogue.get_pk_constraint(name)["constrained_columns"])
    references = [
        (column, entry["referred_table"], referred)
        for entry in catalogue.get_foreign_keys(name)
        for column, referred in zip(
            entry["constrained_columns"], entry["referred_columns"], strict=True
        )
    ]
    alone = {
        entry["column_names"][0]
        for entry in catalogue.get_unique_constraints(name)
        if len(entry["column_names"]) == 1
    }
    pointing = {column for column, _, _ in references}
    columns = []
    for column in catalogue.get_columns(name):
        marks = [
            mark
            for mark, having in (("PK", keys), ("FK", pointing), ("U", alone))
            if column["name"] in having
        ]
        kind = str(column["type"]).partition(" COLLATE")[0].lower()
        columns.append((column["name"], kind + (" null" if column["nullable"] else ""), " ".join(marks)))
    return Described(name, columns, references)


def drawn(tables: Mapping[str, Described]) -> Figure:
    """Draw tables as boxes and references as lines, a crow's foot where many rows may be."""
    from matplotlib.figure import Figure

    places, width, height = arranged(tables)
    page = Figure(figsize=(width * 0.95, height * 0.95 + 0.6), layout="constrained")
    plot = page.subplots()
    links = sum(len(table.references) for table in tables.values())
    plot.set_title(
        f"{len(tables)} tables and {links} foreign keys: every prediction leads to a picture, "
        "a model version and a label", loc="left", fontsize=16,
    )  # fmt: skip
    plot.set(xlim=(-0.9, width + 0.4), ylim=(height + 0.2, -0.3))
    plot.axis("off")
    for table in tables.values():
        for number, reference in enumerate(table.references):
            link(plot, tables, places, table, reference, number)
    for table in tables.values():
        box(plot, table, *places[table.name])
    return page


def arranged(tables: Mapping[str, Described]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Return the upper left corner of each table, and width and height of the whole.

    Tables that refer to more others stand further to the left.
    """
    depth = {name: _depth(tables, name, ()) for name in tables}
    most = max(depth.values(), default=0)
    columns: list[list[str]] = [[] for _ in range(most + 1)]
    for name in sorted(tables, key=lambda name: (-len(tables[name].columns), name)):
        columns[most - depth[name]].append(name)
    places, tallest = {}, 0.0
    for number, names in enumerate(columns):
        down = 0.0
        for name in names:
            places[name] = (number * (WIDTH + GAP_ACROSS), down)
            down += STEP * (len(tables[name].columns) + 1.3) + GAP_DOWN
        tallest = max(tallest, down)
    return places, len(columns) * (WIDTH + GAP_ACROSS) - GAP_ACROSS, tallest


def _depth(tables: Mapping[str, Described], name: str, above: Sequence[str]) -> int:
    """Return the longest way of references from a table, leaving out circles."""
    further = {table for _, table, _ in tables[name].references} - {name, *above}
    return max((1 + _depth(tables, table, (*above, name)) for table in further), default=0)


def box(plot: Axes, table: Described, left: float, top: float) -> None:
    """Draw one table."""
    from matplotlib.patches import Rectangle

    height = STEP * (len(table.columns) + 1.3)
    plot.add_patch(Rectangle((left, top), WIDTH, height, fc=PAPER, ec=INK, lw=1.5, zorder=3))
    plot.add_patch(Rectangle((left, top), WIDTH, STEP * 1.2, fc=INK, ec=INK, zorder=4))
    plot.text(left + 0.12, top + STEP * 0.65, table.name, color="white", fontsize=13, weight="bold",
              va="center", zorder=5)  # fmt: skip
    for number, (name, kind, marks) in enumerate(table.columns):
        middle = top + STEP * (number + 1.75)
        plot.text(left + 0.12, middle, marks, fontsize=9, color=KEY, va="center", zorder=5)
        plot.text(left + 0.62, middle, name, fontsize=11, va="center", zorder=5)
        plot.text(left + WIDTH - 0.1, middle, kind, fontsize=9, color="#5c677d", va="center",
                  ha="right", zorder=5)  # fmt: skip


def link(
    plot: Axes,
    tables: Mapping[str, Described],
    places: Mapping[str, tuple[float, float]],
    table: Described,
    reference: tuple[str, str, str],
    number: int,
) -> None:
    """Draw one reference, from the column that points to the column that it points to."""
    column, other, referred = reference
    start = anchor(tables[table.name], places[table.name], column)
    end = anchor(tables[other], places[other], referred)
    if places[other][0] > places[table.name][0]:
        begin, until = (start[0] + WIDTH, start[1]), (end[0], end[1])
        turn = begin[0] + 0.45 + 0.28 * number
        out = 0.22
    else:  # in one column: around the left side
        begin, until = start, end
        turn, out = start[0] - 0.3 - 0.2 * number, -0.22
    path = [begin, (turn, begin[1]), (turn, until[1]), until]
    plot.plot([at for at, _ in path], [at for _, at in path], color=LINE, lw=1.8, zorder=2)
    for spread in (-0.1, 0, 0.1):
        plot.plot([begin[0], begin[0] + out], [begin[1] + spread, begin[1]], color=LINE, lw=1.8)
    back = until[0] - 0.12 if out > 0 else until[0] - 0.12
    plot.plot([back, back], [until[1] - 0.1, until[1] + 0.1], color=LINE, lw=1.8, zorder=2)


def anchor(table: Described, place: tuple[float, float], column: str) -> tuple[float, float]:
    """Return where a column's line begins: the left edge, at the middle of its row."""
    number = [name for name, _, _ in table.columns].index(column)
    return place[0], place[1] + STEP * (number + 1.75)
