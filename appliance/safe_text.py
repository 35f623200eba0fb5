"""Text from outside, made safe to print: secrets redacted, control characters escaped. No other module does either.

A secret is recognised by its **value** or by its **shape**:

* A value is in force while the `Secrets` object that holds it exists. The sender of a secret (a connection, an MCP
  server, the settings) owns such an object. Values are redacted everywhere, also in what the user and the model say.
* A shape is the form of an API key, or a name such as ``password=`` before a value. Shapes are redacted in messages,
  logs and traces, but not in conversations: "sk-learning" and "the token: banana" are legal speech.

A value that could be an ordinary word is redacted only in messages of its owner (`Secrets.redact`): a server with the
key "ollama" must not censor every sentence about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote
from weakref import WeakSet

__all__ = ["KEY_SHAPE", "Secrets", "bare_address", "escape", "mapped", "printable", "redact", "redact_json"]

_T = TypeVar("_T")

KEY_SHAPE: Final = re.compile(r"(?P<keep>\b(?:sk|ek|rk)[-_])[\w*.-]{6,}")
"""Matches API keys of OpenAI and similar services."""
_SECRET_NAME: Final = re.compile(r"key|token|secret|pass|auth|cookie|credential|sig", re.IGNORECASE)
"""Found in the names of headers, variables and query parameters that hold a secret."""

_MASK: Final = "***"
_SHORTEST: Final = 4  # characters; redacting every "1" or "no" would make messages unreadable
_SHORTEST_EVERYWHERE: Final = 8
_LONGEST_WORD: Final = 15  # letters only: "administrator" may be said
_SHORTEST_RANDOM: Final = 12  # letters and digits without a space: a token, whatever its name
_MOST_WORDS: Final = 256  # per owner: a renewed key replaces the oldest

_NAMES: Final = (
    r"password|passwd|passphrase|secret|token|(?:x-)?api[-_]?key|client[-_]secret|(?:access|refresh)[-_]token"
    r"|(?:proxy-)?authorization|(?:set-)?cookie"
)
_NAME: Final = rf"(?<![A-Za-z0-9])(?:{_NAMES})"
_KEYS: Final = re.compile(_NAMES, re.IGNORECASE)
_SCHEME: Final = r"(?:(?:bearer|basic|digest|token)\s+)?"
_NO_VALUE: Final = r"(?!(?:null|none|true|false|undefined)\b)"
# Up to the quotation mark, or the end of a text that was cut. A backslash matches in one way only: linear time.
_QUOTED: Final = r"(?:(?!(?P=quote))(?:\\.|[^\\\n]|\\\Z))+"
_BARE: Final = r"[^\s\"'\\,;&(){}\[\]<>]"
_SHAPES: Final = (
    KEY_SHAPE,
    *(
        re.compile(pattern, re.IGNORECASE)
        for pattern in (
            # "token": "…", also in JSON that is a string in JSON: the quotation mark that begins the value ends it
            rf"(?P<keep>{_NAME}(?P<quote>\\*[\"'])\s*[:=]\s*(?P=quote){_SCHEME}){_QUOTED}",
            rf"(?P<keep>{_NAME}\s*[:=]\s*(?P<quote>\\*[\"']){_SCHEME}){_QUOTED}",
            rf"(?P<keep>{_NAME}\s*=\s*{_SCHEME}){_NO_VALUE}{_BARE}+",
            # Behind a colon, prose may follow ("link.token: unknown key"): a secret has a digit.
            rf"(?P<keep>{_NAME}\s*:\s*{_SCHEME})(?={_BARE}{{0,99}}\d){_BARE}{{6,}}",
            r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=*-]{6,}",
        )
    ),
)
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls, bidirectional embeddings, overrides and isolates, and lone surrogates."""
_MCP_SECRETS: Final = ("authorization", "headers")


class Secrets:
    """Secret values of one owner, redacted wherever `redact` is used, while this object exists.

    Safe to use from any thread.
    """

    in_force: ClassVar[tuple[str, ...]] = ()
    """The values of all owners, the longest first, without those that could be ordinary words."""
    _owners: ClassVar[WeakSet[Secrets]] = WeakSet()
    _lock: ClassVar[Lock] = Lock()

    def __init__(self, *values: str) -> None:
        self._words: dict[str, bool] = {}
        """Value → whether it is redacted everywhere; the newest last."""
        self.add(*values)

    def __repr__(self) -> str:
        return f"<Secrets: {len(self._words)} values>"

    def add(self, *values: str) -> None:
        """Add API keys, tokens or passwords; and each of their words, as a server may quote one of "Bearer token"."""
        self._add((value, True) for value in values)

    def add_named(self, values: Iterable[tuple[str, str]]) -> None:
        """Add headers, variables or query parameters by name; a harmless one is redacted only in messages of its owner.

        It is harmless unless its name says otherwise, or the value looks like a token.
        """
        self._add((value, _SECRET_NAME.search(name) is not None or _is_random(value)) for name, value in values)

    def redact(self, text: str) -> str:
        """Return a message of the owner without its values, without those of others, and without shapes of secrets."""
        for word in sorted(self._words, key=len, reverse=True):
            text = text.replace(word, _MASK)
        return redact(text)

    def _add(self, values: Iterable[tuple[str, bool]]) -> None:
        with self._lock:
            for value, is_secret in values:
                for word in {one for part in (value, *value.split()) for one in (part, quote(part, safe=""))}:
                    if len(word) >= _SHORTEST:
                        self._words.pop(word, None)
                        self._words[word] = is_secret and not _is_word(word)
            for word in list(self._words)[:-_MOST_WORDS]:
                del self._words[word]
            self._owners.add(self)
            words = {word for owner in self._owners for word, is_secret in owner._words.items() if is_secret}
            Secrets.in_force = tuple(sorted(words, key=len, reverse=True))


