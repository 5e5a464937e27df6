// A run as it is shown: while it goes on, where it stands still, and what came of it.
import {compareWith, sideBySide} from '/compare.js';
import {confirmed, fold, h, icon, note, speak} from '/dom.js';
import {curveView, points} from '/curve.js';
import {facts, lines} from '/foresee.js';
import {render} from '/markdown.js';
import {loadModels, parse, print, short} from '/stack.js';
import {command, training} from '/training.js';
import {count, several, span, times} from '/words.js';

const SAID = {preparing: 'is being prepared', training: 'is learning', stopping: 'is about to stop', stopped: 'stands still', failed: 'could not be taught',
    done: 'has been taught'};
const PREPARED = 'The data is read, and what the model must not forget is noted. This takes a while.';
const figure = (n, digits = 3) => (Number.isFinite(n) ? n.toFixed(digits) : null);

export function taught(state) {
    const stack = parse(state.model);
    return print({...stack, adapters: [...stack.adapters, {name: state.result?.adapter ?? state.name, scale: 1}]});
}

// {element, update(state)}: one run as long as the same can be done with it.
export function runView(state) {
    const bar = h('progress', {'aria-label': `How far ${state.name} has come`});
    const where = h('p', {class: 'where'});
    const numbers = h('div');
    const curve = curveView();
    const looks = h('div');
    const told = h('div');
    const lost = h('p', {class: 'failed', role: 'alert', hidden: true});
    const head = title(state);
    const element = h('section', {class: 'run', 'aria-label': `Teaching ${state.name}`}, head,
        state.state === 'failed' ? h('p', {class: 'failed', role: 'alert'}, state.error || 'The server does not say why.') : null,
        lost, bar, where, numbers, curve.element, looks, told, buttons(state));
    const update = (next) => {
        head.replaceChildren(...title(next).childNodes);
        progress(bar, where, next);
        numbers.replaceChildren(figures(next));
        if (points(next).length || next.state === 'training') curve.draw(next);
        curve.element.hidden = !points(next).length && next.state !== 'training';
        keepOpen(looks, looksView(next));
        keepOpen(told, notesView(next));
        lost.hidden = !training.lost;
        lost.textContent = training.lost;
    };
    update(state);
    return {element, update};
}

function title(state) {
    return h('h3', {tabindex: -1}, h('strong', {}, state.name), ` ${SAID[state.state] ?? state.state}`, h('span', {class: 'faint'}, ` on ${short(state.model)}`));
}

// What is drawn anew stays as open as it was.
function keepOpen(box, fold) {
    const before = box.firstChild;
    if (before && fold) fold.open = before.open;
    if (before && document.activeElement === before.firstChild && fold) before.replaceChildren(before.firstChild, ...[...fold.childNodes].slice(1));
    else box.replaceChildren(...(fold ? [fold] : []));
}

function progress(bar, where, state) {
    const known = state.steps > 0 && state.state !== 'preparing';
    if (known) { bar.max = state.steps; bar.value = state.step; } else bar.removeAttribute('value');
    bar.hidden = state.state === 'failed' && !known;
    const left = state.state === 'training' && state.seconds_left > 0 ? `, ${span(state.seconds_left)} left` : '';
    const epochs = state.epochs ? ` · ${times(state.epochs)} over the data` : '';
    where.textContent = known ? `Step ${count(state.step)} of ${count(state.steps)}${left}${epochs}` : state.state === 'preparing' ? PREPARED : '';
}

function figures(state) {
    const look = state.looks?.at(-1);
    return facts([['Loss, mean of late', figure(state.loss)], ['At first', figure(state.first_loss)], ['Validation', figure(look?.validation)], ['Forgetting', figure(look?.forgetting, 4)],
        ['Speed', state.tokens_per_second > 0 ? `${count(state.tokens_per_second)} tokens/s` : null], ['So far', state.seconds > 0 ? span(state.seconds) : null]]);
}

function looksView(state) {
    if (!state.looks?.length) return null;
    const row = (cell, list) => h('tr', {}, list.map((text) => h(cell, {scope: cell === 'th' ? 'col' : null, class: 'right'}, text)));
    const rows = state.looks.map((l) => row('td', [count(l.step), figure(l.validation) ?? '–', figure(l.forgetting, 4) ?? '–']));
    return fold('Validation and forgetting', '', {}, h('div', {class: 'table'}, h('table', {}, h('thead', {}, row('th', ['Step', 'Validation', 'Forgetting'])), h('tbody', {}, rows))));
}

function notesView(state) {
    if (!state.notes?.length) return null;
    return fold('Notes', state.notes.at(-1), {}, lines(state.notes));
}

