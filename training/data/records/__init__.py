"""Rows as people have them: numbers, categories and dates, some of which may be missing."""
