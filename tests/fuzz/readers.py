"""Every way in which this project opens files, by name."""

import traceback
from collections import Counter
from functools import partial
from unittest import mock

import click
import numpy as np
import torch

import toy_train
from dnnlib.errors import DataError
from tests.fuzz import samples
from tests.fuzz.harness import Reader, Trial, written
from tests.fuzz.hostile import anything, named
from tests.fuzz.hostile_arrays import ARRAYS, npz, rows, statistics, texts, training_options
from tests.fuzz.hostile_images import idx_files, image_sets, images, tars
from tests.fuzz.hostile_pickles import bare, networks, states, torch_files
from tests.fuzz.mutations import in_tar, mutate_bytes
from tests.fuzz.samples import cifar, image_file, image_set, mnist, pickle_of_a_batch
from tests.support import picture_files
from tests.support.rank_pool import FORKS
from torch_utils.results import load_arrays, load_json, open_arrays
from torch_utils.snapshots import read_state
from torch_utils.stats import RunningMeans, keep_lines_until
from training.cli.residuals import row_pairs, toy_correlations
from training.data.batches import Batch
from training.data.images.containers import Decoder, decode_exact
from training.data.images.dataset import ImageDataset
from training.data.sources.formats import open_source, read_plain_pickle
from training.data.tables.formats import TableChoices, open_table
from training.data.tables.making import make_table
from training.data.tables.raw_tables import open_cells
from training.data.tables.reading import RecordChoices, SurveyedTable
from training.data.tables.values import frame_of, texts_of
from training.files.fid_reference import FIDReference
from training.files.observations import array_of
from training.files.posterior import load_part, load_values
from training.files.records import load_records
from training.files.residuals import (
    AT_ALL_TIMES,
    AT_ONE_TIME,
    Extraction,
    find_first,
    require_same,
    saved_shapes,
)
from training.files.stats import SavedTraining
from training.files.table import load_table
from training.files.trajectory import SavedEnd
from training.flow.eigenbasis import EigenBasis
from training.learning.run_folder import Resumed
from training.measure import detector
from training.paper.original.model import import_original
from training.paper.residuals import correlate
from training.pictures.album import pictures_of
from training.trained.network import TrainedNetwork

CPU = torch.device("cpu")
MOST_IMAGES = 50


def check_model(model):
    dim = model.denoiser.basis.dim
    assert dim == model.about["data_dim"]
    for time in (model.about["tmin"], model.about["tmax"]):
        t = torch.tensor(time, dtype=torch.float64)
        out = model.denoiser(torch.zeros(2, dim, dtype=torch.float64), t)
        assert out.shape == (2, dim)
        assert out.isfinite().all()
        assert model.flow.schedule.scale(t).isfinite()
    assert model.flow.to_data(torch.zeros(1, dim, dtype=torch.float64), t).shape == (1, dim)


def use_state(path):
    resumed = Resumed(path, read_state(path))
    assert resumed.basis.dim == len(resumed.data_variance)
    trainer = samples.toy_trainer()
    trainer.restore(resumed.state, str(path))
    assert all(tensor.isfinite().all() for tensor in trainer.denoiser.state_dict().values())
    trainer.train_step(Batch(samples.POINTS), RunningMeans(CPU))


def use_options(path):
    # It asks git for the version of this code, and then what a step would cost.
    job = "training.models.training"
    with (
        mock.patch(f"{job}.provenance", return_value={}),
        mock.patch(f"{job}.print_dry_run"),
        mock.patch(f"{job}.Resumed.find", return_value=None),  # there are options alone
        # A toy may be in thousands of dimensions, whose eigenvectors take longer than a file may.
        mock.patch.object(EigenBasis, "from_moments", lambda m, _: EigenBasis.standard(len(m))),
    ):
        try:
            toy_train.main([f"--resume={path.parent}", "--dry-run"], standalone_mode=False)
        except RuntimeError as error:
            # Scripts tell of a lack of memory in a line, as ``run_script`` has it.
            if "allocate memory" not in str(error):
                raise
            raise DataError(f"{path}: out of memory") from error


