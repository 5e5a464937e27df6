// The settings of a conversation: who answers (a stack, a persona), the system prompt, sampling, thinking, probabilities.
import {app, drawHeader} from '/app.js';
import {asked, confirmed, grow, h, icon, iconButton, note, redraw} from '/dom.js';
import {deletePersona, loadPersonas, saveChat, savePersona, store} from '/store.js';
import {chooser, firstModel, loadModels} from '/stack.js';

const NUMBERS = [
    ['temperature', 'Temperature', 0, 5, 0.05, 'Higher is more varied, 0 is always the likeliest token.'],
    ['top_p', 'Top p', 0, 1, 0.01, 'Only the likeliest tokens that together have this probability.'],
    ['top_k', 'Top k', 0, 100000, 1, 'Only so many of the likeliest tokens; 0 is all.'],
    ['min_p', 'Min p', 0, 1, 0.01, 'Only tokens at least this likely beside the likeliest.'],
    ['presence_penalty', 'Presence penalty', -2, 2, 0.1, 'Above 0, what was said already becomes less likely.'],
    ['max_tokens', 'Longest answer', 1, 1000000, 1, 'In tokens.'],
    ['seed', 'Seed', 0, 9007199254740991, 1, 'The same seed gives the same answer.'],
];

export function drawPanel() {
    const panel = document.getElementById('panel');
    const {chat} = app;
    const system = h('textarea', {id: 'system', rows: 3, placeholder: 'What the model should know or be', oninput: () => { chat.system = system.value; grow(system); changed(); }});
    system.value = chat.system;
    redraw(panel,
        h('div', {class: 'panel-head'}, h('h2', {}, 'Settings'), iconButton('close', 'Close the settings', () => app.showPanel(false))),
        personas(chat),
        section('Model and adapters', chooser('Model', chat.model, (text) => { chat.model = text; changed(); drawHeader(); })),
        section('System prompt', h('label', {class: 'hidden', htmlFor: 'system'}, 'System prompt'), system),
        section('Sampling', h('p', {class: 'faint'}, 'Empty is what the model’s maker advises.'), h('div', {class: 'numbers'}, NUMBERS.map((row) => numberField(chat, row)))),
        section('Thinking', thinkField(chat)),
        section('Probabilities', switchField(chat)));
    grow(system);
}

// Settings are remembered for the next conversation, and stored with this one once it has a message.
function changed() {
    const {chat} = app;
    try { localStorage.setItem('last', JSON.stringify({model: chat.model, system: chat.system, settings: chat.settings, persona: chat.persona})); } catch { /* forbidden */ }
    chat.updated = Date.now();      // newer than what another tab stored: it is not read anew before this is stored
    clearTimeout(changed.timer);
    if (chat.messages.size) changed.timer = setTimeout(() => saveChat(chat), 400);
}

export function lastSettings() {
    try {
        const {model = '', system = '', settings = {}, persona = ''} = JSON.parse(localStorage.getItem('last') ?? '{}');
        return {model, system, settings, persona};
    } catch { return {}; }
}

function section(title, ...content) { return h('section', {}, h('h3', {}, title), content); }

function numberField(chat, [name, label, least, most, by, help]) {
    const input = h('input', {type: 'number', min: least, max: most, step: by, inputmode: 'decimal', placeholder: '–', title: help, 'aria-description': help, value: chat.settings[name] ?? '', oninput: () => {
        const value = input.value === '' ? null : Number(input.value);
        input.setAttribute('aria-invalid', String(value !== null && !(value >= least && value <= most)));
        if (value === null) delete chat.settings[name];
        else if (value >= least && value <= most) chat.settings[name] = value;
        changed();
    }});
    return h('label', {title: help}, h('span', {}, label), input, h('span', {class: 'help faint', 'aria-hidden': 'true'}, help));
}

function thinkField(chat) {
    const choices = [['The model’s way', undefined], ['On', true], ['Off', false]];
    return h('div', {class: 'choice', role: 'radiogroup', 'aria-label': 'Thinking'}, choices.map(([label, value]) => h('label', {},
        h('input', {type: 'radio', name: 'think', checked: (chat.settings.think ?? undefined) === value, onchange: () => {
            if (value === undefined) delete chat.settings.think;
            else chat.settings.think = value;
            changed();
        }}), h('span', {}, label))));
}

function switchField(chat) {
    const box = h('input', {type: 'checkbox', role: 'switch', checked: Boolean(chat.settings.probabilities), onchange: () => { chat.settings.probabilities = box.checked; changed(); }});
    return h('label', {class: 'switch'}, box, h('span', {}, 'Note with each answer how sure the model was of each token, and what else it might have said. Where they were not noted, the model reads the answer when you look at them.'));
}

function personas(chat) {
    const select = h('select', {id: 'persona', onchange: () => {
        const persona = store.personas.find((p) => p.name === select.value) ?? {model: '', system: '', settings: {}, name: ''};
        Object.assign(chat, {model: persona.model, system: persona.system, settings: {...persona.settings, probabilities: chat.settings.probabilities}, persona: persona.name});
        changed();
        drawHeader();
        drawPanel();
    }}, h('option', {value: ''}, store.personas.length ? 'None' : 'None yet'), store.personas.map((p) => h('option', {value: p.name, selected: p.name === chat.persona}, p.name)));
    const remove = iconButton('trash', 'Delete this persona', () => removePersona(chat, select.value), {disabled: !store.personas.some((p) => p.name === chat.persona && !p.readonly)});
    return section('Persona', h('div', {class: 'row'}, h('label', {class: 'hidden', htmlFor: 'persona'}, 'Persona'), select, remove),
        h('button', {type: 'button', class: 'quiet', onclick: () => keepPersona(chat)}, icon('plus'), 'Keep these settings as a persona'));
}

async function keepPersona(chat) {
    const name = await asked('Keep as a persona', 'Name: letters, digits and . _ -', chat.persona ?? '', 'Keep');
    if (!name) return;
    const taken = name !== chat.persona && store.personas.some((p) => p.name === name);
    if (taken && !await confirmed('Change the persona?', `There is a “${name}” already: these settings take the place of its own.`, 'Change')) return;
    try {
        await savePersona({name, model: chat.model || firstModel(), system: chat.system, settings: chat.settings});
        chat.persona = name;
        changed();
        await loadModels();
        drawPanel();
    } catch (e) { note(e.message, 'bad'); }
}

async function removePersona(chat, name) {
    if (!name || !await confirmed('Delete the persona?', `“${name}” goes away; conversations stay as they are.`, 'Delete')) return;
    try {
        await deletePersona(name);
        await loadPersonas();
        await loadModels();
        chat.persona = '';
        changed();
        drawPanel();
        document.getElementById('persona').focus();
    } catch (e) { note(e.message, 'bad'); }
}
