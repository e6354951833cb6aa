"""The averaged weights that do best on what is held out, and when to give up looking for better."""

from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.snapshots import first_line, tensors_of
from training.learning.held_out import HeldOut, Score
from training.model.model import Model

KEY = "best"
"""Where a training state has it."""


class Watch:
    """Looks at a model at every report.

    Args:
        held_out: What it is looked at on.
        keeps_best: Whether the training ends with the weights that did best, not with the last.
        patience: Reports without a better score after which the training ends; None for no limit.

    Attributes:
        seen: Samples trained on when the best weights were found; None before the first look.
    """

    def __init__(self, held_out: HeldOut, keeps_best: bool = False, patience: int | None = None):
        self.held_out, self.keeps_best, self.patience = held_out, keeps_best, patience
        self.seen: int | None = None
        self._score: Score | None = None
        self._weights: dict[str, Tensor] = {}
        self._waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether to end the training."""
        return self.patience is not None and self._waited >= self.patience

    def look(self, model: Model, seen: int) -> Score:
        """The score of a model after so many samples, remembered if it is the best.

        All ranks must call it together, and find the same.
        """
        score = self.held_out.score(model)
        if self._score is None or score.better_than(self._score):
            self._score, self.seen, self._waited = score, seen, 0
            if self.keeps_best:
                self._weights = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
        else:
            self._waited += 1
        return score

    def put_best(self, model: Model) -> Score | None:
        """Gives a model the best weights, and tells their score; None if there are none."""
        if not (self.keeps_best and self._weights):
            return None
        model.denoiser.load_state_dict(self._weights)
        return self._score

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain values."""
        if self._score is None:
            return {}
        score = {"loss": self._score.loss, "nats": self._score.nats}
        known = {"score": score, "seen": self.seen, "waited": self._waited}
        return {KEY: {**known, "weights": self._weights}}

    def restore(self, state: dict[str, Any], model: Model, source: str) -> None:
        """Takes up what ``state`` gave.

        Raises:
            DataError: It is of another model, or broken; the message names its source.
        """
        match state.get(KEY):
            case None:
                return
            case {
                "score": {"loss": float(loss), "nats": float() | None as nats},
                "seen": int(seen),
                "waited": int(waited),
                "weights": dict(),
            }:
                pass
            case _:
                raise DataError(f"{source} has a broken '{KEY}'")
        try:
            weights = tensors_of(state[KEY], "weights")
        except ValueError as error:
            raise DataError(f"{source} has a broken '{KEY}': {first_line(error)}") from error
        own = model.denoiser.state_dict()
        shapes = {name: value.shape for name, value in own.items()}
        if weights and {name: value.shape for name, value in weights.items()} != shapes:
            raise DataError(f"{source} has best weights of another model")
        self._score, self.seen, self._waited = Score(loss, nats), seen, waited
        self._weights = {k: torch.as_tensor(v).to(own[k]) for k, v in weights.items()}
