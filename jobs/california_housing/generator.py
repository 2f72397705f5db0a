"""The sample: districts along an invented coast whose best possible estimate is known.

Towns lie along a coast that runs as California's does; a district's median price is a known
function of its columns times lognormal noise, cut off at the census' cap. So the least possible
RMSE and MAE of any model are known, too. Writes ``sample/housing.csv``.

Data:    none; the columns, missing values, cap and classes are those of the real table.
Source:  mean of a censored lognormal: Greene, Econometric Analysis, chapter 19.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .districts import CAP, COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FOLDER = Path(__file__).parent
DISTRICTS, NOISE, MISSING, ISLANDERS = 4000, 0.36, 0.01, 12
KM_PER_DEGREE = 111.2
COAST = ((-124.2, 41.9), (-124.1, 40.6), (-123.7, 39.0), (-122.5, 37.8), (-121.9, 36.6),
         (-120.6, 34.6), (-119.2, 34.1), (-118.4, 33.8), (-117.3, 33.0),
         (-117.1, 32.5))  # fmt: skip
# Longitude, latitude, spread in degrees and weight of each town.
TOWNS = ((-122.2, 37.6, 0.25, 5), (-118.1, 34.0, 0.30, 8), (-117.0, 32.9, 0.15, 3),
         (-121.4, 38.6, 0.30, 2), (-119.8, 36.7, 0.40, 2), (-119.0, 35.4, 0.30, 1),
         (-121.7, 36.7, 0.15, 1), (-117.2, 34.1, 0.25, 2), (-122.3, 40.5, 0.50, 1))  # fmt: skip
BAY, ISLAND = (-122.3, 37.7), (-118.4, 33.4)


def generate(seed: int = 0, number: int = DISTRICTS) -> pd.DataFrame:
    """Return ``number`` districts with their prices, in dollars of 1990."""
    import numpy as np
    import pandas as pd

    dice = np.random.default_rng(seed)
    places = draw_places(dice, number)
    income = np.clip(dice.lognormal(1.27, 0.45, number), 0.5, 15.0).round(4)
    households = np.clip(dice.lognormal(6.0, 0.6, number), 20, 6000).round()
    rooms = households * np.clip(2.9 + 0.6 * income + dice.normal(0, 0.6, number), 1.5, 20)
    bedrooms = rooms * np.clip(0.26 - 0.012 * income + dice.normal(0, 0.02, number), 0.1, 0.6)
    people = households * np.clip(3.6 - 0.15 * income + dice.normal(0, 0.5, number), 1.2, 8)
    table = pd.DataFrame(
        {
            "longitude": places[:, 0],
            "latitude": places[:, 1],
            "housing_median_age": dice.integers(2, 53, number),
            "total_rooms": rooms.round(),
            "total_bedrooms": bedrooms.round(),
            "population": people.round(),
            "households": households,
            "median_income": income,
        }
    )
    table["ocean_proximity"] = proximity(places)
    noise = np.exp(dice.normal(0, NOISE, number))
    table["median_house_value"] = np.minimum((typical_price(table) * noise).round(-2), CAP)
    table.loc[dice.random(number) < MISSING, "total_bedrooms"] = np.nan
    return table[list(COLUMNS)]


def draw_places(dice: np.random.Generator, number: int) -> np.ndarray:
    """Draw longitudes and latitudes (n, 2) around the towns, on land but for the islanders."""
    import numpy as np

    towns = np.array(TOWNS)
    drawn = dice.choice(len(towns), 3 * number, p=towns[:, 3] / towns[:, 3].sum())
    places = dice.normal(towns[drawn, :2], towns[drawn, 2:3])
    on_land = places[places[:, 0] > coast_longitude(places[:, 1])][:number]
    on_land[:ISLANDERS] = dice.normal(ISLAND, 0.03, (ISLANDERS, 2))
    return np.clip(on_land, (-124.4, 32.5), (-114.2, 42.0)).round(2)


def coast_longitude(latitude: np.ndarray) -> np.ndarray:
    """Return the longitude of the coast at each latitude."""
    import numpy as np

    longitudes, latitudes = np.array(COAST)[::-1].T
    return np.interp(latitude, latitudes, longitudes)


def coast_distance(places: np.ndarray) -> np.ndarray:
    """Return the kilometres from the coast eastwards, negative at sea."""
    import numpy as np

    degrees = places[:, 0] - coast_longitude(places[:, 1])
    return degrees * KM_PER_DEGREE * np.cos(np.radians(places[:, 1]))


def proximity(places: np.ndarray) -> np.ndarray:
    """Return the class of each place, as the census names it."""
    import numpy as np

    distance = coast_distance(places)
    near_bay = np.hypot(*(places - BAY).T) < 0.25
    on_island = np.hypot(*(places - ISLAND).T) < 0.2
    names = ["ISLAND", "NEAR BAY", "NEAR OCEAN", "<1H OCEAN"]
    return np.select([on_island, near_bay, distance < 10, distance < 60], names, "INLAND")


def typical_price(table: pd.DataFrame) -> np.ndarray:
    """Return the median price of districts like these before the cap, (n,) dollars.

    Income counts for more by the sea; crowding counts above three people to a household; new
    and old houses are dear, those between are not.
    """
    import numpy as np

    places = table[["longitude", "latitude"]].to_numpy()
    by_the_sea = np.exp(-np.maximum(coast_distance(places), 0) / 35)
    crowding = table["population"] / table["households"]
    bay = np.exp(-(np.hypot(*(places - BAY).T) ** 2) / (2 * 0.35**2))
    logarithm = 10.9 + (0.45 + 0.35 * by_the_sea) * np.log(table["median_income"])
    logarithm += 0.55 * by_the_sea + 0.45 * bay - 0.6 * (crowding > 3)
    age = table["housing_median_age"]
    logarithm += 0.6 * (age < 12) + 0.6 * (age > 40)
    return np.exp(logarithm.to_numpy())


def optimum(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and median of each district's price given its columns, (n,) dollars.

    The mean has the least possible RMSE, the median the least MAE. With Z standard normal, m the
    typical price and c the cap it is E min(m exp(sZ), c), in closed form.
    """
    import numpy as np
    from scipy.stats import norm

    typical = typical_price(table)
    room = np.log(CAP / typical) / NOISE
    below = typical * np.exp(NOISE**2 / 2) * norm.cdf(room - NOISE)
    return below + CAP * norm.sf(room), np.minimum(typical, CAP)


if __name__ == "__main__":
    generate().to_csv(FOLDER / "sample" / "housing.csv", index=False)