def use_arrays(path):
    arrays = load_arrays(path)
    with open_arrays(path) as saved:
        for name in saved.names:
            assert saved.read(name).tobytes() == arrays[name].tobytes()
            assert not arrays[name].dtype.hasobject


def use_rows(path):
    with open_arrays(path) as saved:
        shape, read = saved.header("rows").shape, list(saved.rows("rows", 3))
    assert sum(map(len, read)) == shape[0]
    assert all(np.isfinite(batch).all() and batch.shape[1:] == shape[1:] for batch in read)


def use_array_of_a_posterior(path):
    assert array_of(path, "the noise", (1, 2)).isfinite().all()


def use_part_of_a_posterior(path):
    got = load_part(path, "this run")
    if got is not None:
        draws, summary = got
        assert draws.points.shape[:3] == draws.log_likelihood.shape
        assert len(summary.mean) == draws.count == len(draws.sampler)


def use_part_of_a_check(path):
    got = load_values(path, "this run")
    if got is not None:
        assert got.ranks.shape[1] == len(got.names)
        assert all(len(contents) == len(got.ranks) for contents in got.regions.values())


def use_melt(path):
    saved = SavedEnd.load(path, samples.toy_model()[0].flow, samples.TIMES)
    for points in (saved.x, saved.start):
        assert points.isfinite().all()
        assert points.shape == (len(saved.x), 2)


def use_table(path):
    table = load_table(path)
    assert table.points.isfinite().all()
    assert len(table.train_rows) > 0
    assert table.restored(table.points).shape == (len(table), len(table.order))


def use_rows_to_convert(path):
    table, _ = make_table(open_table(str(path), None), TableChoices(missing="drop"))
    assert table.points.isfinite().all()


def use_records(path):
    records = load_records(path)
    names, columns = texts_of(records)
    assert [len(column) for column in columns] == [len(records)] * len(names)
    assert len(frame_of(records)) == len(records)


def use_texts_to_convert(path):
    records, _ = SurveyedTable.from_cells(open_cells(path), RecordChoices()).records()
    assert not np.isinf(records.values).any()
    assert all(len(column) == len(records) for column in texts_of(records)[1])


def use_toy_residuals(path):
    made = Extraction.read(path)
    for name, shape in saved_shapes(path, AT_ALL_TIMES).items():
        got = list(toy_correlations(path, name, range(shape[0]), CPU))
        assert len(got) == shape[0]
        assert all(correlation.matrix.isfinite().all() for _, correlation in got)
    assert made.times.ndim == 1


def use_image_residuals(path):
    first = find_first(path, None, None)
    shapes = saved_shapes(first, AT_ONE_TIME)
    require_same(path, Extraction.read(first), shapes)
    for name in shapes:
        later = first.with_name(first.name.replace("time0", "time1"))
        got = correlate(row_pairs(first, later, name, 2, CPU), str(later))
        assert got.matrix.isfinite().all()


def use_reference(path):
    known = FIDReference.load(path)
    assert known.sigma.shape == 2 * known.mu.shape


def use_pictures(path):
    assert pictures_of([path], None, None)


def use_answers(path):
    for picture in pictures_of([path], None, None):
        assert picture.path.parent == path.parent


def use_statistics(path):
    saved = SavedTraining.load(path)
    assert saved.samples.shape == saved.loss.shape == saved.learning_rate.shape
    assert np.isfinite(saved.samples).all()


def use_images(path):
    for labels in (False, True):
        dataset = ImageDataset(path, use_labels=labels)
        try:
            if labels:
                dataset.keep_in_memory()
            read, given = dataset.read(range(min(len(dataset), MOST_IMAGES)))
        finally:
            dataset.close()
        assert read.dtype == torch.uint8
        assert tuple(read.shape[1:]) == dataset.image_shape
        assert given.shape == (len(read), dataset.label_dim)
        assert given.isfinite().all()


