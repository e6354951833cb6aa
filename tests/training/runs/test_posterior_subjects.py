"""What a network is of."""

from pathlib import Path

from tests.support.image_models import save_image_model
from training.subjects import ImageFlow, NetworkFile, open_subject


def test_images_that_are_called_after_a_toy_are_images(tmp_path: Path) -> None:
    save_image_model(tmp_path / "network.pkl", data_name="moons", t_max=3.0)
    subject = open_subject(NetworkFile.open(str(tmp_path / "network.pkl")))
    assert isinstance(subject, ImageFlow)
    assert subject.image_shape == (1, 8, 8)
    # As a sentence calls them: the 52nd number.
    assert subject.words[51] == "the pixel in row 7, column 4"
