// Markdown as models write it, to nodes. The text never becomes HTML: elements come from a fixed set and hold text nodes alone; links lead to http, https and
// mailto; pictures become links, so that nothing is loaded. Nesting is bounded, and the time is linear in the text for each level of it.
import {copy, h, icon} from '/dom.js';
import {highlight} from '/highlight.js';

const DEEPEST = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s([^]*))?$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:_\s*){3,}|(?:\*\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +)(.*)|$)/;
const COLUMNS = /^\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$/;     // of a line without blanks around it
const blank = (line) => line.trim() === '';

// Makes the container show the text. Blocks that are as before keep their nodes, so that a growing answer costs its last block alone.
export function render(container, text) {
    const lines = text.replaceAll('\r\n', '\n').replaceAll('\t', '    ').split('\n');
    const old = container.shown ?? [];
    const shown = [];
    let kept = true;
    for (const block of blocks(lines, 0)) {
        const source = lines.slice(block.from, block.to).join('\n');
        const before = old[shown.length];
        kept = kept && before?.source === source && before.kind === block.kind && block.whole !== false;
        if (kept) { shown.push(before); continue; }
        const node = block.build();
        if (before) replace(before.node, node);
        else container.append(node);
        shown.push({source, node, kind: block.whole === false ? 'partial' : block.kind});
    }
    for (const rest of old.slice(shown.length)) rest.node.remove();
    container.shown = shown;
}

// What is wider than the page stays where it was scrolled to, and with the focus in it, while it grows.
function replace(old, node) {
    const part = (block) => (block.matches('.table') ? block : block.querySelector('pre'));
    const [from, to] = [part(old), part(node)];
    const left = from?.scrollLeft, had = from && from === document.activeElement;
    old.replaceWith(node);
    if (left && to) to.scrollLeft = left;
    if (had) to?.focus({preventScroll: true});
}

function* blocks(lines, depth) {
    for (let i = 0; i < lines.length;) {
        if (blank(lines[i])) { i++; continue; }
        const block = (depth < DEEPEST && (fence(lines, i) ?? heading(lines, i) ?? rule(lines, i) ?? quote(lines, i, depth) ?? list(lines, i, depth) ?? table(lines, i))) ||
            paragraph(lines, i, depth);
        yield {from: i, ...block};
        i = block.to;
    }
}

function fill(element, lines, depth) {
    for (const block of blocks(lines, depth)) element.append(block.build());
    return element;
}

