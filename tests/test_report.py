"""report.py: one file of what scripts wrote; bad input leaves nothing."""

from pathlib import Path
from unittest import mock

import posterior
import report
import toy_pfODE_int
from tests.support import picture_files as files
from tests.support.running import Run, refused


def test_what_scripts_wrote_is_reported(run_script: Run, tmp_path: Path) -> None:
    few = ("--total_samples=60", "--steps=4", "--save_freq=1", "--solver=euler", "--eps=1e-2")
    toy = ("--data_name=s_curve", "--dims_to_keep=2", f"--save_dir={tmp_path / 'toy'}")
    assert run_script(toy_pfODE_int, "exact", *toy, *few).code == 0
    fast = ("--n_iters=4", "--pool=400", "--sampler=pool")
    check = ("--data_name=circles", *fast, f"--save_dir={tmp_path}")
    seen = ("--likelihood=mask", "--mask=x2", "--noise_std=0.3", "--runs=20", "--draws=10")
    assert run_script(posterior, "check", *check, *seen).code == 0
    dest = tmp_path / "new" / "report.html"
    with mock.patch("webbrowser.open") as opened:
        result = run_script(report, tmp_path, f"--dest={dest}", "--points=50", "--open")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Wrote {dest}: 2 sections, ")
    opened.assert_called_once_with(dest.as_uri())
    text = dest.read_text(encoding="utf-8")
    option = "<dt>noise_std</dt><dd>0.3</dd>"
    for told in ("s curve: the flow", "ranks of truths", "50 of 60 points", option):
        assert told in text
    refused(run_script(report, tmp_path, f"--dest={dest}"), 2, dest, "--overwrite")
    assert run_script(report, tmp_path, f"--dest={dest}", "--overwrite").code == 0


def test_a_report_of_a_folder_with_a_broken_file_names_it(run_script: Run, tmp_path: Path) -> None:
    files.save_stats(tmp_path)
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    result = run_script(report, tmp_path, f"--dest={tmp_path / 'a.html'}")
    assert result.code == 0
    assert f"Left out {tmp_path / 'broken.npz'}" in result.out
    assert "broken.npz is not a readable .npz" in (tmp_path / "a.html").read_text(encoding="utf-8")
