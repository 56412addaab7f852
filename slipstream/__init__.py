"""Slipstream: one agent across phones and electric cars."""
