"""Which files a report shows, what it says of those it cannot read, and what its page asks for."""

import base64
import hashlib
import html as escaping
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dnnlib.errors import DataError
from tests.support import picture_files as files
from tests.support.running import refusal
from tests.training.report.conftest import CHOICE, NASTY
from training.pictures.answers import is_calibrated
from training.pictures.content import Choice
from training.pictures.simulations import roundtrip_results
from training.report.discovery import found_in
from training.report.drawing import FlowCharts, drawn
from training.report.runs import run_of

WILD = (None, [], {}, "text", math.inf, 10**400, [[]], {"a": [1]})
LOADING = {"src", "srcset", "data", "action", "formaction", "background", "poster"}


def flows(shown):
    parts = [part for section in shown.sections for part in section.parts]
    return [part.flow for part in parts if isinstance(part, FlowCharts)]


def test_each_kind_has_a_section_and_those_of_a_run_share_one(everything):
    titles = [section.title for section in found_in([everything], CHOICE).sections]
    assert len(titles) == 9
    for start in ("Training of run", "circles: the flow", "digits: images in the flow"):
        assert any(title.startswith(start) for title in titles)
    assert sum(title.startswith("circles: the flow") for title in titles) == 2


def test_the_way_back_is_shown_where_it_is_alone(tmp_path):
    files.save_simulation(tmp_path, "roundtrip")
    assert [flow.moved for flow in flows(found_in([tmp_path], CHOICE))] == ["roundtrip"]
    files.save_simulation(tmp_path, "melt")
    assert [flow.moved for flow in flows(found_in([tmp_path], CHOICE))] == ["melt"]


def test_broken_and_foreign_files_are_named_and_stop_nothing(tmp_path):
    files.save_simulation(tmp_path, "melt")
    files.save_simulation(tmp_path, "gen", scale=None)
    (tmp_path / "no.npz").write_bytes(b"no zip")
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "a" / "stats.jsonl").parent.mkdir()
    (tmp_path / "a" / "stats.jsonl").write_bytes(b"\xff\xfe")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.npz").write_bytes(b"no zip")
    got = found_in([tmp_path], CHOICE)
    broken = {Path(path).name for path, _ in got.broken}
    gen = "circles_PRRto1D_exact_gen_results.npz"
    assert broken == {"no.npz", "no.json", "stats.jsonl", gen}
    assert [flow.moved for flow in flows(got)] == ["melt"]
    assert [Path(path).name for path, _ in got.foreign] == ["other.json", "other.npz"]
    assert got.others == {".txt": 1}


def test_nothing_to_report_is_an_error_that_says_what_would_be(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} contains nothing to report: give folders"):
        found_in([tmp_path], CHOICE)
    assert "missing does not exist" in refusal(found_in, [tmp_path / "missing"], CHOICE)


def test_points_are_a_subsample_of_the_file_by_their_seed(tmp_path):
    path = files.save_simulation(tmp_path, "melt")
    with np.load(path) as file:
        states, basis = file["xs_es"], file["eigenvectors"]
        expected = states @ basis.T + file["scale"][:, None, None] * file["mean"]
    chosen = []
    for seed in (0, 0, 1):
        (flow,) = flows(found_in([path], Choice(7, seed)))
        assert (len(flow.samples), flow.whole) == (7, 30)
        np.testing.assert_allclose(flow.points, expected[:, flow.samples], rtol=1e-5, atol=1e-6)
        (frames,) = drawn(flow).panels[0].plot.tags
        np.testing.assert_allclose(frames.data["y"].reshape(-1, 7), flow.points[..., 1], rtol=1e-6)
        chosen.append(flow.samples.tolist())
    assert chosen[0] == chosen[1] != chosen[2]


def results_of(section):
    return {result.name: (result.value, result.holds) for result in section.results}


def test_headline_numbers_are_those_of_the_files(tmp_path):
    path = files.save_simulation(tmp_path, "melt")
    parameters = path.with_name("circles_PRRto1D_exact_sim_params.json")
    for rms, holds in ((1e-4, True), (0.3, False)):
        numbers = {"rms_error": rms, "max_abs_error": 2 * rms}
        content = {"format": "inflationary-flows simulations 1"}
        parameters.write_text(json.dumps({**content, "simulations": {"roundtrip": numbers}}))
        (section,) = found_in([tmp_path], CHOICE).sections
        assert results_of(section)["round trip"][1] is holds
    # One dimension is kept, and has a tenth of the variance that it should have, or twice it.
    for std in (0.3, 2**0.5):
        files.save_simulation(tmp_path, "melt", xs_es=np.full((files.SAVED, 30, 2), std))
        (section,) = found_in([tmp_path], CHOICE).sections
        assert results_of(section)["latent variances"][1] is False


def test_a_check_is_ticked_only_if_its_runs_would_have_seen_a_large_error(tmp_path):
    for runs, shift, others, ranks in (
        (1000, 0.0, True, True),
        (60, 0.0, None, None),
        (60, 0.4, None, False),
    ):
        path = files.save_check(tmp_path, runs=runs, shift=shift)
        (section,) = found_in([path], CHOICE).sections
        got = results_of(section)
        assert got.pop("ranks of true values")[1] is ranks
        del got["expected coverage, central intervals"]  # follows from them
        for text, holds in got.values():
            assert holds is others
            assert ("too few runs to test" in text) == (others is None)


