"""Utilities without tensors that all scripts share: errors, options, files, logs, downloads."""

__version__ = "0.1.0"
