"""Packs of skills, and how they are found."""
