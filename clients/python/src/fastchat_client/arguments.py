"""The arguments of a bot's commands: words of a message, converted to the types of a function."""

from __future__ import annotations

import inspect
import shlex
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Parameters", "UsageError"]

_SWITCHES = {
    **dict.fromkeys(("yes", "on", "true", "1"), True),
    **dict.fromkeys(("no", "off", "false", "0"), False),
}
_CONVERTERS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (lambda word: _SWITCHES[word.casefold()], "yes or no"),
}


class UsageError(Exception):
    """The words of a message do not fit the command; the text is a sentence for the sender."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    type: type
    is_required: bool

    def convert(self, word: str) -> Any:
        convert, kind = _CONVERTERS[self.type]
        try:
            return convert(word)
        except (KeyError, ValueError):
            raise UsageError(f"`{self.name}` must be {kind}, not `{word}`.") from None


class Parameters:
    """The parameters of a command after the message, which is its first argument.

    Positional parameters take a word each; quotation marks keep words together. `*words` takes all
    words that are left, and a parameter after `*` takes the rest of the text as it is. Types are
    str (without an annotation, too), int, float, bool, and each of them `| None`.

    Raises TypeError if the function is none for a command.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__name__} must be a coroutine function: async def …")
        hints = typing.get_type_hints(function)
        message, *parameters = inspect.signature(function).parameters.values() or (None,)
        if message is None or message.kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            raise TypeError(f"{function.__name__} needs a first argument, which is the message.")
        self._positional: list[_Parameter] = []
        self._words: _Parameter | None = None
        self._rest: _Parameter | None = None
        for each in parameters:
            is_required = each.default is inspect.Parameter.empty
            parameter = _Parameter(
                each.name, _type_of(each.name, hints.get(each.name, str)), is_required
            )
            match each.kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    self._words = parameter
                case inspect.Parameter.KEYWORD_ONLY if self._rest is None:
                    self._rest = parameter
                case inspect.Parameter.KEYWORD_ONLY | inspect.Parameter.VAR_KEYWORD:
                    raise TypeError(f"{function.__name__}: {each.name} can get no word.")
                case _:
                    self._positional.append(parameter)

    @property
    def usage(self) -> str:
        """The parameters as a person reads them: `die [sides]`."""
        parts = [each.name if each.is_required else f"[{each.name}]" for each in self._positional]
        if self._words is not None:
            parts.append(f"[{self._words.name} …]")
        if self._rest is not None:
            parts.append(self._rest.name if self._rest.is_required else f"[{self._rest.name}]")
        return " ".join(parts)

    def parse(self, text: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments in a text. Raises UsageError if they do not fit."""
        words, rest = self._split(text)
        arguments: list[Any] = []
        for parameter in self._positional:
            if words:
                arguments.append(parameter.convert(words.pop(0)))
            elif parameter.is_required:
                raise UsageError(f"`{parameter.name}` is missing.")
            else:
                break
        named: dict[str, Any] = {}
        if self._words is not None:
            arguments += map(self._words.convert, words)
        elif self._rest is not None:
            if rest:
                named[self._rest.name] = self._rest.convert(rest)
            elif self._rest.is_required:
                raise UsageError(f"`{self._rest.name}` is missing.")
        elif words:
            raise UsageError(f"`{words[0]}` is too much.")
        return arguments, named

    def _split(self, text: str) -> tuple[list[str], str]:
        """The words, and the text after those of positional parameters as it was written."""
        if self._rest is None:
            try:
                return shlex.split(text), ""
            except ValueError:  # a quotation mark without its counterpart, as in "don't"
                return text.split(), ""
        count = len(self._positional)
        parts = text.split(maxsplit=count)
        return parts[:count], "".join(parts[count:])


def _type_of(name: str, hint: Any) -> type:
    """The type of a parameter, without `| None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hints = [each for each in typing.get_args(hint) if each is not types.NoneType]
        hint = hints[0] if len(hints) == 1 else None
    if hint not in _CONVERTERS:
        known = ", ".join(each.__name__ for each in _CONVERTERS)
        raise TypeError(f"The parameter {name} must have one of the types {known}.")
    return typing.cast(type, hint)
