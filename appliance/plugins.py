"""Look up plug-ins by name (built-in entries, then entry points of installed packages) or by Python reference.

A package adds an entry with an entry point in the group, in its ``pyproject.toml``::

    [project.entry-points."voice_appliance.tts"]
    parrot = "parrot.engine:open_parrot"

A reference such as ``"my_module:agent"`` names an object in a module: first a file in the folder of the settings file,
then an installed package.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial, reduce
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from pkgutil import resolve_name
from traceback import extract_tb
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from appliance.errors import SettingsError, did_you_mean, one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["duplicates", "installed", "named", "resolve", "version"]

T = TypeVar("T")

_REFERENCE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def named(table: Mapping[str, Any], name: str, *, kind: str, group: str) -> Any:
    """Return the entry with this name.

    Args:
        table: Built-in entries: objects, or their places as ``"package.module:attribute"``. They take precedence.
        kind: What the name refers to, for error messages ("engine").
        group: The entry point group of packages that add entries.

    Raises:
        SettingsError: There is no such entry, or its package cannot be loaded.
    """
    if name in table:
        return resolve_name(table[name]) if isinstance(table[name], str) else table[name]
    others = _entries(group)
    if name not in others:
        known = sorted({*table, *others})
        raise SettingsError(f"no {kind} is called {name!r}; available: {', '.join(known)}{did_you_mean(name, known)}")
    return _loaded(others[name], kind)


def installed(*, kind: str, group: str) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return the entries that installed packages add to a group, sorted by name.

    Returns:
        Name → (description for messages, function that loads the entry or raises `SettingsError`).
    """
    return {
        name: (_place(entry, kind), partial(_loaded, entry, kind)) for name, entry in sorted(_entries(group).items())
    }


def duplicates(groups: str = "voice_appliance.") -> list[str]:
    """Return one line for each entry that another installed package hides, because both have the same name.

    Args:
        groups: The beginning of the names of the groups.
    """
    from importlib import metadata

    lines = []
    first: dict[tuple[str, str], EntryPoint] = {}
    for one in (entry for distribution in metadata.distributions() for entry in distribution.entry_points):
        used = first.setdefault((one.group, one.name), one)
        if one.group.startswith(groups) and (one.value, _owner(one)) != (used.value, _owner(used)):
            lines.append(
                f"two packages add {one.name!r} to {one.group}: {used.value}{_owner(used)} is used, "
                f"{one.value}{_owner(one)} is not; uninstall one of them"
            )
    return lines


def _entries(group: str) -> dict[str, EntryPoint]:
    from importlib import metadata  # takes 15 ms, which built-in entries do not need

    entries: dict[str, EntryPoint] = {}
    for one in metadata.entry_points(group=group):
        entries.setdefault(one.name, one)
    return entries


def _owner(entry: EntryPoint) -> str:
    return f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""


def _place(entry: EntryPoint, kind: str) -> str:
    return f"{kind} {entry.name!r}: {entry.value}{_owner(entry)}"


def _loaded(entry: EntryPoint, kind: str) -> Any:
    try:
        return entry.load()
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"{_place(entry, kind)} cannot be loaded ({_words(exc)}); reinstall its package") from exc


def resolve(reference: str, take: Callable[[Any], T | None], allowed: str, *, folder: Path | None) -> T:
    """Return the object that a ``module:attribute`` names; imports the module, which runs it.

    The folder is also appended to ``sys.path``: modules in it can import each other, now and later, but cannot hide a
    module of Python or of an installed package.

    Args:
        reference: Such as ``"my_module:agent"``.
        take: Returns the value that the caller needs; None if the object does not fit.
        allowed: Description of valid objects.
        folder: Folder that is searched first; None searches installed packages only.

    Raises:
        SettingsError: ``found "my_module:agent", …``; the caller adds the key as a prefix.
    """
    found = f'found "{one_line(reference)}"'
    if not _REFERENCE.fullmatch(reference):
        raise SettingsError(f'{found}; allowed: "module:attribute", such as "my_module:agent"')
    name, _, attribute = reference.partition(":")
    try:
        module = _imported(name, folder)
        value: Any = reduce(getattr, attribute.split("."), module)
    except SettingsError as exc:
        raise SettingsError(f"{found}, {exc}") from exc
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"{found}, {_trouble(exc, name, attribute, folder)}") from exc
    taken = take(value)
    if taken is None:
        kind = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise SettingsError(f"{found}, which is {kind}; allowed: {allowed}")
    return taken


def _imported(name: str, folder: Path | None) -> ModuleType:
    head = name.partition(".")[0]
    importlib.invalidate_caches()  # the file may be brand new
    spec = PathFinder.find_spec(head, [str(folder)]) if folder is not None else None
    if spec is not None and spec.has_location:  # otherwise a plain folder, not a package
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        known = sys.modules.get(head)
        first = PathFinder.find_spec(head)  # the folder is last: an installed module comes first
        place = getattr(known, "__file__", None) if known is not None else first and first.origin
        if head in sys.stdlib_module_names or Path(place or "").resolve() != Path(spec.origin or "").resolve():
            raise SettingsError(f"and {spec.origin} has the name of another module; rename the file")
        if known is None:
            _run(head, spec)
    return importlib.import_module(name)


def _run(head: str, spec: ModuleSpec) -> None:
    assert spec.loader is not None
    sys.modules[head] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[head]
        raise


def _trouble(exc: BaseException, name: str, attribute: str, folder: Path | None) -> str:
    """Return why a reference cannot be resolved, and the remedy."""
    head = name.partition(".")[0]
    if isinstance(exc, ModuleNotFoundError) and exc.name and f"{name}.".startswith(f"{exc.name}."):
        near = did_you_mean(head, [one.stem for one in folder.glob("*.py")]) if folder is not None else ""
        beside = f"no {head}.py in {folder} and " if folder is not None else ""
        return f"and there is {beside}no installed module {exc.name}; write the file or install the package{near}"
    if isinstance(exc, AttributeError) and name in sys.modules and not hasattr(sys.modules[name], attribute):
        near = did_you_mean(attribute, [one for one in vars(sys.modules[name]) if not one.startswith("_")])
        return f"and the module has no {attribute!r}; give the name of an object in it{near}"
    frames = [
        one for one in extract_tb(exc.__traceback__) if folder is not None and Path(one.filename).parent == folder
    ]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else f"the module {name}"
    return f"and {place} raises {_words(exc)}; correct it"


def _words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {one_line(str(exc))}"


def version() -> str:
    """Return the version of the installed appliance; "unknown" in a source tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("voice-appliance")
    except metadata.PackageNotFoundError:
        return "unknown"
