// Two stacks answer the same question side by side, in an order that is not told until one has voted. Votes are kept, and are pairs for training.
import {answer} from '/api.js';
import {open} from '/app.js';
import {grow, h, note, sends, speak} from '/dom.js';
import {render} from '/markdown.js';
import {votes} from '/store.js';
import {chooser, firstModel, fitting, models, parse, print, short} from '/stack.js';
import {sampling} from '/thread.js';

let state;      // stays while other views are looked at

function begin() {
    const {base} = parse(firstModel());
    const [adapter] = fitting(base);
    return {stacks: {a: base, b: adapter ? print({base, adapters: [{name: adapter.name, scale: adapter.scale}]}) : models.bases[1]?.id ?? base}, prompt: '', round: null};
}

// The view with these two, whichever were compared before.
export function compareWith(a, b) {
    state?.round?.controller.abort();
    state = {...begin(), stacks: {a, b}};
    open('#/compare');
}

export function compareView() {
    state ??= begin();
    const box = h('div', {class: 'page'});
    draw(box);
    return box;
}

function draw(box) {
    const arena = h('div', {class: 'arena'});
    const tally = h('section', {class: 'tally'});
    const side = (name, label) => h('section', {}, h('h3', {}, label), chooser(label, state.stacks[name], (text) => { state.stacks[name] = text; }));
    const [form, follow] = askForm('What both shall answer', 'Question', 'Ask both', () => {
        if (state.stacks.a !== state.stacks.b) return round(arena, tally);
        note('Both are the same: choose another model, or another strength of an adapter, for one of them.', 'bad');
        return null;
    }, {id: 'question', value: state.prompt, oninput: (e) => { state.prompt = e.target.value; }});
    if (state.round) follow(state.round);
    box.replaceChildren(h('p', {class: 'lead'}, 'Two answers, in an order you are not told. Vote, then see whose they were.'), h('div', {class: 'sides'}, side('a', 'One'), side('b', 'The other')),
        form, arena, tally);
    if (state.round) drawRound(arena, tally);
    drawTally(tally);
}

function round(arena, tally) {
    state.round?.controller.abort();
    const swapped = crypto.getRandomValues(new Uint8Array(1))[0] & 1;
    const order = swapped ? ['b', 'a'] : ['a', 'b'];
    state.round = {prompt: state.prompt.trim(), controller: new AbortController(), choice: null,
        answers: order.map((name) => ({name, model: state.stacks[name], content: '', done: false, failed: ''}))};
    drawRound(arena, tally);
    return begun(state.round);
}

// A round whose answers are under way: {prompt, controller, answers}, and when all have ended, in `ended`.
function begun(own) {
    own.ended = Promise.all(own.answers.map((one) => answerInto(one, own.prompt, own.controller.signal))).then(() => speak('Both answers are complete'));
    return own;
}

// One answer to a prompt, told to one.show as it grows.
async function answerInto(one, prompt, signal) {
    const body = {model: one.model, messages: [{role: 'user', content: prompt}], stream_options: {include_usage: true}, ...sampling({})};
    let frame = 0;
    try {
        await answer(body, one, signal, () => { frame ||= requestAnimationFrame(() => { frame = 0; one.show?.(); }); });
    } catch (e) {
        if (e.name !== 'AbortError') one.failed = e.message;
    }
    one.done = true;
    one.show?.();
}

// Where it is no secret whose answer is which: [{label, model}] answer a question of the user's, each below its name.
export function sideBySide(sides) {
    const pair = h('div', {class: 'pair'});
    const [form] = askForm('What both shall answer', 'Question to both', 'Ask', (prompt) => {
        const answers = sides.map((side) => ({...side, content: '', done: false, failed: ''}));
        pair.replaceChildren(...answers.map((one) => answerBox(one, [one.label, h('span', {class: 'revealed'}, ` ${short(one.model)}`)], one.label)));
        return begun({prompt, controller: new AbortController(), answers});
    });
    return h('div', {class: 'arena'}, form, pair);
}

