"""Every way in which this project opens files, by name."""

from functools import partial
from pathlib import Path

import click

from tests.fuzz import probes, samples
from tests.fuzz.cases import Probe, Reader, Write, written
from tests.fuzz.hostile import anything, named
from tests.fuzz.hostile_arrays import ARRAYS, npz, rows, statistics, texts, training_options
from tests.fuzz.hostile_images import idx_files, image_sets, images, stores, tars
from tests.fuzz.hostile_pickles import bare, networks, states, torch_files
from tests.fuzz.mutations import in_tar, mutate_bytes
from tests.fuzz.probes import check_model, check_pixels
from tests.fuzz.samples import cifar, image_file, image_set, lsun, mnist, pickle_of_a_batch
from tests.support import answer_files, picture_files
from torch_utils.results import load_json
from torch_utils.stats import keep_lines_until
from training.data.images.codec import Decoder, decode_exact
from training.data.sources import lmdb_process
from training.data.sources.formats import read_plain_pickle
from training.model.model import Model
from training.original.model import import_original

IMAGE_FILES = (
    *(image_file("i.png"), image_file("i.png", "L"), image_file("i.jpg"), image_file("i.bmp")),
    image_file("i.webp", lossless=True),
)
OTHER_IMAGE_FILES = (
    *(image_file("i.png", "P"), image_file("i.png", "RGBA"), image_file("i.gif", "P")),
    image_file("i.jpg", "CMYK"),
)


def arrays(
    name: str, probe: Probe, file: str, make: samples.Make, victim: str, *others: Write
) -> Reader:
    """A reader of an ``.npz`` with these arrays, of which ``victim`` is bad in hostile files."""
    valid = (samples.arrays(file, make), *others)
    return Reader(name, valid, probe, npz(file, make(), victim), parses=True)


def lone_array(name: str, file: str, probe: Probe) -> Reader:
    hostile = {**anything(file), **named(file, ARRAYS)}
    return Reader(name, (written(file, samples.save_lone_array),), probe, hostile, parses=True)


ALL = (
    Reader(
        "network",
        (
            *(samples.network(), samples.network(1, "ifs", True), samples.network(2, "edm")),
            written("network-snapshot-000001.pkl", samples.save_network_of_table),
        ),
        lambda path: check_model(Model.load(path)),
        {**torch_files("network.pkl"), **networks("network.pkl")},
    ),
    Reader(
        *("training state", (samples.state(2), samples.state(1)), probes.use_state),
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
        *(probes.use_detector, torch_files("weights.pth")),
    ),
    *(
        arrays(name, probe, "a.npz", samples.some_arrays, "rows", samples.compressed_arrays)
        for name, probe in (("arrays", probes.use_arrays), ("rows", probes.use_rows))
    ),
    arrays(
        *("melt", probes.use_melt, "m.npz", samples.melt, "xs_es"),
        samples.arrays("m.npz", lambda: samples.melt(labels=True)),
    ),
    arrays(
        "toy residuals", probes.use_toy_residuals, "r.npz", samples.toy_residuals, "net_outputs"
    ),
    Reader("image residuals", (samples.image_residuals,), probes.use_image_residuals, parses=True),
    arrays(
        *("table", probes.use_table, "table.npz", samples.table, "points"),
        samples.arrays("table.npz", lambda: {"points": samples.table()["points"]}),
    ),
    Reader(
        "rows to convert",
        (written("rows.csv", samples.save_rows), written("rows.csv", samples.save_rows_with_holes)),
        *(probes.use_rows_to_convert, rows()),
        parses=True,
    ),
    Reader(
        *("texts to convert", (written("rows.csv", samples.save_texts),)),
        *(probes.use_texts_to_convert, rows()),
        parses=True,
    ),
    arrays("records", probes.use_records, "table.npz", samples.records, "values"),
    lone_array("array to convert", "rows.npy", probes.use_rows_to_convert),
    lone_array("array of a posterior", "noise.npy", probes.use_array_of_a_posterior),
    arrays(
        *("part of a posterior", probes.use_part_of_a_posterior, "group-00000.npz"),
        *(samples.part_of_a_posterior, "points"),
    ),
    arrays(
        *("part of a check", probes.use_part_of_a_check, "group-00000.npz"),
        *(samples.part_of_a_check, "ranks"),
    ),
    arrays("reference", probes.use_reference, "ref.npz", samples.reference, "sigma"),
    arrays(
        *("pictures", probes.use_pictures, "circles_PRP_net_melt_results.npz", samples.melt),
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
        *(probes.use_pictures, anything("circles_PRP_posterior.nc")),
    ),
    Reader(
        "answers",
        tuple(partial(answer_files.save, question=question) for question in answer_files.HEADS),
        *(probes.use_answers, texts("answers_params.json")),
    ),
    Reader("statistics", (picture_files.save_stats,), probes.use_statistics, statistics()),
    Reader(
        *("parameters", (written("circles_PRP_sim_params.json", samples.parameters),)),
        *(load_json, texts("params.json")),
    ),
    Reader(
        *("training options", (written("training_options.json", samples.training_options),)),
        *(probes.use_options, training_options()),
        names_file=False,
        also_allowed=(click.ClickException,),
    ),
    Reader(
        *("statistics of a resumed run", (picture_files.save_stats,)),
        *(lambda path: keep_lines_until(path, "seen", 2500), statistics()),
        writes=True,
    ),
    Reader(
        "image data set",
        (image_set("set.zip", 1), image_set("set.zip", 3, vectors=True), image_set("set", 1)),
        *(probes.use_images, image_sets()),
    ),
    Reader(
        *("images to convert", (image_set("set.zip", 3), image_set("set", 1))),
        *(probes.use_source, image_sets()),
    ),
    Reader(
        *("image of a set", IMAGE_FILES),
        *(lambda path: check_pixels(decode_exact(path.read_bytes(), str(path))), images()),
    ),
    Reader(
        *("image to convert", IMAGE_FILES + OTHER_IMAGE_FILES),
        *(lambda path: check_pixels(Decoder()(path.read_bytes(), str(path))), images()),
    ),
    Reader("idx", (mnist(28), mnist(5)), probes.use_source, idx_files()),
    Reader("cifar", (cifar(2), cifar(4)), probes.use_source, tars(), mutate={".gz": in_tar}),
    Reader(
        *("pickle of a batch", tuple(map(pickle_of_a_batch, (2, 3, 4, 5)))),
        lambda path: read_plain_pickle(path.read_bytes(), str(path)),
        bare("batch.pickle"),
    ),
    Reader(
        *("lmdb", (lsun(3), lsun(60)), probes.use_source, stores()),
        runs=Path(lmdb_process.__file__),
    ),
)
READERS = {reader.name: reader for reader in ALL}
