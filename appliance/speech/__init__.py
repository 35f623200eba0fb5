"""Speech to text → workflow → text to speech: engines by name, and the pipeline that chains them."""
