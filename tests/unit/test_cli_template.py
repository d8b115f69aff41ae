"""The evaluator of --format templates, against what Go's text/template gives."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.cli.table import Column, Row, View
from sampan.cli.template import Template, TemplateError

CONTAINER: dict[str, Any] = {
    "Id": "0123456789abcdef",
    "Name": "/web",
    "RestartCount": 3,
    "State": {"Status": "running", "Running": True, "ExitCode": 0},
    "Config": {"Labels": {"a.b": "1", "z": "2"}, "Cmd": ["sh", "-c", "x y"], "Env": None},
    "NetworkSettings": {
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": None},
        "Networks": {"one": {"IPAddress": "10.0.0.2"}, "two": {"IPAddress": "10.0.1.2"}},
    },
    "Mounts": [],
}


def render(source: str, value: Any = None) -> str:
    return Template(source).render(CONTAINER if value is None else value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{ .State.Status }}!", "running!"),
        ("{{.ID}} {{.id}}", "0123456789abcdef 0123456789abcdef"),
        ("{{.RestartCount}} {{.State.Running}}", "3 true"),
        ("{{.Config.Cmd}}", "[sh -c x y]"),
        ("{{.Config.Labels}}", "map[a.b:1 z:2]"),
        ("{{.Config.Env}}", "<no value>"),
        ("{{json .State}}", '{"Status":"running","Running":true,"ExitCode":0}'),
        ("{{json .Config.Cmd}}", '["sh","-c","x y"]'),
        ('{{index .Config.Labels "a.b"}}', "1"),
        ('{{index .Config.Labels "none"}}.', "."),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{index .Config.Cmd 0}}", "sh"),
        ("{{range .Config.Cmd}}<{{.}}>{{end}}", "<sh><-c><x y>"),
        ("{{range $i, $v := .Config.Cmd}}{{$i}}={{$v}} {{end}}", "0=sh 1=-c 2=x y "),
        (
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}:{{$v.IPAddress}} {{end}}",
            "one:10.0.0.2 two:10.0.1.2 ",
        ),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}},{{end}}", "10.0.0.2,10.0.1.2,"),
        ("{{range .Mounts}}x{{else}}none{{end}}", "none"),
        ("{{range $v := .Config.Cmd}}{{if eq $v `-c`}}{{continue}}{{end}}{{$v}};{{end}}", "sh;x y;"),
        ("{{range .Config.Cmd}}{{.}}{{break}}{{end}}", "sh"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if not .State.Running}}down{{else if eq .RestartCount 3}}three{{else}}?{{end}}", "three"),
        ("{{if .State.Health}}healthy{{else}}no check{{end}}", "no check"),
        ("{{with .State}}{{.Status}}{{end}}", "running"),
        ("{{with .Config.Env}}x{{else}}empty{{end}}", "empty"),
        ("{{with $s := .State}}{{$s.Status}} {{$.Name}}{{end}}", "running /web"),
        ("{{$n := .Name}}{{$n}}{{$n = `other`}}{{$n}}", "/webother"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ('{{eq .State.Status "running" "paused"}}', "true"),
        ("{{and .State.Running .Name}} {{or .State.ExitCode `zero`}}", "/web zero"),
        ("{{lt 1 2}} {{ge 2 2}} {{ne 1 1}}", "true true false"),
        ("{{len .Config.Cmd}} {{len .Name}} {{len .Config.Labels}}", "3 4 2"),
        ("{{upper .Name}} {{lower `ABC`}} {{title `ab cd`}}", "/WEB abc Ab Cd"),
        ('{{join .Config.Cmd "+"}}', "sh+-c+x y"),
        ('{{range split "a,b" ","}}[{{.}}]{{end}}', "[a][b]"),
        ('{{.Name | printf "%s-%d" "x"}}', "x-%!d(/web)"),
        (
            '{{printf "%-8s|%5d|%q|%v|%%" .Name .RestartCount "q" .State.Running}}',
            '/web    |    3|"q"|true|%',
        ),
        ('{{printf "%.6s" .Id}}', "012345"),
        ("{{println 1 `a` true}}", "1 a true\n"),
        ("{{print 1 2 `a` 3}}", "1 2a3"),
        ('{{pad "x" 2 1}}|{{pad "" 2 1}}|{{truncate "abcdef" 3}}', "  x ||abc"),
        ("{{slice .Id 0 4}}", "0123"),
        ("a {{- `b` -}} c", "abc"),
        ("a{{/* nothing */}}b", "ab"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ('{{"quoted \\"text\\" \\n"}}', 'quoted "text" \n'),
        ("{{`raw }}`}}", "raw }}"),
        ("{{1.5}} {{-3}} {{true}} {{0x10}}", "1.5 -3 true 16"),
        ("{{(.State).Status}}", "running"),
        ("{{.}}", None),
    ],
)
def test_renders(source: str, expected: str | None) -> None:
    result = render(source)
    if expected is not None:
        assert result == expected
    else:
        assert result.startswith("map[Config:map[Cmd:[sh -c x y] Env:<nil>")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Nope}}", "there is no field .Nope here"),
        ("{{.State.Health.Status}}", "nil has no field .Status"),
        ("{{.Name.First}}", "can't evaluate field First"),
        ("{{nope .}}", 'function "nope" not defined'),
        ("{{uper .Name}}", "Did you mean upper?"),
        ("{{.Name", "unclosed action"),
        ("{{if .Name}}x", "an {{end}} is missing"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{}}", "missing value for command"),
        ("{{.Name |}}", "missing value for command"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{$x}}", 'undefined variable "$x"'),
        ("{{index .Config.Cmd 9}}", "index out of range: 9"),
        ("{{index .Config.Env 0}}", "index of untyped nil"),
        ("{{lt 1 `a`}}", "incompatible types"),
        ("{{upper 3}}", "error calling upper"),
        ("{{range .Name}}{{end}}", "range can't iterate"),
        ("{{template `x`}}", "not supported"),
        ("{{.Name 3}}", "can't give arguments"),
        ('{{"open}}', "unterminated quoted string"),
        ("{{break}}", "outside {{range}}"),
        ("{{#}}", "unexpected '#'"),
    ],
)
def test_refuses(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert message in str(caught.value)


VIEW = View(
    {
        "ID": Column("THE ID", lambda item, short: item["id"][:3] if short else item["id"]),
        "Name": Column("NAME", lambda item, _: item["name"]),
    },
    ("ID", "Name"),
    methods={"Label": lambda item, name: item["labels"].get(name, "")},
)
ROW = Row(VIEW, {"id": "abcdef", "name": "n", "labels": {"x": "y"}}, True)


def test_rows_show_columns_and_methods() -> None:
    assert Template('{{.ID}} {{.Label "x"}} {{json .}}').render(ROW) == 'abc y {"ID":"abc","Name":"n"}'
    with pytest.raises(TemplateError, match="there are ID, Name"):
        Template("{{.Other}}").render(ROW)


def test_headers_stay_as_they_are_whatever_is_done_to_cells() -> None:
    from sampan.cli.table import HeaderRow

    row = HeaderRow(VIEW, None, False)
    source = '{{.ID}}\t{{lower .Name}}\t{{.Label "org.some-name"}}'
    assert Template(source).render(row, header=True) == "THE ID\tNAME\tsome name"
