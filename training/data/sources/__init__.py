"""Conversion of published data formats to this project's data sets."""
