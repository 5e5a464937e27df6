// What can be seen of a lesson before it begins: which pieces of the data are trained, and what it will take.
import {fold, h} from '/dom.js';
import {count, several, size, span} from '/words.js';

const PARTS = {training: 'Steps', anchor: 'Anchor', update: 'Optimiser', validation: 'Validation', meter: 'Meter of forgetting', saving: 'Saving', answers: 'Answers before and after', begin: 'Opening'};

export const facts = (pairs) => h('dl', {class: 'facts'}, pairs.filter(([, value]) => value != null).map(([label, value]) => h('div', {}, h('dt', {}, label), h('dd', {}, value))));
export const lines = (list) => (list?.length ? h('ul', {class: 'lines'}, list.map((line) => h('li', {}, line))) : null);

// ---- masks ----

export function masksView(data) {
    const share = data.tokens ? ` (${Math.round(100 * data.trained / data.tokens)} %)` : '';
    return h('section', {class: 'foreseen masks', 'aria-label': 'What is trained'}, h('h3', {tabindex: -1}, 'What is trained'),
        facts([['Rows', count(data.rows)], ['Sequences', count(data.sequences)], ['Held back for validation', count(data.validation)],
            ['Tokens', count(data.tokens)], ['Trained', count(data.trained) + share],
            ['Cut', data.cut ? count(data.cut) : null], ['Left out as bad', data.bad ? count(data.bad) : null]]),
        lines(data.notes), h('p', {class: 'legend'}, 'What is ', h('mark', {class: 'trained'}, 'underlined'), ' is what the model learns to say; the rest it only reads.'),
        data.samples.map((sample, i) => sampleView(sample, i < 2)));
}

// For those who do not see the line below: the pieces' ends are told as well.
function sampleView(sample, open) {
    const told = (text) => h('span', {class: 'hidden'}, text);
    const pieces = sample.pieces.map(({text, trained}) => (trained ? [told(' Trained: '), h('mark', {class: 'trained'}, text), told(' End of trained. ')] : text));
    return fold(sample.where, `${several(sample.tokens, 'token')}, ${count(sample.trained)} trained`, {class: 'sample', open},
        h('pre', {class: 'mask', tabindex: 0, 'aria-label': `Sequence of ${sample.where}`}, pieces));
}

// ---- the forecast ----

// apply(setting): one of the other choices is to hold.
export function forecastView(data, apply) {
    const end = new Date(Date.now() + data.seconds * 1000).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'});
    const later = data.seconds < 12 * 3600 ? `, until about ${end}` : '';
    return h('section', {class: 'foreseen forecast', 'aria-label': 'Forecast'}, h('h3', {tabindex: -1}, 'Forecast'),
        data.fits ? null : h('p', {class: 'failed', role: 'alert'}, `There is too little memory for it: ${size(data.bytes)} are needed beside the model. Choose less below.`),
        h('p', {class: 'headline'}, h('strong', {}, `About ${span(data.seconds)}`), `${later}, and ${size(data.bytes)} of memory beside the model.`),
        h('p', {class: 'faint'}, 'With the machine to itself. Requests go first, so that it takes longer where there are many.'),
        facts([['Steps', count(data.steps)], ['Times over the data', Number(data.epochs.toPrecision(3))], ['Tokens', count(data.tokens)],
            ['Memory in all', size(data.peak_bytes)], ['Arithmetic', data.arithmetic || null]]),
        partsView(data), choicesView(data, apply));
}

function partsView({parts, seconds}) {
    const rows = Object.entries(parts ?? {}).filter(([, s]) => s > 0).sort(([, a], [, b]) => b - a);
    if (!rows.length) return null;
    return fold('Where the time goes', '', {}, h('table', {class: 'parts'}, h('tbody', {}, rows.map(([name, s]) => {
        const bar = h('span', {class: 'bar'});
        bar.style.width = `${Math.max(100 * s / seconds, 0.5)}%`;
        return h('tr', {}, h('th', {scope: 'row'}, PARTS[name] ?? name), h('td', {class: 'right'}, span(s)), h('td', {class: 'bars'}, bar));
    }))));
}

function choicesView({choices, seconds}, apply) {
    if (!choices?.length) return null;
    return h('div', {class: 'choices'}, h('h4', {}, 'Other choices'), h('ul', {}, choices.map((c) => h('li', {}, h('button', {type: 'button', onclick: () => apply(c.setting)},
        h('strong', {}, plainly(c.name)), h('span', {}, span(c.seconds), c.seconds < seconds * 0.98 ? ' ↓' : c.seconds > seconds * 1.02 ? ' ↑' : ''),
        h('span', {}, size(c.bytes)))))));
}

// "--max-length 256" as it is read.
function plainly(name) {
    const [option, ...value] = name.replace(/^--/, '').split(' ');
    return `${option.replaceAll('-', ' ')} ${value.join(' ').replaceAll(',', ', ')}`.trim();
}
