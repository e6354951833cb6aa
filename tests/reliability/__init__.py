"""Kills scripts at random moments, and looks at what they leave."""
