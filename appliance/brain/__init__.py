"""The offline brain: a server of the Realtime protocol (GA) over speech to text → workflow → text to speech.

`rules` says what a client may send, `model` is one session as a pure state machine, `server` puts it on a WebSocket,
`pipeline` chains the stages of `stages`.
"""
