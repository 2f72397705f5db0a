"""Find out what the columns of a table are, and turn rows into the features of a model.

A column is a number, a category or a date; ids, constants, copies and free text are left out with
a reason. What was found is a plan, a list of plain dicts that is saved inside the model, so that a
row to score is read exactly as the training rows were.

Data:    a `Sheet` of text, or later rows of the plan's columns.
Source:  dates on a circle: Bishop, Pattern Recognition and Machine Learning, 2006, section 2.3.8.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slipway.errors import InputInvalid
from slipway.types import Input

from .reading import Sheet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", "missing"}
ALIKE = 0.98  # of the cells must read as what a column is; the others count as missing
LEVELS = 40  # of a category get a feature of their own; the rarer ones share one
LARGEST_CLASSES = 20
FEWEST_ROWS, FEWEST_OF_CLASS = 20, 5
FARTHEST = 10
"""Ranges of a number that a row to score may lie outside of it: past that, no model holds."""
ID_NAME = re.compile(r"(^|[^a-z])(id|key|index|uuid|guid|number)$|id$", re.IGNORECASE)
ORNAMENT = re.compile(r"^[$€£]\s*|\s*[%€$£]$")
PLAIN = re.compile(r"-?\d{1,15}")
THOUSANDS = re.compile(r"[-+]?\d{1,3}([,.' ]\d{3})+")
DATES = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ",
    "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%Y-%m",
)  # fmt: skip
CIRCLES = {"month": 12, "weekday": 7, "hour": 24}
Plan = list[dict[str, Any]]


def is_missing(cell: Any) -> bool:
    """Tell whether a cell says that there is no value."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def number(cell: Any, decimal: str = ".") -> float:
    """Return the number in a cell, NaN where there is none: ``$1,200``, ``12 %``, ``3,5``."""
    if not isinstance(cell, str):
        return float("nan") if cell is None else float(cell)
    if PLAIN.fullmatch(cell):
        return float(cell)
    text = ORNAMENT.sub("", cell.strip())
    if THOUSANDS.fullmatch(text) and decimal not in text:
        text = re.sub("[,.' ]", "", text)
    elif decimal == "." and "," not in text:
        pass
    elif decimal == ",":
        text = text.replace(".", "").replace(",", ".")
    elif "," in text and THOUSANDS.fullmatch(text.partition(".")[0]):
        text = text.replace(",", "")
    try:
        value = float(text) if not re.search(r"[a-zA-Z_]", text.lower().replace("e", "")) else None
    except ValueError:
        value = None
    return float("nan") if value is None or abs(value) == float("inf") else value


def numbers(cells: Sequence[Any], decimal: str = ".") -> np.ndarray:
    """Return cells as float64 (n,), NaN where there is no number."""
    import numpy as np

    return np.array([float("nan") if is_missing(c) else number(c, decimal) for c in cells], float)


def dates(cells: Sequence[Any], form: str) -> pd.DatetimeIndex:
    """Return cells as dates, NaT where one has another form."""
    import pandas as pd

    texts = [None if is_missing(cell) else str(cell) for cell in cells]
    return pd.DatetimeIndex(pd.to_datetime(pd.Series(texts, dtype=object), format=form,
                                           errors="coerce"))  # fmt: skip


def decimal_of(cells: Sequence[str], separator: str) -> str:
    """Return ``,`` where numbers are written 3,5 in a file whose cells commas do not separate."""
    comma = sum(bool(re.fullmatch(r"[-+]?\d+,\d+", cell)) for cell in cells)
    point = sum(bool(re.fullmatch(r"[-+]?\d+\.\d+", cell)) for cell in cells)
    return "," if separator != "," and comma > point else "."


