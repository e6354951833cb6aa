"""Image posteriors that are known: priors, tasks, and samplers as others write them."""
