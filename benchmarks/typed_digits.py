"""Writes images of digits, 28 x 28 pixels, as one's own: in fonts that matplotlib brings, turned,
leaned, of several sizes and weights. They come in a folder for each digit, of whose name
``dataset_tool.py`` makes the class.

    python benchmarks/typed_digits.py --dest=out/typed --count=6000
    python benchmarks/typed_digits.py --dest=out/typed-held-out --count=500 --seed=1
"""

from pathlib import Path

import click
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE, SCALE = 28, 4
"""Of an image, and how many times as large it is drawn."""
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol",
    "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
TURN, LEAN, SIZES, MOVE, BLUR = 15.0, 0.25, (20, 30), 2.0, (0.3, 0.9)
"""Degrees; columns a row; pixels from top to bottom of a font; pixels; pixels."""


def typed(digit: int, random: np.random.Generator) -> Image.Image:
    """One image of a digit, white on black."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    size = SCALE * random.uniform(*SIZES)
    font = ImageFont.truetype(folder / f"{random.choice(FONTS)}.ttf", size)
    side = SCALE * SIDE
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((side / 2, side / 2), str(digit), 255, font, anchor="mm")
    lean = random.uniform(-LEAN, LEAN)
    x, y = SCALE * random.uniform(-MOVE, MOVE, 2)
    across = (1, lean, x - lean * side / 2, 0, 1, y)
    image = image.transform(image.size, Image.Transform.AFFINE, across, Image.Resampling.BILINEAR)
    image = image.rotate(random.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(SCALE * random.uniform(*BLUR)))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


@click.command(help=__doc__)
@click.option("--dest", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--count", type=click.IntRange(min=10), default=6000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(dest: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    for number in range(count):
        digit = number % 10
        folder = dest / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        typed(digit, random).save(folder / f"{number:05d}.png")


if __name__ == "__main__":
    main()
