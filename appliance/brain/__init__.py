"""The offline brain: a server of the Realtime protocol (GA) over speech to text → workflow → text to speech.

`client_schema` says what a client may send, `model` is one session as a pure state machine, `server` puts it on a
WebSocket. What answers is a `speech.stages.VoicePipeline`.
"""
