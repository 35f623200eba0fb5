"""What runs a conversation: the driver, the agents' functions and tools, and `RealtimeSession`.

Both the daemon and `RealtimeSession` use it; it does not depend on a sound card, pins or the settings file.
"""
