"""dataset_tool.py: round trips of folders and zips, transforms; bad input leaves nothing."""

import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from tests.support.image_files import encoded, noise, write_zip
from tests.support.running import contents, good, refused, run_script


def write_folder(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read_output(dest):
    """Pixels in order and labels, read with nothing of the project; checks the names."""
    if dest.is_dir():
        got = {p.relative_to(dest).as_posix(): p.read_bytes() for p in dest.rglob("*.*")}
    else:
        with zipfile.ZipFile(dest) as archive:
            assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
            got = {name: archive.read(name) for name in archive.namelist()}
    labels = json.loads(got.pop("dataset.json"))["labels"]
    names = [f"{index // 1000:05d}/img{index:08d}.png" for index in range(len(got))]
    assert sorted(got) == names
    if labels is not None:
        assert [name for name, _ in labels] == names
        labels = [label for _, label in labels]
    return [np.asarray(Image.open(io.BytesIO(got[name]))) for name in names], labels


def tool(source, dest, *more):
    return run_script(dataset_tool, f"--source={source}", f"--dest={dest}", *more)


@pytest.fixture
def converted(tmp_path):
    """``converted(source, *options) -> (images, labels)``, which must succeed."""

    def run(source, *more):
        dest = tmp_path / "converted.zip"
        good(tool(source, dest, "--overwrite", *more))
        return read_output(dest)

    return run


def assert_same(images, expected):
    for image, other in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, other, strict=True)


RGB = [noise(6, 6, 3, seed=seed) for seed in range(4)]
GRAY = [noise(6, 6, seed=seed) for seed in range(4)]
NESTED = {f"{'ab'[index % 2]}/x{index}.png": encoded(image) for index, image in enumerate(RGB)}
IN_ORDER = [RGB[0], RGB[2], RGB[1], RGB[3]]
LABELS = {"labels": [["a/x0.png", 5], ["b/x1.png", 0], ["a/x2.png", 1], ["b/x3.png", 2]]}


def test_nested_folders_and_zips_come_out_in_order_of_names(converted, tmp_path):
    clutter = {"readme.txt": b"?", ".hidden.png": b"?", "__MACOSX/a/._x0.png": b"?"}
    for source in (
        write_folder(tmp_path / "folder", NESTED | clutter),
        write_zip(tmp_path / "source.zip", dict(reversed((NESTED | clutter).items()))),
    ):
        images, labels = converted(source)
        assert_same(images, IN_ORDER)
        assert labels == [0, 0, 1, 1], "a class for each folder"
        for count in (3, 9):
            in_turns = converted(source, f"--max-images={count}")
            assert_same(in_turns[0], RGB[:count])
            assert in_turns[1] == [0, 1, 0, 1][:count], "a part has its classes evenly"
    beside = write_folder(tmp_path / "beside", NESTED | {"x.png": encoded(RGB[0])})
    assert converted(beside)[1] is None
    numbers = {f"{number}/x.png": encoded(RGB[0]) for number in (10, 2)}
    assert converted(write_folder(tmp_path / "numbers", numbers))[1] == [1, 0], "2 is before 10"


@pytest.mark.parametrize("make", [write_folder, write_zip])
def test_labels_of_a_folder_or_zip_follow_their_images(converted, tmp_path, make):
    source = make(tmp_path / "s.zip", NESTED | {"dataset.json": json.dumps(LABELS).encode()})
    assert converted(source)[1] == [5, 1, 0, 2]
    vectors = {"labels": [[name, [label, 0.5]] for name, label in LABELS["labels"]]}
    source = make(tmp_path / "v.zip", NESTED | {"dataset.json": json.dumps(vectors).encode()})
    assert converted(source)[1] == [[5, 0.5], [1, 0.5], [0, 0.5], [2, 0.5]]
    none = make(tmp_path / "n.zip", NESTED | {"dataset.json": b'{"labels": null}'})
    assert converted(none)[1] is None


