#!/usr/bin/env python3
"""Writes tests/data/template/cases.json: small templates and what jinja2 makes of them, set up as transformers does.

Usage: tests/make_template_cases.py > tests/data/template/cases.json      (needs the Python package jinja2)

"vars" is the JSON text of the variables of all cases; a case is [template, text] or, where jinja2 refuses, [template, null].
"""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)


class Generation(jinja2.ext.Extension):
    """The generation tag of transformers: its body is a call block."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env


VARS = {
    "s": "Hello, World", "u": "Zürich – ÄÖÜ ß 你好 😀", "empty": "", "pad": "  \t x y \n ", "n": 7, "neg": -3, "zero": 0, "f": 2.5, "big": 1e20, "small": 1e-7,
    "yes": True, "no": False, "nil": None, "xs": [3, 1, 2], "names": ["bob", "Alice", "carol", "Bob"], "nested": [[1, 2], [3, [4, 5]]], "none": [],
    "d": {"b": 1, "a": 2, "C": 3}, "deep": {"x": {"y": [10, {"z": "end"}]}, "items": "shadow", "get": 5}, "lines": "one\ntwo\n\nthree\n", "html": "<a href='x'>T & \"q\"</a>",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U1"}, {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
                 {"role": "user", "content": "U2"}],
    "people": [{"name": "Ann", "age": 30, "city": "b"}, {"name": "ben", "age": 20, "city": "A"}, {"name": "Cid", "age": 30, "city": "a"}],
}

DATA = pathlib.Path(__file__).parent / "data" / "template"

# Expressions, one a line: each is printed as {{ (EXPRESSION) }}.
EXPRESSIONS = (DATA / "expressions.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")

# Templates, one a line.
TEMPLATES = (DATA / "templates.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")

# Templates of several lines.
MULTI = [
    r"""{%- for m in messages %}
    {%- if m.content is none %}
        {{- '[' ~ m.role ~ ']' }}
        {%- for t in m.tool_calls %}
            {{- {"name": t.name, "arguments": t.arguments} | tojson }}
        {%- endfor %}
    {%- else %}
        {{- m.role | upper ~ ': ' ~ m.content | trim ~ '\n' }}
    {%- endif %}
{%- endfor %}""",
    "{# {{ x }} {% if %} #}y", "{% set x = \"a\" \"b\"\n  \"c\" %}{{ x }}",
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "  {% if yes %}\n  b\n  {% endif %}\n  c", "a {%- if yes -%}\n b {%- endif -%}\n c", "a\n  {%+ if yes %}\nx\n  {%- endif %}\ny",
    "{{- 1 -}}  \n x \n {{- 2 }} {{ 3 -}}\n\ny\n", "a{{ 1 }}\nb{{ 2 }}\n\nc\n\n", "{% for x in xs %}\n\n{{ x }}\n\n{% endfor %}\n\nend", "{% for x in xs -%}\n  {{ x }}\n{%- endfor %}\n",
    "\t{% set x = 1 %}\t\nt", "a  {% if yes %}b{% endif %}  \nc", "{{ 'a\nb' }}", "{{ \"a\r\nb\" }}\r\nx\ry", "  {# own line #}\nx\n  {# c #} y", "{# multi\nline #}\n{# next #}\n x",
    "{% raw %}\n a {{ }}\n{% endraw %}\n b", "x\n  {%- raw -%}\n y \n{%- endraw -%}\n z", "x\n  {% raw %}\n y\n  {% endraw %}\n z", "{% filter indent(2) %}a\nb\n{% endfilter %}\nc",
    "{% if yes +%}\na\n{% endif %}", "{% if yes %}   \na\n{% endif %}", "{%- if yes %}\n  {{- 'x' }}\n{%- endif %}\n\n", "\n\n{% if yes %}\n\nx\n\n{% endif %}\n\n", "\n", "\n\n", "x\n", "x\n\n",
    "", " ", "{{ n\n}}\n{{ s.split(\n  ','\n) }}", "{% set x =\n  1\n%}{{ x }}\n{{ raise_exception('line ' ~ x) }}", "a\u2003{%- if yes -%}\u00a0b{% endif %}", "{{ 1 }}\n  {{ 2 }}\n",
    "  {{ 1 }}", "{% set q %}\n  a\n{% endset %}\n[{{ q }}]", "{% macro m() %}\n  a\n{% endmacro %}\n[{{ m() }}]", "{% if yes %}a\n{% else %}\nb\n{% endif %}\nc", "{#- c -#}\n x", "x {#- c #}\n y",
    "x {# c -#}\n y", "x {#+ c +#}\n y", "  {#+ c #}\nx", "{% call(x) (n)() %}{% endcall %}", "\x00a{{ 'b\\x00c' }}", "{{ '" + "x" * 3000 + "'|length }}", "{{ " + "+".join(["1"] * 60) + " }}",
    "{{ " + "(" * 30 + "1" + ")" * 30 + " }}", "{{ " + "[" * 30 + "1" + "]" * 30 + " }}", "{% if n %}" * 15 + "x" + "{% endif %}" * 15, "{{ " + "~".join(["'a'"] * 150) + " }}",
    "{% for x in xs %}{{ x }}\n{% endfor %}\n{%- for x in xs %}\n{{ x }}\n{%- endfor %}", "{%- for m in messages -%}\n\n  {{ m.role }}\n\n{%- endfor -%}\n",
]

# What jinja2 allows and nomoat refuses, or prints another way, on purpose; docs/templates.md says why.
LEFT_OUT = {
    "{{ (10 ** 19) }}", "{{ (lipsum) }}", "{{ (self) }}", "{{ (n|pprint is string) }}", "{% autoescape false %}{{ html }}{% endautoescape %}", "{{ (deep.get) }}", "{{ (deep.items) }}",
    "{{ (s.encode()) }}", "{{ (s.translate({})) }}", "{{ (none[1:]) }}",
}


def cases():
    for e in EXPRESSIONS:
        yield "{{ (" + e + ") }}"
    for t in TEMPLATES:
        yield t
    yield from MULTI


def main():
    env, out = environment(), []
    for template in dict.fromkeys(cases()):
        if template in LEFT_OUT:
            continue
        try:
            text = env.from_string(template).render(**VARS)
        except Exception as e:  # whatever Python raises is a refusal
            if "--errors" in sys.argv:
                print(repr(template), repr(e), file=sys.stderr)
            text = None
        if text is not None and " at 0x" in text:   # an address of Python's
            continue
        try:
            json.dumps([template, text], ensure_ascii=False).encode()
        except UnicodeEncodeError:      # a lone surrogate: nomoat's text is UTF-8
            text = None
        out.append([template, text])
    sys.stdout.write('{"vars": ' + json.dumps(json.dumps(VARS, ensure_ascii=False), ensure_ascii=False) + ',\n"cases": [\n')
    sys.stdout.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in out) + "\n]}\n")


if __name__ == "__main__":
    main()
