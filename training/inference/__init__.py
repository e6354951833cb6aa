"""Posteriors of points of which something was observed; the flow is their prior."""
