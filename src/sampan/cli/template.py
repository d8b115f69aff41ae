"""Go's text/template as far as ``--format`` needs it: fields, variables, pipelines, if, range, with, and the
functions of templatefunctions. Pure: a template and a value give a text or a TemplateError.

A value is what JSON has (dict, list, str, number, bool, None), or an object with ``field(name)``, such as a
row of a listing.
"""

from __future__ import annotations

from sampan.cli.templatefunctions import FUNCTIONS, TemplateError, is_true, text_of
from sampan.cli.templatetokens import Token, split_source, tokens_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Template", "TemplateError"]

# Fields that the API leaves out when there is nothing to say; to a template they are nil.
_OPTIONAL = frozenset(
    (
        *("Annotations", "ConfigOnly", "ExposedPorts", "Health", "Healthcheck", "ImageManifestDescriptor"),
        *("Init", "Labels", "Mounts", "Options", "Runtime", "Shell", "SizeRootFs", "SizeRw", "StopSignal"),
        *("StopTimeout", "StorageOpt", "Sysctls", "Tmpfs", "UsageData", "Variant", "Volumes", "Platform"),
    )
)


class _Break(Exception):
    """{{break}}"""


class _Continue(Exception):
    """{{continue}}"""


class _State:
    """Dot, the variables in scope, and the text so far."""

    def __init__(self, dot: Any, header: bool) -> None:
        self.dot = dot
        self.scopes: list[dict[str, Any]] = [{"$": dot}]
        self.out: list[str] = []
        self.header = header

    def variable(self, name: str) -> Any:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise TemplateError(f'undefined variable "{name}"')

    def assign(self, name: str, value: Any) -> None:
        for scope in reversed(self.scopes):
            if name in scope:
                scope[name] = value
                return
        raise TemplateError(f'undefined variable "{name}"')


