"""Numeric tables: rows are points, columns are dimensions."""
