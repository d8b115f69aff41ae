"""The words of a template: text and actions, and the tokens inside an action."""

from __future__ import annotations

from sampan.cli.templatefunctions import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "0": "\0"}


class Token:
    """kind: word, field (its name, "" for dot alone), variable, constant (``value``), mark.

    ``joined``: nothing stands between it and the token before.
    """

    __slots__ = ("joined", "kind", "text", "value")

    def __init__(self, kind: str, text: str, joined: bool, value: Any = None) -> None:
        self.kind = kind
        self.text = text
        self.joined = joined
        self.value = value


def split_source(source: str) -> list[tuple[bool, str]]:
    """``(is an action, text)`` in order; comments are gone and ``{{-`` and ``-}}`` have trimmed."""
    pieces: list[tuple[bool, str]] = []
    position = 0
    trim_next = False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        if trim_next:
            text = text.lstrip(_SPACE)
        if start < 0:
            _add_text(pieces, text)
            return pieces
        body_start = start + 2
        if source[body_start : body_start + 1] == "-" and source[body_start + 1 : body_start + 2] in (
            *_SPACE,
            "/",
        ):
            text = text.rstrip(_SPACE)
            body_start += 1
        _add_text(pieces, text)
        end = _action_end(source, body_start)
        body = source[body_start:end]
        trim_next = len(body) >= 2 and body[-1] == "-" and body[-2] in (*_SPACE, "/")
        body = (body[:-1] if trim_next else body).strip(_SPACE)
        if not (body.startswith("/*") and body.endswith("*/")):
            pieces.append((True, body))
        position = end + 2


def _add_text(pieces: list[tuple[bool, str]], text: str) -> None:
    if text:
        pieces.append((False, text))


def _action_end(source: str, position: int) -> int:
    while position < len(source):
        char = source[position]
        if char in '"`':
            position = _quoted_end(source, position)
        elif source.startswith("}}", position):
            return position
        else:
            position += 1
    raise TemplateError("unclosed action")


def _quoted_end(source: str, position: int) -> int:
    quote = source[position]
    position += 1
    while position < len(source):
        if source[position] == "\\" and quote != "`":
            position += 2
        elif source[position] == quote:
            return position + 1
        else:
            position += 1
    raise TemplateError("unterminated quoted string")


def _unquoted(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    out = []
    index = 1
    while index < len(text) - 1:
        char = text[index]
        if char == "\\":
            index += 1
            if text[index] not in _ESCAPES:
                raise TemplateError(f"unknown escape \\{text[index]} in {text}")
            char = _ESCAPES[text[index]]
        out.append(char)
        index += 1
    return "".join(out)


def _is_name(char: str) -> bool:
    return char.isalnum() or char == "_"


def _name_end(text: str, position: int) -> int:
    while position < len(text) and _is_name(text[position]):
        position += 1
    return position


def tokens_of(text: str) -> list[Token]:
    """Raises TemplateError for a character that means nothing here."""
    tokens: list[Token] = []
    position = 0
    joined = False
    while position < len(text):
        if text[position] in _SPACE:
            position += 1
            joined = False
            continue
        token, position = _token(text, position, joined)
        tokens.append(token)
        joined = True
    return tokens


def _token(text: str, position: int, joined: bool) -> tuple[Token, int]:
    char = text[position]
    if char in "\"`'":
        end = _quoted_end(text, position)
        value: Any = _unquoted(text[position:end])
        return Token("constant", text[position:end], joined, ord(value) if char == "'" else value), end
    if char == "$":
        end = _name_end(text, position + 1)
        return Token("variable", text[position:end], joined), end
    if char == ".":
        end = _name_end(text, position + 1)
        return Token("field", text[position + 1 : end], joined), end
    if text.startswith(":=", position):
        return Token("mark", ":=", joined), position + 2
    if char in "|()=,":
        return Token("mark", char, joined), position + 1
    if char.isdigit() or (char in "+-" and text[position + 1 : position + 2].isdigit()):
        return _number(text, position, joined)
    if _is_name(char):
        end = _name_end(text, position)
        word = text[position:end]
        if word in ("true", "false", "nil"):
            return Token("constant", word, joined, {"true": True, "false": False, "nil": None}[word]), end
        return Token("word", word, joined), end
    raise TemplateError(f"unexpected {char!r} in command")


def _number(text: str, position: int, joined: bool) -> tuple[Token, int]:
    end = position + 1
    while end < len(text) and (_is_name(text[end]) or text[end] == "."):
        end += 1
    word = text[position:end]
    try:
        value: Any = float(word) if "." in word else int(word, 0)
    except ValueError:
        raise TemplateError(f"bad number syntax: {word!r}") from None
    return Token("constant", word, joined, value), end
