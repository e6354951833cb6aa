"""Tables as people have them: each with what its columns are to be taken for."""

from datetime import datetime, timedelta

import numpy as np

COUNT = 200
DRAW = np.random.default_rng(0)
FIRST = datetime(2020, 1, 1)


def drawn(*levels):
    return DRAW.choice(np.array(levels, dtype=object), COUNT).tolist()


def sizes(decimals):
    return [f"{value:.{decimals}f}" for value in DRAW.normal(50, 9, COUNT)]


def holes(cells, mark):
    return [mark if row % 9 == 4 else cell for row, cell in enumerate(cells)]


def text(head, *columns, sep=",", above=""):
    rows = (sep.join(map(str, row)) for row in zip(*columns, strict=True))
    return above + "\n".join([head, *rows, ""])


COUNTS = DRAW.integers(1000, 90_000, COUNT).tolist()
MESSY = {
    "penguins.csv": (
        text(
            "species,bill_mm,mass_g,sex,year",
            drawn("Adelie", "Chinstrap", "Gentoo"),
            holes(sizes(1), "NA"),
            COUNTS,
            holes(drawn("male", "female"), "NA"),
            drawn(2007, 2008, 2009),
        ),
        "category number whole category whole",
    ),
    "slid.csv": (
        text(
            ",wages,age,language",
            range(COUNT),
            holes(sizes(2), ""),
            COUNTS,
            drawn("English", "French", "Other"),
        ),
        "identifier number whole category",
    ),
    "cars.csv": (
        text(
            '\ufeffModel,Price,Weight,Automatic,"Full, of tank",Wheels',
            [f'"Car {row}, new"' for row in range(COUNT)],
            [f'"${price:,}"' for price in COUNTS],
            [f'"{1.5 * price:,.1f}"' for price in COUNTS],
            drawn("yes", "no"),
            [f"{float(size):.0f}%" for size in sizes(1)],
            [4] * COUNT,
        ),
        "identifier whole number category whole constant",
    ),
    "weather.csv": (
        text(
            "date,rain,wind",
            [f"{FIRST + timedelta(row):%d.%m.%Y}" for row in range(COUNT)],
            holes(sizes(1), "."),
            drawn("N", "E", "S", "W"),
            above="# Station 7, on the roof\n\n# by us\n",
        ),
        "date number category",
    ),
    "titanic.csv": (
        text(
            "PassengerId,Survived,Pclass,Name,Age,Ticket",
            range(1, COUNT + 1),
            drawn(0, 1),
            drawn(1, 2, 3),
            [f'"No{row}, Mr. ""X"""' for row in range(COUNT)],
            holes(COUNTS, ""),
            [f"A/{row // 2}" if row < COUNT / 4 else f"B {row}" for row in range(COUNT)],
        ),
        "identifier category whole identifier whole identifier",
    ),
    "diamonds.tsv": (
        text("carat\tcut\tprice", sizes(2), drawn("Ideal", "Good"), COUNTS, sep="\t"),
        "number category whole",
    ),
    "survey.csv": (
        text(
            "id;when;height;income;zip",
            range(100, 100 + 3 * COUNT, 3),
            [f"{FIRST + timedelta(minutes=count):%Y-%m-%d %H:%M}" for count in COUNTS],
            [size.replace(".", ",") for size in sizes(2)],
            holes([f"{count:,}".replace(",", ".") for count in COUNTS], "?"),
            drawn("01234", "02345", "03456"),
            sep=";",
        ),
        "identifier date number whole category",
    ),
}
