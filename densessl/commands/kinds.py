"""A command of several kinds: which of them is meant, and the arguments of one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from densessl.errors import UserError


def chosen(
    command: str, about: str | None, kinds: Mapping[str, str], argv: Sequence[str] | None
) -> tuple[str, list[str]]:
    """Which of ``kinds`` (name: a line about it), and the words after it; "" after help. Raises UserError."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in kinds:
        return words[0], words[1:]
    if words not in ([], ["-h"], ["--help"]):
        raise UserError(f"{command} {words[0]}: there are {', '.join(kinds)}")
    width = max(map(len, kinds)) + 1
    lines = "\n".join(f"  {kind:{width}} {text}" for kind, text in kinds.items())
    print(f"usage: densessl {command} {{{','.join(kinds)}}} [-h] ...\n\n{about}\n\n{lines}")
    return "", []


class Parser(argparse.ArgumentParser):
    """The arguments of one kind."""

    def __init__(self, prog: str, about: str, example: str) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog=f"densessl {prog}", description=about, epilog=f"example:\n  {example}", formatter_class=form
        )
        self._least: dict[str, int] = {}

    def number(self, name: str, default: int | None, text: str, smallest: int = 1) -> None:
        """--NAME N, at least ``smallest``; the help tells the default unless ``text`` does."""
        text += "" if default is None or "default" in text else f"; default {default}"
        self.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
        self._least[name] = smallest

    def parsed(self, words: Sequence[str]) -> argparse.Namespace:
        """Raises UserError for a number that is too small."""
        args = self.parse_intermixed_args(words)
        for name, smallest in self._least.items():
            if (value := getattr(args, name.replace("-", "_"))) is not None and value < smallest:
                raise UserError(f"--{name} {value}: at least {smallest} is needed")
        return args
