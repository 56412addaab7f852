"""Cython and C. Imports nothing of Slipstream."""
