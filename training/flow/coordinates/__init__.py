"""Coordinates in which a flow sees the columns of a table: invertible maps, fitted to data."""
