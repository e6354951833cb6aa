"""Training: the loss, a step, the loop, the run's folder."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.learning.building import Choices as Choices
    from training.learning.melting import LawPlan as LawPlan
    from training.learning.restarting import OPTIONS_NAME as OPTIONS_NAME
    from training.learning.resuming import place_to_resume as place_to_resume
    from training.learning.resuming import read_record as read_record
    from training.learning.run_folder import Place as Place
    from training.learning.trainer import TrainingConfig as TrainingConfig
else:
    __getattr__ = lazily(
        __name__,
        {
            "Choices": "building",
            "LawPlan": "melting",
            "OPTIONS_NAME": "restarting",
            "Place": "run_folder",
            "place_to_resume": "resuming",
            "read_record": "resuming",
            "TrainingConfig": "trainer",
        },
    )
