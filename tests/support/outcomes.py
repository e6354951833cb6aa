"""What a command leaves in a folder, read whole, and how two outcomes compare."""

import json
import re
import zipfile

import h5netcdf
import numpy as np
import pytest
import torch
from PIL import Image

from torch_utils.results import load_arrays
from torch_utils.snapshots import read_network, read_state
from training.files.trajectory import PARAMETERS_FORMAT, STATE_KEYS

IGNORED = {
    *("seconds", "command", "origin", "started", "finished", "options"),
    *("Timing", "Resources"),
}
ERRORS = ("roundtrip/rms_error", "roundtrip/max_abs_error")
"""Of toys and tables, whose points are about one in size."""
OWN_TO_A_PAGE = re.compile(r"p\d{4,}|[0-9a-f-]{36}|[-0-9]{10} [:0-9]{5} UTC|sha256-[^']+")
"""Bokeh's numbers of its models, the time, and digests of scripts."""
TRAJECTORY = {"times": ("S",), **dict.fromkeys(STATE_KEYS, ("S", "N", "D")), "scale": ("S",)}
TRAJECTORY |= {"mean": ("D",), "eigenvectors": ("D", "D"), "eigenvalues": ("D",)}
TRAJECTORY |= {"noise_variance": ("S", "D")}
"""Shapes of a simulation's arrays: ``S`` saved times, ``N`` samples, ``D`` dimensions."""
KINDS = ("melt", "roundtrip", "gen")
PNG_END = b"IEND\xaeB`\x82"


def read_netcdf(path):
    """All numbers and names, by group and name; what the file says about them names its folder."""
    with h5netcdf.File(path) as file:
        read = {
            f"{group}/{name}": np.asarray(variable[...])
            for group in file.groups
            for name, variable in file[group].variables.items()
        }
    # Of texts, bytes are places in memory.
    return {
        name: np.array([text.decode() if isinstance(text, bytes) else text for text in values.flat])
        if values.dtype == object
        else values
        for name, values in read.items()
    }


def drawn(folder):
    (path,) = folder.glob("*_posterior.nc")
    return read_netcdf(path)


class Simulations:
    """What a command that simulates wrote: arrays and their paths by kind, and its parameters."""

    def __init__(self, folder):
        self.folder = folder
        (path,) = folder.glob("*_sim_params.json")
        self.stem = path.name.removesuffix("_sim_params.json").removesuffix("_HD_pfODE_int")
        self.parameters = json.loads(path.read_text())
        assert self.parameters.pop("format") == PARAMETERS_FORMAT
        self.facts = self.parameters.get("simulations", self.parameters)
        names = ((kind, folder.glob(f"{self.stem}_{kind}*.npz")) for kind in KINDS)
        self.paths = {kind: path for kind, paths in names for path in paths}
        self.arrays = {kind: load_arrays(path) for kind, path in self.paths.items()}

    def __getitem__(self, kind):
        return self.arrays[kind]


class Measured:
    """What a command that measures wrote, numbers and arrays, and what it printed."""

    def __init__(self, folder, printed):
        (path,), (arrays,) = folder.glob("*.json"), folder.glob("*.npz")
        self.folder, self.printed, self.stem = folder, printed, path.stem
        self.result, self.arrays = json.loads(path.read_text()), load_arrays(arrays)


def only_json(folder, name="*.json"):
    """The one file of that name in a folder: JSON, which has neither NaN nor infinities."""
    (path,) = folder.glob(name)
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def read_bytes(path):
    content = path.read_bytes()
    if path.suffix == ".png":
        assert content.endswith(PNG_END), f"{path} is cut short"
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None, f"{path} is broken"
    return content


def read_result(path):
    """What a file holds, without times and places; an error if it is not whole."""
    if path.suffix == ".npz":
        return load_arrays(path)
    if path.suffix == ".nc":
        return read_netcdf(path)
    if path.suffix == ".pkl":
        return {key: part.state for key, part in read_network(path)[0].items()}
    if path.suffix == ".pt":
        return read_state(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".html":
        return OWN_TO_A_PAGE.sub("", path.read_text(encoding="utf-8"))
    return None if path.suffix == ".txt" or "tfevents" in path.name else read_bytes(path)


def outcome(folder):
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name.partition("tfevents")[0]: read_result(path)
        for name, path in paths.items()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/"))
    }


def assert_same(found, expected, tolerance=0, where=""):
    """Asserts that outcomes are the same, their numbers up to a tolerance relative to the largest:
    of errors of a round trip, which are differences of points, relative to the size of these."""
    if isinstance(expected, dict):
        if tolerance:  # the last digit of a weight may decide which course is taken
            found, expected = (
                {key: part for key, part in each.items() if not str(key).startswith("course_")}
                for each in (found, expected)
            )
        assert set(found) == set(expected), where
        for key, value in expected.items():
            if str(key).split("/")[0] not in IGNORED:
                assert_same(found[key], value, tolerance, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, tolerance, f"{where}/{index}")
    elif isinstance(expected, np.ndarray | torch.Tensor | float):
        one, other = np.asarray(found), np.asarray(expected)
        if other.dtype.kind == "f" and other.size:
            size = 1.0 if where.endswith(ERRORS) else 0.0
            largest = np.abs(other[np.isfinite(other)]).max(initial=size)
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest, err_msg=where)
        else:
            np.testing.assert_array_equal(one, other, err_msg=where)
    else:
        assert found == expected, where
