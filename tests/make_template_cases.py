#!/usr/bin/env python3
"""Writes tests/data/template/cases.json: small templates and what jinja2 makes of them, set up as transformers does.

Usage: tests/make_template_cases.py > tests/data/template/cases.json      (needs the Python package jinja2)

"vars" is the JSON text of the variables of all cases; a case is [template, text] or, where jinja2 refuses, [template, null].
"""
import datetime
import json
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

# Expressions: each is tried as {{ (EXPRESSION) }} and printed.
EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
2 ** 3 ** 2
-2 ** 2
2 ** -1
2 ** 0.5
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
-7 // -2
7.5 // 2
-7.5 % 2
7.5 % -2
-0.0 // 1
1 / 3
6 / 2
1 / 0
1 // 0
1 % 0
1.0 / 0
0 ** -1
1e308 * 10
-1e308 * 10
1e400
10 ** 18
9223372036854775807
1_000_000
0x1F
0b101
0o17
1.5e3
1e16
1e15
123456789012345678.0
0.1 + 0.2
1e-5
0.0001
1.0
-0.0
100000000000000000000.0
3.14159265358979
true + true
true and 1
yes + 1
- yes
+ yes
- f
+ n
not n
not none
n == 7
n == 7.0
n != 7
yes == 1
s == 'Hello, World'
1 < 2 < 3
1 < 3 < 2
1 < 2 > 1
1 == 1 == 1
'a' < 'b'
'a' < 'B'
'Z' < 'a'
[1, 2] < [1, 3]
[1, 2] < [1, 2, 0]
(1, 'a') < (1, 'b')
[1] == [1.0]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
{'a': 1, 'b': 2} == {'b': 2, 'a': 1}
{'a': 1} == {'b': 1}
1 < 'a'
'a' < 1
none < 1
[1] < 1
missing < 1
1 < missing
missing == missing
missing == other
missing != missing
missing == none
missing == ''
1 in xs
'x' in xs
9 not in xs
'ell' in s
'' in s
'H' in s and 'W' in s
1 in 'abc'
'a' in d
'z' in d
[1] in d
1 in 5
1 in none
1 in missing
missing in xs
missing in 'abc'
missing in d
2 in range(5)
(1, 2) in [(1, 2)]
'a' in d.keys()
1 in d.values()
('a', 2) in d.items()
'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1, 'x'] ~ missing
'a' ~ 1 + 2
1 + 2 ~ 'a'
'a' + 'b'
'a' + 1
1 + 'a'
'a' * 3
3 * 'ab'
'a' * -1
'a' * 1.5
[1, 2] * 2
2 * (1,)
[1] + [2]
(1,) + (2,)
[1] + (2,)
{} + {}
none + 1
missing + 1
1 + missing
missing ~ 'x'
missing * 2
- missing
- s
not missing
missing or 'default'
missing and 1
'' or none or 0 or 'last'
1 and 'x' and []
1 if yes else 2
1 if no else 2
1 if no
(1 if no) is undefined
1 if yes if no else 3
'a' if no else 'b' if no else 'c'
xs[0]
xs[-1]
xs[9]
xs['a']
xs[1.0]
xs[true]
xs.0
xs.1
s[0]
s[-1]
s[99]
u[7]
u[-1]
s['upper']()
d['a']
d.a
d['z']
d.z
d.z.y
d['z']['y']
d[1]
d[[1]]
d[none]
deep.x.y[1].z
deep['x']['y'][1]['z']
deep.items
deep['items']
deep.get
deep['get']
deep.get('x', 1)
nil.x
nil['x']
n.x
n['real']
n.real
f.imag
yes.real
missing.x
missing['x']
missing[0]
missing()
s()
n()
s.missing
s.missing()
xs.append
xs.append(4)
xs.append is defined
xs.pop()
xs.sort()
d.update({'x': 1})
d.pop('a')
d.clear()
d.setdefault('a', 1)
xs.__class__
xs.__class__.__mro__
''.__class__ is defined
s.__len__
d.__class__.x
xs.copy()
d.copy()
xs.index(1)
xs.index(9)
xs.count(3)
(1, 2, 1).count(1)
(1, 2, 1).index(2)
d.get('a')
d.get('zz')
d.get('zz', 'dflt')
d.get('zz', default=1)
d.get()
d.get([1])
d.items()
d.keys()
d.values()
d.items()|list
d.items()|length
d.items()[0]
d.keys()|join(',')
d.keys()|sort
d|list
d|length
xs[1:]
xs[:1]
xs[:-1]
xs[::-1]
xs[::2]
xs[5:]
xs[-2:]
xs[2:0:-1]
xs[:]
xs[::0]
xs['a':]
xs[none:2]
s[1:4]
s[::-1]
s[::2]
s[::-2]
s[10:2:-3]
s[-3:]
u[::-1]
u[1:9]
u[::3]
u[-2:0:-2]
missing[1:]
none[1:]
n[1:]
d[1:]
(1, 2, 3)[1:]
range(10)[2:8:3]
range(10)[2]
range(10)[-1]
range(3)
range(1, 10, 3)
range(5)|list
range(2, 5)|list
range(5, 0, -2)|list
range(0)|list
range(100001)
range(10 ** 12)
range('a')
range(1, 2, 0)
range(3) == range(0, 3)
range(3)|length
range(3)|sum
[1, 'a', none, true, 1.5, [2], (3,), {'k': 'v'}]
[]
()
(1,)
(1, 2)
{}
{'a': [1, {'b': none}]}
{1: 2, none: 3, true: 4}
{1: 'a', 1.0: 'b', true: 'c'}
{'a': 1, 'a': 2}
{[1]: 2}
{(1, 2): 3}
['it\'s', "say \"hi\"", "both ' and \""]
['a\nb\tc\\d\x00\x7f\u00e9\u2028\U0001f600']
'\d\w'
'\101\x41\u0041'
'\é'
'\😀'
'\xg'
'\u12'
'\ud800'
'a' 'b' "c"
[missing]
(missing, 1)
{'k': missing}
[html|safe]
html
html|e
html|escape
html|safe
html|safe|e
html|forceescape
html|safe|forceescape
(html|safe) + '<b>'
'<b>' + (html|safe)
(html|safe) ~ '<b>'
(html|e) * 2
'%s' % (html|safe)
('%s'|safe) % html
('<%s>'|safe) % (html, )
('{}'|safe).format(html)
('<i>'|safe).upper()
('a<b'|safe).replace('a', '<')
('<'|safe).join(['<', '>'|safe])
('a b'|safe).split()
('<'|safe) == '<'
('x'|safe) is string
('x'|safe) is escaped
'x' is escaped
('x'|safe)[0] is escaped
('x'|safe).strip() is escaped
('x'|safe|string) is escaped
('x'|safe|upper) is escaped
('x'|safe|trim) is escaped
(('x'|safe) ~ '') is escaped
none|safe
missing|safe
n|safe
missing|e
none|e
html|striptags
'a <!-- b --> c  <b>d</b>\n&lt;e&gt; &amp; &#39; &#x41;'|striptags
'a < b'|striptags
s.upper()
s.lower()
s.title()
s.swapcase()
s.capitalize()
u.upper()
u.lower()
u.title()
u.swapcase()
u.casefold()
'ŉ ǆ ﬁ İ'.upper()
'ŉ ǆ ﬁ İ'.lower()
'ǆaž'.title()
'ΑΣ ΑΣΑ Σ'.lower()
"they're bill's".title()
"they're bill's-friend (x) [y] {z} <w>"|title
u|title
'hELLO wORLD'|capitalize
s|upper
n|upper
missing|upper
pad.strip()
pad.lstrip()
pad.rstrip()
pad|trim
'xxhixx'.strip('x')
'xyhiyx'.strip('xy')
'xxhixx'.lstrip('x')
'xxhixx'.rstrip('x')
'xxhixx'|trim('x')
'éaé'.strip('é')
s.strip(none)
s.strip(1)
s.strip(chars='H')
'\u3000\u00a0x\u2003'.strip()
'a,b,,c'.split(',')
'a,b,,c'.split(',', 1)
'a,b,,c'.rsplit(',', 1)
'a,b,,c'.split(',', maxsplit=2)
'a,b,,c'.split(sep=',')
' a  b c '.split()
' a  b c '.split(none, 1)
' a  b c '.rsplit(none, 1)
''.split()
''.split(',')
'abc'.split('')
'abc'.split(1)
'aXXbXXc'.split('XX')
'aXXbXXc'.rsplit('XX', 1)
'abc'.split('abc')
'a</think>b'.split('</think>')[-1]
lines.splitlines()
lines.splitlines(true)
'a\r\nb\rc\u2028d\x0be'.splitlines()
'a\n'.splitlines()
''.splitlines()
s.startswith('Hell')
s.startswith(('x', 'H'))
s.startswith(['H'])
s.startswith('ello', 1)
s.startswith('ello', 1, 3)
s.endswith('World')
s.endswith(('x', 'd'))
s.endswith('', 99)
s.startswith(1)
s.startswith(())
s.find('o')
s.find('o', 5)
s.find('zz')
s.find('', 3)
s.find('', 99)
s.rfind('o')
s.rfind('o', 0, 5)
s.index('o')
s.index('zz')
s.rindex('o')
u.find('你')
s.count('l')
s.count('')
s.count('l', 3)
'aaa'.count('aa')
s.replace('l', 'L')
s.replace('l', 'L', 1)
s.replace('', '-')
s.replace('zz', 'y')
s.replace('l', '')
''.replace('', 'x')
'aaa'.replace('aa', 'b')
'aaa'.replace('', 'b', 2)
s.replace(old='l', new='L')
s.replace('l')
s.replace(1, 2)
s|replace('l', 'L')
s|replace('l', 'L', 2)
n|replace(7, 8)
s|replace('l', none)
s.join(['a', 'b'])
','.join([])
','.join(['a', 1])
','.join('abc')
','.join(d)
','.join(missing)
s.partition(', ')
s.rpartition('o')
s.partition('zz')
s.rpartition('zz')
s.removeprefix('Hello')
s.removesuffix('World')
s.removeprefix('x')
'x'.center(5)
'xy'.center(5)
'x'.center(4)
'xy'.center(7, '*')
'x'.center(5, '**')
'x'.ljust(3, '.')
'x'.rjust(3, '.')
'é'.rjust(3, 'ü')
'x'.center(-1)
'x'|center(6)
'x'|center
'42'.zfill(5)
'-42'.zfill(5)
'+4'.zfill(5)
''.zfill(2)
'a\tb\tc'.expandtabs()
'a\tb'.expandtabs(4)
'a\tb'.expandtabs(0)
'abc'.isalpha()
'ab1'.isalpha()
''.isalpha()
'é你'.isalpha()
'123'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'½'.isdigit()
'a1'.isalnum()
' \n'.isspace()
''.isspace()
'abc'.islower()
'aBc'.islower()
'123'.islower()
'ABC'.isupper()
'A B'.isupper()
'Hello World'.istitle()
'Hello world'.istitle()
'abc'.isascii()
'é'.isascii()
''.isascii()
'a_1'.isidentifier()
'1a'.isidentifier()
'a b'.isidentifier()
'a\n'.isprintable()
''.isprintable()
s.format_map({})
'{a}-{b}'.format_map({'a': 1, 'b': 2})
s.encode()
s.translate({})
'{} {}'.format(1, 'x')
'{0} {1} {0}'.format('a', 'b')
'{a} {b}'.format(a=1, b=2)
'{} {0}'.format(1)
'{0} {}'.format(1)
'{}'.format()
'{x}'.format()
'{{}} {}'.format(1)
'{'.format()
'}'.format()
'{!r} {!s} {!r}'.format('a', 'b', 1)
'{0.role}'.format(messages[0])
'{0[role]}'.format(messages[0])
'{a[0]}-{a[1]}'.format(a=xs)
'{0.__class__}'.format(1)
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:5}|{:5}'.format('a', 1)
'{:05d}|{:+d}|{: d}|{:,}|{:_}'.format(42, 42, 42, 1234567, 1234567)
'{:x} {:X} {:o} {:b} {:#x} {:#b} {:c}'.format(255, 255, 8, 5, 255, 5, 65)
'{:.2f} {:.0f} {:e} {:g} {:G} {:%} {:.1%}'.format(3.14159, 2.5, 12345.678, 0.00001234, 1e20, 0.25, 0.1234)
'{:10.3f}|{:<10.3f}|{:+.1f}|{:010.2f}'.format(3.14159, 3.14159, 2.0, -3.14159)
'{:,.2f}'.format(1234567.891)
'{:08,d}'.format(1234)
'{:_x}'.format(1048576)
'{:.3}|{:.3}'.format('abcdef', 3.14159)
'{:.3g} {:.10g}'.format(1234567.0, 0.1)
'{:n}'.format(5)
'{}'.format(1.0)
'{:d}'.format(1.5)
'{:d}'.format('x')
'{:s}'.format(1)
'{:z}'.format(1)
'{:{}}'.format('x', 5)
'{:{w}.{p}f}'.format(3.14159, w=8, p=2)
'{}'.format(none)
'{:5}'.format(none)
'{}'.format([1, 'a'])
'{:=+6d}'.format(5)
'{:<06d}'.format(5)
'{:e}'.format(0.0)
'{}'.format(true)
'{:d}'.format(true)
'{:5}'.format(true)
'{:é>4}'.format('x')
'%s and %s' % ('a', 'b')
'%s' % 'a'
'%d items' % 5
'%d' % 5.9
'%d' % 'x'
'%i %u' % (1, 2)
'%5d|%-5d|%05d|%+d|% d' % (1, 2, 3, 4, 5)
'%x %X %o %#x' % (255, 255, 8, 255)
'%.2f %5.1f %-8.3f|' % (3.14159, 2.25, 1.5)
'%e %g %G' % (12345.678, 0.00001, 1e20)
'%c%c' % (65, 'B')
'%r %s' % ('a', 'b')
'%5s|%-5s|%.2s' % ('a', 'b', 'cde')
'%%' % ()
'100%' % ()
'%s' % ()
'%s %s' % ('a',)
'%s' % ('a', 'b')
'%(a)s %(b)d' % {'a': 1, 'b': 2}
'%(zz)s' % {'a': 1}
'%(a)s' % 1
'abc' % 1
'abc' % {}
'%*d' % (5, 42)
'%.*f' % (2, 3.14159)
'%s' % [1, 2]
'%s' % none
'%s' % missing
'%d' % missing
'%z' % 1
'%.3d' % 5
'%+.2e' % 1234.5
'%s %s'|format('a', 'b')
'%(a)s'|format(a=1)
'%s'|format('a', a=1)
'%s'|format
xs|length
s|length
u|length
d|length
n|length
none|length
missing|length
range(4)|count
xs|first
xs|last
[]|first
[]|last
s|first
s|last
d|first
d|last
(xs|map('string'))|first
(xs|map('string'))|last
missing|first
missing|last
n|first
xs|sum
xs|sum(start=10)
[0.1, 0.2]|sum
people|sum(attribute='age')
[[1], [2]]|sum(start=[])
['a', 'b']|sum
['a']|sum(start='')
[]|sum
xs|sort
xs|sort(true)
xs|sort(reverse=true)
names|sort
names|sort(case_sensitive=true)
names|sort(true, true)
people|sort(attribute='age')|map(attribute='name')|join(',')
people|sort(attribute='age', reverse=true)|map(attribute='name')|join(',')
people|sort(attribute='city,name')|map(attribute='name')|join(',')
people|sort(attribute='age,city')|map(attribute='name')|join(',')
[1, 'a']|sort
[none, none]|sort
[none, 1]|sort
[[2, 1], [1, 2]]|sort
s|sort|join
d|sort
nested|sort(attribute=0)
missing|sort
n|sort
d|dictsort
d|dictsort(true)
d|dictsort(by='value')
d|dictsort(reverse=true)
d|dictsort(false, 'value', true)
d|dictsort(by='zz')
xs|dictsort
missing|dictsort
names|unique|list
names|unique(true)|list
people|unique(attribute='age')|map(attribute='name')|list
[1, 1.0, true, '1']|unique|list
[[1], [1]]|unique|list
xs|min
xs|max
names|min
names|max
names|min(case_sensitive=true)
people|max(attribute='age')
people|min(attribute='city')
[]|min
[]|max
[1, 'a']|min
xs|reverse|list
s|reverse
u|reverse
d|reverse|list
(xs|map('string'))|reverse
n|reverse
range(3)|reverse|list
missing|reverse|list
xs|join
xs|join(', ')
xs|join(d='-')
people|join(', ', attribute='name')
people|join(attribute='age')
[1, none, missing, 'a', 1.5]|join('|')
s|join('-')
d|join
n|join
missing|join('x')
nested|join(' ')
xs|join(1)
xs|map('string')|list
names|map('upper')|list
names|map('replace', 'b', 'X')|list
people|map(attribute='name')|list
people|map(attribute='zz')|list
people|map(attribute='zz', default='none')|list
people|map(attribute='zz.y')|list
nested|map(attribute='1.0')|list
nested|map(attribute=0)|list
nested|map('first')|list
messages|map(attribute='role')|unique|join(',')
xs|map|list
xs|map('zz')|list
xs|map(upper)|list
xs|map(attribute='a', zz=1)|list
xs|map('default', 'x')|list
missing|map('upper')|list
0|map('upper')|list
5|map('upper')|list
xs|select('odd')|list
xs|select('>', 1)|list
xs|select('greaterthan', 1)|list
xs|reject('odd')|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
[1, missing, 2]|select('defined')|list
xs|select('zz')|list
xs|select('in', [1, 2])|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list
people|selectattr('age', '==', 30)|list|length
people|selectattr('zz')|list
people|selectattr('zz', 'defined')|list
people|rejectattr('age', 'eq', 30)|map(attribute='name')|list
messages|selectattr('tool_calls')|list|length
messages|selectattr('tool_calls', 'defined')|list|length
messages|rejectattr('role', 'in', ['system', 'user'])|list|length
messages|selectattr('content', 'none')|list|length
people|selectattr|list
people|selectattr('name', 'lower')|list
xs|list
s|list
d|list
(1, 2)|list
n|list
none|list
missing|list
range(3)|list
d|items|list
missing|items|list
xs|items|list
d|items|length
xs|batch(2)|list
xs|batch(2, 0)|list
range(7)|batch(3, fill_with='x')|list
[]|batch(2)|list
xs|batch(0)|list
range(7)|slice(3)|list
range(7)|slice(3, 'x')|list
range(2)|slice(3)|list
xs|slice(0)|list
xs|slice(-1)|list
people|groupby('age')
people|groupby('city')|map(attribute='grouper')|list
people|groupby('city', case_sensitive=true)|map(attribute='0')|list
people|groupby('zz', default='q')|length
(people|groupby('age'))[0].list|length
(people|groupby('age'))[1][0]
n|default('x')
missing|default('x')
missing|default
none|default('x')
''|default('x')
''|default('x', true)
none|d('x', boolean=true)
missing.x|default('y')
d.zz|default('y')
d.zz.zz|default('y')
missing|d({})
n|abs
neg|abs
(-2.5)|abs
yes|abs
s|abs
missing|abs
'42'|int
'42.9'|int
' 42 '|int
'0x1F'|int(base=16)
'1F'|int(0, 16)
'0b11'|int(base=2)
'0b11'|int(base=0)
'010'|int(base=0)
'010'|int
'1_000'|int
'_1'|int
'x'|int
'x'|int(-1)
'x'|int(default='d')
''|int
none|int
xs|int
2.9|int
-2.9|int
true|int
'1e3'|int
'inf'|int
'-5'|int
'+5'|int
'- 5'|int
'zz'|int(base=36)
'1'|int(base=99)
missing|int
missing|float
'3.5'|float
'x'|float
'x'|float(1.5)
'  -1e3 '|float
'1_0.5'|float
'nan'|float
'-inf'|float
'infinity'|float
'.5'|float
'5.'|float
'.'|float
'1e'|float
'0x10'|float
3|float
true|float
none|float
2.5|round
3.5|round
2.675|round(2)
-2.5|round
0.5|round
1234.5678|round(2)
1234.5678|round(-2)
1250|round(-2)
1350|round(-2)
42|round
42.7|round(0, 'floor')
42.2|round(0, 'ceil')
42.27|round(1, 'floor')
42.21|round(1, method='ceil')
42|round(1, 'floor')
1.5|round(method='zz')
s|round
missing|round
1e20|round
1e-10|round(5)
n|string
missing|string
none|string
xs|string
f|string
xs|tojson
d|tojson
u|tojson
html|tojson
none|tojson
true|tojson
1.0|tojson
1e20|tojson
missing|tojson
[missing]|tojson
{'a': [1, {'b': none}]}|tojson(indent=2)
{'a': [], 'b': {}}|tojson(indent=2)
[1, [2, 3]]|tojson(indent=1)
[1]|tojson(indent=0)
[1]|tojson(indent='--')
{'b': 1, 'a': 2}|tojson(sort_keys=true)
{'b': 1, 'a': [1, 2]}|tojson(separators=(',', ':'))
{'b': 1, 'a': [1, 2]}|tojson(separators=(',', ':'), indent=2)
u|tojson(ensure_ascii=true)
'\x00\x1f\x7f\x08\x0c\n\r\t"\\/'|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1,): 2}|tojson
(1, 2)|tojson
range(3)|tojson
d.items()|tojson
(xs|map('string'))|tojson
namespace(a=1)|tojson
html|safe|tojson
s|truncate(5)
s|truncate(5, true)
s|truncate(5, leeway=0)
s|truncate(9, false, '..', 0)
s|truncate(12)
s|truncate(1)
('word ' * 60)|truncate
u|truncate(9, true, '…', 0)
n|truncate
'one two three four five'|wordwrap(9)
'one two three four five'|wordwrap(9, wrapstring='|')
'averyveryverylongword x'|wordwrap(6)
'averyveryverylongword x'|wordwrap(6, false)
'well-known state-of-the-art co-op'|wordwrap(8)
'well-known state-of-the-art co-op'|wordwrap(8, break_on_hyphens=false)
'a--b one--two three---four'|wordwrap(7)
'  lead  and   inner  '|wordwrap(10)
'line one\n\nline two is longer'|wordwrap(8)
''|wordwrap(5)
s|wordwrap(0)
s|wordcount
'a-b c_d  é1 !'|wordcount
''|wordcount
lines|indent
lines|indent(2)
lines|indent(2, true)
lines|indent(2, true, true)
lines|indent(width='> ')
lines|indent(first=true)
'x'|indent
''|indent
''|indent(first=true)
n|indent
missing|indent
('a\n<b'|safe)|indent(2)
1|filesizeformat
999|filesizeformat
1000|filesizeformat
1234567|filesizeformat
1234567|filesizeformat(true)
1e30|filesizeformat
'2048'|filesizeformat(binary=true)
0|filesizeformat
s|filesizeformat
s|urlencode
u|urlencode
'a/b?c=d&e'|urlencode
d|urlencode
[('a b', 1), ('c', 'd/e')]|urlencode
n|urlencode
{'class': 'a<b', 'id': none, 'n': 5}|xmlattr
{'class': 'x'}|xmlattr(false)
{}|xmlattr
{'a b': 1}|xmlattr
xs|attr('append')
n|attr('real')
d|attr('a')
d|attr('items')
s|attr('upper')
missing|attr('x')
s|attr('__class__')
n is odd
n is even
n is divisibleby 7
n is divisibleby(3)
n is divisibleby 0
f is odd
s is odd
n is defined
missing is defined
missing is not defined
missing is undefined
d.zz is defined
d.a is defined
missing.x is defined
nil is none
missing is none
yes is boolean
n is boolean
yes is true
no is false
1 is true
n is integer
yes is integer
f is integer
f is float
n is float
n is number
yes is number
s is number
s is string
(s|safe) is string
s is lower
'abc' is lower
'ABC' is upper
n is lower
d is mapping
xs is mapping
missing is mapping
xs is sequence
d is sequence
s is sequence
n is sequence
missing is sequence
range(3) is sequence
d.items() is sequence
(xs|map('string')) is sequence
xs is iterable
n is iterable
none is iterable
missing is iterable
(xs|map('string')) is iterable
s.upper is callable
s is callable
missing is callable
range is callable
namespace is callable
n is sameas 7
yes is sameas true
1 is sameas true
nil is sameas none
xs is sameas xs
[1] is sameas [1]
1 is in [1, 2]
n is in xs
'a' is in 'abc'
n is eq 7
n is equalto 7
n is == 7
n is ne 7
n is gt 5
n is greaterthan(5)
n is ge 7
n is lt 5
n is lessthan 9
n is le 7
n is eq 7 and s is string
n is not eq 7
not n is eq 7
n is eq 7 or zz is x
s is string is true
'upper' is filter
'zz' is filter
'odd' is test
'zz' is test
n is zz
n|zz
(n|zz) if no else 1
(n|zz) if yes else 1
(n is zz) if no else 1
1 if n is zz else 2
n|pprint is string
dict(a=1, b=2)
dict([('a', 1), ('b', 2)])
dict({'a': 1}, b=2)
dict(d, a=9)
dict(1)
dict([1])
dict(['ab'])
namespace(a=1)
namespace(a=1).a
namespace(a=1).b
namespace(a=1)['a']
namespace({'a': 1}, b=2).b
namespace().x is defined
joiner('|')()
cycler('a', 'b').next()
cycler()
raise_exception('stop')
raise_exception(message='stop')
raise_exception()
strftime_now('%Y-%m-%d %H:%M:%S')
strftime_now('%d %b %Y')
strftime_now('%A, %B %d, %Y %I:%M %p')
strftime_now('%a %j %U %W %w %y %% %F %T %D %R %e %-d %-m %_d %C %G %V %u %g')
strftime_now('%^a %^B %#p %x %X %c %h %n%t|%k|%l|%P|%r|%Z|%z|%f')
strftime_now('%-I:%M')
strftime_now('')
strftime_now()
strftime_now(1)
lipsum
self
loop
caller
varargs
range(3)|map('string')|join
[1, 2, 3]|map('int')|sum
(1 if n > 5 else 2) + 1
n > 5 and n < 10
not (n > 5)
not n > 5
not not n
- - n
-n|abs
-n.real
n * -1
2 * -n ** 2
n == 7 if yes else n == 8
'a' 'b' ~ 'c'
{'a': 1}.a
[1, 2][0]
(1, 2)[1]
'abc'[1]
'abc'.upper().lower()
s|upper|lower|length
s.split(',')|map('trim')|list
'%s' % s|upper
'a' ~ 'b'|upper
1 + '2'|int
xs|length > 2
xs|length == 3 and yes
not xs|length > 5
n is not none and n > 3
d is mapping and d.a is defined and d.a == 2
d.items()|list|first|last
xs | map('multiply', 2) | list
(n, s, [n])
n, s
1,
{'a': n, 'b': [s, {'c': f}]}
{'a': n}['a']
xs[n - 7]
xs[-n + 6]
xs[xs[1]]
messages[0].role
messages[0]['role']
messages[-1].content
messages[2].tool_calls[0].arguments
messages[2].tool_calls[0].arguments|tojson
messages[2].tool_calls is defined and messages[2].tool_calls
messages[0].tool_calls is defined and messages[0].tool_calls
messages[1:]|length
messages[::-1]|map(attribute='role')|list
messages|selectattr('role', 'equalto', 'user')|list|last
(messages|selectattr('role', 'equalto', 'user')|list)[-1].content
messages[0].content is string and messages[0].content is not none
messages[0].get('name', 'anon')
messages[0].get('content')|trim
'name' in messages[0]
messages|map(attribute='content')|select|join('+')
loop.index
n.bit_length()
f.is_integer()
2.0.is_integer()
1.5.real
""".strip("\n").split("\n")

# Whole templates.
TEMPLATES = r"""
{% if n > 5 %}big{% elif n > 2 %}mid{% else %}small{% endif %}
{% if missing %}a{% elif no %}b{% endif %}|
{% if not missing %}a{% endif %}
{% if n == 7 and s %}x{% endif %}
{% if 1, 2 %}tuple{% endif %}
{% for x in xs %}{{ x }},{% endfor %}
{% for x in none %}{{ x }}{% endfor %}
{% for x in nil %}{{ x }}{% endfor %}
{% for x in [] %}{{ x }}{% else %}empty{% endfor %}
{% for x in missing %}{{ x }}{% else %}empty{% endfor %}
{% for x in n %}{{ x }}{% endfor %}
{% for x in xs %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }};{% endfor %}
{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}
{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}
{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in xs %}{{ loop.cycle() }}{% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }},{% endfor %}
{% for x in xs %}{{ loop.depth }}{{ loop.depth0 }}{% for y in xs %}{{ loop.depth }}{% endfor %}{% endfor %}
{% for x in xs %}{{ loop }}{% endfor %}
{% for x in xs %}{{ loop.zz }}{{ loop['index'] }}{% endfor %}
{% for x in xs|map('string') %}{{ loop.length }}{{ loop.last }}{{ x }}{% endfor %}
{% for x in xs|select('odd') %}{{ loop.index }}{{ x }}{{ loop.revindex }}{% endfor %}
{% for x in xs if x > 1 %}{{ loop.index }}:{{ x }}:{{ loop.last }} {% endfor %}
{% for x in xs if x > 9 %}{{ x }}{% else %}none{% endfor %}
{% for x in xs if x > n %}{{ x }}{% else %}none{% endfor %}
{% for x in xs if loop.index %}{{ x }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for a, b in xs %}{{ a }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, in [(1,)] %}{{ a }}{% endfor %}
{% for c in u %}{{ c }}.{% endfor %}
{% for x in 'ab' %}{% for y in 'cd' %}{{ x }}{{ y }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}
{% for x in xs %}{% set outer = loop %}{% for y in xs %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in xs %}{% break %}{% else %}else{% endfor %}
{% for x in xs %}{% continue %}{% else %}else{% endfor %}
{% for x in xs %}{{ x }}{% else %}else{% endfor %}
{% break %}
{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for x in xs %}{% set y %}a{% break %}{% endset %}{{ y }}{% endfor %}|{{ y }}
{% for x in xs %}{% filter upper %}a{% if x == 1 %}{% continue %}{% endif %}b{% endfilter %}{% endfor %}
{% for x in xs recursive %}{{ x }}{% endfor %}
{% for x in [{'n': 1, 'c': [{'n': 2, 'c': [{'n': 3}]}]}, {'n': 4}] recursive %}{{ x.n }}@{{ loop.depth }}{% if x.c %}[{{ loop(x.c) }}]{% endif %}{% endfor %}
{% for x in xs %}{{ loop(xs) }}{% endfor %}
{% set ns = namespace(a=[]) %}{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}{% endif %}{% else %}e{% endfor %}
{% for loop in xs %}{% endfor %}
{% for x in xs %}{% set loop = 1 %}{% endfor %}
{% for x.y in xs %}{% endfor %}
{% for 1 in xs %}{% endfor %}
{% set x = 1 %}{{ x }}
{% set x = 1, 2 %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = b, a %}{{ a }}{{ b }}
{% set (a, b) = xs[:2] %}{{ a }}{{ b }}
{% set a, b = 1 %}{{ a }}
{% set a = 1 %}{% set a = a + 1 %}{{ a }}
{% set true = 1 %}
{% set none = 1 %}
{% set x.y = 1 %}
{% set n.y = 1 %}
{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns }}
{% set ns = namespace(x=1) %}{% for i in xs %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% set ns = namespace(x=1) %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}
{% set ns = namespace(x='') %}{% for i in xs %}{% set ns.x = ns.x ~ i %}{% endfor %}{{ ns.x }}
{% set ns = namespace(x=[]) %}{% for i in xs %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }}
{% set ns = namespace() %}{{ ns.zz }}{{ ns.zz is defined }}
{% set ns = namespace(f=false) %}{% for m in messages if not ns.f %}{{ m.role }}{% if m.role == 'user' %}{% set ns.f = true %}{% endif %}{% endfor %}
{% set ns = namespace(f=false) %}{% for m in messages if not ns.f %}{{ m.role }}{{ loop.last }}{% if m.role == 'user' %}{% set ns.f = true %}{% endif %}{% endfor %}
{% set x %}hello {{ n }}{% endset %}[{{ x }}]
{% set x | upper %}hello {{ n }}{% endset %}[{{ x }}]
{% set x | upper | replace('L', 'l') %}hello{% endset %}[{{ x }}]
{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}
{% set x %}<b>{% endset %}{{ x|e }}
{% set x = 1 %}{% for i in xs %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}
{% for i in xs %}{% set q = i %}{% endfor %}{{ q }}
{% if yes %}{% set q = 1 %}{% endif %}{{ q }}
{% if no %}{% set n = 1 %}{% endif %}{{ n }}
{% if no %}{% set n = 1 %}{% else %}{% set m = 2 %}{% endif %}{{ n }}{{ m }}
{% if yes %}{% set n = 1 %}{% elif n %}{% set k = 2 %}{% endif %}{{ n }}{{ k }}
{% if no %}{% set n = 1 %}{% elif n == 7 %}{{ n }}{% set n = 3 %}{% endif %}{{ n }}
{% for i in xs %}{{ n }}{% if i == 1 %}{% set n = 'set' %}{% endif %}{{ n }} {% endfor %}{{ n }}
{% for i in xs %}{{ n }}{% set n = 'x' %}{{ n }} {% endfor %}{{ n }}
{% for i in xs %}{{ n }}{% endfor %}{% set n = 1 %}{{ n }}
{% for i in xs %}{{ q }}{% set q = i %}{{ q }}{% endfor %}
{{ n }}{% set n = 1 %}{{ n }}
{% set n = n + 1 %}{{ n }}
{% set q = q|default(5) %}{{ q }}
{% if n is defined %}{% set n = n * 2 %}{% endif %}{% for i in [1] %}{{ n }}{% endfor %}
{% if missing is not defined %}{% set missing = false %}{% endif %}{{ missing }}
{% for i in xs %}{% if i == 3 %}{% set a = i %}{% elif i == 1 %}{{ a }}{% else %}{% set a = 'z' %}{% endif %}[{{ a }}]{% endfor %}
{% for i in [1] %}{% if yes %}{% if no %}{% set s = 1 %}{% endif %}{% endif %}{{ s }}{% endfor %}
{% for i in [1] %}{% for j in [1] %}{% if no %}{% set s = 1 %}{% endif %}{{ s }}{% endfor %}{% set s = 2 %}{{ s }}{% endfor %}{{ s }}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}
{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}
{% set a = 5 %}{% with a = a + 1 %}{{ a }}{% endwith %}{{ a }}
{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}
{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(1) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}
{% macro m(a=b, b=1) %}{{ a }}{{ b }}{% endmacro %}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}
{% macro m(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ m(1, x=4) }}
{% macro m(a, kwargs) %}{{ a }}{{ kwargs }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a, a) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m(1) %}{% endmacro %}
{% macro m() %}{{ n }}{% set n = 2 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}
{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}
{% macro m() %}{{ n }}{% endmacro %}{{ m() }}{% set n = 2 %}{{ m() }}
{% macro fact(k) %}{{ 1 if k < 2 else k * fact(k - 1)|int }}{% endmacro %}{{ fact(10) }}
{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}
{{ m() }}{% macro m() %}x{% endmacro %}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{{ n }}{% endcall %}
{% macro m() %}<{{ caller(1, 2) }}>{% endmacro %}{% call(a, b) m() %}{{ a }}-{{ b }}{% endcall %}
{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(a, b=5) m() %}{{ a }}-{{ b }}{% endcall %}
{% macro m() %}<{{ caller() }}>{% endmacro %}{{ m() }}
{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}x{% endcall %}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(1) }}
{% macro m(caller=none) %}{{ caller }}{% endmacro %}{{ m() }}
{% macro m(x) %}{{ x }}{{ caller() }}{% endmacro %}{% macro o() %}{% call m(1) %}[{{ caller() }}]{% endcall %}{% endmacro %}{% call o() %}deep{% endcall %}
{% call n %}x{% endcall %}
{% call n() %}x{% endcall %}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m }}{{ m.name }}{{ m is callable }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ xs|map('string')|map('upper')|list }}{{ m(*[1]) }}{{ m(**{'a': 2}) }}
{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1, *[2, 3]) }}{{ m(*(1, 2), c=3) }}{{ m(1, **{'b': 2, 'c': 3}) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, **{'a': 2}) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, **{'a': 2}) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, a=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*1) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, 2) }}
{% macro m() %}  x  {% endmacro %}[{{ m()|trim }}]{{ m()|length }}
{% macro m() %}<b>{% endmacro %}{{ m()|e }}{{ (m() ~ 'x')|length }}
{% for i in xs %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% for i in xs %}{% macro m() %}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}
{% if yes %}{% macro m() %}A{% endmacro %}{% else %}{% macro m() %}B{% endmacro %}{% endif %}{{ m() }}
{% macro outer() %}{% macro inner() %}I{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}
{% filter upper %}abc{{ s }}{% endfilter %}
{% filter replace('a', 'b') | upper %}aXa{% endfilter %}
{% filter zz %}a{% endfilter %}
{% if no %}{% filter zz %}a{% endfilter %}{% endif %}ok
{% if no %}{{ 1|zz }}{% endif %}ok
{% if no %}{% for i in xs %}{{ 1|zz }}{% endfor %}{% endif %}ok
{% for i in [] %}{{ 1|zz }}{% endfor %}ok
{% if yes %}{{ 1|zz }}{% endif %}ok
{% raw %}{{ x }}{% if %}{% endraw %}
{%- raw -%}  x  {%- endraw -%}  y
  {% raw %}x{% endraw %}  
{% raw %}abc
{# comment #}x{#- c -#} y {#+ z +#}
{# unclosed
{{ unclosed
{% if
{% if n %}unclosed
{% endif %}
{% for x in xs %}{% endif %}
{% zz %}
{% if n %}{% else %}{% else %}{% endif %}
{% else %}
{{ }}
{{ 1 2 }}
{{ 1 + }}
{{ (1 }}
{{ 1) }}
{{ [1, 2 }}
{{ [1 2] }}
{{ {1} }}
{{ 'abc }}
{{ a.b. }}
{{ a..b }}
{{ a.1.2 }}
{{ 1.2.3 }}
{{ 08 }}
{{ 1a }}
{{ @ }}
{{ a ! b }}
{{ a = b }}
{{ a ; b }}
{{ not }}
{{ x is }}
{{ x is not }}
{{ x | }}
{{ x |1 }}
{{ if }}
{{ f(a b) }}
{{ f(, a) }}
{{ f(a,) }}
{{ [1,] }}{{ (1,) }}{{ {'a': 1,} }}
{{ [,] }}
{{ a if }}
{{ a[] }}
{{ a[1,] }}
{{ a[1, 2] }}
{{ d[1, 2] is defined }}
{{ xs[0:1, 2] }}
{% set %}
{% set x %}
{% set x = %}
{% for x in %}{% endfor %}
{% for in xs %}{% endfor %}
{% if %}{% endif %}
{% macro %}{% endmacro %}
{% macro m %}{% endmacro %}
{% include 'x' %}
{% import 'x' as y %}
{% from 'x' import y %}
{% extends 'x' %}
{% do 1 %}
{% print 1, 2 %}
{% if yes: %}colon{% endif %}
{% for x in xs: %}{{ x }}{% endfor %}
a {% if yes %} b {% endif %} c
a {%- if yes -%} b {%- endif -%} c
a {%+ if yes +%} b {%+ endif +%}
{{+1}}{{ +1 }}{{-1}}{{ -1 }}
{{ "tab	x" }}
{{ '{{' }}{{ '%}' }}{{ "}}" }}
{{ {'a': {'b': 1}}['a']['b'] }}
{{ {'a': {'b': 1}} }}
{{ {} }}{{{}}}
{%if yes%}tight{%endif%}
{%-if yes-%} tight {%-endif-%}
{{1}}{{'a'}}{{[1]}}
{% generation %}gen {{ n }}{% endgeneration %}
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}A{{ loop.index }}{% set q = 1 %}{% endgeneration %}{{ q }}{% endif %}{% endfor %}
{% for x in xs %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% generation %}{{ caller is defined }}{% endgeneration %}
{% set j = joiner(', ') %}{% for x in xs %}{{ j() }}{{ x }}{% endfor %}
{% set c = cycler('a', 'b') %}{% for x in xs %}{{ c.next() }}{{ c.current }}{% endfor %}{{ c.reset() }}{{ c.current }}
{% set g = xs|map('string') %}{{ g|list }}{{ g|list }}
{% set g = xs|select('odd') %}{{ g|first }}{{ g|list }}
{% set ns = namespace(n=0) %}{% macro hit() %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endmacro %}{{ hit() }}{{ hit() }}{{ no and hit() }}{{ yes or hit() }}{{ ns.n }}
{% set x = [] %}{% set _ = x.append(1) %}{{ x }}
{% set x = {} %}{% set _ = x.update({'a': 1}) %}{{ x }}
{{ raise_exception('Only user and assistant roles are supported!') }}
{% if messages[0]['role'] != 'user' %}{{ raise_exception('first must be user') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 1) %}{{ raise_exception('alternate') }}{% endif %}{% endfor %}fine
{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + (m['content'] or '') + '\n' }}{% endfor %}
{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}
{% set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages %}{{ loop_messages|length }}
{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}{% else %}{% set system = 'none' %}{% endif %}{{ system }}{{ messages|length }}
{%- set first_user = true %}{%- for m in messages %}{%- if m.role == 'user' and first_user %}{{ m.content }}{%- set first_user = false %}{%- endif %}{%- endfor %}
{%- set ns = namespace(multi=true, last=messages|length - 1) %}{%- for m in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi and m.role == "user" and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) %}{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}
{%- macro json_to_type(spec) %}{%- if spec == "string" %}{{- "str" }}{%- elif spec is iterable and spec is not string %}{%- for t in spec %}{{- json_to_type(t) }}{%- if not loop.last %},{%- endif %}{%- endfor %}{%- else %}{{- "Any" }}{%- endif %}{%- endmacro %}{{ json_to_type(["string", ["x", "string"]]) }}
{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}
{# x #}{{ 1 }}{# y #}

{{ 'é' ~ u }}
{{ xs }}{{ d }}{{ f }}{{ big }}{{ small }}{{ nil }}{{ yes }}
{{ xs, 1 }}
{{ deep }}
{{ messages }}
{%- if true %}a{% endif -%}
{% set x = 1 if yes %}{{ x }}{% set y = 1 if no %}{{ y }}{{ y is defined }}
{% set é = 1 %}{{ é }}
{% for a in [1, 2] %}{% for b in [1, 2] %}{% if b == 2 %}{% break %}{% endif %}{{ a }}{{ b }}{% endfor %};{% endfor %}
{% for x in range(3) %}{% set y = x %}{{ y }}{% else %}{{ y }}{% endfor %}
{{ 1 if missing else 2 }}{{ missing if missing is defined else 'no' }}
{{ (none|default('x', true)) ~ (false|default('y', true)) }}
{% autoescape false %}{{ html }}{% endautoescape %}
{{ xs|map(attribute='real')|list }}
{{ [xs, names]|map('length')|list }}{{ [xs, names]|map('join', '-')|list }}
{{ ['a', 'b']|map('format', 1)|list }}
{{ ['%s', '%s!']|map('format', 1)|list }}
{{ names|map('lower')|unique|sort|join }}
{{ names|groupby('0') }}
{{ d.items()|map('first')|list }}{{ d.items()|map('last')|sum }}
{{ d.items()|selectattr('1', 'gt', 1)|list }}
{{ (d.items()|list)[0][1] }}
{% set t = (1, [2, {'a': 'x'}]) %}{{ t }}{{ t[1][1].a }}
{{ '\u00e9' == 'é' }}{{ '\x41' }}{{ 'a\
b' }}
""".strip("\n").split("\n")


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
