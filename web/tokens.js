// An answer as its tokens, each shaded; pointing at one, or reaching it by arrow keys, shows what stands behind it. Here: how sure the model was of each, and
// what it might have said instead. A token then: [text, logprob, [[text, logprob], ...]].
import {call} from '/api.js';
import {h} from '/dom.js';
import {percent} from '/words.js';

// White space is shown where it would not be seen.
export const visible = (text) => text.replaceAll('\n', '↵').replace(/^ | $/g, '␣').replaceAll('\t', '⇥') || '∅';
const step = (logprob) => { const p = Math.exp(logprob); return p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4; };

export function tokenView(tokens) {
    const row = tokenRow('The answer by tokens', tokens.map((token) => ({text: token[0], class: `p${step(token[1])}`, said: described(token), more: () => [alternatives(token)]})));
    return h('div', {class: 'token-view'}, legend(), row);
}

// The same of an answer with which nothing was noted: it is read, not made anew. messages: the conversation up to it.
export function readView(model, messages) {
    const box = h('div', {}, h('p', {class: 'faint'}, 'The answer is read…'));
    call('POST', '/nm/explain', {a: model, b: model, messages}).then(({tokens}) => tokenView(tokens.map((t) => [t.text, t.a, pairs(t.top_a)])),
        (e) => h('p', {class: 'failed', role: 'alert'}, e.message)).then((view) => box.replaceChildren(view));
    return box;
}

export const pairs = (list) => (list ?? []).map(({text, logprob}) => [text, logprob]);

// tokens: {text, class, said: its name, more(): what the tip shows of it}.
export function tokenRow(label, tokens) {
    const tip = h('div', {class: 'tip', role: 'tooltip', hidden: true});
    const text = h('div', {class: 'tokens', role: 'group', 'aria-label': `${label}: arrow keys go from one to the next`});
    const spans = tokens.map((token, i) => h('span', {class: `token ${token.class}`, tabindex: i ? -1 : 0, role: 'img', 'aria-label': token.said}, token.text));
    text.append(...spans);
    let at = null;
    const show = (span) => {
        const i = spans.indexOf(span);
        if (i < 0) return;
        at = span;
        tip.replaceChildren(...tokens[i].more());
        tip.hidden = false;
        place(tip, span, text);
    };
    new ResizeObserver(() => { if (!tip.hidden) place(tip, at, text); }).observe(text);
    const hide = () => { tip.hidden = true; };
    text.addEventListener('pointerover', (e) => show(e.target));
    text.addEventListener('pointerleave', (e) => { if (e.pointerType === 'mouse') hide(); });      // a finger that is lifted leaves what it pointed at
    text.addEventListener('focusin', (e) => show(e.target));
    text.addEventListener('focusout', hide);
    text.addEventListener('keydown', (e) => {
        const i = spans.indexOf(e.target);
        const next = spans[{ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: spans.length - 1}[e.key]];
        if (e.key === 'Escape') hide();
        if (!next) return;
        e.preventDefault();
        e.target.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
    });
    return [text, tip];
}

function described([text, logprob, others]) {
    const rest = others.filter(([other]) => other !== text).slice(0, 3).map(([other, l]) => `${visible(other)} ${percent(l)}`);
    return `${visible(text)}: ${percent(logprob)}${rest.length ? `; else ${rest.join(', ')}` : ''}`;
}

function legend() {
    return h('p', {class: 'legend'}, 'How sure the model was of each token: ', ['over 90 %', '60', '30', '10', 'less'].map((label, i) => h('span', {class: `token p${i}`}, label)));
}

// A table of what might have stood there, the token itself among it.
export function alternatives([text, logprob, others], title) {
    const list = others.some(([other]) => other === text) ? others : [[text, logprob], ...others];
    return h('table', {}, title ? h('caption', {}, title) : null, h('tbody', {}, list.map(([other, l]) => {
        const bar = h('span', {class: 'bar'});
        bar.style.width = `${Math.max(100 * Math.exp(l), 0.5)}%`;
        return h('tr', {class: other === text ? 'chosen' : null}, h('td', {}, h('code', {}, visible(other))), h('td', {class: 'right'}, percent(l)), h('td', {class: 'bars'}, bar));
    })));
}

// Below the token, or above it where it would be cut off.
function place(tip, span, within) {
    const box = within.getBoundingClientRect();
    const at = span.getClientRects()[0];
    if (!at) return;
    tip.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - tip.offsetWidth))}px`;
    const room = document.getElementById('scroll')?.getBoundingClientRect() ?? {top: 0, bottom: innerHeight};
    const above = at.bottom + tip.offsetHeight + 8 > room.bottom && at.top - tip.offsetHeight - 8 > room.top;
    tip.style.top = `${within.offsetTop + (above ? at.top - box.top - tip.offsetHeight - 4 : at.bottom - box.top + 4)}px`;
}
