"""Speech to text → workflow → text to speech: engines by name, and what chains them."""
