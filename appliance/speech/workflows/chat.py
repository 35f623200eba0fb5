"""The workflow over a chat model: any endpoint with OpenAI's ``/chat/completions`` (llama.cpp, Ollama, vLLM).

It sends the conversation's items as messages and the session's tools as the request's tools, and streams back text and
calls. It keeps no state and no connection between responses. Closing the iterator closes the socket; such servers then
stop generating.

Source: OpenAI API reference, chat completions, streaming.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from appliance.errors import SettingsError, SpeechError, one_line
from appliance.safe_text import Secrets
from appliance.speech.stages import CallPart, ResponseRequest, TextPart
from appliance.speech.workflows.http import BadAnswer, HttpAnswer, Timeouts, events, is_printable, post

__all__ = ["ChatWorkflow", "messages"]

JsonObject: TypeAlias = dict[str, Any]

_PATH = "/chat/completions"
_MAX_ERROR_BYTES = 8_192
_MAX_ERROR_CHARS = 200
_MAX_CALLS = 16
_MAX_WHOLE_BYTES = 1 << 20
_SILENCE = "I did not hear anything."
_REMEDIES = {
    400: "set brain.chat_model to a model that supports tools",
    401: "check the key",
    403: "check the key",
    404: "check the base URL (it ends in /v1) and the name of the model",
    429: "too many requests: wait, or raise its rate limit",
    503: "it may still be loading the model: wait",
}


class ChatWorkflow:
    """A `stages.Workflow` over a chat endpoint.

    Args:
        url: Its base URL, such as ``http://127.0.0.1:8080/v1``.
        model: The endpoint's name for the model. If "", the endpoint chooses (llama.cpp) or refuses (Ollama).
        key: Sent as a bearer token unless empty; removed from error messages.
        silence: Answer to an utterance without words, which is not sent to the endpoint.

    Raises:
        SettingsError: The URL or the key is not valid.
    """

    def __init__(
        self, *, url: str, model: str, key: str = "", silence: str = _SILENCE, timeouts: Timeouts | None = None
    ) -> None:
        self._url = _endpoint(url)
        if not is_printable(key):
            raise SettingsError(
                "the key of the chat endpoint has characters that are not printable ASCII: check brain.chat_key_env"
            )
        self._model = model
        self._key = key
        self._secrets = Secrets(key)
        self._silence = silence
        self._timeouts = timeouts or Timeouts()

    def __repr__(self) -> str:
        return f"<ChatWorkflow {self._url} model={self._model}>"

    async def respond(self, request: ResponseRequest) -> AsyncIterator[TextPart | CallPart]:
        """Stream the model's answer without its thoughts (``<think>…</think>``). Calls come last.

        Raises:
            SpeechError: The endpoint cannot be reached, returns an error, or closes early; earlier parts stand.
        """
        sent = messages(request)
        if sent and sent[-1] == {"role": "user", "content": ""}:
            yield TextPart(self._silence)
            return
        body = json.dumps(self._body(request, sent), ensure_ascii=False).encode()
        try:
            async with (
                post(self._url, body, headers=self._headers(), timeouts=self._timeouts) as answer,
                aclosing(self._read(answer, request)) as parts,
            ):
                async for part in parts:
                    yield part
        except TimeoutError:
            raise SpeechError(f"{self._url} did not answer in time: is the model too large for its machine?") from None
        except BadAnswer as exc:
            raise SpeechError(f"{self._url}: {exc}: see the log of that server") from None
        except ssl.SSLError as exc:
            raise SpeechError(
                f"{self._url}: TLS failed ({exc.reason}): check the address and the certificate"
            ) from None
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            raise SpeechError(f"{self._url} cannot be reached ({why}): is that server running?") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _body(self, request: ResponseRequest, sent: Sequence[JsonObject]) -> JsonObject:
        body: JsonObject = {"messages": list(sent), "stream": True}
        if self._model:
            body["model"] = self._model
        tools = [_chat_tool(tool) for tool in request.tools if tool.get("type", "function") == "function"]
        if tools and request.tool_choice != "none":  # some servers ignore "none": send no tools instead
            body |= {"tools": tools, "tool_choice": _chat_choice(request.tool_choice)}
        return body

    async def _read(self, answer: HttpAnswer, request: ResponseRequest) -> AsyncGenerator[TextPart | CallPart, None]:
        if answer.status != 200:
            raise SpeechError(await self._refusal(answer))
        completion = _Completion()
        if "application/json" in answer.content_type:  # the server does not stream
            text = completion.take(_json(await answer.text(most_bytes=_MAX_WHOLE_BYTES)))
            completion.is_done = True
            if text:
                yield TextPart(text)
        else:
            async for event in events(answer.blocks):
                if event.strip() == "[DONE]":
                    completion.is_done = True
                    break
                if text := completion.take(_json(event)):
                    yield TextPart(text)
        if text := completion.thoughts.flush():
            yield TextPart(text)
        if not completion.is_done:
            raise BadAnswer("the answer ended early")
        offered = {tool.get("name") for tool in request.tools}
        for call in completion.calls():
            if call.name not in offered:
                raise SpeechError(
                    f"the model {self._model!r} called {one_line(call.name, 64)!r}, which is not one of its tools"
                )
            yield call

    async def _refusal(self, answer: HttpAnswer) -> str:
        said = _error_text(await answer.text(most_bytes=_MAX_ERROR_BYTES))
        remedy = _REMEDIES.get(answer.status, "see the log of that server")
        if 300 <= answer.status < 400:
            remedy = "set the base URL to the redirect's target"
        detail = f": {said}" if said else ""
        status = f"{answer.status} {answer.reason}".rstrip()
        return self._secrets.redact(f"{self._url} answered {status}{detail} ({remedy})")


# ---------------------------------------------------------------------------------------------------------------
# Items to messages


def messages(request: ResponseRequest) -> list[JsonObject]:
    """Return the conversation as chat messages.

    Calls without an output and outputs without a call are omitted, because endpoints refuse them.
    """
    told = {item.get("call_id") for item in request.items if item.get("type") == "function_call_output"}
    made = {item.get("call_id") for item in request.items if item.get("type") == "function_call"}
    paired = told & made
    sent: list[JsonObject] = [{"role": "system", "content": request.instructions}] if request.instructions else []
    for item in request.items:
        match item.get("type"):
            case "message":
                sent.append({"role": item.get("role", "user"), "content": _content(item)})
            case "function_call" if item.get("call_id") in paired:
                _add_call(sent, item)
            case "function_call_output" if item.get("call_id") in paired:
                output = str(item.get("output", ""))
                sent.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
    # Drop empty answers, which a barge-in leaves. Keep an empty last message: `respond` treats it as silence.
    return [
        one
        for i, one in enumerate(sent)
        if one["content"] or one["role"] == "tool" or "tool_calls" in one or i == len(sent) - 1
    ]


def _content(item: Mapping[str, Any]) -> str | list[JsonObject]:
    parts = item.get("content") or ()
    words = " ".join(text for part in parts if (text := part.get("text") or part.get("transcript")))
    images = [part for part in parts if part.get("type") == "input_image"]
    if not images:
        return words
    shown: list[JsonObject] = [{"type": "image_url", "image_url": {"url": part.get("image_url")}} for part in images]
    return [{"type": "text", "text": words}, *shown] if words else shown


def _add_call(sent: list[JsonObject], item: Mapping[str, Any]) -> None:
    """Add a call; consecutive calls share one message."""
    function = {"name": item.get("name", ""), "arguments": item.get("arguments") or "{}"}
    call = {"id": item["call_id"], "type": "function", "function": function}
    if sent and sent[-1].get("tool_calls"):
        sent[-1]["tool_calls"].append(call)
    else:
        sent.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _chat_tool(tool: Mapping[str, Any]) -> JsonObject:
    function = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _chat_choice(choice: str | Mapping[str, Any]) -> str | JsonObject:
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.get("name", "")}}


# ---------------------------------------------------------------------------------------------------------------
# Chunks to parts


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Completion:
    """The part of one answer received so far."""

    is_done: bool = False
    _calls: dict[int, _Call] = field(default_factory=dict)
    thoughts: _ThoughtFilter = field(default_factory=lambda: _ThoughtFilter())

    def take(self, chunk: JsonObject) -> str:
        """Process a chunk (or a whole completion); return the text that is ready to be spoken.

        Raises:
            SpeechError: The chunk is an error.
        """
        if chunk.get("error"):
            raise SpeechError(f"the chat endpoint failed: {_error_text(json.dumps(chunk))}")
        text = ""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or choice.get("message") or {}
            text += self.thoughts.feed(delta.get("content") or "")
            for position, call in enumerate(delta.get("tool_calls") or ()):
                self._add(call, position)
            if choice.get("finish_reason"):
                self.is_done = True
        return text

    def calls(self) -> Iterator[CallPart]:
        """Yield the calls, once the completion is done.

        Raises:
            SpeechError: The arguments of a call are not a JSON object.
        """
        for call in self._calls.values():
            try:
                is_object = isinstance(json.loads(call.arguments or "{}"), dict)
            except (ValueError, RecursionError):
                is_object = False
            if not is_object:
                raise SpeechError(
                    f"the model called {one_line(call.name, 64)!r} with arguments that are not a JSON object"
                )
            yield CallPart(call.name, call.arguments or "{}")

    def _add(self, piece: Mapping[str, Any], position: int) -> None:
        index = piece.get("index")
        if not isinstance(index, int):  # servers that send whole calls omit it
            index = position
        known = self._calls.get(index)
        if known is not None and piece.get("id") and known.id and piece["id"] != known.id:
            index, known = max(self._calls) + 1, None  # another call with the same index
        call = known or self._calls.setdefault(index, _Call())
        if len(self._calls) > _MAX_CALLS:
            raise SpeechError(f"the model made more than {_MAX_CALLS} calls in one answer, the limit")
        function = piece.get("function") or {}
        arguments = function.get("arguments") or ""
        call.id = call.id or piece.get("id") or ""
        call.name = call.name or function.get("name") or ""
        call.arguments += arguments if isinstance(arguments, str) else json.dumps(arguments)


class _ThoughtFilter:
    """Removes the text between ``<think>`` and ``</think>``, also if a tag is split between chunks."""

    def __init__(self) -> None:
        self._held = ""
        self._is_thinking = False

    def feed(self, text: str) -> str:
        self._held += text
        said = ""
        while True:
            tag = "</think>" if self._is_thinking else "<think>"
            before, found, after = self._held.partition(tag)
            if not found:
                break
            said += "" if self._is_thinking else before
            self._held, self._is_thinking = after.lstrip() if self._is_thinking else after, not self._is_thinking
        keep = next((n for n in range(len(tag) - 1, 0, -1) if self._held.endswith(tag[:n])), 0)
        free, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said if self._is_thinking else said + free

    def flush(self) -> str:
        held, self._held = self._held, ""
        return "" if self._is_thinking else held


def _json(text: str) -> JsonObject:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadAnswer("it sent invalid JSON") from None
    if not isinstance(found, dict):
        raise BadAnswer("it sent JSON that is not an object")
    return found


def _error_text(body: str) -> str:
    """Return the message in an error body, on one short line."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = body
    error = found.get("error", found.get("detail", found)) if isinstance(found, dict) else found
    if isinstance(error, dict):
        error = error.get("message") or error.get("type") or json.dumps(error)
    return one_line(str(error), _MAX_ERROR_CHARS)


def _endpoint(url: str) -> str:
    if not url:
        raise SettingsError(
            "the chat workflow needs an endpoint: set brain.chat_url, as in 'http://127.0.0.1:11434/v1'"
        )
    shown = repr(url[:120])
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and is_printable(url) and " " not in url
        _ = parts.port
    except ValueError:
        is_right = False
    if not is_right:
        raise SettingsError(f"brain.chat_url {shown} is not a URL; expected one such as 'http://127.0.0.1:11434/v1'")
    if parts.username or parts.password:
        raise SettingsError("brain.chat_url contains a user name or password: use brain.chat_key_env for the key")
    path = parts.path.rstrip("/").removesuffix(_PATH)
    return urlunsplit(parts._replace(path=path + _PATH, fragment=""))
