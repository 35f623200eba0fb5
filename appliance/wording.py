"""Every sentence that the device says or shows, by key: ``config/wording/<language>.toml``.

A sentence has named placeholders. In addition to Python's format specifications, there are three more:
``{seconds:duration}`` is "1 hour and 30 minutes", ``{spent:number}`` has at most one decimal, ``{spent:money}`` has two
decimals, or four below ten cents.
"""

from __future__ import annotations

import logging
import string
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from appliance.errors import SettingsError, did_you_mean

__all__ = ["Wording", "config_folder", "english"]

log = logging.getLogger(__name__)

_ENGLISH = "en"
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def config_folder(name: str) -> Path:
    """Return a folder of configuration files: packed into the wheel, else of the checkout."""
    package = Path(__file__).resolve().parent
    packed = package / "_share" / "config" / name
    return packed if packed.is_dir() else package.parent / "config" / name


class Wording(string.Formatter):
    """The sentences of one language.

    Args:
        language: Language code; for "pt-BR", ``pt-BR.toml`` wins over ``pt.toml``. A language without a file
            uses English.
        folder: Folder of further files, whose sentences replace the installed ones; None reads the installed only.

    Raises:
        SettingsError: A file is not TOML, or has an entry that does not fit the installed English one.
    """

    def __init__(self, language: str = _ENGLISH, folder: Path | None = None) -> None:
        self.language = language
        self.read(folder)
        self.key_file = ""
        """The file where the API key belongs; "" if it belongs into `key_variable`."""
        self.key_variable = "OPENAI_API_KEY"
        self._warned: set[str] = set()
        if not self.is_available:
            log.warning("no wording for language %r; using English", language)

    def read(self, folder: Path | None) -> None:
        """Read the sentences, those of another folder too; those before stay if one of the files is wrong.

        Raises:
            SettingsError: See the class.
        """
        _read.cache_clear()
        own, english = _layered(folder, self.language), _layered(folder, _ENGLISH)
        self._own, self._english = own, english
        self.is_available = bool(own)
        """Whether the language has a file with sentences."""

    def unknown(self) -> list[str]:
        """Return one line for each sentence of the language's files that the device does not have."""
        english = _read(None, _ENGLISH) or {}
        known = [f"{table}.{name}" for table, entries in english.items() for name in entries]
        own = [f"{table}.{name}" for table, entries in self._own.items() for name in entries]
        return [f"the device has no sentence {key}{did_you_mean(key, known)}" for key in own if key not in known]

    def has(self, key: str) -> bool:
        """Return whether the language itself has the sentence, so that its voice can speak it."""
        table, _, name = key.partition(".")
        return name in self._own.get(table, {})

    def say(self, key: str, /, **values: Any) -> str:
        """Return a sentence with its placeholders filled in; in English, with one warning, if the language lacks it.

        Args:
            key: Table and name: ``alarm.time_up``.
            values: The values of the placeholders.

        Raises:
            KeyError: English has no such sentence, or a placeholder has no value.
        """
        return self.vformat(str(self._entry(key)), (), values)

    def trouble(self, kind: str, detail: str = "") -> str:
        """Return the sentence for a trouble, with the technical detail in parentheses."""
        sentence = self.say(f"trouble.{kind}")
        return f"{sentence} ({detail})" if detail else sentence

    def budget(self, unit: str, percent: int, spent: float, limit: float) -> str:
        """Return the sentence for the spent part of the day's budget; `unit` is "usd" or "minutes"."""
        return self.say(f"budget.{unit}", percent=percent, spent=spent, limit=limit)

    def table(self, name: str) -> Mapping[str, str]:
        """Return all sentences of a table, with their placeholders."""
        return {key: str(self._entry(f"{name}.{key}")) for key in self._english[name]}

    def names(self, key: str) -> Sequence[str]:
        """Return a list, such as ``format.weekdays``."""
        return list(self._entry(key))

    def duration(self, seconds: int, *, most: int = 3) -> str:
        """Return a duration by its largest units, at most `most` of them: "1 hour and 30 minutes"."""
        parts = []
        rest = max(0, seconds)
        for unit, length in _UNITS:
            count, rest = divmod(rest, length)
            if count:
                one, many = self.names(f"format.{unit}")
                parts.append(f"{count} {one if count == 1 else many}")
        return str(self._entry("format.and")).join(parts[:most]) or str(self._entry("format.none"))

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the value of a placeholder; ``{key_place}`` needs none from the caller. See `string.Formatter`."""
        if key == "key_place":
            in_file, in_variable = self.key_file, self.key_variable
            return self.say("key.file", path=in_file) if in_file else self.say("key.environment", name=in_variable)
        return super().get_value(key, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """Format one value; see `string.Formatter`."""
        match format_spec:
            case "duration":
                return self.duration(round(value))
            case "number":
                return self._decimal(f"{value:.1f}".removesuffix(".0"))
            case "money":
                return self._decimal(f"{value:.2f}" if value == 0 or value >= 0.1 else f"{value:.4f}")
        return super().format_field(value, format_spec)

    def _decimal(self, figures: str) -> str:
        return figures.replace(".", str(self._entry("format.decimal")))

    def _entry(self, key: str) -> Any:
        table, _, name = key.partition(".")
        if name in self._own.get(table, {}):
            return self._own[table][name]
        if key not in self._warned and self.is_available:
            self._warned.add(key)
            log.warning("the wording for %r has no %s; using English", self.language, key)
        return self._english[table][name]


def _layered(folder: Path | None, language: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the installed sentences of a language, replaced by those of the folder."""
    installed, added = _read(None, language) or {}, (_read(folder, language) or {}) if folder else {}
    return {table: {**installed.get(table, {}), **added.get(table, {})} for table in {**installed, **added}}


@cache
def english() -> Wording:
    """Return the installed English wording."""
    return Wording()


@cache
def _read(folder: Path | None, language: str) -> Mapping[str, Mapping[str, Any]] | None:
    """Read the file of a language ("pt-BR") or of its first part ("pt"); None if there is neither."""
    at = folder or config_folder("wording")
    for name in (language, language.partition("-")[0]):
        path = at / f"{name}.toml"
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            raise SettingsError(f"{path}: cannot be read as TOML: {exc}") from None
        if not all(isinstance(one, dict) for one in tables.values()):
            raise SettingsError(f"{path}: expected only tables, such as [trouble], at the top level")
        if folder is not None:
            _check(path, tables, _read(None, _ENGLISH) or {})
        return tables
    return None


def _check(path: Path, tables: Mapping[str, Mapping[str, Any]], english: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse entries that could not be said: the device would fail in the middle of a conversation."""
    for table, entries in english.items():
        for name, known in entries.items():
            entry = tables.get(table, {}).get(name, known)
            if _shape(entry) <= _shape(known):
                continue
            is_list = isinstance(known, list)
            allowed = f"a list of {len(known)} strings" if is_list else f"a string with the placeholders of {known!r}"
            raise SettingsError(f"{path}: {table}.{name}: found {entry!r}; allowed: {allowed}")


def _shape(entry: Any) -> set[Any]:
    """Return what a translation must not add to: the length of a list, or the placeholders, also without a format."""
    if not isinstance(entry, str):
        return {len(entry), *((list, type(one)) for one in entry)} if isinstance(entry, list) else {None}
    try:
        fields = [one[1:] for one in string.Formatter().parse(entry) if one[1] is not None]
    except ValueError:
        return {None}
    return {str, *fields, *((name, "", None) for name, *_ in fields)}
