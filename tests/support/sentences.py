"""Spoken sentences with the tool calls they must cause; used with the pipeline and with the whole appliance."""

from __future__ import annotations

from typing import Any

VOICES = ("slt", "rms", "awb")
"""flite voices: a woman and two men, one of them Scottish."""

IN_BOOK: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("turn on the lamp", "set_lamp", {"on": True}),
    ("please switch the lamp off", "set_lamp", {"on": False}),
    ("could you turn off the desk lamp", "set_lamp", {"on": False}),
    ("turn the light on please", "set_light", {"on": True}),
    ("switch off the lights", "set_light", {"on": False}),
    ("dim the light to fifty percent", "set_light", {"on": True, "brightness": 50}),
    ("set the brightness to eighty percent", "set_light", {"on": True, "brightness": 80}),
    ("make the light blue", "set_light", {"on": True, "color": "blue"}),
    ("turn on the red light", "set_light", {"on": True, "color": "red"}),
    ("set the volume to twenty five percent", "set_volume", {"percent": 25}),
    ("set the volume to seventy", "set_volume", {"percent": 70}),
    ("set the volume to the maximum", "set_volume", {"percent": 100}),
    ("mute yourself", "set_volume", {"percent": 0}),
    ("stop listening", "mute_microphone", {}),
    ("please mute the microphone", "mute_microphone", {}),
    ("how loud are you", "get_volume", {}),
    ("what is the volume", "get_volume", {}),
    ("what time is it", "get_time", {}),
    ("tell me the time please", "get_time", {}),
    ("what is the date today", "get_time", {}),
    ("set a timer for ten seconds", "start_timer", {"seconds": 10}),
    ("set a timer for five minutes", "start_timer", {"seconds": 300}),
    ("set a pasta timer for nine minutes", "start_timer", {"seconds": 540, "label": "pasta"}),
    ("start a timer for two and a half hours", "start_timer", {"seconds": 9000}),
    ("set a timer for one hour and a half", "start_timer", {"seconds": 5400}),
    ("set a timer for three minutes and thirty seconds", "start_timer", {"seconds": 210}),
    ("remind me in half an hour", "start_timer", {"seconds": 1800}),
    ("how long is left on the timer", "list_timers", {}),
    ("how many timers are running", "list_timers", {}),
    ("cancel the timer", "cancel_timer", {}),
    ("please stop the tea timer", "cancel_timer", {"label": "tea"}),
    ("how are you doing today", "device_status", {}),
    ("what is your temperature", "device_status", {}),
    ("how much disk space is left", "device_status", {}),
)
"""(sentence, tool, arguments)"""

OUT_OF_BOOK: tuple[str, ...] = (
    "tell me a joke about the lamp",
    "did you turn on the television yesterday",
    "do not turn on the lamp",
    "turn on the radio in the kitchen",
    "the lamp is on the table",
    "I would like to have a cup of coffee",
    "what is the capital of France",
    "who won the football game last night",
    "set the table for five people",
    "my brother turned the volume of his guitar up",
    "it was a dark and stormy night",
    "how long is the river Nile",
    "what time does the train to London leave",
    "play some music by the Beatles",
    "open the window and close the door",
    "she said that the light was beautiful",
    "the timer was invented a hundred years ago",
    "send an email to my boss",
    "how many people live in China",
    "can you tell me the way to the station",
    "the quick brown fox jumps over the lazy dog",
    "call my mother on her mobile phone",
    "add milk and bread to the shopping list",
    "what is the weather like in Boston tomorrow",
    "how do you spell encyclopedia",
    "never put the light next to the bed",
    "I forgot to cancel my subscription last month",
    "we had a great time at the beach",
    "lock the front door",
    "read me the news",
)
"""Sentences, some of them close to the phrase book, that must call no tool."""
