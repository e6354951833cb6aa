"""visualize.py: which pictures are made of which files; bad input leaves nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visualize
from training.data.toys import Toy
from training.flow.denoisers import DiscreteDenoiser, MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import get_solver
from training.model.recipe import make_schedule
from training.simulation.simulator import Simulator

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
        latent = flow.latent_law(times[-1]).sample(60, generator)
        simulator.generate(latent, "gen", paths["gen"])
        (folder / f"{name}_{schedule.name}_exact_sim_params.json").write_text("{}")
        return folder

    def get(name: str = "circles", dims_to_keep: int = 2) -> Path:
        key = name, dims_to_keep
        if key not in made:
            made[key] = simulate(*key)
        return made[key]

    return get


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a melt, roundtrip and gen of RGB images, as ``pfODE_int.py`` writes them."""
    folder = tmp_path_factory.mktemp("images")
    shape = (3, 4, 5)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 60, generator=generator, dtype=torch.float64)
    images = torch.tanh(torch.randn(40, 6, generator=generator, dtype=torch.float64) @ mixed)
    basis = EigenBasis.from_moments(images.mean(dim=0), images.T.cov())
    schedule = make_schedule("ifs", {"dims_to_keep": 5}, basis)
    flow = ProbabilityFlow(DiscreteDenoiser(images, basis, schedule), schedule, basis)
    times = schedule.times(8, 4.0)
    simulator = Simulator(flow, times, get_solver("heun"), save_every=2)
    paths = {kind: folder / f"blobs_PRRto5D_{kind}.npz" for kind in ("melt", "roundtrip", "gen")}
    file = {"dtype": "float32", "image_shape": torch.tensor(shape)}
    end = simulator.melt(images, path=paths["melt"], **file).trajectory.end
    simulator.generate(end, "roundtrip", paths["roundtrip"], **file)
    latent = flow.latent_law(times[-1]).sample(40, generator)
    simulator.generate(latent, "gen", paths["gen"], **file)
    return folder


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


def test_a_folder_of_simulated_images(
    run_script: Callable[..., Any], image_run: Path, tmp_path: Path
) -> None:
    result = run_script(visualize, image_run, f"--dest={tmp_path}")
    assert (result.code, result.err) == (0, "")
    assert names(tmp_path) == [
        "blobs_PRRto5D_gen_animation.gif",
        "blobs_PRRto5D_gen_path.png",
        "blobs_PRRto5D_melt_animation.gif",
        "blobs_PRRto5D_melt_latents.png",
        "blobs_PRRto5D_overview.png",
        "blobs_PRRto5D_roundtrip.png",
        "blobs_PRRto5D_samples.png",
        "blobs_PRRto5D_spectrum.png",
    ]
    assert all(is_picture(path) for path in tmp_path.iterdir())
    with Image.open(tmp_path / "blobs_PRRto5D_gen_animation.gif") as image:
        assert image.n_frames == 5


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_or_zip_of_images(
    run_script: Callable[..., Any], tmp_path: Path, packed: bool
) -> None:
    folder, pixels = tmp_path / "fid", np.arange(64, dtype=np.uint8).reshape(8, 8)
    for seed in (5, 1003):
        path = folder / f"{seed // 1000 * 1000:06d}" / f"{seed:06d}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels + seed % 100).save(path)
    (folder / "gen_params.json").write_text("{}")
    given = folder
    if packed:
        given = Path(shutil.make_archive(str(tmp_path / "fid"), "zip", folder))
    result = run_script(visualize, given)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Wrote {tmp_path / 'fid_images.png'}\n"
    assert is_picture(tmp_path / "fid_images.png")


def test_a_broken_image_among_many(run_script: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "fid"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "000000.png")
    for content, message in ((b"no png", "000001.png"), (b"", "000001.png")):
        (folder / "000001.png").write_bytes(content)
        result = run_script(visualize, folder)
        assert result.code == 1
        assert message in result.error
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(folder / "000001.png")
    assert "8x4" in run_script(visualize, folder).error
    assert names(tmp_path) == ["fid"]


def test_worst_roundtrips(run_script: Callable[..., Any], tmp_path: Path) -> None:
    errors = np.linspace(0.1, 2, 30)[::-1]
    originals = np.full((4, 1, 8, 8), 100, np.uint8)
    arrays = {
        "originals": originals,
        "returned": originals + errors[:4, None, None, None].astype(np.float32),
        "indices": np.arange(4),
        "all_exact": np.linspace(0, 1, 30),
    }
    for name in ("mse", "mse_float", "max_abs_error"):
        arrays |= {name: errors[:4], f"all_{name}": errors}
    stem = "digits_PRP_roundtrip_mse_seed42"
    np.savez(tmp_path / f"{stem}_worst.npz", **arrays)
    (tmp_path / f"{stem}.json").write_text("{}")
    assert run_script(visualize, tmp_path).code == 0
    pictures = [f"{stem}_errors.png", f"{stem}_worst.png"]
    assert [name for name in names(tmp_path) if name.endswith(".png")] == pictures
    assert all(is_picture(tmp_path / name) for name in pictures)


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
        ("broken.zip", b"no zip", "not a readable zip"),
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


def test_bad_image_arrays(run_script: Callable[..., Any], image_run: Path, tmp_path: Path) -> None:
    """Told of before anything is drawn, the good files among them."""
    with np.load(image_run / "blobs_PRRto5D_melt.npz") as archive:
        arrays = {**archive, "image_shape": np.array([3, 5, 5])}
    bad = tmp_path / "bad_melt.npz"
    np.savez(bad, **arrays)
    dest = tmp_path / "pictures"
    result = run_script(visualize, image_run, bad, f"--dest={dest}")
    assert result.code == 1
    assert "'image_shape' is [3, 5, 5]" in result.error
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
