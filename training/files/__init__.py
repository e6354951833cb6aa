"""One module a file format: its keys, how it is written, read and checked."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.files.observations import read_array as read_array
    from training.files.observations import read_mask as read_mask
    from training.files.observations import read_noise as read_noise
    from training.files.observations import read_observations as read_observations
else:
    __getattr__ = lazily(
        __name__,
        {
            "read_array": "observations",
            "read_mask": "observations",
            "read_noise": "observations",
            "read_observations": "observations",
        },
    )
