// An answer as its tokens, each shaded by how sure the model was; pointing at one, or reaching it by arrow keys, shows what it might have been.
// A token here: [text, logprob, [[text, logprob], ...]].
import {h} from '/dom.js';

const percent = (logprob) => { const p = 100 * Math.exp(logprob); return `${p >= 99.95 ? '100' : p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : '<0.1'} %`; };
// White space is shown where it would not be seen.
const visible = (text) => text.replaceAll('\n', '↵').replace(/^ | $/g, '␣').replaceAll('\t', '⇥') || '∅';
const step = (logprob) => { const p = Math.exp(logprob); return p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4; };

export function tokenView(tokens) {
    const tip = h('div', {class: 'tip', role: 'tooltip', hidden: true});
    const text = h('div', {class: 'tokens', role: 'group', 'aria-label': 'The answer by tokens: arrow keys go from one to the next'});
    const spans = tokens.map((token, i) => h('span', {class: `token p${step(token[1])}`, tabindex: i ? -1 : 0, role: 'img', 'aria-label': described(token)}, token[0]));
    text.append(...spans);
    const show = (span) => {
        const i = spans.indexOf(span);
        if (i < 0) return;
        tip.replaceChildren(...alternatives(tokens[i]));
        tip.hidden = false;
        place(tip, span, text);
    };
    const hide = () => { tip.hidden = true; };
    text.addEventListener('pointerover', (e) => show(e.target));
    text.addEventListener('pointerleave', hide);
    text.addEventListener('focusin', (e) => show(e.target));
    text.addEventListener('focusout', hide);
    text.addEventListener('keydown', (e) => {
        const to = {ArrowRight: 1, ArrowLeft: -1}[e.key];
        const next = to && spans[spans.indexOf(e.target) + to];
        if (e.key === 'Escape') hide();
        if (!next) return;
        e.preventDefault();
        e.target.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
    });
    return h('div', {class: 'token-view'}, legend(), text, tip);
}

function described([text, logprob, others]) {
    const rest = others.filter(([other]) => other !== text).slice(0, 3).map(([other, l]) => `${visible(other)} ${percent(l)}`);
    return `${visible(text)}: ${percent(logprob)}${rest.length ? `; else ${rest.join(', ')}` : ''}`;
}

function legend() {
    return h('p', {class: 'legend'}, 'How sure the model was of each token: ', ['over 90 %', '60', '30', '10', 'less'].map((label, i) => h('span', {class: `token p${i}`}, label)));
}

function alternatives([text, logprob, others]) {
    const list = others.some(([other]) => other === text) ? others : [[text, logprob], ...others];
    return [h('table', {}, h('tbody', {}, list.map(([other, l]) => {
        const bar = h('span', {class: 'bar'});
        bar.style.width = `${Math.max(100 * Math.exp(l), 0.5)}%`;
        return h('tr', {class: other === text ? 'chosen' : null}, h('td', {}, h('code', {}, visible(other))), h('td', {class: 'right'}, percent(l)), h('td', {class: 'bars'}, bar));
    })))];
}

function place(tip, span, within) {
    const box = within.getBoundingClientRect();
    const at = span.getClientRects()[0];
    if (!at) return;
    tip.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${within.offsetTop + at.bottom - box.top + 4}px`;
}