def found_in(sheet: Sheet, name: str, forced: str = "") -> dict[str, Any]:
    """Return the plan of one column: its kind, what is missing, and why it is dropped if it is."""
    import numpy as np

    cells = sheet.column(name)
    present = [cell for cell in cells if not is_missing(cell)]
    levels = Counter(present)
    plan = {"name": name, "kind": "category", "missing": len(cells) - len(present)}
    plan |= {"distinct": len(levels), "example": present[0] if present else "", "dropped": ""}
    if not present:
        return plan | {"dropped": "no value in any row"}
    if len(levels) == 1:
        return plan | {"dropped": f"the same value in every row: {present[0]}"}
    plan |= {} if forced == "category" else kind_of(present, sheet.separator)
    if plan["kind"] == "number":
        values = numbers(cells, plan["decimal"])
        odd = [place for place, cell in enumerate(cells)
               if not is_missing(cell) and values[place] != values[place]]  # fmt: skip
        if odd:
            plan["odd"] = f"no number on line {sheet.lines[odd[0]]}: {cells[odd[0]][:30]!r}"
        plan["missing"] += len(odd)
        plan["example"] = cells[int(np.flatnonzero(np.isfinite(values))[0])]
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        plan |= {"low": low - FARTHEST * (high - low), "high": high + FARTHEST * (high - low)}
    return plan | {"dropped": "" if forced else useless(plan, present)}


def kind_of(present: Sequence[str], separator: str) -> dict[str, Any]:
    """Return what nearly all cells of a column read as: number, date, else category."""
    import numpy as np

    decimal = decimal_of(present, separator)
    if np.isfinite(numbers(present, decimal)).mean() >= ALIKE:
        return {"kind": "number", "decimal": decimal}
    if sum(bool(re.match(r"\d.*[-/. ]\w|\w{3} \d", cell)) for cell in present) < ALIKE * len(
        present
    ):
        return {}
    fits = {form: float(dates(present, form).notna().mean()) for form in DATES}
    best = max(fits, key=lambda form: fits[form])
    if fits[best] < ALIKE:
        return {}
    rivals = [form for form in DATES if form != best and fits[form] == fits[best]]
    first = min(dates(present, best).dropna())
    told = {"odd": f"read as {best}; {rivals[0]} fits as well"} if rivals else {}
    return {"kind": "date", "format": best, "first": first.isoformat(), **told}


def useless(plan: Mapping[str, Any], present: Sequence[str]) -> str:
    """Return why a column says nothing of new rows: a number for each row, names, free text."""
    import numpy as np

    distinct, count = plan["distinct"], len(present)
    if plan["kind"] == "number" and distinct == count:
        values = numbers(present, plan["decimal"])
        steps = np.abs(np.diff(values))
        running = count >= FEWEST_ROWS and np.all(steps == steps[0]) and steps[0] == 1
        if np.all(values == np.round(values)) and (running or ID_NAME.search(plan["name"])):
            return "an id: a number of its own for each row"
    if plan["kind"] == "category" and distinct > LEVELS and distinct > count / 2:
        return f"names or text: {distinct} values in {count} rows"
    return ""


def found(
    sheet: Sheet, target: str, drop: Sequence[str] = (), categories: Sequence[str] = ()
) -> Plan:
    """Return the plan of every column but the target; InputInvalid where none is of use."""
    wrong = [name for name in (*drop, *categories) if name not in sheet.names]
    for name in wrong:
        raise InputInvalid(f"{sheet.path}: no column {name!r}; {nearest(name, sheet.names)}")
    plan: Plan = []
    seen: dict[tuple[str, ...], str] = {}
    for name in sheet.names:
        if name == target:
            continue
        column = found_in(sheet, name, "category" if name in categories else "")
        copy = seen.setdefault(tuple(sheet.column(name)), name)
        if name in drop:
            column["dropped"] = "asked for"
        elif reserved(name):
            column["dropped"] = "a name that rows to score cannot have; rename it"
        elif copy != name and not column["dropped"]:
            column["dropped"] = f"a copy of {copy}"
        plan.append(column)
    if all(column["dropped"] for column in plan):
        reasons = "; ".join(f"{column['name']}: {column['dropped']}" for column in plan[:5])
        raise InputInvalid(f"{sheet.path}: found no column to predict {target!r} from ({reasons})")
    return plan


def reserved(name: str) -> bool:
    """Tell whether a field of a row cannot have that name."""
    return name.startswith("_") or hasattr(Input, name)