def use_source(path):
    source = open_source(str(path))
    try:
        for index, image in enumerate(source.images):
            check_pixels(image.read())
            assert image.label is None or np.isfinite(image.label).all()
            if index > MOST_IMAGES:
                break
    finally:
        source.images.close()


def check_pixels(pixels):
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] in (1, 3)
    assert 0 < pixels.size <= 3 << 26


IMAGE_FILES = (
    *(image_file("i.png"), image_file("i.png", "L"), image_file("i.jpg"), image_file("i.bmp")),
    image_file("i.webp", lossless=True),
)
OTHER_IMAGE_FILES = (
    *(image_file("i.png", "P"), image_file("i.png", "RGBA"), image_file("i.gif", "P")),
    image_file("i.jpg", "CMYK"),
)


def arrays(name, probe, file, make, victim, *others):
    """A reader of an ``.npz`` with these arrays, of which ``victim`` is bad in hostile files."""
    valid = (samples.arrays(file, make), *others)
    return Reader(name, valid, probe, npz(file, make(), victim), parses=True)


def lone_array(name, file, probe):
    hostile = {**anything(file), **named(file, ARRAYS)}
    valid = written(file, lambda path: np.save(path, samples.table()["points"]))
    return Reader(name, (valid,), probe, hostile, parses=True)


ALL = (
    Reader(
        "network",
        (
            *(samples.network(), samples.network(1, "ifs", True), samples.network(2, "edm")),
            written("network-snapshot-000001.pkl", samples.save_network_of_table),
        ),
        lambda path: check_model(TrainedNetwork.load(path)),
        {**torch_files("network.pkl"), **networks("network.pkl")},
    ),
    Reader(
        *("training state", (samples.state(2), samples.state(1)), use_state),
        {**torch_files("training-state.pt"), **states("training-state.pt")},
    ),
    Reader(
        "original network",
        (samples.original("toy", 4), samples.original("images", 4), samples.original("images", 5)),
        lambda path: check_model(import_original(path).model),
        {**anything("original.pkl"), **bare("original.pkl")},
        mutate={"": mutate_bytes},
    ),
    Reader(
        *("detector", (samples.detector(zipped=True), samples.detector(zipped=False))),
        lambda path: detector._tensors(detector._read(path), path),
        torch_files("weights.pth"),
    ),
    *(
        arrays(name, probe, "a.npz", samples.some_arrays, "rows", samples.compressed_arrays)
        for name, probe in (("arrays", use_arrays), ("rows", use_rows))
    ),
    arrays(
        *("melt", use_melt, "m.npz", samples.melt, "xs_es"),
        samples.arrays("m.npz", lambda: samples.melt(labels=True)),
    ),
    arrays("toy residuals", use_toy_residuals, "r.npz", samples.toy_residuals, "net_outputs"),
    Reader("image residuals", (samples.image_residuals,), use_image_residuals, parses=True),
    arrays(
        *("table", use_table, "table.npz", samples.table, "points"),
        samples.arrays("table.npz", lambda: {"points": samples.table()["points"]}),
    ),
    Reader(
        "rows to convert",
        (written("rows.csv", samples.save_rows), written("rows.csv", samples.save_rows_with_holes)),
        *(use_rows_to_convert, rows()),
        parses=True,
    ),
    Reader(
        *("texts to convert", (written("rows.csv", samples.save_texts),)),
        *(use_texts_to_convert, rows()),
        parses=True,
    ),
    arrays("records", use_records, "table.npz", samples.records, "values"),
    lone_array("array to convert", "rows.npy", use_rows_to_convert),
    lone_array("array of a posterior", "noise.npy", use_array_of_a_posterior),
    arrays(
        *("part of a posterior", use_part_of_a_posterior, "group-00000.npz"),
        *(samples.part_of_a_posterior, "points"),
    ),
    arrays(
        *("part of a check", use_part_of_a_check, "group-00000.npz"),
        *(samples.part_of_a_check, "ranks"),
    ),
    arrays("reference", use_reference, "ref.npz", samples.reference, "sigma"),
    arrays(
        *("pictures", use_pictures, "circles_PRP_net_melt_results.npz", samples.melt),
        "xs_es",
        lambda folder: picture_files.save_coverage(folder, count=12),
        *(picture_files.save_summary, picture_files.save_toy_matrices),
        *(picture_files.save_roundtrips, picture_files.save_check),
        lambda folder: picture_files.save_image_matrices(folder, dim=2).parent,
    ),
    Reader(
        "posteriors",
        (
            lambda folder: picture_files.save_posterior(folder, draws=5),
            lambda folder: picture_files.save_posterior(folder, "wine", 3, draws=5, prior=False),
        ),
        *(use_pictures, anything("circles_PRP_posterior.nc")),
    ),
    Reader(
        "answers",
        tuple(partial(picture_files.save_answers, question=each) for each in picture_files.HEADS),
        *(use_answers, texts("answers_params.json")),
    ),
    Reader("statistics", (picture_files.save_stats,), use_statistics, statistics()),
    Reader(
        *("parameters", (written("circles_PRP_sim_params.json", samples.parameters),)),
        *(load_json, texts("params.json")),
    ),
    Reader(
        *("training options", (written("training_options.json", samples.training_options),)),
        *(use_options, training_options()),
        names_file=False,
        also_allowed=(click.ClickException,),
    ),
    Reader(
        *("statistics of a resumed run", (picture_files.save_stats,)),
        *(lambda path: keep_lines_until(path, 2500), statistics()),
        writes=True,
    ),
    Reader(
        "image data set",
        (image_set("set.zip", 1), image_set("set.zip", 3, vectors=True), image_set("set", 1)),
        *(use_images, image_sets()),
    ),
    Reader(
        *("images to convert", (image_set("set.zip", 3), image_set("set", 1))),
        *(use_source, image_sets()),
    ),
    Reader(
        *("image of a set", IMAGE_FILES),
        *(lambda path: check_pixels(decode_exact(path.read_bytes(), str(path))), images()),
    ),
    Reader(
        *("image to convert", IMAGE_FILES + OTHER_IMAGE_FILES),
        *(lambda path: check_pixels(Decoder()(path.read_bytes(), str(path))), images()),
    ),
    Reader("idx", (mnist(28), mnist(5)), use_source, idx_files()),
    Reader("cifar", (cifar(2), cifar(4)), use_source, tars(), mutate={".gz": in_tar}),
    Reader(
        *("pickle of a batch", tuple(map(pickle_of_a_batch, (2, 3, 4, 5)))),
        lambda path: read_plain_pickle(path.read_bytes(), str(path)),
        bare("batch.pickle"),
    ),
)
READERS = {reader.name: reader for reader in ALL}


