"""Tests of the scripts and libraries; what they share is in ``support``."""
