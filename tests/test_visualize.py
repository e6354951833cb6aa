"""visualize.py and report.py: pictures and a page of what scripts wrote; bad input writes none."""

from unittest import mock

import numpy as np
import pytest
from PIL import Image

import posterior
import report
import toy_pfODE_int
import visualize
from tests.support import picture_files as files
from tests.support.running import good, refused, run_script
from training.pictures import animations, theme
from training.pictures.album import pictures_of


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of few pixels, which are drawn sooner."""
    for module in (theme, animations):
        monkeypatch.setattr(module, "DPI", 30)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of a simulation."""
    folder = tmp_path_factory.mktemp("toy")
    few = ("--total_samples=60", "--steps=4", "--save_freq=1", "--solver=euler", "--eps=1e-2")
    toy = ("--data_name=s_curve", "--dims_to_keep=2", f"--save_dir={folder}")
    good(run_script(toy_pfODE_int, "exact", *toy, *few))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def is_picture(path):
    with Image.open(path) as image:
        image.load()
        return image.width > 100 and image.height > 30


def test_what_a_simulation_wrote_is_drawn(toy, tmp_path):
    dest, stem = tmp_path / "new" / "pictures", "s_curve_PRRto2D_exact"
    result = good(run_script(visualize, toy, f"--dest={dest}"))
    made = [f"melt_{kind}.png" for kind in ("clouds", "joint", "latents")]
    made += ["gen_animation.gif", "gen_clouds.png", "melt_animation.gif"]
    made = sorted(f"{stem}_{name}" for name in [*made, "overview.png", "roundtrip_clouds.png"])
    assert names(dest) == made
    notes = [" (5 frames: more with --save_freq=1)" * name.endswith("gif") for name in made]
    text = [f"Wrote {dest / name}{note}" for name, note in zip(made, notes, strict=True)]
    assert sorted(result.out.splitlines()) == sorted(text)
    assert all(is_picture(path) for path in dest.iterdir())
    with Image.open(dest / f"{stem}_melt_animation.gif") as image:
        assert image.n_frames == 5


def test_every_kind_of_file_is_drawn(tmp_path):
    """All in one folder, of which what is no result is left out."""
    densities = {"log_prob": np.arange(10.0), "bits_per_dim": np.arange(10.0)}
    for kind in ("melt", "roundtrip", "gen"):
        files.save_images(tmp_path, kind, **densities)
    files.save_simulation(tmp_path, "melt", log_prob=np.arange(30.0))
    for save in (files.save_coverage, files.save_image_matrices, files.save_roundtrips):
        save(tmp_path)
    files.save_stats(tmp_path)
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    np.savez(tmp_path / "residuals.npz", format="inflationary-flows residuals 1")
    stems = {
        "circles_PRP_coverage": "boundaries radius",
        "circles_PRRto1D_exact": "melt_clouds melt_joint melt_latents melt_log_prob",
        files.IMAGE_STEM: "lags matrices",
        "digits_PRP_roundtrip_mse_seed42": "errors worst",
        "digits_PRRto8D": "melt_joint melt_latents melt_log_prob gen_log_prob "
        "gen_path overview roundtrip samples spectrum",
        "training": "curve",
    }
    expected = {f"{stem}_{kind}.png" for stem, kinds in stems.items() for kind in kinds.split()}
    assert {picture.path.name for picture in pictures_of([tmp_path], None, None)} == expected


def test_what_cannot_be_drawn_as_asked(tmp_path, monkeypatch):
    runs = [files.save_stats(tmp_path / name) for name in ("a", "b", "other/a")]
    made = good(run_script(visualize, *runs[:2], f"--dest={tmp_path / 'two'}")).out
    assert made.count("Wrote") == 2
    assert all(is_picture(tmp_path / "two" / name / "training_curve.png") for name in "ab")
    dest = f"--dest={tmp_path / 'pictures'}"
    refused(run_script(visualize, *runs, dest), 2, "a/training_curve.png: draw them in separate")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    refused(run_script(visualize, runs[0], "--format=mp4", dest), 2, "ffmpeg")
    assert not (tmp_path / "pictures").exists()


def test_a_bad_file_is_named_at_the_end_and_the_others_are_drawn(tmp_path):
    good = files.save_stats(tmp_path / "good")
    (tmp_path / "folder").mkdir()
    for name, content, message in (
        ("missing.npz", None, "does not exist"),
        ("folder", None, "contains no results"),
        ("network-snapshot-000001.pkl", b"", "cannot be drawn"),
        ("broken.npz", b"no zip", "readable"),
        ("stats.jsonl", b"no json\n{}\n", "line 1"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        dest = tmp_path / f"pictures of {name}"
        result = run_script(visualize, path, good, f"--dest={dest}")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert message in result.err
        assert str(path) in result.err
        assert names(dest) == ["training_curve.png"]
    (tmp_path / "good" / "broken.npz").write_bytes(b"no zip")
    result = run_script(visualize, tmp_path / "good", f"--dest={tmp_path / 'of a folder'}")
    assert (result.code, names(tmp_path / "of a folder")) == (1, ["training_curve.png"])
    refused(run_script(visualize, path, f"--dest={tmp_path / 'none'}"), 1, message)


def test_what_scripts_wrote_is_reported(toy, toy_network, tmp_path):
    fast = ("--n_iters=4", "--sampler=pool")
    network = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    check = (f"--network={network}", *fast, f"--save_dir={tmp_path}")
    seen = ("--likelihood=mask", "--mask=x2", "--noise_std=0.3", "--runs=20", "--draws=40")
    assert run_script(posterior, "check", *check, *seen).code == 0
    (tmp_path / "notes.txt").touch()
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    dest = tmp_path / "new" / "report.html"
    with mock.patch("webbrowser.open") as opened:
        result = run_script(report, toy, tmp_path, f"--dest={dest}", "--points=50", "--open")
    assert (result.code, result.err) == (0, "")
    assert f"Wrote {dest}: 2 section(s), " in result.out
    assert f"Left out {tmp_path / 'broken.npz'}" in result.out
    opened.assert_called_once_with(dest.as_uri())
    text = dest.read_text(encoding="utf-8")
    html = ("<dt>noise_std</dt><dd>0.3</dd>", "not looked into: 1 .txt", "is not a readable .npz")
    for words in ("s curve: the flow", "ranks of true values", "50 of 60 points", *html):
        assert words in text