def field_of(value: Any, name: str) -> Any:
    """``value.name``; names match in any case, as Go's fields and their JSON names differ in it."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        lowered = name.lower()
        for key in value:
            if isinstance(key, str) and key.lower() == lowered:
                return value[key]
        if name in _OPTIONAL:
            return None
        raise TemplateError(f"there is no field .{name} here{_known(list(value))}")
    if value is None:
        raise TemplateError(f"nil has no field .{name}")
    if hasattr(value, "field"):
        try:
            return value.field(name)
        except KeyError:
            raise TemplateError(f"there is no field .{name} here{_known(list(value.view.columns))}") from None
    raise TemplateError(f"can't evaluate field {name} in {text_of(value)!r}")


def _known(names: list[str]) -> str:
    return f" (there are {', '.join(sorted(names))})" if 0 < len(names) <= 60 else ""


class _Operand:
    """A constant, dot, a variable or a parenthesis, and the fields that follow it."""

    def __init__(self, base: Callable[[_State], Any], fields: Sequence[str]) -> None:
        self._base = base
        self.fields = list(fields)

    def evaluate(self, state: _State, arguments: Sequence[Any] = ()) -> Any:
        value = self._base(state)
        for index, name in enumerate(self.fields):
            value = field_of(value, name)
            if callable(value):
                last = index == len(self.fields) - 1
                value = _call(value, name, arguments if last else ())
                arguments = () if last else arguments
        if arguments:
            raise TemplateError(f"can't give arguments to non-function {'.'.join(['', *self.fields])}")
        return value


class _Function:
    def __init__(self, name: str) -> None:
        self.name = name

    def evaluate(self, state: _State, arguments: Sequence[Any] = ()) -> Any:
        function = FUNCTIONS[self.name]
        if state.header and self.name in ("json", "split", "join", "title", "lower", "upper", "truncate"):
            # In the line of headers the header stays as it is, whatever is done to the cells.
            return arguments[0] if arguments else ""
        return _call(function, self.name, arguments)


def _call(function: Callable[..., Any], name: str, arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except TemplateError:
        raise
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise TemplateError(f"error calling {name}: {error}") from None


class _Pipeline:
    """Commands from left to right, the value of one being the last argument of the next."""

    def __init__(self, names: Sequence[str], declares: bool, commands: Sequence[Sequence[Any]]) -> None:
        self.names = list(names)
        self._declares = declares
        self._commands = commands

    def value(self, state: _State) -> Any:
        value: Any = None
        for index, (head, *rest) in enumerate(self._commands):
            arguments = [part.evaluate(state) for part in rest]
            if index:
                arguments.append(value)
            value = head.evaluate(state, arguments)
        return value

    def bind(self, state: _State, *values: Any) -> None:
        for name, value in zip(self.names, values, strict=False):
            if self._declares:
                state.scopes[-1][name] = value
            else:
                state.assign(name, value)

    def run(self, state: _State) -> None:
        value = self.value(state)
        if self.names:
            self.bind(state, value)
        else:
            state.out.append(text_of(value))


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, state: _State) -> None:
        state.out.append(self._text)


class _Jump:
    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def run(self, state: _State) -> None:
        raise self._kind


class _Block:
    """if, with and range."""

    def __init__(self, kind: str, pipeline: _Pipeline, body: Sequence[Any], other: Sequence[Any]) -> None:
        self._kind = kind
        self._pipeline = pipeline
        self._body = body
        self._other = other

    def run(self, state: _State) -> None:
        state.scopes.append({})
        dot = state.dot
        try:
            value = self._pipeline.value(state)
            if self._kind == "range":
                self._range(state, value)
                return
            self._pipeline.bind(state, value)
            true = is_true(value)
            if true and self._kind == "with":
                state.dot = value
            _run_all(self._body if true else self._other, state)
        finally:
            state.dot = dot
            state.scopes.pop()

    def _range(self, state: _State, value: Any) -> None:
        items = _items(value)
        if not items:
            _run_all(self._other, state)
        for key, item in items:
            state.scopes.append({})
            state.dot = item
            if len(self._pipeline.names) == 1:
                self._pipeline.bind(state, item)
            else:
                self._pipeline.bind(state, key, item)
            try:
                _run_all(self._body, state)
            except _Continue:
                continue
            except _Break:
                break
            finally:
                state.scopes.pop()


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(index, index) for index in range(value)]
    if value is None:
        return []
    raise TemplateError(f"range can't iterate over {text_of(value)}")


def _run_all(nodes: Sequence[Any], state: _State) -> None:
    for node in nodes:
        node.run(state)


class _Parser:
    """Recursive descent over the pieces of the source."""

    def __init__(self, source: str) -> None:
        self._pieces = split_source(source)
        self._index = 0
        self._tokens: list[Token] = []

    def nodes(self, *, nested: bool) -> tuple[list[Any], str]:
        """Nodes up to ``end`` or ``else`` (answered, with the rest of an ``else if`` still to be read)."""
        nodes: list[Any] = []
        while self._index < len(self._pieces):
            is_action, text = self._pieces[self._index]
            self._index += 1
            if not is_action:
                nodes.append(_Text(text))
                continue
            self._tokens = tokens_of(text)
            if not self._tokens:
                raise TemplateError("missing value for command")
            word = self._tokens[0].text if self._tokens[0].kind == "word" else ""
            if word in ("end", "else"):
                if not nested:
                    raise TemplateError(f"unexpected {{{{{word}}}}}")
                self._tokens.pop(0)
                return nodes, word
            nodes.append(self._action(word))
        if nested:
            raise TemplateError("unexpected EOF: an {{end}} is missing")
        return nodes, ""

    def _action(self, word: str) -> Any:
        if word in ("if", "with", "range"):
            self._tokens.pop(0)
            return self._block(word)
        if word in ("break", "continue"):
            return _Jump(_Break if word == "break" else _Continue)
        if word in ("define", "template", "block"):
            raise TemplateError(f"{{{{{word}}}}} is not supported")
        pipeline = self._pipeline()
        self._expect_end()
        return pipeline

    def _block(self, kind: str) -> _Block:
        pipeline = self._pipeline()
        self._expect_end()
        body, ended_by = self.nodes(nested=True)
        other: list[Any] = []
        if ended_by == "else":
            if self._tokens and self._tokens[0].text in ("if", "with"):
                other = [self._block(self._tokens.pop(0).text)]
            else:
                other, ended_by = self.nodes(nested=True)
                if ended_by == "else":
                    raise TemplateError("unexpected {{else}}")
        return _Block(kind, pipeline, body, other)

    def _expect_end(self) -> None:
        if self._tokens:
            raise TemplateError(f'unexpected "{self._tokens[0].text}" in command')

    def _pipeline(self) -> _Pipeline:
        names, declares = self._declared()
        commands = [self._command()]
        while self._tokens and self._tokens[0].text == "|" and self._tokens[0].kind == "mark":
            self._tokens.pop(0)
            commands.append(self._command())
        return _Pipeline(names, declares, commands)

    def _declared(self) -> tuple[list[str], bool]:
        for length, pattern in ((2, ["variable"]), (4, ["variable", "mark", "variable"])):
            head = self._tokens[:length]
            if len(head) == length and head[-1].text in (":=", "=") and head[-1].kind == "mark":
                kinds = [token.kind for token in head[:-1]]
                if kinds == pattern:
                    del self._tokens[:length]
                    return [token.text for token in head if token.kind == "variable"], head[-1].text == ":="
        return [], False

    def _command(self) -> list[Any]:
        parts: list[Any] = []
        while self._tokens:
            token = self._tokens[0]
            if token.kind == "mark" and token.text in ("|", ")"):
                break
            parts.append(self._operand())
        if not parts:
            raise TemplateError("missing value for command")
        for part in parts[1:]:
            if isinstance(part, _Function) and part.name not in ("true", "false", "nil"):
                continue
        return parts

    def _operand(self) -> Any:
        token = self._tokens.pop(0)
        if token.kind == "word":
            if token.text not in FUNCTIONS:
                from sampan.cli.options import suggestion

                raise TemplateError(
                    f'function "{token.text}" not defined{suggestion(token.text, list(FUNCTIONS))}'
                )
            return _Function(token.text)
        if token.kind == "constant":
            value = token.value
            return _Operand(lambda state: value, self._fields())
        if token.kind == "variable":
            name = token.text
            return _Operand(lambda state: state.variable(name), self._fields())
        if token.kind == "field":
            return _Operand(lambda state: state.dot, [token.text, *self._fields()] if token.text else [])
        if token.text == "(":
            inner = self._pipeline()
            if not self._tokens or self._tokens.pop(0).text != ")":
                raise TemplateError("unclosed left paren")
            return _Operand(inner.value, self._fields())
        raise TemplateError(f'unexpected "{token.text}" in operand')

    def _fields(self) -> list[str]:
        """Fields that follow without a space."""
        fields = []
        while (
            self._tokens
            and self._tokens[0].kind == "field"
            and self._tokens[0].joined
            and self._tokens[0].text
        ):
            fields.append(self._tokens.pop(0).text)
        return fields


class Template:
    """A parsed template. Raises TemplateError for a wrong one."""

    def __init__(self, source: str) -> None:
        self._nodes, _ = _Parser(source).nodes(nested=False)

    def render(self, value: Any, *, header: bool = False) -> str:
        """The text for one value. Raises TemplateError for a field or an argument that is wrong."""
        state = _State(value, header)
        try:
            _run_all(self._nodes, state)
        except (_Break, _Continue):
            raise TemplateError("{{break}} or {{continue}} outside {{range}}") from None
        return "".join(state.out)
