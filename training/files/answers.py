"""Answers about rows: the CSVs and the JSON of ``ask.py``.

CSVs have the columns of the source, in its order, as it writes them, and behind them

    fill      {column}_low, {column}_high, the ends of the interval of a number that was missing,
              or {column}_probability, that of the level that was filled in, for each column with
              holes, and empty where there was none; with --tables nothing, in M files
              {dest}_1.csv, ...
    predict   {column}_predicted, of numbers {column}_low and {column}_high, and {column}_is_{level}
              for each level, its probability; also of numbers that have few different values
    sample    nothing

A name that is taken gets a _ after it. ``score`` has no columns of the source, but

    row               number of the row, from 1
    log_prob          nats of the cells that are there: of continuous numbers the log density in
                      their units, of discrete numbers and levels the log probability
    log_prob_error    its standard error, or a bound, where numbers are discrete
    least_probable    of the cells: the probability of a value as far out, given the others
    odd_cells         name (probability) of those with at most --odd, the oddest first

Beside each CSV, ``{name}_params.json`` has the options, the digest of the network and the versions.

The JSON of ``check`` has the options, rows (that are held out), hidden, level, verdict, detectable
(the error of coverage that a test sees in 90 % of cases), fails, p_values and adjusted (Holm) by
test, copies (drawn, held_out: median distance to the nearest row that was trained on), and columns,
for each that was tested

    cells                            how many were asked
    coverage                         the share in central intervals, by their probability
    mean_error, mean_error_of_median of numbers: of the medians given the row, and of the one
                                     median of the column
    right, said                      of levels: the share in which the likeliest is right, and its
                                     mean probability
    log_loss, log_loss_of_shares     of levels: nats, and those of the shares of the column
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_utils.results import provenance, save_json

ANSWERS = "inflationary-flows answers 1"
FORMAT = "inflationary-flows check of answers 1"


def save_params(path: Path, options: Mapping[str, Any], network_sha256: str) -> None:
    """Writes by which options and which network answers came about, whole or not at all."""
    about = {"format": ANSWERS, "options": options, "network_sha256": network_sha256}
    save_json(path, {**about, **provenance()})


def save_check(path: Path, options: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes what a check found, whole or not at all."""
    save_json(path, {"format": FORMAT, "options": options, **facts, **provenance()})
