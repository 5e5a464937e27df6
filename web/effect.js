// What an adapter changed of an answer: its tokens under two stacks, each shaded by how much likelier the one makes it than the other. The answer is read, not made anew.
import {call} from '/api.js';
import {h} from '/dom.js';
import {fitting, models, parse, print, short} from '/stack.js';
import {alternatives, pairs, tokenRow, visible} from '/tokens.js';
import {percent, several} from '/words.js';

const STEPS = [0.4, 0.69, 1.6, 3];    // nats, between the shades: 1.5, 2, 5 and 20 times

// Stacks of a model that can be looked through: with each adapter that fits, as the answer had it, and the base alone.
function stacksOf(model) {
    const {base} = parse(model);
    const single = fitting(base).map(({name, scale}) => print({base, adapters: [{name, scale}]}));
    const named = models.stacks.map((m) => m.id).filter((id) => parse(id).base === base);
    return [...new Set([model, ...single, ...named, base])];
}

// All are of one base, which need not be read each time.
function shortest(model) {
    const {base, adapters} = parse(model);
    return adapters.length ? print({base: '', adapters}).slice(1).replaceAll('=', ' ').replaceAll('+', ' + ') : model === base ? 'the model alone' : short(model);
}

// Whether there is anything to look through.
export const canExplain = (model) => stacksOf(model).length > 1;

// choice: {a, b}, kept with the answer's view; messages: the conversation up to the answer.
export function effectView(model, messages, choice) {
    const all = stacksOf(model);
    const {base} = parse(model);
    choice.a ??= all[0] === base ? all[1] : all[0];
    choice.b ??= base;
    const shown = h('div', {class: 'effect-shown'});
    let asked = 0;
    const draw = async () => {
        const mine = asked += 1;
        if (choice.a === choice.b) return shown.replaceChildren(h('p', {class: 'faint'}, 'Both are the same: choose another for one of them.'));
        shown.setAttribute('aria-busy', 'true');
        if (!shown.firstChild) shown.append(h('p', {class: 'faint'}, 'The answer is read twice…'));
        const [a, b] = [choice.a, choice.b];
        const nodes = await call('POST', '/nm/explain', {a, b, messages}).then((data) => explained(data, shortest(a), shortest(b)),
            (e) => [h('p', {class: 'failed', role: 'alert'}, e.message)]);
        if (mine !== asked) return null;
        shown.removeAttribute('aria-busy');
        return shown.replaceChildren(...nodes);
    };
    const select = (side, label) => h('label', {class: 'field'}, label, h('select', {onchange: (e) => { choice[side] = e.target.value; draw(); }},
        all.map((text) => h('option', {value: text, selected: text === choice[side]}, shortest(text)))));
    draw();
    return h('div', {class: 'token-view effect', role: 'group', 'aria-label': 'What the adapter changed'},
        h('div', {class: 'stacks'}, select('a', 'Look through'), select('b', 'Beside')), shown);
}

function explained(data, a, b) {
    if (!data.tokens.length) return [h('p', {class: 'faint'}, 'The answer has no tokens.')];
    const tokens = data.tokens.map((t) => ({text: t.text, class: shade(t.a - t.b), said: described(t, a, b), more: () => more(t, a, b)}));
    return [mean(data, a, b), legend(a), ...tokenRow('What changed, by tokens', tokens)];
}

// "u2": likelier by two shades; "d2": less likely.
function shade(ratio) {
    const n = STEPS.filter((least) => Math.abs(ratio) >= least).length;
    return n ? `${ratio > 0 ? 'u' : 'd'}${n}` : '';
}

function times(ratio) {
    const n = Math.exp(Math.abs(ratio));
    if (n < 1.1) return 'as likely';
    return `${n >= 1000 ? 'over 1000' : n >= 10 ? n.toFixed(0) : n.toFixed(1)} times ${ratio > 0 ? 'likelier' : 'less likely'}`;
}

const signed = (x) => x.toFixed(3).replace('-', '−');

// Both averages tell how well each stack would have said this itself.
function mean({mean_a, mean_b, tokens}, a, b) {
    const ratio = mean_a - mean_b;
    const part = tokens.filter((t) => Math.abs(t.a - t.b) >= STEPS[1]).length;
    return h('p', {class: 'mean'}, `On average a token is ${percent(mean_a)} likely with `, h('strong', {}, a),
        `, ${percent(mean_b)} with `, h('strong', {}, b), `: ${times(ratio)}. `,
        h('span', {class: 'faint'}, `${part} of ${several(tokens.length, 'token')} changed by a factor of two or more; log-probability ${signed(mean_a)} and ${signed(mean_b)}.`));
}

function legend(a) {
    const key = (label, kind) => h('span', {class: `token ${kind}`}, label);
    return h('p', {class: 'legend'}, `With ${a}, less likely `, key('20 times', 'd4'), key('5', 'd3'), key('2', 'd2'), ' likelier ',
        key('2', 'u2'), key('5', 'u3'), key('20 times', 'u4'));
}

function described(t, a, b) {
    const rest = (list, who) => {
        const others = pairs(list).filter(([text]) => text !== t.text).slice(0, 2).map(([text, l]) => `${visible(text)} ${percent(l)}`);
        return others.length ? `; ${who} else ${others.join(', ')}` : '';
    };
    return `${visible(t.text)}: ${times(t.a - t.b)}, ${percent(t.a)} with ${a}, ${percent(t.b)} with ${b}${rest(t.top_a, a)}${rest(t.top_b, b)}`;
}

function more(t, a, b) {
    return [h('p', {class: 'ratio'}, h('code', {}, visible(t.text)), ` ${times(t.a - t.b)}`),
        h('div', {class: 'both'}, alternatives([t.text, t.a, pairs(t.top_a)], a), alternatives([t.text, t.b, pairs(t.top_b)], b))];
}
