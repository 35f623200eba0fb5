"""One file for each region of the conversation, and one for its three ordered tables."""
