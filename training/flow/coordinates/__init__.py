"""Coordinates of a flow: invertible maps of the columns of a table, fitted to data."""
