"""Rows as people have them: numbers, categories and dates, with cells that are missing."""
