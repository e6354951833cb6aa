"""How each kind of file is opened, and how what was read is used."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import toy_train
from dnnlib.errors import DataError
from tests.fuzz import samples
from torch_utils.array_rows import open_rows
from torch_utils.results import load_arrays, open_arrays
from torch_utils.snapshots import read_state
from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.data.images.dataset import ImageDataset
from training.data.records.cells import open_cells
from training.data.records.reading import RecordChoices, SurveyedTable
from training.data.records.writing import frame_of, texts_of
from training.data.sources.formats import open_source
from training.data.tables.formats import open_table
from training.data.tables.making import TableChoices, make_table
from training.data.tables.table import restored
from training.files.fid_reference import FIDReference
from training.files.observations import read_array
from training.files.posterior import load_part, load_values
from training.files.records import load_records
from training.files.residuals import Extraction, find_first, require_same, saved_shapes
from training.files.stats import SavedTraining
from training.files.table import load_table
from training.files.trajectory import SavedEnd
from training.learning.run_folder import Resumed
from training.measure import detector
from training.measure.correlations import correlate
from training.model.model import Model
from training.pictures.album import pictures_of
from training.runs.residuals import row_pairs, toy_correlations

CPU = torch.device("cpu")
MOST_IMAGES = 50


def check_model(model: Model) -> None:
    dim = model.denoiser.basis.dim
    assert dim == model.about["data_dim"]
    for time in (model.about["tmin"], model.about["tmax"]):
        t = torch.tensor(time, dtype=torch.float64)
        out = model.denoiser(torch.zeros(2, dim, dtype=torch.float64), t)
        assert out.shape == (2, dim)
        assert out.isfinite().all()
        assert model.flow.schedule.scale(t).isfinite()
    assert model.flow.to_data(torch.zeros(1, dim, dtype=torch.float64), t).shape == (1, dim)


def use_state(path: Path) -> None:
    resumed = Resumed(path, read_state(path))
    assert resumed.basis.dim == len(resumed.data_variance)
    trainer = samples.toy_trainer()
    trainer.restore(resumed.state, str(path))
    assert all(tensor.isfinite().all() for tensor in trainer.denoiser.state_dict().values())
    trainer.train_step(Batch(samples.POINTS), RunningMeans(CPU))


def use_options(path: Path) -> None:
    # It asks git for the version of this code, and then what a step would cost.
    job = "training.commands.training"
    with (
        mock.patch(f"{job}.provenance", return_value={}),
        mock.patch(f"{job}.tell_dry_run"),
        mock.patch(f"{job}.Resumed.find", return_value=None),  # there are options alone
    ):
        try:
            toy_train.main([f"--resume={path.parent}", "--dry-run"], standalone_mode=False)
        except RuntimeError as error:
            # Scripts tell of a lack of memory in a line, as ``run_script`` has it.
            if "allocate memory" not in str(error):
                raise
            raise DataError(f"{path}: out of memory") from error


def use_arrays(path: Path) -> None:
    arrays = load_arrays(path)
    with open_arrays(path) as saved:
        for name in saved.names:
            assert saved.read(name).tobytes() == arrays[name].tobytes()
            assert not arrays[name].dtype.hasobject


def use_rows(path: Path) -> None:
    with open_rows(path, "rows") as rows:
        read = list(rows.batches(3))
    assert sum(map(len, read)) == rows.shape[0]
    assert all(np.isfinite(batch).all() and batch.shape[1:] == rows.shape[1:] for batch in read)


def use_array_of_a_posterior(path: Path) -> None:
    assert read_array(path, "the noise", (1, 2)).isfinite().all()


def use_part_of_a_posterior(path: Path) -> None:
    got = load_part(path, "this run")
    if got is not None:
        draws, summary = got
        assert draws.points.shape[:3] == draws.log_likelihood.shape
        assert len(summary.mean) == draws.count == len(draws.sampler)


def use_part_of_a_check(path: Path) -> None:
    got = load_values(path, "this run")
    if got is not None:
        assert got.ranks.shape[1] == len(got.names)
        assert all(len(contents) == len(got.ranks) for contents in got.regions.values())


def use_melt(path: Path) -> None:
    saved = SavedEnd.load(path, samples.toy_model()[0].flow, samples.TIMES)
    for points in (saved.x, saved.start):
        assert points.isfinite().all()
        assert points.shape == (len(saved.x), 2)


def use_table(path: Path) -> None:
    table = load_table(path)
    assert table.points.isfinite().all()
    assert len(table.train_rows) > 0
    names, dropped = table.columns.names, table.dropped
    assert restored(table.points, names, dropped).shape == (len(table), len(dropped.order))


def use_rows_to_convert(path: Path) -> None:
    table, _ = make_table(open_table(str(path), None), TableChoices(missing="drop"))
    assert table.points.isfinite().all()


def use_records(path: Path) -> None:
    records = load_records(path)
    names, rows = texts_of(records)
    assert all(len(row) == len(names) for row in rows)
    assert len(frame_of(records)) == len(records)


def use_texts_to_convert(path: Path) -> None:
    records, _ = SurveyedTable.of(open_cells(path), RecordChoices(calendar=True)).records()
    assert not np.isinf(records.values).any()
    assert len(texts_of(records)[1]) == len(records)


def use_toy_residuals(path: Path) -> None:
    made = Extraction.read(path)
    for name, shape in saved_shapes(path, axes=3).items():
        got = list(toy_correlations(path, name, range(shape[0]), CPU))
        assert len(got) == shape[0]
        assert all(correlation.matrix.isfinite().all() for _, correlation in got)
    assert made.times.ndim == 1


def use_image_residuals(path: Path) -> None:
    first = find_first(path, None, None)
    shapes = saved_shapes(first, axes=2)
    require_same(path, Extraction.read(first), shapes)
    for name in shapes:
        later = first.with_name(first.name.replace("time0", "time1"))
        got = correlate(row_pairs(first, later, name, 2, CPU), str(later))
        assert got.matrix.isfinite().all()


def use_reference(path: Path) -> None:
    known = FIDReference.load(path)
    assert known.sigma.shape == 2 * known.mu.shape


def use_pictures(path: Path) -> None:
    assert pictures_of([path], None, None)


def use_answers(path: Path) -> None:
    for picture in pictures_of([path], None, None):
        assert picture.path.parent == path.parent


def use_statistics(path: Path) -> None:
    saved = SavedTraining.load(path)
    assert saved.samples.shape == saved.loss.shape == saved.learning_rate.shape
    assert np.isfinite(saved.samples).all()


def use_images(path: Path) -> None:
    for labels in (False, True):
        dataset = ImageDataset(path, use_labels=labels, cache=labels)
        try:
            read, given = dataset.read(range(min(len(dataset), MOST_IMAGES)))
        finally:
            dataset.close()
        assert read.dtype == torch.uint8
        assert tuple(read.shape[1:]) == dataset.image_shape
        assert given.shape == (len(read), dataset.label_dim)
        assert given.isfinite().all()


def use_source(path: Path) -> None:
    source = open_source(str(path))
    try:
        for index, image in enumerate(source.images):
            check_pixels(image.read())
            assert image.label is None or np.isfinite(image.label).all()
            if index > MOST_IMAGES:
                break
    finally:
        source.images.close()


def check_pixels(pixels: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] in (1, 3)
    assert 0 < pixels.size <= 3 << 26


class TinyInception(nn.Module):
    """A network in the place of Inception, whose weights have 95 MB."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv = nn.Conv2d(3, 2, 3)
            self.norm = nn.BatchNorm2d(2)

    def load_state_dict(self, state_dict: Any, *_: Any, **__: Any) -> None:
        super().load_state_dict(state_dict, assign=True)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self.norm(self.conv(pixels / 255)).mean(dim=(2, 3)),)


def use_detector(path: Path) -> None:
    with mock.patch.object(detector, "_Inception", TinyInception):
        made = detector.InceptionDetector(path)
        made._network.eval()
        features = made(torch.full((2, 1, 4, 4), 200, dtype=torch.uint8))
    assert features.shape == (2, 2)
