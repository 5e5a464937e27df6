// A lesson as it is put together: who learns, from what, under which name and settings. It lives as long as the tab.
import {call} from '/api.js';
import {confirmed, fold, h, icon, iconButton, note, speak} from '/dom.js';
import {counts} from '/store.js';
import {chooser, firstModel, models} from '/stack.js';
import {isolated, several, size} from '/words.js';

const KEPT = 'lesson';
const KINDS = ['.jsonl', '.json', '.csv', '.txt', '.gz'];
const MOST = 64e6;      // bytes of a file, as the server takes it
const FIELDS = [
    ['rank', 'Rank', 1, 16384, 1, '16', 'How much the adapter can hold: more is larger and slower.'],
    ['lr', 'Learning rate', 1e-12, 1000, 'any', 'by width', 'The largest step. Empty is by the width of the model.'],
    ['batch', 'Sequences of a step', 1, 65536, 1, '8', 'More are steadier and fewer steps.'],
    ['max_length', 'Longest sequence', 8, 1048576, 1, '512', 'In tokens; longer ones are cut, and counted.'],
];
const TIMES = [['advised', 'As advised', 'three times over the data, and more where there is little'],
    ['epochs', 'Times over the data', ''], ['minutes', 'At most so many minutes', '']];

const lesson = {model: '', files: [], chats: [], settings: {}, name: '', named: false, ...remembered()};
let files = [];         // what the server has

function remembered() { try { return JSON.parse(sessionStorage.getItem(KEPT) ?? '{}'); } catch { return {}; } }
function remember() { try { sessionStorage.setItem(KEPT, JSON.stringify(lesson)); } catch { /* forbidden */ } }

// As the server takes it.
export function lessonBody() {
    const sources = [...lesson.files.map((file) => ({file})), ...lesson.chats.map((chats) => ({chats}))];
    return {model: lesson.model || firstModel(), sources, settings: {...lesson.settings}};
}

export const lessonName = () => lesson.name.trim();

// What lacks before anything can be asked with it, in words; or nothing.
export function lacking(named) {
    if (!models.bases.length) return 'No model is served that could learn.';
    if (!lesson.files.length && !lesson.chats.length) return 'Choose what is taught: drop a file, or tick some of your feedback.';
    return named && !/^[A-Za-z0-9][\w.-]*$/.test(lessonName()) ? 'Give the adapter a name: letters, digits and . _ -, the first a letter or digit.' : '';
}

// The form's parts. changed() after each change; {element, apply(setting)}.
export function lessonForm(changed) {
    const touched = () => { remember(); suggest(); changed(); };
    const name = h('input', {id: 'lesson-name', maxlength: 64, autocomplete: 'off', spellcheck: 'false', oninput: () => {
        Object.assign(lesson, {name: name.value, named: name.value !== ''});
        remember();
        changed();
    }});
    const suggest = () => {
        if (!lesson.named) lesson.name = suggestion();
        if (name.value !== lesson.name) name.value = lesson.name;
    };
    const settings = h('div', {class: 'lesson-settings'});
    const drawSettings = () => settings.replaceChildren(...settingFields(touched, drawSettings));
    const who = chooser('Who learns', lesson.model, (text) => { lesson.model = text; touched(); });
    const element = h('div', {class: 'lesson'}, part('Who learns', who), part('From what', sources(touched)),
        part('What it is called', h('label', {class: 'field', htmlFor: 'lesson-name'}, 'Name of the adapter', name)), settings);
    drawSettings();
    suggest();
    return {element, apply(setting) {
        Object.assign(lesson.settings, setting);
        if (setting.epochs) delete lesson.settings.minutes;
        drawSettings();
        touched();
    }};
}

function part(title, ...content) { return h('section', {}, h('h3', {}, title), content); }

