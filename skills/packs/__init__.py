"""The packs that come with Slipstream, one module per backend."""
