"""visualize.py: which pictures are made of which files; bad input leaves nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visualize
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow, sample_latent
from training.flow.solvers import get_solver
from training.model import make_schedule
from training.simulation import Simulator

SAVED = 5


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``simulated(toy, dims_to_keep)``: a folder with an exact melt, roundtrip and gen of it."""
    made: dict[tuple[str, int], Path] = {}

    def simulate(name: str, dims_to_keep: int) -> Path:
        folder = tmp_path_factory.mktemp(name)
        toy = Toy(name)
        basis = EigenBasis.from_moments(*toy.moments())
        schedule = make_schedule("ifs", {"dims_to_keep": dims_to_keep}, basis)
        flow = ProbabilityFlow(MixtureDenoiser(*toy.mixture, basis, schedule), schedule, basis)
        times, solver = schedule.times(4, 4.0), get_solver("heun")
        generator = torch.Generator().manual_seed(0)
        simulator = Simulator(flow, times, solver, save_every=1)
        stem = folder / f"{name}_{schedule.name}_exact"
        paths = {kind: Path(f"{stem}_{kind}_results.npz") for kind in ("melt", "roundtrip", "gen")}
        melt = simulator.melt(toy.sample(60, generator), path=paths["melt"])
        simulator.generate(melt.trajectory.end, "roundtrip", paths["roundtrip"])
        latent = sample_latent(60, flow.latent_variance(times[-1]), generator)
        simulator.generate(latent, "gen", paths["gen"])
        (folder / f"{name}_{schedule.name}_exact_sim_params.json").write_text("{}")
        return folder

    def get(name: str = "circles", dims_to_keep: int = 2) -> Path:
        key = name, dims_to_keep
        if key not in made:
            made[key] = simulate(*key)
        return made[key]

    return get


@pytest.fixture
def training_run(tmp_path: Path) -> Path:
    folder = tmp_path / "00000-circles-PRP-mlp"
    folder.mkdir()
    lines = [
        json.dumps({"seen": 1000 * k, "Loss/loss": 1 / k, "Progress/learning_rate": 1e-3})
        for k in range(1, 6)
    ]
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "log.txt").write_text("")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.width > 300 and image.height > 200


def test_a_folder_of_simulations(
    run_script: Callable[..., Any], simulated: Callable[..., Path], tmp_path: Path
) -> None:
    dest = tmp_path / "new" / "pictures"
    result = run_script(visualize, simulated(), f"--dest={dest}")
    assert (result.code, result.err) == (0, "")
    assert names(dest) == [
        "circles_PRP_exact_gen_animation.gif",
        "circles_PRP_exact_gen_clouds.png",
        "circles_PRP_exact_melt_animation.gif",
        "circles_PRP_exact_melt_clouds.png",
        "circles_PRP_exact_melt_latents.png",
        "circles_PRP_exact_overview.png",
        "circles_PRP_exact_roundtrip_clouds.png",
    ]
    assert sorted(result.out.splitlines()) == [f"Wrote {dest / name}" for name in names(dest)]
    assert all(is_picture(path) for path in dest.iterdir())
    with Image.open(dest / "circles_PRP_exact_melt_animation.gif") as image:
        assert image.n_frames == SAVED