// After the first file, or the feedback; never a name that is taken.
function suggestion() {
    const file = files.find((f) => f.file === lesson.files[0]);
    const whence = file ? file.name.replace(/\.(gz|jsonl|json|csv|txt)(?=\.|$)/gi, '') : lesson.chats.length ? 'mine' : '';
    const base = whence.toLowerCase().replace(/[^\w.-]+/g, '-').replace(/^[-._]+|[-.]+$/g, '').slice(0, 40);
    const taken = (name) => models.adapters.some((a) => a.name === name);
    if (!base || !taken(base)) return base;
    for (let i = 2; ; i++) if (!taken(`${base}-${i}`)) return `${base}-${i}`;
}

// ---- sources ----

function sources(touched) {
    const list = h('ul', {class: 'sources'});
    const draw = () => list.replaceChildren(...files.map((file) => fileRow(file, touched, draw)));
    const feedback = h('div', {class: 'sources'});
    const sending = h('p', {class: 'sending faint', role: 'status'});
    load(draw, touched);
    drawFeedback(feedback, touched);
    return [dropZone((given) => take(given, sending, draw, touched)), sending, list, feedback];
}

async function load(draw, touched) {
    try {
        files = (await call('GET', '/nm/teach/files')).files;
    } catch (e) {
        if (e.status !== 404) note(e.message, 'bad');
        return;
    }
    const gone = lesson.files.some((id) => !files.some((f) => f.file === id));
    lesson.files = lesson.files.filter((id) => files.some((f) => f.file === id));
    draw();
    if (gone) touched();
}

function dropZone(take) {
    const input = h('input', {type: 'file', class: 'hidden', id: 'lesson-files', multiple: true, accept: KINDS.join(','), 'aria-describedby': 'lesson-kinds', onchange: () => {
        take([...input.files]);
        input.value = '';
    }});
    const zone = h('div', {class: 'drop'}, input, h('label', {htmlFor: 'lesson-files'}, icon('tray'), h('span', {}, 'Drop files here, or ', h('u', {}, 'choose some'))),
        h('p', {class: 'faint', id: 'lesson-kinds'}, 'Conversations, questions with answers, or plain text: .jsonl, .json, .csv, .txt, and these packed by gzip.'));
    const over = (e, is) => { e.preventDefault(); zone.classList.toggle('over', is); };
    zone.addEventListener('dragover', (e) => over(e, true));
    zone.addEventListener('dragleave', (e) => over(e, false));
    zone.addEventListener('drop', (e) => { over(e, false); take([...e.dataTransfer.files]); });
    return zone;
}

async function take(given, sending, draw, touched) {
    for (const file of given) {
        sending.textContent = `${isolated(file.name)} goes to the server: ${size(file.size)}`;
        try {
            if (file.size > MOST) throw new Error(`${isolated(file.name)} is too large: ${size(file.size)}, and ${size(MOST)} are taken. nomoat tune reads files of any size.`);
            if (!KINDS.some((kind) => file.name.toLowerCase().endsWith(kind))) throw new Error(`${isolated(file.name)} is of no kind that is taught: give ${KINDS.join(', ')}.`);
            const kept = await call('POST', `/nm/teach/files?name=${encodeURIComponent(file.name)}`, file);
            files = [...files.filter((f) => f.file !== kept.file), kept];
            lesson.files = [...new Set([...lesson.files, kept.file])];
            speak(`${file.name} is taken`);
        } catch (e) { note(e.message, 'bad'); }
        sending.textContent = '';
        draw();
        touched();
    }
}

function fileRow(file, touched, draw) {
    const box = h('input', {type: 'checkbox', checked: lesson.files.includes(file.file), onchange: () => {
        lesson.files = lesson.files.filter((id) => id !== file.file);
        if (box.checked) lesson.files.push(file.file);
        touched();
    }});
    return h('li', {}, h('label', {class: 'switch'}, box, h('span', {class: 'name'}, file.name), h('span', {class: 'faint'}, size(file.bytes))),
        iconButton('trash', `Remove ${file.name}`, () => removeFile(file, touched, draw)));
}

async function removeFile(file, touched, draw) {
    if (!await confirmed('Remove this file?', `The server forgets its copy of “${isolated(file.name)}”; yours stays where it is.`, 'Remove')) return;
    try {
        await call('DELETE', `/nm/teach/files/${file.file}`);
        files = files.filter((f) => f.file !== file.file);
        lesson.files = lesson.files.filter((id) => id !== file.file);
        draw();
        touched();
        document.getElementById('lesson-files')?.focus();
    } catch (e) { note(e.message, 'bad'); }
}

