"""Tiny files of answers about rows."""

import json

import numpy as np

from training.data.records.records import CATEGORY, NUMBER, RecordColumn, Records
from training.data.records.writing import save_texts
from training.files.answers import SCORES
from training.files.records import columns_json

COUNT = 40
COLUMNS = (RecordColumn("a$", NUMBER, decimals=1), RecordColumn("b", CATEGORY, ("x", "y_z")))
TABLE = Records(COLUMNS, np.empty((0, 2)), np.empty(0, bool), {}, {}, ["a$", "b"], ";", ",")
HEADS = {
    "sample": (("a$", "b"), 0),
    "score": ((*SCORES, "a$", "b", "a$_probability", "b_probability"), 4),
    # The source has a column of the name that the lower end would have.
    "predict": (
        (
            *("a$", "b", "a$_low", "a$_predicted", "a$_low_", "a$_high"),
            *("b_predicted", "b_is_x", "b_is_y_z"),
        ),
        6,
    ),
}


def save(folder, question, **changes):
    draw, (head, beside) = np.random.default_rng(0), HEADS[question]
    rows = []
    for number in range(COUNT):
        a, level = f"{draw.normal(5):.1f}".replace(".", ","), str(draw.choice(["x", "y_z"]))
        cells = {"a$": a * (number > 0), "b": level, "a$_low": "7,0", "a$_predicted": "5,0"}
        cells |= {"a$_low_": "4,0", "a$_high": "6,0", "b_predicted": "y_z"}
        cells |= {"b_is_x": "0.25", "b_is_y_z": "0.75", "log_prob": "-3.5"}
        cells |= {"a$_probability": "0.001" * (number > 0), "b_probability": "0.5"}
        rows.append([cells.get(name, "") for name in head])
    save_texts(folder / "answers.csv", head, rows, ";")
    save_texts(folder / "answers_real.csv", head[:2], [row[:2] for row in rows], ";")
    about = {"format": "inflationary-flows answers 1", "question": question, "beside": beside}
    about |= {"sheet": "answers.csv", "data_name": "$x$", "held_out": True, "command": ["ask.py"]}
    about |= {"table": json.loads(columns_json(TABLE)), "options": {"interval": 0.9, "odd": 0.01}}
    path = folder / "answers_params.json"
    path.write_text(json.dumps(about | changes))
    return path
