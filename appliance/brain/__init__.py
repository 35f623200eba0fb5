"""The offline brain: a Realtime protocol (GA) server over speech to text → workflow → text to speech.

`client_schema` validates client events, `model` is one session as a pure state machine, `server` runs it on a
WebSocket. A `speech.stages.VoicePipeline` produces the answers.
"""
