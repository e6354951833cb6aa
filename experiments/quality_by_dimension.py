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
WORDS = """Means ± 2 standard deviations over {seeds} trainings. The paper reports, from 1 to all of
3,072 dimensions, an FID of 11.90 to 15.64 for AFHQv2 and of 16.60 to 28.07 for CIFAR-10, and round
trips of 0.14 to 5.32 squared gray levels. *energy* is the energy distance between the pixels of
generated and training images, unbiased, so it can be negative. *Fréchet* is the Fréchet distance
between 32 features of a small classifier, as a fraction of their variance ({classifiers}). Rows
*held out* are real images that are not used for training: digits of other writers, other patches.
*round trip* is the mean squared error in squared gray levels before rounding, by
`calc_roundtrip_mse.py` with {roundtrip}; {exact}. T is the time at which nine tenths of the
variance of every dimension are noise. **Limits**: {durations} training samples (the paper: 200
million), networks of 16 channels (128), {generated} generated images, no calibration and a Gaussian
base distribution. The table shows whether quality falls with few dimensions, not the quality that
longer training reaches."""


def flows(plan: ImagePlan) -> dict[float, tuple[int, float]]:
    return {kept: (kept, GAP) for kept in plan.kept}


def main(lab: Lab, inception: Path | None) -> None:
    plans = PLANS[lab.scale]
    found = quality.measure(lab, inception, flows, plans)
    words = WORDS.format(
        **quality.describe_extraction(plans),
        classifiers=quality.classifier_words(found),
        exact=quality.exact_words(found),
    )
    figure = quality.picture(
        found, "Quality against kept dimensions, inflation gap 1.02", "dimensions kept", True
    )
    content = {"data": found, "published": PUBLISHED}
    lab.finish(content, quality.table(found, "kept"), figure, words, shown=False)


if __name__ == "__main__":
    experiment(main, "quality_by_dimension", __doc__, quality.INCEPTION)()
