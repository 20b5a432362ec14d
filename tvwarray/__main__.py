"""The command ``tvwarray``; ``python -m tvwarray`` is the same."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from tvwarray._cli.parser import UsageError, parse
from tvwarray._cli.table import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; by default those of the process.

    Returns
    -------
    int
        0 if all went well; 1 if a check that the command made failed; 2 after an error, which is
        one line on stderr; 130 after an interruption.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
    except SystemExit as e:  # --help and --version
        return int(e.code or 0)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has what it wanted. Python flushes stdout once more at exit,
        # which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, OSError, MemoryError, ImportError) as e:
        if "--debug" in arguments and not isinstance(e, UsageError):
            traceback.print_exc()
            return 2
        _say(f"error: {_one_line(e)}")
        return 2
    return status


def _say(message: str) -> None:
    print(f"tvwarray: {message}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return printable(" ".join(str(error).split())) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
