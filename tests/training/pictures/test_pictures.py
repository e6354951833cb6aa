"""The drawing library: colors that stay with their points, closed forms, frames, saved files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.proj3d import proj_transform
from PIL import Image

from dnnlib.errors import DataError, UsageError
from training.pictures.album import drawable_files, pictures_of, row_of
from training.pictures.saved_training import SavedTraining
from training.pictures.style.colors import BLUE, ORANGE, colors_of_places
from training.pictures.style.look import shortened
from training.pictures.training import draw_training, running_median
from training.pictures.trajectories import animation
from training.pictures.trajectories.animation import (
    CloudAnimation,
    frame_times,
    write_gif,
    write_mp4,
)
from training.pictures.trajectories.clouds import (
    Row,
    common_box,
    draw_clouds,
    seen_places,
    telling_times,
)
from training.pictures.trajectories.latents import draw_latents, gaussian
from training.pictures.trajectories.saved import SavedTrajectory, stem_of, title_of


def row(dim: int = 2, samples: int = 40, saved: int = 3) -> Row:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(saved, samples, dim))
    return Row(
        points=points,
        times=np.linspace(0, 2, saved),
        colors=colors_of_places(points[0, :, :2], 1.0),
        axis_names=["a", "b", "c"][:dim],
        title="a title",
        subtitle="a subtitle",
    )


def drawn_colors(axes: Any, points: np.ndarray) -> np.ndarray:
    """The colors ``[N, 3]`` in which the points ``[N, 2 or 3]`` are seen in the axes."""
    scatter = axes.collections[0]
    if points.shape[1] == 2:
        assert np.allclose(scatter.get_offsets(), points)
        return np.asarray(scatter.get_facecolor())[:, :3]
    FigureCanvasAgg(axes.figure).draw()
    x, y, depth = proj_transform(*points.T, axes.get_proj())
    assert np.allclose(scatter.get_offsets(), np.stack([x, y], axis=1))
    colors = np.empty_like(points)
    colors[np.argsort(depth)[::-1]] = scatter.get_facecolor()[:, :3]  # the nearest comes last
    return colors


def test_colors_tell_places_apart_and_neighbors_look_alike() -> None:
    places = np.random.default_rng(0).normal(size=(500, 2)) * 2
    colors = colors_of_places(places, 1.0)
    assert colors.shape == (500, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    near = colors_of_places(places + 1e-3, 1.0)
    assert np.abs(near - colors).max() < 0.05
    corners = colors_of_places(np.array([[-3, -3], [-3, 3], [3, -3], [3, 3.0]]), 1.0)
    apart = np.abs(corners[:, None] - corners[None]).sum(axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 0.5


def test_colors_hold_for_red_green_blindness_and_on_white() -> None:
    """Lightness tells up from down, blue against yellow tells left from right."""
    grid = np.linspace(-1.5, 1.5, 7)
    across, up = (axis.ravel() for axis in np.meshgrid(grid, grid))
    colors = colors_of_places(np.stack([across, up], axis=1), 1.0)
    luma = (colors @ [0.299, 0.587, 0.114]).reshape(7, 7)
    assert (np.diff(luma, axis=0) > 0).all()
    assert luma.max() < 0.85
    yellowness = (colors[:, 0] + colors[:, 1] - 2 * colors[:, 2]).reshape(7, 7)
    assert (yellowness[:, -1] - yellowness[:, 0] > 0.4).all()


def test_colors_do_not_depend_on_the_unit_of_places() -> None:
    places = np.random.default_rng(0).normal(size=(20, 2))
    assert np.allclose(colors_of_places(places, 1.0), colors_of_places(7 * places, 7.0))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_point_has_one_color_in_all_panels(dim: int) -> None:
    first, second = row(dim), row(dim, samples=30)
    figure = draw_clouds([first, second])
    assert len(figure.axes) == 6
    for shown, panels in ((first, figure.axes[:3]), (second, figure.axes[3:])):
        for axes, points in zip(panels, shown.points, strict=True):
            assert np.allclose(drawn_colors(axes, points), shown.colors)


def test_clouds_have_the_points_and_times_of_their_rows() -> None:
    shown = row()
    figure = draw_clouds([shown])
    for axes, points in zip(figure.axes, shown.points, strict=True):
        assert np.allclose(axes.collections[0].get_offsets(), points)
    assert [axes.get_title() for axes in figure.axes] == ["t = 0.00", "t = 1.00", "t = 2.00"]
    assert {axes.get_aspect() for axes in figure.axes} == {1.0}
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["a title", "a subtitle"]


def test_three_dimensions_get_three_dimensional_axes() -> None:
    figure = draw_clouds([row(3)])
    assert all(isinstance(axes, Axes3D) for axes in figure.axes)
    assert not any(isinstance(axes, Axes3D) for axes in draw_clouds([row(2)]).axes)
    assert isinstance(CloudAnimation(row(3)).axes, Axes3D)


@pytest.mark.parametrize("dim", [2, 3])
def test_box_is_square_and_holds_both_ends(dim: int) -> None:
    data = np.random.default_rng(0).uniform(-1, 1, size=(2, 500, dim))
    far = 5 + np.random.default_rng(1).uniform(-1, 1, size=(1, 500, dim))
    box = common_box([data, far])
    assert np.allclose(np.ptp(box, axis=1), np.ptp(box[0]))
    for cloud in (data, far):
        inside = (cloud >= box[:, 0]) & (cloud <= box[:, 1])
        assert inside.all(axis=-1).mean() > 0.9


def test_a_cloud_of_one_place_still_has_a_box() -> None:
    box = common_box([np.ones((2, 5, 2))])
    assert (box[:, 0] < 1).all()
    assert (box[:, 1] > 1).all()


def test_seen_places_are_a_view_of_the_points() -> None:
    points = np.random.default_rng(0).normal(size=(10, 3))
    seen = seen_places(points)
    basis = np.linalg.lstsq(points, seen, rcond=None)[0]
    assert np.allclose(basis.T @ basis, np.eye(2))  # two orthonormal directions
    upwards = seen_places(np.array([[0.0, 0.0, 1.0]]))[0]
    assert abs(upwards[0]) < 1e-12
    assert upwards[1] > 0.9
    assert np.array_equal(seen_places(points[:, :2]), points[:, :2])


def test_panels_fall_where_points_move() -> None:
    still, moving = np.zeros(30), np.linspace(0, 1, 21)[1:]
    path = np.concatenate([still, moving])
    points = np.repeat(path, 20).reshape(50, 10, 2)
    chosen = telling_times(points, 6)
    assert chosen[0] == 0
    assert chosen[-1] == 49
    assert (np.diff(chosen) > 0).all()
    assert (chosen >= 29).sum() >= 4


@pytest.mark.parametrize("saved", [2, 3, 6, 7])
def test_panels_of_few_or_resting_states(saved: int) -> None:
    chosen = telling_times(np.zeros((saved, 4, 2)), 6)
    assert len(chosen) == min(saved, 6)
    assert chosen[0] == 0
    assert chosen[-1] == saved - 1
    assert (np.diff(chosen) > 0).all()


def test_gaussian_is_the_closed_form() -> None:
    latents = np.random.default_rng(0).normal(size=(400, 3)) * [1, 1, 0.1]
    variance = np.array([1.1, 0.9, 0.013])
    figure = draw_latents(latents, variance, np.array([False, False, True]), "t", "s")
    assert len(figure.axes) == 3
    for axes, exact, color in zip(figure.axes, variance, (BLUE, BLUE, ORANGE), strict=True):
        grid, density = axes.lines[0].get_data()
        expected = np.exp(-(grid**2) / (2 * exact)) / np.sqrt(2 * np.pi * exact)
        assert np.allclose(density, expected)
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
        assert to_rgb(axes.lines[0].get_color()) == to_rgb(color)


def test_latent_bars_are_a_density_and_titles_tell_the_ratio() -> None:
    latents = np.random.default_rng(0).normal(size=(1000, 2))
    figure = draw_latents(latents, np.array([2.0, 1.0]), np.array([False, True]), "t", "s")
    area = sum(bar.get_height() * bar.get_width() for bar in figure.axes[0].patches)
    assert area == pytest.approx(1)
    ratio = np.square(latents[:, 0]).mean() / 2
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(f"= {ratio:.3f} × the closed form" in text for text in texts)
    assert "compressed to 50%" in figure.axes[1].get_title(loc="left")
    assert "compressed" not in figure.axes[0].get_title(loc="left")


def test_latents_far_from_the_closed_form_are_told_of() -> None:
    latents = np.stack([np.zeros(100), np.full(100, 9.0)], axis=1)
    figure = draw_latents(latents, np.ones(2), np.zeros(2, bool), "t", "s")
    first, second = (" ".join(t.get_text() for t in axes.texts) for axes in figure.axes)
    assert "tallest bar cut" in first
    assert "lie beyond" in second


def test_latents_of_many_dimensions_show_six() -> None:
    figure = draw_latents(np.ones((5, 9)), np.ones(9), np.zeros(9, bool), "t", "s")
    assert len(figure.axes) == 6


def test_gaussian_density() -> None:
    assert gaussian(np.zeros(1), 0.25)[0] == pytest.approx(1 / np.sqrt(2 * np.pi * 0.25))


@pytest.mark.parametrize("reports", [1, 5, 5000])
def test_training_curve_of_few_and_many_reports(reports: int) -> None:
    samples = np.arange(1, reports + 1) / 10
    loss = 0.8 + 0.1 * np.random.default_rng(0).normal(size=reports)
    figure = draw_training(samples, loss, np.full(reports, 1e-3), "t", "s")
    rate_axes, loss_axes = figure.axes
    baseline, curve = loss_axes.lines[:2]
    assert set(baseline.get_ydata()) == {1.0}
    assert baseline.get_linestyle() == "--"
    assert np.allclose(curve.get_xdata(), samples)
    assert np.allclose(curve.get_ydata(), loss)
    assert len(loss_axes.lines) == (3 if reports > 200 else 2)
    low, high = loss_axes.get_ylim()
    assert low < 1 < high
    assert rate_axes.get_xlim() == loss_axes.get_xlim()
    figure.savefig(io.BytesIO())


def test_training_curve_with_gaps() -> None:
    loss = np.array([np.nan, 0.9, np.nan, 0.8])
    rate = np.full(4, np.nan)
    draw_training(np.arange(1.0, 5.0), loss, rate, "t", "s").savefig(io.BytesIO())


def test_running_median() -> None:
    values = np.array([1.0, 2.0, np.nan, 100.0, 3.0, 4.0])
    smooth = running_median(values, 1)
    assert np.allclose(smooth, [1.5, 1.5, np.nan, 51.5, 4.0, 3.5], equal_nan=True)
    noisy = np.random.default_rng(0).normal(size=101)
    middle = running_median(noisy, 5)
    assert middle[50] == np.median(noisy[45:56])


@pytest.mark.parametrize("dim", [2, 3])
def test_frames_move_the_points_and_keep_the_colors(dim: int) -> None:
    moving = CloudAnimation(row(dim, saved=4))
    limits = moving.axes.get_xlim()
    frames = moving.frames()
    assert len(frames) == 4
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[1])
    assert moving.axes.get_xlim() == limits
    shown = row(dim, saved=4)
    assert np.allclose(drawn_colors(moving.axes, shown.points[-1]), shown.colors)


def test_seconds_hold_the_ends() -> None:
    seconds = CloudAnimation(row(saved=51)).seconds()
    assert len(seconds) == 51
    assert 3 < sum(seconds) < 5
    assert seconds[0] > seconds[1]
    assert seconds[-1] > seconds[-2]
    assert len(CloudAnimation(row(saved=2)).seconds()) == 2


def test_frames_of_very_many_states_are_some_of_them() -> None:
    assert np.array_equal(frame_times(51), np.arange(51))
    some = frame_times(701)
    assert len(some) == 90
    assert some[0] == 0
    assert some[-1] == 700


def test_gif_has_a_frame_a_time_in_steady_colors(tmp_path: Path) -> None:
    moving = CloudAnimation(row(saved=5))
    path = tmp_path / "a.gif"
    frames = moving.frames()
    write_gif(path, frames, moving.seconds())
    with Image.open(path) as image:
        assert image.n_frames == 5
        assert image.info["loop"] == 0
        durations = []
        for number in range(5):
            image.seek(number)
            durations.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB"))
            assert (shown[0, 0] == 255).all()
            difference = np.abs(shown.astype(int) - frames[number].astype(int))
            assert np.quantile(difference, 0.99) < 30
    assert durations == [400, 250, 250, 250, 1100]


def test_mp4_needs_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="ffmpeg"):
        write_mp4(tmp_path / "a.mp4", [np.zeros((4, 4, 3), np.uint8)], [1.0])


def test_mp4_gives_ffmpeg_even_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$*" >"$last.told"\ncat >"$last"\n')
    program.chmod(0o755)
    monkeypatch.setattr(animation.shutil, "which", lambda name: str(program))
    frames = [np.full((7, 9, 3), value, np.uint8) for value in (1, 2)]
    path = tmp_path / "a.mp4"
    write_mp4(path, frames, [0.1, 1.0])
    assert "-s 8x6 " in Path(f"{path}.told").read_text()
    assert path.read_bytes() == bytes([1]) * (8 * 6 * 3 * 3) + bytes([2]) * (8 * 6 * 3 * 30)


def test_mp4_tells_why_ffmpeg_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho first >&2\necho no such codec >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(animation.shutil, "which", lambda name: str(program))
    with pytest.raises(DataError, match="no such codec"):
        write_mp4(tmp_path / "a.mp4", [np.zeros((4, 4, 3), np.uint8)], [1.0])


def test_long_titles_are_shortened() -> None:
    assert shortened("short", 5, 10) == "short"
    text = shortened("long " * 50, 5, 10)
    assert text.endswith("…")
    assert len(text) <= 60


def save(path: Path, **changes: Any) -> Path:
    """A results file of 4 times, 30 samples, 2 dimensions; ``changes`` replace or drop arrays."""
    generator = np.random.default_rng(0)
    angle = 0.3
    arrays = {
        "times": np.linspace(0, 3, 4),
        "xs_es": generator.normal(size=(4, 30, 2)),
        "mean": np.array([1.0, -2.0]),
        "eigenvectors": np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]),
        "eigenvalues": np.array([1.5, 0.5]),
        "scale": np.linspace(1, 0.2, 4),
        "noise_variance": np.stack([5e-4 * np.exp([t, -t]) for t in range(4)]),
    }
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_points_are_the_image_space_of_the_file(tmp_path: Path) -> None:
    saved = SavedTrajectory.load(save(tmp_path / "a_melt_results.npz"))
    assert saved.kind == "melt"
    expected = saved.scale[:, None, None] * (
        saved.mean + saved.states / saved.scale[:, None, None] @ saved.eigenvectors.T
    )
    assert np.allclose(saved.points(), expected)
    exact = saved.scale[-1] ** 2 * (saved.eigenvalues + saved.noise_variance[-1])
    assert np.allclose(saved.closed_form_variance(), exact)
    assert saved.compressed().tolist() == [False, True]


def test_embedded_toys_show_the_dimensions_that_hold_data(tmp_path: Path) -> None:
    def embedded(values: list[float]) -> SavedTrajectory:
        dim = len(values)
        path = save(
            tmp_path / "a.npz",
            xs_es=np.random.default_rng(0).normal(size=(4, 10, dim)),
            mean=np.zeros(dim),
            eigenvectors=np.eye(dim),
            eigenvalues=np.array(values),
            noise_variance=np.ones((4, dim)),
        )
        return SavedTrajectory.load(path)

    flat, solid, full = embedded([1, 1, 0, 0, 0]), embedded([2, 1, 1, 0]), embedded([1.0] * 9)
    assert flat.points().shape == (4, 10, 2)
    assert np.array_equal(flat.points(), flat.states[..., :2])
    assert solid.points().shape == (4, 10, 3)
    assert full.points().shape == (4, 10, 2)
    assert full.last.shape == (10, 6)
    assert "first 2 of 9 eigen-dimensions" in row_of(full, np.arange(4)).subtitle


def test_large_files_are_drawn_by_evenly_spaced_samples(tmp_path: Path) -> None:
    states = np.zeros((4, 7001, 2))
    states[..., 0] = np.arange(7001)
    saved = SavedTrajectory.load(save(tmp_path / "a_melt_results.npz", xs_es=states))
    assert saved.states.shape == (4, 3000, 2)
    assert saved.last.shape == (7001, 2)
    assert saved.count == 7001
    kept = saved.states[0, :, 0]
    assert kept[0] == 0
    assert kept[-1] == 7000
    assert np.diff(kept).max() <= 3
    assert row_of(saved, np.array([0, 3]), most=100).points.shape == (2, 100, 2)


def test_a_roundtrip_has_the_colors_of_its_melt(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(4, 30, 2))
    melt = SavedTrajectory.load(save(tmp_path / "a_melt_results.npz", xs_es=states))
    backwards = {"times": np.linspace(3, 0, 4), "scale": np.linspace(0.2, 1, 4)}
    roundtrip_path = save(tmp_path / "a_roundtrip_results.npz", xs_es=states[::-1], **backwards)
    roundtrip = SavedTrajectory.load(roundtrip_path)
    gen = SavedTrajectory.load(save(tmp_path / "a_gen_results.npz", **backwards))
    assert (melt.kind, roundtrip.kind, gen.kind) == ("melt", "roundtrip", "gen")
    every = np.arange(4)
    assert np.allclose(row_of(melt, every).colors, row_of(roundtrip, every).colors)


@pytest.mark.parametrize(
    ("name", "title", "details"),
    [
        ("s_curve_PRRto2D_exact_melt_results", "s curve", "PRRto2D schedule, exact denoiser"),
        ("circles_PRP_net_gen_results", "circles", "PRP schedule, trained network"),
        ("cifar10_PRRto100D_roundtrip", "cifar10", "PRRto100D schedule"),
        ("my_own_file", "my own file", ""),
    ],
)
def test_titles_from_names(name: str, title: str, details: str) -> None:
    assert title_of(Path(f"{name}.npz")) == (title, details)


def test_stems() -> None:
    for kind in ("melt", "roundtrip", "gen"):
        assert stem_of(Path(f"x/circles_PRP_net_{kind}_results.npz")) == "circles_PRP_net"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": None}, "no array 'scale'"),
        ({"xs_es": np.zeros((4, 30))}, r"'xs_es' is \[4, 30\]"),
        ({"xs_es": np.zeros((1, 30, 2))}, "two or more"),
        ({"xs_es": np.full((4, 30, 2), np.nan)}, "'xs_es' has values that are not finite"),
        ({"xs_es": np.full((4, 30, 2), "a")}, "numbers"),
        ({"times": np.zeros(4)}, "neither increase nor decrease"),
        ({"times": np.arange(5)}, r"'times' is \[5\].*asks for \[4\]"),
        ({"noise_variance": np.ones((4, 3))}, r"'noise_variance' is \[4, 3\].*\[4, 2\]"),
        ({"eigenvectors": np.ones((2, 3))}, "'eigenvectors'"),
        ({"eigenvalues": np.array([1.0, -1.0])}, "positive"),
        ({"scale": np.zeros(4)}, "positive"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SavedTrajectory.load(save(tmp_path / "a.npz", **changes))


def test_broken_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.npz").read_bytes()
    path = tmp_path / "b.npz"
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"b\.npz"):
            SavedTrajectory.load(path)
    middle = bytearray(whole)
    at = whole.index(b"NUMPY", whole.index(b"xs_es")) + 300
    middle[at : at + 8] = b"damaged!"
    path.write_bytes(middle)
    with pytest.raises(DataError, match=r"b\.npz is broken in the array 'xs_es'"):
        SavedTrajectory.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="one array"):
        SavedTrajectory.load(path)


def report(seen: int, **changes: Any) -> str:
    record = {"seen": seen, "Loss/loss": 0.9, "Progress/learning_rate": 1e-3, **changes}
    return json.dumps({name: value for name, value in record.items() if value != "drop"}) + "\n"


def test_training_record(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    text = report(1000) + report(2000, **{"Loss/loss": "drop"}) + report(3000) + '{"seen": 40'
    path.write_text(text)
    training = SavedTraining.load(path)  # a run that goes on may be writing its last line
    assert np.allclose(training.samples, [0.001, 0.002, 0.003])
    assert np.allclose(training.loss, [0.9, np.nan, 0.9], equal_nan=True)
    assert np.allclose(training.learning_rate, 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to draw"),
        ("no json\n" + report(1), "line 1"),
        ("[]\n", "line 1"),
        ("{}\n", "'seen'"),
        (report(1) + report(2, **{"Loss/loss": float("nan")}), "line 2 .* nan"),
        (report(1, **{"Loss/loss": "low"}), "'low'"),
        (report(1, **{"Loss/loss": "drop"}), "nothing to draw"),
        (report(2) + report(1), "backwards"),
    ],
)
def test_wrong_training_records(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        SavedTraining.load(path)


def test_a_file_named_twice_is_drawn_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a_melt_results.npz")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    (tmp_path / "notes.txt").write_text("")
    assert drawable_files([tmp_path, path]) == [path]
    names = [picture.path.name for picture in pictures_of([tmp_path, path], None, "gif")]
    assert names == ["a_melt_clouds.png", "a_melt_latents.png", "a_melt_animation.gif"]