def run(name, folder, mutants, seed=0, every=1):
    """Runs the hostile files of a reader and so many mutants, or one in ``every`` of them: how many
    were refused and accepted, and what went wrong, by case."""
    counts, violations = Counter(), {}
    cases = range(0, len(READERS[name].hostile) + mutants, every)
    while (done := counts.total() + len(violations)) < len(cases):
        text, tells = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=_try, args=(name, seed, folder, cases[done:], tells))
        process.start()
        tells.close()
        try:
            while True:
                case, outcome, why = text.recv()
                if outcome == "failed":
                    raise RuntimeError(f"{name}: {why}")
                if outcome == "violation":
                    violations[case] = why
                else:
                    counts[outcome] += 1
        except EOFError:
            process.join()
        if counts.total() + len(violations) < len(cases):
            # The process ended in the middle of a case.
            where = " < ".join((folder / "trace").read_text().split("\n")[:12])
            case = (folder / "current").read_text()
            violations[case] = f"it ended with status {process.exitcode}: {where}"
    return counts, violations


def _try(name, seed, folder, cases, tells):
    try:
        trial = Trial(READERS[name], seed, folder)
        for case in cases:
            tells.send(trial.run(case))
    except BaseException:
        tells.send(("", "failed", traceback.format_exc()))