def test_a_folder_has_the_files_of_a_zip_and_both_are_the_same_each_time(tmp_path):
    labels = {"dataset.json": json.dumps(LABELS).encode()}
    source = write_folder(tmp_path / "source", NESTED | labels)
    for name in ("a.zip", "b.zip", "folder"):
        assert tool(source, tmp_path / name).code == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        in_zip = {name: archive.read(name) for name in archive.namelist()}
    in_folder = contents(tmp_path / "folder")
    assert in_folder.pop("00000/") == b""
    assert in_folder == in_zip
    assert tool(write_zip(tmp_path / "source.zip", in_zip), tmp_path / "c.zip").code == 0
    assert (tmp_path / "c.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()


def test_pngs_are_not_compressed_and_a_thousand_lie_in_a_folder(tmp_path):
    assert tool("digits", tmp_path / "d").code == 0
    assert len(list((tmp_path / "d" / "00000").iterdir())) == 1000
    assert len(list((tmp_path / "d" / "00001").iterdir())) == 797
    black = write_folder(tmp_path / "s", {"a.png": encoded(np.zeros((64, 64), np.uint8))})
    assert tool(black, tmp_path / "z").code == 0
    assert (tmp_path / "z" / "00000" / "img00000000.png").stat().st_size > 64 * 64


def test_crops_keep_the_middle_and_wide_ones_the_aspect_between_black_bars(converted, tmp_path):
    wide, tall = noise(4, 7, 3), noise(9, 4, 3)
    source = write_folder(tmp_path / "s", {"0.png": encoded(wide), "1.png": encoded(tall)})
    assert_same(converted(source, "--transform=center-crop")[0], [wide[:, 1:5], tall[2:6]])
    wide, tall = noise(4, 12), noise(9, 8)
    source = write_folder(tmp_path / "s", {"0.png": encoded(wide), "1.png": encoded(tall)})
    images, _ = converted(source, "--transform=center_crop_wide", "--resolution=8x4")
    assert_same(images, [np.pad(x, ((2, 2), (0, 0))) for x in (wide[:, 2:10], tall[2:6])])


def test_a_resolution_averages_even_blocks_to_themselves(converted, tmp_path):
    quadrants = np.kron(np.array([[0, 50], [100, 250]], np.uint8), np.ones((32, 32), np.uint8))
    source = write_folder(tmp_path / "s", {"0.png": encoded(quadrants)})
    (image,), _ = converted(source, "--resolution=16X16")
    assert image.shape == (16, 16)
    assert image[[2, 2, -2, -2], [2, -2, 2, -2]].tolist() == [0, 50, 100, 250]
    wide = write_folder(tmp_path / "w", {"0.png": encoded(np.full((20, 40, 3), 9, np.uint8))})
    (image,), _ = converted(wide, "--resolution=8x8", "--transform=center-crop")
    np.testing.assert_array_equal(image, np.full((8, 8, 3), 9))


def test_kinds_are_converted_to_gray_or_rgb_and_it_is_said_once(tmp_path):
    color = Image.fromarray(np.full((4, 4, 3), (200, 100, 0), np.uint8))
    half = color.convert("RGBA")
    half.putalpha(0)
    palette = color.quantize(4)
    orange, white = [200, 100, 0], [255, 255, 255]
    files = {
        "0.png": (encoded(palette), orange),
        "1.png": (encoded(palette), orange),
        "2.png": (encoded(half), white),
        "3.webp": (encoded(half, "webp", lossless=True), white),
        "4.bmp": (encoded(color, "bmp"), orange),
        "5.gif": (encoded(color, "gif"), orange),
        "6.png": (encoded(Image.new("L", (4, 4), 77)), [77] * 3),
        "7.png": (encoded(Image.new("1", (4, 4), 1)), white),
        "8.png": (encoded(Image.new("LA", (4, 4), (9, 255))), [9] * 3),
        "9.jpg": (encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "jpeg"), [0] * 3),
    }
    source = write_folder(tmp_path / "s", {name: data for name, (data, _) in files.items()})
    result = good(tool(source, tmp_path / "d.zip"))
    images, _ = read_output(tmp_path / "d.zip")
    means = [image.mean(axis=(0, 1)).round().tolist() for image in images]
    assert means == [mean for _, mean in files.values()]
    notes = [line for line in result.out.splitlines() if line.startswith("Note")]
    assert len(notes) == 4
    assert sum("transparent" in note for note in notes) == 1


