"""What a training on a toy needs of it when it ends."""

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.toys import Toy

# Each costs 101 network calls, together about as much as training on 340,000; the error of a slope
# is about one over their square root.
CALIBRATION_POINTS = 10_000


def calibration_points(toy: Toy, seed: int) -> Batch:
    """This rank's share of fresh draws, as many on any number of ranks."""
    generator = seeded_generator("cpu", seed, Stream.CALIBRATION_POINTS, 0)
    points = toy.sample(CALIBRATION_POINTS, generator)
    return Batch(points[distributed.shard(CALIBRATION_POINTS)])


def melted_points(toy: Toy, seed: int, count: int) -> Batch:
    """Fresh draws to melt, the same on all ranks."""
    return Batch(toy.sample(count, seeded_generator("cpu", seed, Stream.MELTED_POINTS)))
