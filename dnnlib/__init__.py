"""What every script needs before any tensor: errors, options, files, logs, downloads."""

__version__ = "0.1.0"