def test_nothing_is_ticked_without_evidence(tmp_path):
    level = SimpleNamespace(is_level=True, known=np.full(4, True), right=np.full(4, True))
    level.probability = np.full(4, 0.9)
    assert is_calibrated(level, 0.9) is None, "4 of 4 are known to be 51 to 100 %"
    many = SimpleNamespace(**{k: np.tile(v, 50) for k, v in vars(level).items() if k != "is_level"})
    many.is_level, many.right = True, np.arange(200) % 10 > 0
    assert is_calibrated(many, 0.9) is True
    many.right = np.arange(200) % 2 > 0
    assert is_calibrated(many, 0.9) is False
    many.known = np.arange(200) < 4
    many.right[:] = False
    assert is_calibrated(many, 0.9) is False, "few can show that something is wrong"
    path = files.save_stats(tmp_path)
    for loss, holds in ((0.9, None), (1.0001, False)):
        row = {"seen": 1000, "Loss/loss": 0.8, "Progress/learning_rate": 1e-3}
        path.write_text(json.dumps({**row, "Loss/held_out": loss}) + "\n")
        (section,) = found_in([path], CHOICE).sections
        assert results_of(section)["held-out loss"][1] is holds
    for kind in ("melt", "gen"):
        files.save_table(tmp_path, kind, count=6)
    (section,) = found_in(list(tmp_path.glob("wine*")), CHOICE).sections
    got = results_of(section)
    for name in ("columns of samples against data", "latent variances"):
        assert got[name][1] is not True
        assert (": too few" in got[name][0]) == (got[name][1] is None)


def test_what_ran_is_told_by_its_parameters(tmp_path):
    files.save_simulation(tmp_path, "melt")
    ran = {"seconds": 2.5, "denoiser_calls": 60}
    content = {
        "format": "inflationary-flows simulations 1",
        "options": {"seed": 7, "device_name": "cpu", "solver": "euler", "probes": None},
        "simulations": {"melt": ran, "gen": ran},
        "command": ["toy_pfODE_int.py", "net"],
    }
    (tmp_path / "circles_PRRto1D_exact_sim_params.json").write_text(json.dumps(content))
    (run,) = found_in([tmp_path], CHOICE).runs
    assert run.brief == "seed 7, on cpu, 5.0 s, 120 evaluations"
    assert ("solver", "euler") in run.options
    assert "probes" not in dict(run.options)


def test_wild_parameters_stop_nothing(tmp_path):
    melt = files.save_simulation(tmp_path, "melt", image_index=np.full(30, 1e30))
    path = melt.with_name("circles_PRRto1D_exact_sim_params.json")
    listed = [{"mean": {"x1": 10**400}, "quantiles": {"0.05": 3}, "ess_bulk": {"x1": "many"}}]
    whole = {
        **{"format": "inflationary-flows simulations 1", "command": ["a"], "options": {"seed": 1}},
        **{"seconds": 1, "simulations": {"roundtrip": {"rms_error": 1}}, "libraries": {"a": "1"}},
        **{"melt": {"seconds": 1}, "code_version": "1"},
    }
    for wild in WILD:
        for name in whole.keys() - {"format"}:
            path.write_text(json.dumps({**whole, name: wild}))
            assert run_of(path) is not None or name == "command"
            assert list(roundtrip_results(melt, "")) or name == "simulations"
    posterior = files.save_posterior(tmp_path).with_suffix(".json")
    for wild in (*WILD, listed):
        names = ("posteriors", "r_hat", "converged", "observations", "ess_bulk")
        posterior.write_text(json.dumps({**whole, **dict.fromkeys(names, wild)}))
        got = found_in([tmp_path], CHOICE)
        assert len(got.sections) == 2
        assert not got.broken


class Tags(HTMLParser):
    """What a browser finds in a page: its elements, scripts and the policy."""

    def __init__(self, text):
        super().__init__()
        self.loads = []
        self.scripts = []
        self.policy = ""
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loads += [f"{tag} {name}" for name in given if name in LOADING or name[:2] == "on"]
        if tag == "link" or not (given.get("href") or "#").startswith("#"):
            self.loads.append(f"{tag} {given.get('href')}")
        self.inside = tag == "script" and given.get("type") != "application/json"
        if self.inside:
            self.scripts.append("")
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_nothing_is_loaded_and_only_its_own_scripts_may_run(html):
    tags = Tags(html)
    assert not tags.loads
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in tags.scripts
    }
    rules = dict(rule.strip().split(" ", 1) for rule in tags.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules["script-src"].split()) == digests
    assert "unsafe-eval" not in tags.policy
    assert "connect-src" not in rules


def test_names_of_files_are_text_and_every_picture_has_words(html, everything):
    assert NASTY.split("/")[0] not in html.replace(escaping.escape(everything.name), "")
    assert f"<h1>{escaping.escape(everything.name)}</h1>" in html
    plots = re.findall(r'<div class="plot"[^>]*aria-label="([^"]*)"', html)
    cells = re.findall(r'<(?:div|button)[^>]*class="cell[^>]*aria-label="([^"]*)"', html)
    assert len(plots) > 20
    assert len(cells) > 30
    assert min(map(len, plots)) > 20
    assert all(cells)
