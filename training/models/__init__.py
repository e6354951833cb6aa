"""The library: data sets, models, posteriors and draws, in memory.

``training`` exports the public names.
"""
