"""Ways to carry the Realtime protocol."""