def test_three_dimensions(
    run_script: Callable[..., Any], simulated: Callable[..., Path], tmp_path: Path
) -> None:
    folder = simulated("s_curve", 2)
    result = run_script(visualize, folder, f"--dest={tmp_path}", "--no-animation")
    assert (result.code, result.err) == (0, "")
    assert "s_curve_PRRto2D_exact_overview.png" in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.endswith(".gif")]
    assert all(is_picture(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("inside", ["", "stats.jsonl"])
def test_a_training_run_is_drawn_beside_its_file(
    run_script: Callable[..., Any], training_run: Path, inside: str
) -> None:
    result = run_script(visualize, training_run / inside)
    assert result.code == 0
    assert result.out == f"Wrote {training_run / 'training_curve.png'}\n"
    assert is_picture(training_run / "training_curve.png")


def test_one_file_has_no_overview(
    run_script: Callable[..., Any], simulated: Callable[..., Path], tmp_path: Path
) -> None:
    file = simulated() / "circles_PRP_exact_gen_results.npz"
    assert run_script(visualize, file, "--no_animation", "--save-dir", tmp_path).code == 0
    assert names(tmp_path) == ["circles_PRP_exact_gen_clouds.png"]


def test_existing_pictures_are_replaced_only_if_asked(
    run_script: Callable[..., Any], training_run: Path
) -> None:
    picture = training_run / "training_curve.png"
    picture.write_text("mine")
    refused = run_script(visualize, training_run)
    assert refused.code == 2
    assert "training_curve.png exists" in refused.error
    assert "--overwrite" in refused.error
    assert picture.read_text() == "mine"
    assert run_script(visualize, training_run, "--overwrite").code == 0
    assert is_picture(picture)


def test_pictures_of_the_same_name_are_refused(
    run_script: Callable[..., Any], training_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "00001-circles-PRP-mlp"
    other.mkdir()
    (other / "stats.jsonl").write_bytes((training_run / "stats.jsonl").read_bytes())
    dest = tmp_path / "pictures"
    result = run_script(visualize, training_run, other, f"--dest={dest}")
    assert result.code == 2
    assert "training_curve.png" in result.error
    assert not dest.exists()


def test_mp4_without_ffmpeg(
    run_script: Callable[..., Any],
    simulated: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    dest = tmp_path / "pictures"
    result = run_script(visualize, simulated(), "--format=mp4", f"--dest={dest}")
    assert result.code == 2
    assert "ffmpeg" in result.error
    assert not dest.exists()


def test_nothing_to_draw(run_script: Callable[..., Any]) -> None:
    result = run_script(visualize)
    assert result.code == 2
    assert "PATH" in result.error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npz", None, "does not exist"),
        ("folder/readme.txt", b"", "holds neither"),
        ("picture.png", b"", "cannot be drawn"),
        ("network-snapshot-000001.pkl", b"", "cannot be drawn"),
        ("broken.npz", b"no zip", "readable"),
        ("stats.jsonl", b"no json\n{}\n", "line 1"),
        ("stats.jsonl", b"\xff\xfe", "cannot be read"),
    ],
)
def test_bad_files(
    run_script: Callable[..., Any], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    given = path.parent if "/" in name else path
    dest = tmp_path / "pictures"
    result = run_script(visualize, given, f"--dest={dest}")
    assert result.code == 1
    assert message in result.error
    assert str(given) in result.error
    assert not dest.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xs_es": None}, "no array 'xs_es'"),
        ({"xs_es": np.zeros((3, 4))}, "[3, 4]"),
        ({"scale": np.full(SAVED, np.inf)}, "not finite"),
    ],
)
def test_bad_arrays(
    run_script: Callable[..., Any],
    simulated: Callable[..., Path],
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    """A bad file among good ones is told of before anything is drawn."""
    good = simulated() / "circles_PRP_exact_melt_results.npz"
    with np.load(good) as archive:
        arrays = {**archive, **change}
    bad = tmp_path / "bad_melt_results.npz"
    np.savez(bad, **{name: array for name, array in arrays.items() if array is not None})
    dest = tmp_path / "pictures"
    result = run_script(visualize, good, bad, f"--dest={dest}")
    assert result.code == 1
    assert message in result.error
    assert bad.name in result.error
    assert not dest.exists()


def test_a_file_where_the_folder_should_be(
    run_script: Callable[..., Any], training_run: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "file"
    dest.write_text("mine")
    result = run_script(visualize, training_run, f"--dest={dest}")
    assert result.code == 1
    assert "cannot be a folder" in result.error
    assert dest.read_text() == "mine"
