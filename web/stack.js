// Which model answers, with which adapters and how strongly: the names of /v1/models, a stack as text ("BASE+ADAPTER=0.8"), and the chooser with its sliders.
import {call} from '/api.js';
import {h} from '/dom.js';

export const models = {list: [], bases: [], stacks: [], adapters: []};

export async function loadModels() {
    models.list = (await call('GET', '/v1/models')).data ?? [];
    const described = models.list.map(describe);
    models.bases = described.filter((m) => m.kind !== 'adapter' && m.kind !== 'stack');
    models.stacks = described.filter((m) => m.kind === 'stack');
    models.adapters = described.filter((m) => m.kind === 'adapter');
    return models.bases;
}

// One entry, whatever else it has: id, and where told kind, base and adapters.
function describe(m) {
    const plus = m.id.lastIndexOf('+');
    const kind = m.kind ?? (plus > 0 ? 'adapter' : 'model');
    const name = kind === 'adapter' ? m.adapters?.[0]?.name ?? m.id.slice(plus + 1) : m.id;
    return {id: m.id, kind, name, first: Boolean(m.default), base: m.base ?? (plus > 0 ? m.id.slice(0, plus) : m.id), scale: m.adapters?.[0]?.scale ?? 1};
}

// "BASE+A=0.8+B" to {base, adapters: [{name, scale}]}. A base may have '+' in its name: the longest that is served wins.
export function parse(text) {
    const known = models.bases.map((m) => m.id).filter((id) => text === id || text.startsWith(`${id}+`)).sort((a, b) => b.length - a.length)[0];
    const base = known ?? text.split('+')[0];
    const adapters = text.slice(base.length).split('+').filter(Boolean).map((part) => {
        const m = /^(.*)=(-?[\d.]+)$/.exec(part);
        return m ? {name: m[1], scale: Number(m[2])} : {name: part, scale: 1};
    });
    return {base, adapters};
}

export function print({base, adapters}) { return base + adapters.map(({name, scale}) => `+${name}${scale === 1 ? '' : `=${Number(scale.toFixed(2))}`}`).join(''); }

// A name short enough to read: without folders and ".gguf".
export function short(text) { return text.replace(/[^+=]*\//g, '').replace(/\.gguf(?=$|\+)/g, ''); }

// What answers where nothing was chosen: the server's default, where it tells it.
export function firstModel() { return ([...models.stacks, ...models.bases].find((m) => m.first) ?? models.bases[0])?.id ?? ''; }

// The chooser. value: the stack's text; changed(text) after each change.
export function chooser(label, value, changed) {
    const stack = parse(value || firstModel());
    const list = h('div', {class: 'adapters'});
    const tell = () => changed(print(stack));
    const select = h('select', {'aria-label': label, onchange: () => {
        const chosen = parse(select.value);
        stack.base = select.value = chosen.base;
        stack.adapters = chosen.adapters.length ? chosen.adapters : stack.adapters.filter(({name}) => fitting(stack.base).some((a) => a.name === name));
        draw();
        tell();
    }}, options(stack.base));
    const draw = () => list.replaceChildren(...rows(stack, label, tell));
    draw();
    return h('div', {class: 'stack'}, select, list);
}

function options(base) {
    const known = models.bases.some((m) => m.id === base);
    const option = (m) => h('option', {value: m.id, selected: m.id === base}, short(m.id));
    const group = (name, list) => (list.length ? [h('optgroup', {label: name}, list.map(option))] : []);
    const personas = models.bases.filter((m) => m.kind === 'persona');
    return [known || !base ? null : h('option', {value: base, selected: true}, `${short(base)} (not served)`),
        ...group('Models', models.bases.filter((m) => m.kind !== 'persona')), ...group('Stacks', models.stacks), ...group('Saved', personas)];
}

// A name as its makers and those who pack it have it in common: "HuggingFaceTB/SmolLM2-135M-Instruct" is "smollm2-135m-instruct-q4_1.gguf".
const common = (name) => short(name).toLowerCase().replace(/[-_.](i?q\d\w*|[bf](f|p)?(16|32))$/, '').replace(/[^a-z0-9]/g, '');

// Adapters that say they belong to this base, and those that say nothing, or of a base that is not served.
export function fitting(base) {
    const known = (a) => models.bases.some((m) => common(m.id) === common(a.base));
    const fits = models.adapters.filter((a) => !a.base || common(a.base) === common(base) || !known(a));
    return fits.filter((a, i) => fits.findIndex((b) => b.name === a.name) === i);
}

function rows(stack, label, tell) {
    const known = fitting(stack.base);
    const all = [...known, ...stack.adapters.filter(({name}) => !known.some((a) => a.name === name))];
    if (!all.length) return [h('p', {class: 'faint'}, 'No adapter fits this model yet.')];
    return all.map(({name, scale}) => adapterRow(stack, name, scale, label, tell));
}

function adapterRow(stack, name, usual, label, tell) {
    let entry = stack.adapters.find((a) => a.name === name);
    const output = h('output', {});
    const range = h('input', {type: 'range', min: 0, max: 2, step: 0.05, 'aria-label': `Strength of ${name}`, oninput: () => {
        entry.scale = Number(range.value);
        show();
        tell();
    }});
    const box = h('input', {type: 'checkbox', checked: Boolean(entry), onchange: () => {
        if (box.checked) stack.adapters.push(entry = {name, scale: usual ?? 1});
        else { stack.adapters = stack.adapters.filter((a) => a.name !== name); entry = null; }
        show();
        tell();
    }});
    const show = () => {
        range.disabled = !entry;
        range.value = entry?.scale ?? usual ?? 1;
        output.textContent = entry ? entry.scale.toFixed(2) : 'off';
    };
    show();
    return h('div', {class: 'adapter'}, h('label', {}, box, h('span', {title: name}, short(name))), output, range);
}
