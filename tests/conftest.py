"""Property tests try the same examples at every run, so that a run that passes here passes elsewhere; EXPLORE=1 tries
others, and `make fuzz` looks further."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "same")
