"""One file for each region of the conversation, and one for the three orders that are data."""
