// The view "Teach": a lesson is put together, looked at and begun; then its run is shown, and what came of it decided.
import {call} from '/api.js';
import {h, icon, speak} from '/dom.js';
import {forecastView, masksView} from '/foresee.js';
import {resultView, runView} from '/learning.js';
import {lacking, lessonBody, lessonForm, lessonName} from '/lesson.js';
import {loadModels, short} from '/stack.js';
import {begin, busy, follow, onTraining, training, undecided} from '/training.js';

export function teachView() {
    const box = h('div', {class: 'page teach'});
    let shown = null, view = null;
    // One phase of one run is one view: what changes within it is told to it.
    const draw = () => {
        if (shown !== null && !box.isConnected) return false;
        const next = phase();
        if (next === shown) view?.update?.(training.state);
        else {
            const had = box.contains(document.activeElement) || (shown !== null && document.activeElement === document.body);
            if (shown !== null) settled();
            [shown, view] = [next, views[next.split(' ')[0]]()];
            box.replaceChildren(view.element);
            if (had) box.querySelector('h3[tabindex]')?.focus();
        }
        return true;
    };
    onTraining(draw);
    draw();
    follow();
    return box;
}

function phase() {
    const {state, served} = training;
    if (!served) return 'unserved';
    if (!state) return 'waiting';
    if (undecided()) return `result ${state.id}`;
    if (['preparing', 'training'].includes(state.state)) return `run ${state.id}`;
    if (busy() || (['stopped', 'failed'].includes(state.state) && state.resumable)) return `run ${state.id} ${state.state}`;
    return `form ${state.id ?? ''} ${state.state} ${state.decided ?? ''}`;
}

// A run ended or was decided on: there may be an adapter more, or less.
function settled() {
    if (busy()) return;
    loadModels().catch(() => {});
    if (training.state) speak({done: 'The adapter has been taught', stopped: 'It stands still', failed: 'It failed'}[training.state.state] ?? '');
}

const views = {
    unserved: () => ({element: h('p', {class: 'lead'}, 'This server does not teach. ', training.why)}),
    waiting: () => {
        const element = h('p', {class: 'faint'}, 'Asking the server…');
        return {element, update() { element.textContent = training.lost || 'Asking the server…'; }};
    },
    run: () => runView(training.state),
    result: () => resultView(training.state),
    form: () => ({element: formView(training.state)}),
};

// ---- the form ----

function formView(last) {
    const failed = h('div', {class: 'failed', role: 'alert', hidden: true});
    const foreseen = h('div', {class: 'foreseen-box', 'aria-live': 'off'});
    const ways = {};
    const tell = (text) => {
        failed.hidden = !text;
        failed.textContent = text;
        if (text) failed.scrollIntoView({block: 'nearest'});
    };
    const lesson = lessonForm(() => { foreseen.replaceChildren(); foreseen.asked = null; tell(''); });     // what was foreseen was of another lesson
    const show = async (button, path, build) => {
        const mine = foreseen.asked = {};
        await ask(button, tell, async () => {
            const data = await call('POST', path, lessonBody());
            if (foreseen.asked !== mine) return;        // the lesson changed meanwhile
            foreseen.replaceChildren(build(data));
            foreseen.querySelector('h3').focus();
        });
    };
    const forecast = () => show(ways.forecast, '/nm/teach/forecast', (data) => forecastView(data, (setting) => { lesson.apply(setting); forecast(); }));
    ways.masks = h('button', {type: 'button', onclick: () => show(ways.masks, '/nm/teach/preview', masksView)}, icon('eye'), 'See what is trained');
    ways.forecast = h('button', {type: 'button', onclick: forecast}, icon('clock'), 'Forecast');
    ways.go = h('button', {class: 'primary'}, icon('right'), 'Go');
    const form = h('form', {onsubmit: (e) => { e.preventDefault(); ask(ways.go, tell, () => begin({...lessonBody(), name: lessonName()})); }}, lesson.element,
        h('div', {class: 'row ways'}, ways.masks, ways.forecast, ways.go), failed, foreseen);
    const lead = 'A model learns from examples, on this machine and behind its other work. What it learns becomes an adapter; the model itself stays as it is.';
    return h('div', {class: 'put-together'}, before(last), h('p', {class: 'lead'}, lead), form);
}

// What lacks is told; what is asked shows on its button until it is answered.
async function ask(button, tell, does) {
    const why = lacking(button.classList.contains('primary'));
    tell(why);
    if (why || button.getAttribute('aria-busy') === 'true') return;
    button.setAttribute('aria-busy', 'true');
    try { await does(); } catch (e) { tell(e.message); } finally { button.removeAttribute('aria-busy'); }
}

// How the last one ended, above the form of the next.
function before(last) {
    const name = last.result?.adapter ?? last.name;
    if (last.state === 'failed') return h('p', {class: 'failed', role: 'alert'}, `${name ?? 'The last lesson'} could not be taught. ${last.error ?? ''}`);
    if (!last.decided || !name) return null;
    const kept = ` is kept, on ${short(last.model)}: choose it in the settings of a conversation.`;
    return h('p', {class: 'last'}, h('strong', {}, name), last.decided === 'kept' ? kept : ' was discarded.');
}
