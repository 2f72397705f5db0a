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

INK, KEY, PAPER = "#1d3557", "#d95f02", "#f4f6f9"
LINES = ("#1d3557", "#d95f02", "#3a86c8", "#6a4c93", "#8d99ae")
"""One colour for all references to one table."""
STEP, WIDTH, GAP_ACROSS, GAP_DOWN = 0.32, 3.6, 2.6, 0.7
LANE = 0.26
HIDDEN = {"alembic_version"}


@dataclass(frozen=True)
class Described:
    """A table: columns as (name, type, marks), references as (column, table, column)."""

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
        columns.append(
            (column["name"], kind + (" null" if column["nullable"] else ""), " ".join(marks))
        )
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
    pointed = sorted({other for table in tables.values() for _, other, _ in table.references})
    colours = dict(zip(pointed, LINES * len(pointed), strict=False))
    lanes: dict[float, int] = {}
    for table in sorted(tables.values(), key=lambda table: places[table.name]):
        for reference in table.references:
            lane = lanes[places[table.name][0]] = lanes.get(places[table.name][0], 0) + 1
            link(plot, tables, places, table, reference, lane, colours[reference[1]])
    for table in tables.values():
        box(plot, table, *places[table.name])
    return page


def arranged(
    tables: Mapping[str, Described],
) -> tuple[dict[str, tuple[float, float]], float, float]:
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
    lane: int,
    colour: str,
) -> None:
    """Draw one reference in a lane of its own, from the column that points."""
    column, other, referred = reference
    start = anchor(tables[table.name], places[table.name], column)
    end = anchor(tables[other], places[other], referred)
    if places[other][0] > places[table.name][0]:
        begin, out = (start[0] + WIDTH, start[1]), 0.22
        turn = begin[0] + 0.2 + LANE * lane
    else:  # in one column: around the left side
        begin, out = start, -0.22
        turn = start[0] - 0.2 - LANE * lane
    path = [begin, (turn, begin[1]), (turn, end[1]), end]
    style = {"color": colour, "lw": 1.6, "zorder": 2}
    plot.plot([at for at, _ in path], [at for _, at in path], **style)
    keys = [name for name, _, marks in table.columns if "PK" in marks]
    if keys == [column]:  # one row at most for each row that it points at
        plot.plot([begin[0] + out / 2] * 2, [begin[1] - 0.1, begin[1] + 0.1], **style)
    else:
        for spread in (-0.1, 0, 0.1):
            plot.plot([begin[0], begin[0] + out], [begin[1] + spread, begin[1]], **style)
    plot.plot([end[0] - 0.12] * 2, [end[1] - 0.1, end[1] + 0.1], **style)


def anchor(table: Described, place: tuple[float, float], column: str) -> tuple[float, float]:
    """Return where a column's line begins: the left edge, at the middle of its row."""
    number = [name for name, _, _ in table.columns].index(column)
    return place[0], place[1] + STEP * (number + 1.75)
