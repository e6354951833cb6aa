"""Posteriors of points of which something was observed; the flow is their prior."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.inference.amortized import Amortized as Amortized
    from training.inference.likelihoods import Gaussian as Gaussian
    from training.inference.likelihoods import Likelihood as Likelihood
    from training.inference.mixtures import Components as Components
    from training.inference.prior import Prior as Prior
    from training.inference.sampling import Problem as Problem
    from training.inference.sampling import SamplingPlan as SamplingPlan
    from training.inference.target import Target as Target
    from training.inference.user_likelihood import UserFunction as UserFunction
    from training.inference.user_likelihood import UserLikelihood as UserLikelihood
else:
    __getattr__ = lazily(
        __name__,
        {
            "Amortized": "amortized",
            "Components": "mixtures",
            "Gaussian": "likelihoods",
            "Likelihood": "likelihoods",
            "Prior": "prior",
            "Problem": "sampling",
            "SamplingPlan": "sampling",
            "Target": "target",
            "UserFunction": "user_likelihood",
            "UserLikelihood": "user_likelihood",
        },
    )
