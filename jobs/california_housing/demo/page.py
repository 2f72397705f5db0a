"""The page of California housing: pick a place on the map, describe the district, read its price.

Everything shown comes from the scorer at SCORER_URL; the page asks nobody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st
from appraiser import Refused, appraised, ask, priced

LEAST, MOST = -124.4, -114.2
OCEAN = ["INLAND", "<1H OCEAN", "NEAR BAY", "NEAR OCEAN", "ISLAND"]
START = {"longitude": -122.2, "latitude": 37.8}
# Column, label with unit, least, most, step and format of each number of the form.
FORM = (
    ("median_income", "Median income (10,000 $ a year)", 0.0, 15.0, 0.1, "%.2f"),
    ("housing_median_age", "Median age of houses (years)", 1.0, 52.0, 1.0, "%.0f"),
    ("households", "Households", 1.0, 6_100.0, 10.0, "%.0f"),
    ("population", "People", 1.0, 36_000.0, 10.0, "%.0f"),
    ("total_rooms", "Rooms of all homes", 1.0, 40_000.0, 10.0, "%.0f"),
    ("total_bedrooms", "Bedrooms of all homes", 1.0, 6_500.0, 10.0, "%.0f"),
    ("longitude", "Longitude (degrees east)", LEAST, MOST, 0.05, "%.2f"),
    ("latitude", "Latitude (degrees north)", 32.4, 42.0, 0.05, "%.2f"),
)
TEXT = {"labelFontSize": 14, "titleFontSize": 15}
STYLE = """<style>
.stMainBlockContainer { padding-top: 2rem }
.st-key-answer [data-testid=stMarkdown] p { font-size: 1.15rem }
[data-testid=stElementToolbar] { display: none }
</style>"""


@st.cache_data
def places() -> pd.DataFrame:
    """Return the typical district of each cell of the map."""
    return pd.read_csv(Path(__file__).with_name("places.csv"))


@st.cache_data(show_spinner="The scorer appraises every place on the map …")
def prices(model: str) -> pd.DataFrame:
    """Return places with the prices that one model gives them."""
    return priced(places())


def take(place: dict[str, Any]) -> None:
    """Put the typical district nearest to a point into the form."""
    table = places()
    apart = (table["longitude"] - place["longitude"]) ** 2
    apart += (table["latitude"] - place["latitude"]) ** 2
    for name, value in table.loc[apart.idxmin()].items():
        st.session_state[str(name)] = value


def picked() -> None:
    """Heed a click on the map."""
    points = st.session_state["map"].selection.get("place") or []
    if points:
        take(points[0])


def show_map(table: pd.DataFrame) -> None:
    """Draw the places with their prices; a click picks one."""
    click = alt.selection_point(name="place", fields=["longitude", "latitude"], nearest=True)
    scale = alt.Scale(zero=False, nice=False, padding=10)
    across = alt.X("longitude", scale=scale, title="longitude (degrees)")
    up = alt.Y("latitude", scale=scale, title="latitude (degrees)")
    colour = alt.Color("thousands", title="price (1,000 $)", scale=alt.Scale(scheme="viridis"))
    shown = [
        alt.Tooltip("thousands", title="price (1,000 $)", format=".0f"),
        alt.Tooltip("ocean_proximity", title="ocean"),
    ]
    squares = (
        alt.Chart(table.assign(thousands=table["price"] / 1000))
        .mark_square(size=42, opacity=1)
        .encode(x=across, y=up, color=colour, tooltip=shown)
        .add_params(click)
    )
    here = pd.DataFrame([{name: st.session_state[name] for name in START}])
    ring = alt.Chart(here).mark_point(size=260, color="#e0249a", strokeWidth=4)
    drawn = (squares + ring.encode(x="longitude", y="latitude")).properties(height=640)
    drawn = drawn.configure_axis(**TEXT).configure_legend(**TEXT)
    st.altair_chart(drawn, key="map", on_select=picked, selection_mode="place", width="stretch")


def ask_for_row() -> dict[str, Any]:
    """Show the form and return the row that it holds."""
    sides = st.columns(2)
    for number, (name, label, least, most, step, shown) in enumerate(FORM):
        sides[number % 2].number_input(label, least, most, step=step, format=shown, key=name)
    sides[0].selectbox("Ocean", OCEAN, key="ocean_proximity")
    known = sides[1].checkbox("The number of bedrooms is known", value=True)
    row = {name: st.session_state[name] for name in places().columns}
    return row if known else row | {"total_bedrooms": None}


def show_answer(answer: dict[str, Any], parts: pd.DataFrame) -> None:
    """Show price, interval, and what the price comes from."""
    with st.container(key="answer"):
        st.metric("Median price of a house, 1990", f"${answer['price']:,.0f}")
        st.markdown(
            f"9 of 10 prices lie within **\\${answer['low']:,.0f} to \\${answer['high']:,.0f}**."
        )
    first = parts.loc[parts["added"].abs().idxmax()]
    verb = "adds" if first["added"] > 0 else "takes off"
    st.markdown(
        f"Most is due to the {first['part']}: it {verb} \\${abs(first['added']):,.0f}, "
        "set against the same district with that of places all over the map."
    )
    bars = alt.Chart(parts.assign(thousands=parts["added"] / 1000)).mark_bar()
    colour = alt.condition("datum.thousands > 0", alt.value("#17456e"), alt.value("#e07b00"))
    drawn = bars.encode(
        x=alt.X("thousands", title="added to the price (1,000 $)"),
        y=alt.Y("part", sort=list(parts["part"]), title=None, axis=alt.Axis(labelLimit=200)),
        color=colour,
    )
    st.altair_chart(drawn.properties(height=200).configure_axis(**TEXT), width="stretch")


def show() -> None:
    """Show the page."""
    st.set_page_config("California housing", layout="wide")
    if "median_income" not in st.session_state:
        take(START)
    st.html(STYLE)
    st.title("What does a house cost in this district?")
    try:
        version = ask("/version")
        table = prices(str(version["model"]))
        left, right = st.columns([5, 6], gap="large")
        with left:
            st.markdown("Click a place: the form takes its typical district.")
            show_map(table)
        with right:
            top = st.container()
            row = ask_for_row()
            with top:
                show_answer(*appraised(row, places()))
    except Refused as refusal:
        st.error(f"The scorer gave no price: {refusal}")
        return
    tier = {"sample": "generated sample data"}.get(version["tier"], "data of the 1990 census")
    st.caption(
        f"Model {version['model']}, trained on {tier}. A price of 500,001 means that or more."
    )


show()
