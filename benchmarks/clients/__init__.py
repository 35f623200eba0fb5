"""The measured clients; each runs in a separate process and prints one JSON object."""
