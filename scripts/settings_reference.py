#!/usr/bin/env python3
"""Write config/appliance.toml and docs/settings.md from the models in appliance/settings.py.

The models are the only source of ranges, defaults and descriptions; a test compares the two files with them. Run this
after a change: ``.venv/bin/python scripts/settings_reference.py``.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from appliance.service.reload import is_reloaded
from appliance.settings import Settings, allowed_text

ROOT = Path(__file__).resolve().parent.parent

TOML_HEAD = """\
# Settings of the voice appliance. Every key is listed with its default: change what you need, delete the rest.
#
# An environment variable overrides this file: APPLIANCE_AUDIO__VOLUME=50 sets volume in [audio]. Relative paths start
# at the folder of this file. `appliance config check` reports mistakes, `appliance config show` the origin of each
# value. The endpoint's API key does not belong here: see [link].
"""

MARKDOWN_HEAD = """\
# Settings

Generated from `appliance/settings.py` by `scripts/settings_reference.py`, as are the comments of
`config/appliance.toml`.

- Values come from these sources; later ones override earlier ones: the default, the TOML file, the environment
  (`APPLIANCE_AUDIO__VOLUME=50` is `volume` in `[audio]`: two underscores between section and key), the command line.
- The file is the one named with `--config`, else by `$APPLIANCE_CONFIG`, else `/etc/voice-appliance/appliance.toml`.
  Relative paths in it start at its folder.
- A mistake prints one line with its place, the key, the value found, the allowed values and the closest key; the exit
  status is 2.
- The endpoint's API key is not a setting. It is read again for each connection: from the systemd credential named by
  `link.credential`, then from the file named by `link.key_file`, then from the variable named by `link.key_env`. A
  settings file that contains something that looks like a key is refused.
- `systemctl reload voice-appliance` (SIGHUP) reads all of this again. A setting with "yes" under *Reload* is in force
  at once, or from the next connection. For any other, and for a changed key, the log and `systemctl status` name what
  changed, and the device restarts as soon as it is at rest. If something is wrong, nothing changes: the light shows an
  error, and the log and `systemctl status` say so.
"""


def fields_of(section: FieldInfo) -> dict[str, FieldInfo]:
    annotation: Any = section.annotation
    return dict(annotation.model_fields)


def intro_of(section: FieldInfo) -> str:
    return " ".join(str(section.annotation.__doc__).split())  # type: ignore[union-attr]


def toml_value(value: object) -> str:
    """Return a default in TOML; defaults are strings, numbers and booleans, which look the same in JSON."""
    return json.dumps(value, ensure_ascii=False)


def toml_lines() -> Iterator[str]:
    yield TOML_HEAD
    for name, section in Settings.model_fields.items():
        yield f"\n[{name}]\n# {intro_of(section)}\n"
        for key, field in fields_of(section).items():
            comment = f"{field.description} Allowed: {allowed_text(field)}."
            yield "\n" + textwrap.fill(comment, 118, initial_indent="# ", subsequent_indent="# ") + "\n"
            if field.default == []:
                yield textwrap.indent(str((field.examples or [""])[0]), "# ") + "\n"
            elif field.default is None:
                yield f"# {key} = {toml_value((field.examples or [''])[0])}\n"
            else:
                yield f"{key} = {toml_value(field.default)}\n"


def markdown_lines() -> Iterator[str]:
    yield MARKDOWN_HEAD
    for name, section in Settings.model_fields.items():
        yield from markdown_table(f"## [{name}]", section.annotation, name)
        for key, field in fields_of(section).items():
            if isinstance(model := (get_args(field.annotation) or [None])[0], type) and issubclass(model, BaseModel):
                yield from markdown_table(f"### [[{name}.{key}]]", model)


def markdown_table(title: str, model: Any, section: str = "") -> Iterator[str]:
    """Yield a table of keys; the keys of a section are marked as in force after a reload, or after a restart."""
    intro = " ".join(str(model.__doc__).split())
    yield f"\n{title}\n\n{intro}\n\n| Key | Default | Allowed |{' Reload |' * bool(section)} Meaning |\n"
    yield f"|---|---|---|{'---|' * bool(section)}---|\n"
    for key, field in model.model_fields.items():
        default = "" if field.is_required() else field.default
        shown = toml_value(default) if default is not None else '"none"'
        shown = "(see the file)" if len(shown) > 60 else "(required)" if field.is_required() else f"`{shown}`"
        mark = f" {'yes' if is_reloaded(f'{section}.{key}') else 'restart'} |" * bool(section)
        yield f"| `{key}` | {shown} | {allowed_text(field)} |{mark} {field.description} |\n"


def render() -> dict[Path, str]:
    """Return the text of each file."""
    return {
        ROOT / "config" / "appliance.toml": "".join(toml_lines()),
        ROOT / "docs" / "settings.md": "".join(markdown_lines()),
    }


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")
