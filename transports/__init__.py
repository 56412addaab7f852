"""Ways to reach devices. They move bytes and know who is on the other side; they know no plans."""
