"""The look that all pictures share: colors, type, pages, and what a picture file is."""