// ---- what can be done with it ----

// What the server says against it is told; the button waits meanwhile.
async function act(button, name, said) {
    button.disabled = true;
    try {
        await command(name);
        speak(said);
        return true;
    } catch (e) {
        note(e.message, 'bad');
        button.disabled = false;
        return false;
    }
}

function buttons(state) {
    const stop = h('button', {type: 'button', onclick: () => act(stop, 'stop', 'It stops')}, icon('stop'), 'Stop');
    const on = h('button', {type: 'button', class: 'primary', onclick: () => act(on, 'resume', 'It goes on')}, icon('right'), 'Go on');
    const away = h('button', {type: 'button', onclick: () => discard(away, state)}, icon('trash'), 'Discard');
    const list = {preparing: [stop], training: [stop], stopping: [h('button', {type: 'button', disabled: true}, icon('stop'), 'Stopping')],
        stopped: [state.resumable ? on : null, away], failed: [state.resumable ? on : null, state.resumable ? away : null]}[state.state] ?? [];
    return h('div', {class: 'row'}, list.filter(Boolean));
}

async function discard(button, state) {
    const [title, text] = state.state === 'done' ? ['Discard this adapter?', `“${state.result?.adapter ?? state.name}” goes away from the store, and cannot be brought back.`] :
        ['Discard this run?', `What “${state.name}” has learnt so far goes away.`];
    const sure = await confirmed(title, text, 'Discard');
    if (sure && await act(button, 'discard', 'Discarded')) await loadModels().catch(() => {});
}

async function keep(button) {
    if (await act(button, 'keep', 'Kept')) await loadModels().catch(() => {});
}

// ---- what came of it ----

export function resultView(state) {
    const {result} = state;
    const name = taught(state);
    const good = h('button', {type: 'button', class: 'primary', onclick: () => keep(good)}, icon('check'), 'Keep');
    const away = h('button', {type: 'button', onclick: () => discard(away, state)}, icon('trash'), 'Discard');
    const curve = curveView();
    const element = h('section', {class: 'run', 'aria-label': `What came of ${state.name}`}, title(state),
        h('p', {class: 'faint'}, [result.ended, result.seconds ? `after ${span(result.seconds)}` : ''].filter(Boolean).join(', ')),
        facts([['Loss', result.last_loss != null ? `${figure(result.first_loss) ?? '?'} → ${figure(result.last_loss)}` : null], ['Validation', figure(result.val_loss)],
            ['Forgetting', figure(result.forgetting, 4)], ['Kept step', result.step ? count(result.step) : null]]),
        h('div', {class: 'row decide', role: 'group', 'aria-label': 'What becomes of it'}, good, away,
            h('span', {class: 'faint'}, 'It can be used already, and stays until you discard it.')),
        samplesView(result.samples), asking(state.model, name), curve.element, notesView(state));
    curve.element.hidden = !points(state).length;
    curve.draw(state);
    return {element, update() {}};
}

function samplesView(samples) {
    if (!samples?.length) return null;
    const triple = (s) => h('div', {class: 'triple'}, answerBox('Before', s.before), answerBox('After', s.after), s.reference ? answerBox('In the data', s.reference) : null);
    return h('div', {class: 'samples'}, h('h4', {}, `Before and after: ${several(samples.length, 'question')} of the data`),
        questions(samples).map((question, i) => fold(h('span', {class: 'prompt', title: samples[i].prompt}, question), samples[i].where, {open: i < 2}, triple(samples[i]))));
}

// Prompts without what the template puts round them: marks, and the lines with which all of them begin and end.
function questions(samples) {
    const all = samples.map((s) => s.prompt.split(/<\|[^|<>]*\|>|<\/?\w+>|\[\/?INST\]|\n/).map((line) => line.trim()).filter(Boolean));
    const shared = (at) => all.every((list) => list.length > 1 && list.at(at) === all[0].at(at));
    while (all.length > 1 && shared(0)) for (const list of all) list.shift();
    while (shared(-1)) for (const list of all) list.pop();
    return all.map((list, i) => (all.length > 1 ? list.join(' ') : list.at(-1)) || samples[i].prompt);
}

function answerBox(label, text) {
    const body = h('div', {class: 'body'});
    render(body, text || '(nothing)');
    return h('article', {'aria-label': label}, h('h5', {}, label), body);
}

function asking(base, name) {
    return h('div', {class: 'asking'}, h('h4', {}, 'Compare with the base'), sideBySide([{label: 'Without', model: base}, {label: 'With', model: name}]),
        h('p', {}, h('button', {type: 'button', onclick: () => compareWith(name, base)}, icon('pair'), 'Compare blindly, and vote')));
}