// Keys as in a conversation. ask(prompt) gives the round that it began, or null; until that has ended, the button and Escape stop it. [form, follow(round)].
function askForm(placeholder, label, action, ask, attributes) {
    let own = null;
    const stop = () => own?.controller.abort();
    const area = h('textarea', {rows: 2, placeholder, 'aria-label': label, ...attributes, oninput: (e) => { attributes?.oninput?.(e); grow(area); }, onkeydown: (e) => {
        if (sends(e)) { e.preventDefault(); form.requestSubmit(); }
        if (e.key === 'Escape') stop();
    }});
    const button = h('button', {class: 'primary', onclick: (e) => { if (own) { e.preventDefault(); stop(); } }}, action);
    const form = h('form', {class: 'ask', onsubmit: (e) => { e.preventDefault(); if (area.value.trim() && !own) follow(ask(area.value.trim())); }}, area, button);
    const follow = async (round) => {
        if (!round) return;
        own = round;
        button.textContent = 'Stop';
        await round.ended;
        own = null;
        button.textContent = action;
    };
    return [form, follow];
}

function drawRound(arena, tally) {
    const own = state.round;
    const votesBox = h('div', {class: 'votes', role: 'group', 'aria-label': 'Your vote'});
    const buttons = [[0, 'The first is better'], ['both', 'Both are good'], ['neither', 'Neither is'], [1, 'The second is better']].map(([value, label]) =>
        h('button', {type: 'button', onclick: () => vote(own, value, arena, tally)}, label));
    votesBox.append(...buttons);
    const enable = () => { for (const b of buttons) b.disabled = !own.answers.every((a) => a.done && !a.failed) || !own.answers.some((a) => a.content) || own.choice !== null; };
    arena.replaceChildren(h('div', {class: 'pair'}, own.answers.map((one, i) => column(own, one, i, enable))), own.choice === null ? votesBox : revealed(own));
    enable();
}

function column(own, one, i, enable) {
    const name = [i ? 'Second' : 'First', own.choice === null ? '' : h('span', {class: 'revealed'}, ` ${short(one.model)}`)];
    const element = answerBox(one, name, i ? 'Second answer' : 'First answer', enable);
    if (own.choice === i || own.choice === 'both') element.classList.add('won');
    return element;
}

// An answer below its title; one.show draws what it has by now, and calls `then`.
function answerBox(one, title, label, then) {
    const body = h('div', {class: 'body'});
    const failed = h('div', {class: 'failed', role: 'alert', hidden: true});
    one.show = () => {
        render(body, one.content || (one.done ? '' : '…'));
        failed.hidden = !one.failed;
        failed.textContent = one.failed;
        then?.();
    };
    one.show();
    return h('article', {'aria-label': label}, h('h3', {}, title), body, failed);
}

function revealed(own) {
    const said = {0: 'You preferred the first', 1: 'You preferred the second', both: 'You liked both', neither: 'You liked neither'}[own.choice];
    return h('p', {class: 'said', role: 'status'}, `${said}. First: ${short(own.answers[0].model)}. Second: ${short(own.answers[1].model)}.`);
}

async function vote(own, choice, arena, tally) {
    const of = (name) => { const one = own.answers.find((x) => x.name === name); return {model: one.model, content: one.content}; };
    try {
        await votes.add({messages: [{role: 'user', content: own.prompt}], a: of('a'), b: of('b'), choice: typeof choice === 'number' ? own.answers[choice].name : choice});
    } catch (e) { note(`The vote is not kept: ${e.message}`, 'bad'); return; }
    own.choice = choice;
    drawRound(arena, tally);
    drawTally(tally);
    document.getElementById('question').focus();
}

async function drawTally(tally) {
    let rows = [];
    try { rows = await votes.tally(); } catch (e) { if (e.status !== 503 && e.status !== 404) note(e.message, 'bad'); }
    if (!rows.length) { tally.replaceChildren(); return; }
    tally.replaceChildren(h('h3', {}, 'Votes so far'), h('div', {class: 'table', tabindex: 0, role: 'region', 'aria-label': 'Votes so far'}, h('table', {},
        h('thead', {}, h('tr', {}, ['One', 'Other', 'One won', 'Other won', 'Equal'].map((text, i) => h('th', {scope: 'col', class: i > 1 ? 'right' : null}, text)))),
        h('tbody', {}, rows.map((row) => h('tr', {}, h('td', {}, short(row.a)), h('td', {}, short(row.b)), [row.a_wins, row.b_wins, row.equal].map((n) => h('td', {class: 'right'}, n))))))));
}