def nearest(name: str, names: Sequence[str]) -> str:
    """Return which names are there, those that look alike first."""
    lowered = {entry.lower(): entry for entry in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(lowered[entry]) for entry in near)}?"
    return f"wanted one of {', '.join(names[:30])}{', …' if len(names) > 30 else ''}"


def target_of(sheet: Sheet, name: str, task: str) -> tuple[str, str, list[Any], list[int]]:
    """Return the task, why, the targets and the places of the rows that have one.

    Targets are floats for a regression and texts for classes. InputInvalid where there is no such
    column, or nothing in it to learn.
    """
    if name not in sheet.names:
        raise InputInvalid(
            f"{sheet.path}, line 1: no column {name!r}; {nearest(name, sheet.names)}"
        )
    cells = sheet.column(name)
    where = f"{sheet.path}: the target {name!r}"
    present = [place for place, cell in enumerate(cells) if not is_missing(cell)]
    if not present:
        raise InputInvalid(f"{where}: found no value in any of {len(cells)} rows; wanted some")
    values = numbers(cells, decimal_of(cells, sheet.separator))
    found_task, why = task_of([cells[place] for place in present], values[present])
    if task != "auto":
        found_task, why = task, f"--task {task}"
    if found_task == "regression":
        places = [place for place in present if values[place] == values[place]]
        if len(places) < ALIKE * len(present):
            odd = next(place for place in present if values[place] != values[place])
            raise InputInvalid(
                f"{sheet.path}, line {sheet.lines[odd]}: found {cells[odd][:40]!r} as {name!r}; "
                "wanted a number"
            )
        targets: list[Any] = [float(values[place]) for place in places]
        require(where, len(set(targets)) > 1, f"the value {targets[0]:g} in every row",
                "two values at least")  # fmt: skip
    else:
        places, targets = frequent(where, cells, present)
    require(where, len(places) >= FEWEST_ROWS, f"{len(places)} rows with a value",
            f"{FEWEST_ROWS} at least")  # fmt: skip
    return found_task, why, targets, places


def require(where: str, holds: bool, what: str, wanted: str) -> None:
    """Raise InputInvalid unless a condition holds."""
    if not holds:
        raise InputInvalid(f"{where}: found {what}; wanted {wanted}")


def frequent(where: str, cells: Sequence[str], places: list[int]) -> tuple[list[int], list[str]]:
    """Return the rows whose class is no rarity, and their classes."""
    counts = Counter(cells[place] for place in places)
    kept = {label for label, count in counts.items() if count >= FEWEST_OF_CLASS}
    seen = ", ".join(f"{label!r} ({count})" for label, count in counts.most_common(3))
    require(where, len(kept) > 1, f"{len(kept)} class with {FEWEST_OF_CLASS} rows or more: {seen}",
            "two at least")  # fmt: skip
    require(where, len(kept) <= LARGEST_CLASSES, f"{len(kept)} classes",
            f"{LARGEST_CLASSES} at most, or numbers")  # fmt: skip
    places = [place for place in places if cells[place] in kept]
    return places, [cells[place] for place in places]


def task_of(cells: Sequence[str], values: np.ndarray) -> tuple[str, str]:
    """Decide between regression and classification by the target's values, and say why."""
    import numpy as np

    count = len(set(cells))
    if np.isfinite(values).mean() < ALIKE:
        return "classification", "the target is text"
    if count == 2:
        return "classification", "the target has two values"
    whole = np.unique(values[np.isfinite(values)])
    coded = np.all(whole == np.round(whole)) and whole[0] in (0, 1) and np.all(np.diff(whole) == 1)
    if coded and count <= 10:
        return "classification", f"the target counts classes from {whole[0]:.0f} to {whole[-1]:.0f}"
    return "regression", f"the target is a number with {count} values"


def kept(plan: Plan) -> Plan:
    """Return the columns that features come from."""
    return [column for column in plan if not column["dropped"]]


