"""The terminal monitor. Imports core only."""