def test_upright_photographs_stay_upright_and_colors_are_never_dropped_unasked(converted, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = write_folder(tmp_path / "t", {"0.png": encoded(RGB[0], exif=exif)})
    assert_same(converted(turned)[0], [RGB[0][::-1, ::-1]])
    source = write_folder(tmp_path / "g", {f"{i}.png": encoded(g) for i, g in enumerate(GRAY)})
    assert_same(converted(source)[0], GRAY)
    source = write_folder(tmp_path / "s", {"0.png": encoded(GRAY[0]), "1.png": encoded(RGB[0])})
    refused(tool(source, tmp_path / "d.zip", "--skip-bad"), 1, "1.png", "--channels=3")
    assert_same(converted(source, "--channels=3")[0], [np.stack([GRAY[0]] * 3, -1), RGB[0]])
    luma = np.asarray(Image.fromarray(RGB[0]).convert("L"))
    assert_same(converted(source, "--channels=1")[0], [GRAY[0], luma])


GOOD = encoded(RGB[0])


def claiming(side):
    """A PNG whose header says that it has so many pixels a side."""
    header = b"IHDR" + struct.pack(">II", side, side) + GOOD[24:29]
    return GOOD[:12] + header + struct.pack(">I", zlib.crc32(header)) + GOOD[33:]


BAD_FILES = {
    "text": (b"not an image", "not an image of a known format"),
    "truncated": (GOOD[:-40], "not a readable image"),
    "bomb": (claiming(50_000), "pixels"),
    "many": (claiming(8_500), "declares 8500x8500 pixels"),
    "sixteen": (encoded(np.full((6, 6), 4000, np.uint16)), "more than 8 bits"),
    "oblong": (encoded(noise(4, 6, 3)), "6x4, but the first image is 6x6: give --resolution"),
    "another_size": (encoded(noise(4, 4, 3)), "4x4, but the first image is 6x6: give --resolution"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("make", [write_folder, write_zip])
def test_a_bad_file_stops_the_tool_or_is_skipped_and_counted(tmp_path, kind, make):
    data, message = BAD_FILES[kind]
    source = make(tmp_path / "source.zip", NESTED | {"b/bad.png": data})
    for dest in ("d.zip", "d"):
        refused(tool(source, tmp_path / dest), 1, "b/bad.png", message)
        assert os.listdir(tmp_path) == ["source.zip"]
    result = good(tool(source, tmp_path / "d.zip", "--skip-bad"))
    assert "skipped 1" in result.out
    assert "b/bad.png" in result.out
    assert_same(read_output(tmp_path / "d.zip")[0], IN_ORDER)


def test_skipping_everything_is_an_error(tmp_path):
    source = write_folder(tmp_path / "s", {f"{i:02d}.png": b"bad" for i in range(30)})
    result = tool(source, tmp_path / "d.zip", "--skip-bad")
    refused(result, 1, "all 30 were skipped")
    assert sum(line.startswith("Skipped") for line in result.out.splitlines()) == 20


def test_only_data_sets_are_replaced_if_asked(tmp_path):
    home = write_folder(tmp_path / "home", {"thesis.tex": b"x"})
    write_folder(tmp_path / "home" / "images", NESTED)
    write_folder(tmp_path / "a.zip", {"dataset.json": b"x"})
    write_folder(tmp_path, {"file": b"x"})
    before = contents(tmp_path)
    for source, dest, message in (
        ("digits", home, "is not a data set"),
        ("digits", tmp_path / "a.zip", "is a folder"),
        ("digits", tmp_path / "file", "is a file"),
        (home / "images", home, "give another --dest"),
        (home / "images", home / "images" / "new", "give another --dest"),
        (home / "images", home / "images", "give another --dest"),
    ):
        refused(tool(source, dest, "--overwrite"), 2, message)
        assert contents(tmp_path) == before
    for count in (2, 3):
        result = tool("digits", tmp_path / "d", f"--max-images={count}", "--overwrite")
        assert (result.code, len(read_output(tmp_path / "d")[0])) == (0, count)
    assert set(os.listdir(tmp_path)) == {"home", "a.zip", "file", "d", "d_params.json"}


def test_a_zip_entry_that_says_it_is_huge_is_not_read(tmp_path):
    source = write_zip(tmp_path / "s.zip", {"x.png": GOOD})
    data = source.read_bytes()
    field = data.index(b"PK\x01\x02") + 24
    source.write_bytes(data[:field] + struct.pack("<I", 2**31) + data[field + 4 :])
    refused(tool(source, tmp_path / "d.zip"), 1, "x.png", "declares 2147483648 bytes")
