"""The wire oracle: validates frames strictly against the types of the `openai` package, without unknown keys.

The package's socket parser does not validate, its TypedDicts do not check lists and accept extra keys, and its models
keep unknown keys. So each frame is validated strictly against the union of the models, and the whole result is
searched for unknown keys that a model kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent, RealtimeSessionCreateResponse
from openai.types.realtime.response_create_event_with_references_param import ResponseCreateEventWithReferencesParam
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

__all__ = ["WrongFrame", "check_client_frame", "check_server_frame"]

_SERVER: TypeAdapter[Any] = TypeAdapter(Annotated[RealtimeServerEvent, Field(discriminator="type")])
_CLIENT: TypeAdapter[Any] = TypeAdapter(Annotated[RealtimeClientEvent, Field(discriminator="type")])
_REFERENCES: TypeAdapter[Any] = TypeAdapter(ResponseCreateEventWithReferencesParam)

_OF_SERVER_SESSIONS = {"session.id", "session.object", "session.expires_at"}
"""The event types use the request's session type, which lacks these; the response's session type has them."""
_OF_REQUESTS = {"parallel_tool_calls"}
"""The response's session type lacks it; the request's has it."""
_SESSION_EVENTS = ("session.created", "session.updated")


class WrongFrame(AssertionError):
    """A frame that is not valid in the protocol."""


def check_server_frame(frame: dict[str, Any]) -> None:
    """Check one frame from a server; `obfuscation` is allowed, because the live service sends it.

    Raises:
        WrongFrame: It does not validate, or has a key that the types do not have.
    """
    _refuse_unknown(frame, _validated(_SERVER, frame), _OF_SERVER_SESSIONS | {"obfuscation"})
    if frame["type"] in _SESSION_EVENTS:
        session = _validated(TypeAdapter(RealtimeSessionCreateResponse), frame["session"])
        _refuse_unknown(frame, session, _OF_REQUESTS)


def check_client_frame(frame: dict[str, Any]) -> None:
    """Check one frame from a client.

    Raises:
        WrongFrame: It does not validate, or has a key that the types do not have.
    """
    references = _references(frame)
    if references:  # the union of models lacks references; the type that has them allows other unknown keys
        _validated(_REFERENCES, frame)
        for reference in references:
            if set(reference) != {"type", "id"}:
                raise WrongFrame(f"item_reference with keys {sorted(reference)}")
        frame = _without_references(frame)
    _refuse_unknown(frame, _validated(_CLIENT, frame), set())


def _validated(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise WrongFrame(f"{str(value)[:300]}: {error}") from error


def _refuse_unknown(frame: dict[str, Any], model: Any, allowed: set[str]) -> None:
    unknown = set(_extras(model, "")) - allowed
    if unknown:
        raise WrongFrame(f"{frame['type']} with unknown keys {sorted(unknown)}")


def _extras(value: Any, path: str) -> Iterator[str]:
    """Yield the path of each unknown key that a model kept."""
    match value:
        case BaseModel():
            yield from (f"{path}{key}" for key in value.model_extra or ())
            for key in type(value).model_fields:
                yield from _extras(getattr(value, key), f"{path}{key}.")
        case list() | tuple():
            for one in value:
                yield from _extras(one, path)
        case dict():  # free-form in the types: a JSON Schema, metadata
            for one in value.values():
                yield from _extras(one, path)


def _given_input(frame: dict[str, Any]) -> list[dict[str, Any]]:
    response = frame.get("response") if frame.get("type") == "response.create" else None
    given = response.get("input") if isinstance(response, dict) else None
    return given if isinstance(given, list) else []


def _references(frame: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in _given_input(frame) if one.get("type") == "item_reference"]


def _without_references(frame: dict[str, Any]) -> dict[str, Any]:
    kept = [one for one in _given_input(frame) if one.get("type") != "item_reference"]
    return {**frame, "response": {**frame["response"], "input": kept}}