def _is_word(value: str) -> bool:
    """Return whether a value could be an ordinary word."""
    return len(value) < _SHORTEST_EVERYWHERE or (value.isalpha() and len(value) <= _LONGEST_WORD)


def _is_random(value: str) -> bool:
    has_both = any(one.isdigit() for one in value) and any(one.isalpha() for one in value)
    return has_both and len(value) >= _SHORTEST_RANDOM and not any(one.isspace() for one in value)


def redact(text: str, *, shapes: bool = True, keeps_length: bool = False) -> str:
    """Replace secrets by ``***``.

    Args:
        text: Any text. With `shapes` False, text of a conversation: only values in force are redacted.
        shapes: Whether to redact what only looks like a secret.
        keeps_length: One ``*`` per character of a shape, for a trace: decisions may depend on the length of a text.
    """
    for value in Secrets.in_force:
        if value in text:
            text = text.replace(value, _MASK)
    if shapes:
        for pattern in _SHAPES:
            text = pattern.sub(_starred if keeps_length else r"\g<keep>" + _MASK, text)
    return text


def _starred(found: re.Match[str]) -> str:
    kept = found["keep"]
    return kept + "*" * (len(found[0]) - len(kept))


def redact_json(value: Any, *, keeps_length: bool = False, key: str = "") -> Any:
    """Return JSON values without secrets: texts by `redact`, credentials by the names of their keys.

    A hosted MCP server keeps the names of its fields; its address loses user and query.

    Args:
        value: Anything that `json.dumps` accepts; a base64 object ``{"#": …}`` is kept.
        keeps_length: See `redact`.
        key: The key of `value` in its object.
    """
    if isinstance(value, str):
        return _MASK if value and _KEYS.fullmatch(key) else redact(value, keeps_length=keeps_length)
    if isinstance(value, Mapping):
        if value.keys() == {"#"}:
            return value
        is_mcp = value.get("type") == "mcp" or "server_url" in value
        return {
            redact(name): _mcp_field(name, one, keeps_length)
            if is_mcp
            else redact_json(one, keeps_length=keeps_length, key=name)
            for name, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_json(one, keeps_length=keeps_length, key=key) for one in value]
    return value


def _mcp_field(name: str, value: Any, keeps_length: bool) -> Any:
    if name in _MCP_SECRETS:
        return _MASK
    if name == "server_url" and isinstance(value, str):
        value = bare_address(value)
    return redact_json(value, keeps_length=keeps_length, key=name)


def bare_address(url: str) -> str:
    """Return an address without its query and user part, which may contain a key."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def mapped(value: _T, change: Callable[[str], str]) -> _T:
    """Apply `change` to each string in a Struct, mapping, list or tuple, keys included.

    Returns:
        A changed copy, or `value` itself if no string changes.
    """
    changed: Any = value
    if isinstance(value, str):
        changed = change(value)
    elif names := getattr(value, "__struct_fields__", ()):
        from msgspec.structs import replace  # here: errors and the first light load this module

        fields = {name: getattr(value, name) for name in names}
        news = {name: new for name, old in fields.items() if (new := mapped(old, change)) is not old}
        changed = replace(value, **news) if news else value  # type: ignore[type-var]
    elif isinstance(value, Mapping):
        pairs = [(mapped(key, change), mapped(one, change)) for key, one in value.items()]
        is_same = all(key is old and one is value[old] for (key, one), old in zip(pairs, value, strict=True))
        changed = value if is_same else dict(pairs)
    elif isinstance(value, (list, tuple)):
        news_of = [mapped(one, change) for one in value]
        is_same = all(new is old for new, old in zip(news_of, value, strict=True))
        changed = value if is_same else type(value)(news_of)
    return changed  # type: ignore[no-any-return]


def escape(text: str, *, keeps_lines: bool = False) -> str:
    r"""Write every character that could control a terminal, the journal or the order of letters as ``\u001b``.

    The form is also that of JSON, so the result of `json.dumps` stays valid. All other text is unchanged.

    Args:
        text: Text to print.
        keeps_lines: Whether line feeds stay.
    """
    return _UNSAFE.sub(lambda found: "\n" if keeps_lines and found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def printable(text: str, *, shapes: bool = True, keeps_lines: bool = False) -> str:
    """Return a text as it is printed: redacted, then escaped; see `redact` and `escape`."""
    return escape(redact(text, shapes=shapes), keeps_lines=keeps_lines)
