"""Sample quality and round trip against the dimensions that a flow keeps, at a gap of 1.02.

Flows that keep 1 dimension to all, trained several times each. The paper's claim: at its constant
inflation gap quality hardly depends on how many dimensions are kept.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments import quality
from experiments.images import GAP, PLANS, ImagePlan
from experiments.lab import Lab, experiment

PUBLISHED = {
    "AFHQv2": {
        "kept": (1, 2, 30, 62, 307, 615, 1536, 3041, 3072),
        "fid": (12.65, 11.95, 13.64, 14.05, 15.64, 14.63, 13.36, 13.97, 11.90),
        "mse": (1.47, 1.55, 3.79, 5.32, 3.33, 2.42, 0.14, 0.28, 0.38),
    },
    "CIFAR-10": {
        "kept": (1, 2, 30, 62, 307, 615, 1536, 3041, 3072),
        "fid": (20.76, 21.29, 23.36, 23.30, 28.07, 24.49, 17.44, 16.60, 17.01),
        "mse": (1.07, 0.81, 2.21, 2.27, 0.71, 0.29, 0.16, 0.30, 0.22),
    },
}
WORDS = """Means ± 2 standard deviations over {seeds} trainings. The paper has an FID of 11.90 to
15.64 for AFHQv2 and of 16.60 to 28.07 for CIFAR-10 from 1 dimension of 3,072 to all, 50,000
images each, and round trips of 0.14 to 5.32 squared gray levels after rounding: quality hardly
depends on how many dimensions are kept. There are no such data here, and no Inception weights
(`--inception=PATH` adds the FID). *Fréchet*: of 32 features of a small classifier trained here
({classifiers}; those of patches are which way their edges run, in eighths of half a turn, times
the photograph), between generated images and those trained on, in shares of the variance of the
features; *energy*: the energy distance of their pixels, right on average, so that it may fall
below 0. Rows *held out* are as many real images: digits by other writers, patches of other
places. *round trip*: mean squared error in squared gray levels before rounding, by
`calc_roundtrip_mse.py` with {roundtrip}, where the paper has Heun's method, and differences of 8
bits that wrapped; {exact}. T is when nine tenths of the variance of every dimension, compressed
ones as well, are noise at this gap. **What is short**: trainings of {durations} images (the
paper: 200 million) with networks of 16 channels (128), {generated} generated images, and no
calibration and no learned law of latents, as in the paper. Such networks are far from what
longer ones reach ([digits.md](digits.md)); what they can show is whether quality falls where
few dimensions are kept, not how good it is."""


def flows(plan: ImagePlan) -> dict[float, tuple[int, float]]:
    return {kept: (kept, GAP) for kept in plan.kept}


def main(lab: Lab, inception: Path | None) -> None:
    plans = PLANS[lab.scale]
    found = quality.measure(lab, inception, flows, plans)
    words = WORDS.format(
        **quality.told_of(plans),
        classifiers=quality.classifier_words(found),
        exact=quality.exact_words(found),
    )
    figure = quality.picture(
        found, "Quality against kept dimensions, inflation gap 1.02", "dimensions kept", True
    )
    content = {"data": found, "published": PUBLISHED}
    lab.finish(content, quality.table(found, "kept"), figure, words)


if __name__ == "__main__":
    experiment(main, "quality_by_dimension", __doc__, quality.INCEPTION)()