async function drawFeedback(box, touched) {
    const n = await counts().catch(() => null);
    const row = (what, label) => {
        const none = !n?.[what];
        if (none) lesson.chats = lesson.chats.filter((w) => w !== what);
        const check = h('input', {type: 'checkbox', disabled: none, checked: lesson.chats.includes(what), onchange: () => {
            lesson.chats = lesson.chats.filter((w) => w !== what);
            if (check.checked) lesson.chats.push(what);
            touched();
        }});
        return h('label', {class: 'switch', 'data-chats': what}, check, h('span', {}, `${label} `, h('span', {class: 'count'}, `(${n?.[what] ?? 0})`)));
    };
    const before = lesson.chats.length;
    box.replaceChildren(row('corrections', 'Corrected answers'), row('liked', 'Liked answers'));
    if (lesson.chats.length !== before) touched();
}

// ---- settings ----

function settingFields(touched, draw) {
    const {settings} = lesson;
    const fields = new Set(['epochs', 'minutes', ...FIELDS.map(([name]) => name)]);
    const more = Object.keys(settings).filter((name) => !fields.has(name));
    const set = Object.keys(settings).length;
    return [fold('Settings', set ? `${several(set, 'choice')} of yours` : 'as advised', {open: settingFields.open, ontoggle: (e) => { settingFields.open = e.target.open; }},
        timeField(touched, draw), h('div', {class: 'numbers'}, FIELDS.map((row) => numberField(row, touched)))),
    more.length ? h('ul', {class: 'chips', 'aria-label': 'Other settings'}, more.map((name) => chip(name, touched, draw))) : null].filter(Boolean);
}

function number(name, [least, most, by], touched, more) {
    const input = h('input', {type: 'number', min: least, max: most, step: by, inputmode: 'decimal', value: lesson.settings[name] ?? '', ...more, oninput: () => {
        const value = input.value === '' ? null : Number(input.value);
        const good = value === null || (value >= least && value <= most);
        input.setAttribute('aria-invalid', String(!good || input.validity.badInput));
        if (value === null) delete lesson.settings[name];
        else if (good) lesson.settings[name] = value;
        touched();
    }});
    return input;
}

function numberField([name, label, least, most, by, usual, help], touched) {
    return h('label', {title: help}, h('span', {}, label), number(name, [least, most, by], touched, {placeholder: usual, title: help, 'aria-description': help}),
        h('span', {class: 'help faint', 'aria-hidden': 'true'}, help));
}

function timeField(touched, draw) {
    const {settings} = lesson;
    const chosen = settings.minutes != null ? 'minutes' : settings.epochs != null ? 'epochs' : 'advised';
    const choose = (kind) => {
        delete settings.minutes;
        delete settings.epochs;
        if (kind === 'minutes') settings.minutes = 30;
        if (kind === 'epochs') settings.epochs = 3;
        draw();
        touched();
        document.querySelector(`[name=lesson-time][value=${kind}]`)?.focus();
    };
    return h('fieldset', {class: 'times'}, h('legend', {}, 'How long'), TIMES.map(([kind, label, help]) => h('div', {class: 'row'},
        h('label', {class: 'switch'}, h('input', {type: 'radio', name: 'lesson-time', value: kind, checked: chosen === kind, onchange: () => choose(kind)}),
            h('span', {}, label, help ? h('span', {class: 'faint'}, ` ${help}`) : null)),
        kind !== 'advised' && chosen === kind ? number(kind, kind === 'epochs' ? [0.01, 1e6, 'any'] : [1, 1e5, 'any'], touched, {'aria-label': label}) : null)));
}

function chip(name, touched, draw) {
    const value = lesson.settings[name];
    const said = `${name.replaceAll('_', ' ')}${value === true ? '' : ` ${value}`}`;
    return h('li', {}, said, iconButton('close', `Without ${said}`, () => { delete lesson.settings[name]; draw(); touched(); }));
}