function fence(lines, from) {
    const open = FENCE.exec(lines[from]);
    if (!open) return null;
    let to = from + 1;
    const closes = (line) => { const m = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(line); return m && m[1][0] === open[1][0] && m[1].length >= open[1].length; };
    while (to < lines.length && !closes(lines[to])) to++;
    const whole = to < lines.length;
    const code = lines.slice(from + 1, to).join('\n');
    return {kind: 'code', whole, to: whole ? to + 1 : to, build: () => codeBlock(code, open[2].trim().split(/[\s{]/)[0])};
}

function codeBlock(code, language) {
    const button = h('button', {type: 'button', class: 'copy', 'aria-label': language ? `Copy the ${language} code` : 'Copy the code', onclick: () => copy(code, button)}, icon('copy'), 'Copy');
    return h('div', {class: 'code'}, h('div', {class: 'code-head'}, h('span', {}, language), button),
        h('pre', {tabindex: 0, role: 'region', 'aria-label': language ? `${language} code` : 'Code'}, h('code', {}, highlight(code, language))));
}

function heading(lines, from) {
    const m = HEADING.exec(lines[from]);
    // The page's own headings end at the second level.
    return m && {kind: 'heading', to: from + 1, build: () => inline(h(`h${Math.min(m[1].length + 2, 6)}`, {class: `level-${m[1].length}`}), title(m[2] ?? ''), 0)};
}

// Without the marks that may close it.
const title = (text) => text.trim().replace(/\s#+$/, '').trimEnd();

function rule(lines, from) { return RULE.test(lines[from]) ? {kind: 'rule', to: from + 1, build: () => h('hr')} : null; }

function quote(lines, from, depth) {
    if (!QUOTE.test(lines[from])) return null;
    let to = from;
    while (to < lines.length && QUOTE.test(lines[to])) to++;
    return {kind: 'quote', to, build: () => fill(h('blockquote'), lines.slice(from, to).map((line) => line.replace(QUOTE, '')), depth + 1)};
}

const ordered = (marker) => marker.length > 1;

function list(lines, from, depth) {
    const first = ITEM.exec(lines[from]);
    if (!first || RULE.test(lines[from])) return null;
    const items = [];
    let to = from;
    while (to < lines.length) {
        const m = ITEM.exec(lines[to]);
        if (!m || ordered(m[2]) !== ordered(first[2]) || RULE.test(lines[to])) break;
        const item = {lines: [m[4] ?? ''], indent: m[1].length + m[2].length + Math.min(m[3]?.length ?? 1, 4)};
        to = itemLines(lines, to + 1, item);
        items.push(item.lines);
    }
    return {kind: 'list', to, build: () => listElement(items, first[2], depth)};
}

// What belongs to an item behind its first line: what is indented (by two at least: models are not exact), and a paragraph's next lines. The next line.
function itemLines(lines, from, item) {
    let to = from;
    for (; to < lines.length; to++) {
        const line = lines[to];
        if (blank(line)) {
            const next = lines.slice(to, to + 3).find((l) => !blank(l));
            if (next === undefined || !(/^ {2,}/.test(next) || ITEM.test(next))) break;
            item.lines.push('');
            continue;
        }
        const indent = line.length - line.trimStart().length;
        const starts = ITEM.test(line) && indent < Math.min(item.indent, 2);
        if (starts || (indent < 2 && (blank(lines[to - 1]) || begins(line)))) break;
        item.lines.push(line.slice(Math.min(indent, item.indent)));
    }
    return to;
}

function listElement(items, marker, depth) {
    const start = parseInt(marker, 10);
    const element = ordered(marker) ? h('ol', {dir: 'auto', start: start === 1 ? null : start}) : h('ul', {dir: 'auto'});
    for (const lines of items) {
        const task = /^\[([ xX])\]\s+/.exec(lines[0]);
        const item = h('li', {class: task ? 'task' : null});
        if (task) item.append(h('input', {type: 'checkbox', disabled: true, checked: task[1] !== ' ', 'aria-label': task[1] === ' ' ? 'not done' : 'done'}));
        const rest = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
        fill(item, rest, depth + 1);
        if (item.children.length && !rest.some(blank)) unwrap(item);
        element.append(item);
    }
    return element;
}

// A tight item's paragraphs are bare text.
function unwrap(item) {
    for (const p of item.querySelectorAll(':scope > p')) {
        while (p.firstChild) p.before(p.firstChild);
        p.remove();
    }
}

function cells(line) {
    const inside = line.trim().replace(/^\|/, '').replace(/(^|[^\\])\|$/, '$1');
    return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
}

function table(lines, from) {
    if (!lines[from].includes('|') || from + 1 >= lines.length || !COLUMNS.test(lines[from + 1].trim())) return null;
    const head = cells(lines[from]);
    const align = cells(lines[from + 1]).map((cell) => (/^:-+:$/.test(cell) ? 'center' : /-:$/.test(cell) ? 'right' : null));
    if (align.length !== head.length) return null;
    let to = from + 2;
    while (to < lines.length && lines[to].includes('|') && !blank(lines[to])) to++;
    // A short row stays so: filled up, wide heads above many short rows would make a square of cells.
    const row = (name, list) => h('tr', {}, list.slice(0, head.length).map((cell, i) => inline(h(name, {class: align[i], scope: name === 'th' ? 'col' : null}), cell, 0)));
    return {kind: 'table', to, build: () => h('div', {class: 'table', tabindex: 0, role: 'region', 'aria-label': 'Table'}, h('table', {}, h('thead', {}, row('th', head)),
        h('tbody', {}, lines.slice(from + 2, to).map((line) => row('td', cells(line))))))};
}

const begins = (line) => FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line);

function paragraph(lines, from, depth) {
    let to = from + 1;
    while (to < lines.length && !blank(lines[to]) && !(depth < DEEPEST && (begins(lines[to]) || ITEM.test(lines[to])))) to++;
    return {kind: 'paragraph', to, build: () => inline(h('p'), lines.slice(from, to).map((line) => line.trim()).join('\n'), 0)};
}

// ---- within a line ----

const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const wordy = (c) => c !== undefined && /[\p{L}\p{N}_]/u.test(c);

// Appends text with its marks. missing: marks that have no end further on, so that each is looked for in vain at most once.
export function inline(parent, text, depth) {
    const missing = new Set();
    let plain = 0;
    SPECIAL.lastIndex = 0;
    for (let m; depth < DEEPEST && (m = SPECIAL.exec(text));) {
        const i = m.index;
        const made = mark(text, i, m[0], depth, missing);
        if (!made) continue;
        if (i > plain) parent.append(text.slice(plain, i));
        parent.append(made.node);
        plain = SPECIAL.lastIndex = made.to;
    }
    if (plain < text.length) parent.append(text.slice(plain));
    return parent;
}

function mark(text, i, what, depth, missing) {
    const at = SPECIAL.lastIndex;
    const made = markAt(text, i, what, depth, missing);
    SPECIAL.lastIndex = at;     // what is within may have moved it
    return made;
}

function markAt(text, i, what, depth, missing) {
    switch (what) {
    case '\\': return PUNCTUATION.test(text[i + 1] ?? '') ? {node: text[i + 1], to: i + 2} : null;
    case '\n': return {node: h('br'), to: i + 1};
    case '`': return codeSpan(text, i, missing);
    case '*': case '_': case '~': return emphasis(text, i, what, depth, missing);
    case '[': return link(text, i, depth);
    case '!': return text[i + 1] === '[' ? link(text, i + 1, depth) : null;
    case '<': return bracketed(text, i);
    default: return bare(text, i);
    }
}

const run = (text, i) => { let n = 1; while (text[i + n] === text[i]) n++; return n; };

// The whole run of marks where it opens nothing, as text: else it would be looked at once for each mark.
function asText(text, i, n) { return {node: text.slice(i, i + n), to: i + n}; }

function codeSpan(text, i, missing) {
    const n = run(text, i);
    const mark = '`'.repeat(n);
    if (!missing.has(mark)) {
        for (let j = text.indexOf(mark, i + n); j >= 0; j = text.indexOf(mark, j)) {
            const length = run(text, j);
            if (length === n) return {node: h('code', {}, text.slice(i + n, j).replaceAll('\n', ' ').replace(/^ (.*[^ ].*) $/, '$1')), to: j + n};
            j += length;
        }
        missing.add(mark);
    }
    return asText(text, i, n);
}

const TAGS = {'*': ['em', 'strong'], _: ['em', 'strong'], '~': [null, 'del']};

function emphasis(text, i, c, depth, missing) {
    const all = run(text, i);
    const n = all >= 3 && c !== '~' ? 3 : all;
    const opens = all <= 3 && text[i + all] !== undefined && !/\s/.test(text[i + all]) && !(c === '_' && wordy(text[i - 1]));
    const mark = c.repeat(n);
    if (!opens || (c === '~' && n !== 2) || missing.has(mark)) return asText(text, i, all);
    const end = closing(text, i + n, c, n);
    if (end < 0) {
        missing.add(mark);
        return asText(text, i, all);
    }
    const within = text.slice(i + n, end);
    const outer = h(n === 1 ? TAGS[c][0] : TAGS[c][1]);
    if (n === 3) outer.append(inline(h('em'), within, depth + 1));
    else inline(outer, within, depth + 1);
    return {node: outer, to: end + n};
}

function closing(text, from, c, n) {
    for (let j = from; (j = text.indexOf(c, j)) >= 0;) {
        const length = run(text, j);
        const escaped = text[j - 1] === '\\';
        const closes = length >= n && !(n === 1 && length === 2) && !/\s/.test(text[j - 1]) && !(c === '_' && wordy(text[j + length]));
        if (closes && !escaped && j > from) return length > n ? j + length - n : j;
        j += length;
    }
    return -1;
}

function anchor(address, ...children) {
    let url;
    try { url = new URL(address); } catch { return null; }
    if (!['http:', 'https:', 'mailto:'].includes(url.protocol)) return null;
    return h('a', {href: url.href, target: '_blank', rel: 'noopener noreferrer nofollow'}, ...children);
}

const LABEL = /\[((?:[^\\[\]]|\\.|\[[^[\]]{0,200}\]){0,800})\]\(\s{0,40}<?([^\s<>()]{0,1500}(?:\([^\s<>()]{0,300}\)[^\s<>()]{0,300})?)>?(?:\s{1,40}["'][^"'\n]{0,300}["'])?\s{0,40}\)/y;

// [text](address), and the same behind "!": a picture's description with its address as a link.
function link(text, i, depth) {
    LABEL.lastIndex = i;
    const m = LABEL.exec(text);
    const node = m && anchor(m[2]);
    if (!node) return null;
    return {node: inline(node, m[1] || m[2], Math.max(depth + 1, DEEPEST - 3)), to: i + m[0].length};
}

function bracketed(text, i) {
    const m = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,1500})>/.exec(text.slice(i, i + 1600));
    const node = m && anchor(m[1], m[1]);
    return node ? {node, to: i + m[0].length} : null;
}

function bare(text, i) {
    const address = /^[^\s<>"'`*|]+/.exec(text.slice(i, i + 1500))[0].replace(/[.,;:!?]+$/, '');
    const trimmed = address.endsWith(')') && !address.includes('(') ? address.slice(0, -1) : address;
    const node = wordy(text[i - 1]) ? null : anchor(trimmed, trimmed);
    return node ? {node, to: i + trimmed.length} : null;
}
