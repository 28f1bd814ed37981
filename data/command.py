"""What every command has: options whose errors are one line, an exit code, output in UTF-8."""
import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from data.splits import DataError

GOES_ON = "; what is finished is kept, and the same command goes on from there"         # of an interrupted command


def run_command(main: Callable[[], None], kept: str = "") -> None:
    """Run a module's `main` as a command: an error in the data or of the system (a full disk, say) is one line and exit
    code 2, an interruption one line, with what is then `kept`, and 130. What it prints is UTF-8, as files are."""
    sys.stderr = sys.stderr or open(os.devnull, "w")                    # None where it is closed from the start; progress bars write to it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        try:
            main()
        finally:
            _flush()
    except BrokenPipeError:                                             # such as `| head`: nobody reads on
        sys.exit(1)
    except (DataError, OSError) as error:
        line = "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(error))
        print(f"error: {line[:1000]}", file=sys.stderr)                 # a file's words may be a megabyte
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted{kept}", file=sys.stderr)
        sys.exit(130)


def _flush() -> None:
    """Flush what was printed here, so that a failure is reported, and only once, not again when Python ends."""
    try:
        if sys.stdout:                                                  # None where it is closed from the start
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.__context__ is None:                                   # else what went wrong before is what is to be said
            raise


class CommandLine(argparse.ArgumentParser):
    """A command's options, whose errors are one line and exit code 2, too; names are not shortened, and help keeps its lines."""

    def __init__(self, **about) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **about)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        for given in sys.argv[1:] if args is None else args:
            if any("\ud800" <= character <= "\udfff" for character in given):         # bytes that are no UTF-8
                raise DataError(f"expected options in UTF-8, found {given!r}")
            name, equals, value = given.partition("=")
            if not given or name.startswith("--") and equals and not value:               # such as a shell's variable that is not set
                raise DataError(f"{name or 'an option'}: expected something behind it, found nothing")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message} (--help shows the options)")
