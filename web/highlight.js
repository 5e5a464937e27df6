// Colours for code: comments, strings, numbers and keywords, told apart roughly and alike for most languages. Gives strings and <span> elements.
import {h} from '/dom.js';

const WORDS = `abstract and as assert async await auto break case catch class const constexpr continue def default defer del delete do done elif else end enum esac except export extends
 extern false False fi final finally fn for foreach from func function global goto if impl implements import in include inline instanceof interface is lambda let local long loop match mod
 module mut namespace new nil none None nonlocal not null nullptr of operator or package pass private protected pub public raise readonly ref register return self sizeof static struct
 super switch template then this throw trait true True try type typedef typeof union unless unsafe until use using var virtual void volatile when where while with yield
 int char float double bool boolean string unsigned signed short byte usize isize u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 size_t`;
const SQL = `select from where insert into values update set delete create table index view drop alter join left right inner outer full on group by order having limit offset union all distinct
 and or not null is in like between as case when then else end primary key foreign references default unique begin commit rollback with exists`;
const keywords = new Set(WORDS.split(/\s+/));
const sqlWords = new Set(SQL.split(/\s+/));

const HASH = 'py python sh bash zsh shell console rb ruby yaml yml toml perl r make makefile dockerfile cmake conf ini nix'.split(' ');
const DASH = 'sql lua haskell hs ada vhdl'.split(' ');
const PLAIN = new Set(['', 'text', 'txt', 'plain', 'plaintext', 'md', 'markdown', 'output', 'diff', 'html', 'xml', 'svg', 'csv', 'log', 'latex', 'tex']);
const LONGEST = 50000;      // characters; beyond, colours cost more than they give

const STRINGS = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:[^"\\\n]|\\[\s\S])*"?|'(?:[^'\\\n]|\\[\s\S])*'|` + '`(?:[^`\\\\]|\\\\[\\s\\S])*`?';
const REST = String.raw`(?<number>\b(?:0[xX][\da-fA-F_]+|0[bB][01_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*)|(?<word>[A-Za-z_$][\w$]*)`;
const rules = new Map();
function ruleFor(language) {
    const kind = HASH.includes(language) ? 'hash' : DASH.includes(language) ? 'dash' : 'slash';
    if (!rules.has(kind)) {
        const comment = {hash: String.raw`(?<![\w$&])#.*`, dash: String.raw`--.*|/\*[\s\S]*?(?:\*/|$)`, slash: String.raw`//.*|/\*[\s\S]*?(?:\*/|$)|^[ ]*#\w+`}[kind];
        rules.set(kind, new RegExp(`(?<comment>${comment})|(?<string>${STRINGS})|${REST}`, 'gm'));
    }
    return rules.get(kind);
}

export function highlight(code, language) {
    const name = language.toLowerCase();
    if (PLAIN.has(name) || code.length > LONGEST) return [code];
    const parts = [];
    let plain = 0;
    for (const m of code.matchAll(ruleFor(name))) {
        const kind = classOf(m.groups, name);
        if (!kind) continue;
        if (m.index > plain) parts.push(code.slice(plain, m.index));
        parts.push(h('span', {class: kind}, m[0]));
        plain = m.index + m[0].length;
    }
    parts.push(code.slice(plain));
    return parts;
}

function classOf({comment, string, number, word}, language) {
    if (comment) return comment.trimStart().startsWith('#') && !HASH.includes(language) ? 'k' : 'c';
    if (string) return 's';
    if (number) return 'n';
    return (language === 'sql' ? sqlWords.has(word.toLowerCase()) : keywords.has(word)) ? 'k' : null;
}
