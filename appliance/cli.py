"""The ``appliance`` command.

Exit status: 0 success (``ask``: an answer was played), 1 failure, 2 invalid command line, configuration or machine (a
restart does not help), 130 interrupted. Expected errors are printed to standard error without a traceback; a traceback
is a bug.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from appliance.errors import ApplianceError, SettingsError
from appliance.safe_text import escape, printable

if TYPE_CHECKING:
    from appliance.settings import Settings

__all__ = ["command_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    arguments = command_parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except ApplianceError as exc:
        _print_error(str(exc) if isinstance(exc, SettingsError) else f"appliance: {exc}")
        return exc.exit_status
    except KeyboardInterrupt:
        return 130
    finally:
        gc.collect()  # otherwise soxr's binding reports live objects as leaks at interpreter exit
    return status


def _print_error(text: str) -> None:
    from appliance.service.logging_setup import print_error

    print_error(text, os.environ)


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; each command is one `add` here and one function below."""
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: see `config show`)")
    settings.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="a setting: audio.volume=50"
    )
    record = argparse.ArgumentParser(add_help=False)
    record.add_argument(
        "--trace",
        action="append",
        default=[],
        metavar="FILE",
        dest="overrides",
        type="service.trace={}".format,
        help="record all events to FILE, including audio",
    )
    save = argparse.ArgumentParser(add_help=False)
    save.add_argument("--save", type=Path, metavar="FILE.wav", help="save the audio that the loudspeaker played")

    parser = argparse.ArgumentParser(
        prog="appliance", description="A press-to-talk voice assistant for a small device.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_PrintVersion, help="show program's version number and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], int], text: str, *options: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, parents=options)
        command.set_defaults(command=function)
        return command

    add("run", _run, "Run the appliance on real hardware, as the systemd service does.", settings, record)
    simulate = add(
        "simulate", _simulate, "Run the appliance in the terminal, without hardware.", settings, record, save
    )
    simulate.add_argument("--audio", choices=("simulated", "portaudio"), default="simulated", help="audio backend")
    ask = add("ask", _ask, "Run one press-to-talk turn through the whole stack, in real time.", settings, record, save)
    ask.add_argument("what", metavar="TEXT|FILE.wav", help="text or recording to say to the device")
    ask.add_argument("--json", action="store_true", help="print one JSON object")
    ask.add_argument("--voice", default="rms", help="flite voice that speaks TEXT (default: %(default)s)")
    brain = add("brain", _brain, "Serve the offline brain over a WebSocket with the Realtime protocol (GA).", settings)
    brain.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    brain.add_argument("--port", type=int, default=0, help="0 uses a free port (default: %(default)s)")
    brain.add_argument(
        "--token-env", default="APPLIANCE_BRAIN_TOKEN", metavar="NAME", help="variable with the token (%(default)s)"
    )
    brain.add_argument(
        "--max-sessions", type=_count, default=8, metavar="N", help="sessions at once (default: %(default)s)"
    )
    brain.add_argument(
        "--recognisers",
        type=_count,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="utterances recognised at once, each by a process of about 150 MB (default: the cores, %(default)s)",
    )
    brain.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve wss with this PEM certificate")
    brain.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, if it is not in the same file")
    add("devices", _devices, "List the sound cards, and say which ones the settings choose.", settings)
    config = add("config", _config, "Show or check the settings.", settings)
    config.add_argument("action", choices=("show", "check"))
    replay = add("replay", _replay, "Replay a recorded trace and compare the commands.")
    replay.add_argument("trace", type=Path, metavar="FILE")
    return parser


def _count(text: str) -> int:
    """Read a whole number of at least 1."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return count


def _print(text: str, *, file: TextIO | None = None) -> None:
    """Print lines that may hold text from outside."""
    print(printable(text, keeps_lines=True), file=file)


class _PrintVersion(argparse.Action):
    """Looks the version up only when asked: that loads as much as half a second of a slow board's start."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from appliance.plugins import version

        print(f"{parser.prog} {version()}")
        parser.exit()


# --- the commands ------------------------------------------------------------------------------------------------


def _simulated(arguments: argparse.Namespace, changes: dict[str, Any]) -> Settings:
    """Return the settings with simulated hardware, with default pins for outputs that the settings do not set."""
    import logging

    from appliance.settings import used_pins
    from appliance.simulator.simulated_device import DEFAULT_PINS, SIMULATED

    logging.getLogger().addHandler(logging.NullHandler())  # no log on the terminal: the command prints what matters
    settings = _settings(arguments, SIMULATED | changes)
    used = {pin for _, pin in used_pins(settings)}
    missing = {key: pin for key, pin in DEFAULT_PINS.items() if settings.origin(key) == "default" and pin not in used}
    return _settings(arguments, SIMULATED | changes | missing)


def _settings(arguments: argparse.Namespace, changes: Mapping[str, Any] | None = None) -> Settings:
    from appliance.places import find_settings_file
    from appliance.service.systemd import credentials_directory
    from appliance.settings import load_settings

    overrides = dict(changes or {})
    for one in arguments.overrides:
        key, equals, value = one.partition("=")
        if not equals:
            raise SettingsError(f"--set {one}: expected KEY=VALUE, for example --set audio.volume=50")
        overrides[key.strip()] = value
    path = arguments.config or find_settings_file(os.environ)
    return load_settings(path, os.environ, credentials_directory(os.environ), overrides=overrides)


def _run(arguments: argparse.Namespace) -> int:
    from appliance.places import find_settings_file
    from appliance.service.first_light import FirstLight

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # `Appliance.run` unblocks it
    path = arguments.config or find_settings_file(os.environ)
    first_light = FirstLight.shown(path, os.environ, arguments.overrides)  # before the imports that take long

    gc.disable()  # the imports leave next to no garbage: searching for it takes a tenth of the start
    import asyncio
    import faulthandler

    from appliance.service.app import Appliance
    from appliance.service.logging_setup import set_up_logging
    from appliance.settings import state_directory

    settings = _settings(arguments)
    set_up_logging(settings.service.log_level, os.environ)
    faulthandler.enable()  # a crash in C code is reported by Python, for the C library's own report is dropped
    state_dir = state_directory(settings, os.environ)
    appliance = Appliance(
        settings,
        environ=os.environ,
        state_dir=state_dir,
        first_light=first_light,
        read_settings=lambda: _settings(arguments),
    )
    asyncio.run(appliance.run())
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    from appliance.simulator.terminal import simulate

    simulate(_simulated(arguments, {"audio.backend": arguments.audio}), environ=os.environ, save=arguments.save)
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    import asyncio
    import json

    from appliance.simulator.ask import ask, describe

    settings = _simulated(arguments, {})
    report = asyncio.run(
        ask(arguments.what, settings=settings, environ=os.environ, voice=arguments.voice, save=arguments.save)
    )
    print(escape(json.dumps(report.as_json(), ensure_ascii=False)) if arguments.json else describe(report))
    return 0 if report.was_answered else 1


def _brain(arguments: argparse.Namespace) -> int:
    import asyncio

    from appliance.brain.admission import server_tls
    from appliance.brain.offline import serving
    from appliance.brain.server import BrainServer
    from appliance.service.app import open_pipeline, open_wording
    from appliance.service.logging_setup import set_up_logging

    settings = _settings(arguments)
    set_up_logging(settings.service.log_level, os.environ)
    if arguments.tls_key and not arguments.tls_cert:
        raise SettingsError("--tls-key: give --tls-cert too")
    tls = server_tls(arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None

    async def serve() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        token = os.environ.get(arguments.token_env) or None
        pipeline = open_pipeline(settings, os.environ, open_wording(settings), recognisers=arguments.recognisers)
        server = BrainServer(
            pipeline,
            host=arguments.host,
            port=arguments.port,
            token=token,
            tls=tls,
            max_sessions=arguments.max_sessions,
        )
        async with serving(pipeline, server):
            print(server.url, flush=True)
            await stopped.wait()

    asyncio.run(serve())
    return 0


def _config(arguments: argparse.Namespace) -> int:
    import asyncio
    import json
    import logging

    settings = _settings(arguments)
    if arguments.action == "show":
        print(escape(json.dumps(settings.masked(), indent=2, ensure_ascii=False), keeps_lines=True))
    else:
        from appliance.service.app import check_assistant, language_remarks, pin_remarks
        from appliance.service.systemd import credentials_directory
        from appliance.settings import read_api_key

        read_api_key(settings, os.environ, credentials_directory(os.environ))
        asyncio.run(check_assistant(settings, os.environ))
        logging.getLogger().addHandler(logging.NullHandler())  # no log on the terminal: remarks are printed
        languages = asyncio.run(language_remarks(settings, os.environ))
        for remark in (*settings.remarks(), *pin_remarks(settings), *languages):
            _print(f"note: {remark}")
        print("The settings are valid.")
    return 0


def _devices(arguments: argparse.Namespace) -> int:
    from appliance.audio.devices import describe

    audio = _settings(arguments).audio
    text = describe(
        capture_card=audio.capture_card, playback_card=audio.playback_card, mixer_control=audio.mixer_control
    )
    print(text)
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from appliance.service.trace import replay

    count, divergences = replay(arguments.trace)
    for one in divergences[:10]:
        _print(f"line {one.line}: {one.event}\n  recorded {one.recorded}\n  replayed {one.replayed}")
    print(f"{count} events, {len(divergences)} of them with different commands.")
    return 1 if divergences else 0


if __name__ == "__main__":
    sys.exit(main())