def expanded(rows: pd.DataFrame, plan: Plan, crosses: Sequence[Sequence[str]] = ()) -> pd.DataFrame:
    """Return the features of rows: floats, and categories as text.

    A date gives a trend in years and points on the circles of month, weekday and hour; a cross of
    two columns is a category of each pair of values.
    """
    import pandas as pd

    made: dict[str, Any] = {}
    for column in plan:
        name, cells = column["name"], rows[column["name"]].tolist()
        if column["kind"] == "number":
            made[name] = numbers(cells, column["decimal"])
        elif column["kind"] == "date":
            made |= date_features(name, dates(cells, column["format"]), column)
        else:
            made[name] = [written(cell) for cell in cells]
    for pair in crosses:
        texts = [[written(cell) for cell in made[name]] for name in pair]
        made[" x ".join(pair)] = [" ".join(values) for values in zip(*texts, strict=True)]
    return pd.DataFrame(made)


def logged(values: Any) -> Any:
    """Return log(1 + x), of a negative number that of 0: training had none."""
    import numpy as np

    return np.log1p(np.maximum(values, 0))


def unlogged(values: Any) -> Any:
    """Return the inverse of `logged`, bounded so that no number is infinite."""
    import numpy as np

    return np.expm1(np.minimum(values, 700))


def written(cell: Any) -> str:
    """Return a value as a category: the number 1.0 of a JSON row is the text 1 of a CSV file."""
    if is_missing(cell) or cell != cell:
        return "missing"
    return cell if isinstance(cell, str) else f"{cell:.15g}"


def date_features(
    name: str, when: pd.DatetimeIndex, column: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return trend and circles of dates: sin and cos, so that December is beside January."""
    import numpy as np
    import pandas as pd

    days = (when - pd.Timestamp(column["first"])) / pd.Timedelta(days=1)
    turns = {
        "month": when.day_of_year / 365.25 * 12, "weekday": when.day_of_week, "hour": when.hour,
    }  # fmt: skip
    timed = "%H" in column["format"]
    made = {f"{name} trend": np.asarray(days, float) / 365.25}
    for circle, length in CIRCLES.items():
        if circle == "hour" and not timed:
            continue
        angle = 2 * np.pi * np.asarray(turns[circle], float) / length
        made |= {f"{name} {circle} sin": np.sin(angle), f"{name} {circle} cos": np.cos(angle)}
    return made


def profile(plan: Plan) -> list[dict[str, Any]]:
    """Return a row for each column: what it is, what is missing, what becomes of it."""
    told = {"date": "trend, month, weekday, hour", "category": "one feature a value"}
    return [
        {
            "column": column["name"],
            "kind": column["kind"],
            "missing": column["missing"],
            "values": column["distinct"],
            "example": column["example"][:30],
            "what becomes of it": f"dropped: {column['dropped']}" if column["dropped"]
            else told.get(column["kind"], "a number"),
            "note": column.get("odd", ""),
        }
        for column in plan
    ]  # fmt: skip


def row_type(plan: Plan) -> type[Input]:
    """Return the type of one row to score: the plan's columns, read as the training rows were.

    A column without a missing value in training must be there; any other may be null or absent. A
    number far outside of what training had is refused.
    """
    import warnings

    from pydantic import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a column may be called like a method
        fields: dict[str, Any] = {column["name"]: field_of(column) for column in plan}
        return create_model("Row", __base__=Input, __doc__="A row of the table.", **fields)


def field_of(column: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return annotation and field of one column."""
    from typing import Annotated

    from pydantic import BeforeValidator, Field

    example, decimal = column["example"], column.get("decimal", ".")
    plain: Any = str

    def checked(cell: Any) -> Any:
        if is_missing(cell):
            return None
        if column["kind"] == "number" and isinstance(cell, str):
            value = number(cell, decimal)
            return cell if value != value else value
        if column["kind"] == "category" and isinstance(cell, int | float):
            return written(cell)
        if column["kind"] == "date" and not dates([cell], column["format"]).notna()[0]:
            raise ValueError(f"a date like {example}")
        return cell

    if column["kind"] == "number":
        plain = Annotated[float, Field(ge=column["low"], le=column["high"])]
        example = number(example, decimal)
    else:
        plain = Annotated[str, Field(max_length=1000)]
    if column["missing"]:
        kind = Annotated[plain | None, BeforeValidator(checked)]
        return kind, Field(default=None, examples=[example])
    return Annotated[plain, BeforeValidator(checked)], Field(examples=[example])
