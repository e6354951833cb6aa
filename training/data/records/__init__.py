"""Rows as people have them: numbers, whole numbers, categories, dates, with cells that are missing."""
