"""What runs a conversation: the driver, the agents' functions and tools, and `RealtimeSession`.

The daemon and a program's session both use it; it knows no sound card, no pins and no settings.
"""
