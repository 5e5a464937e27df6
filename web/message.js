// One message as it is shown: its text, thinking, tokens with their probabilities, and what can be done with it. What it does is told to `does`:
// {retry, edit, correct, rate, turn}, functions of the message.
import {copy, grow, h, iconButton} from '/dom.js';
import {canExplain, effectView} from '/effect.js';
import {render} from '/markdown.js';
import {path, plain, siblings} from '/store.js';
import {short} from '/stack.js';
import {readView, tokenView} from '/tokens.js';

export function messageView(chat, message, does) {
    const mine = message.role === 'user';
    const body = h('div', {class: 'body'});
    const element = h('li', {class: `message ${mine ? 'user' : 'assistant'}`, 'data-id': message.id}, h('h3', {class: mine ? 'hidden' : 'who'}, mine ? 'You' : who(message)));
    const view = {element, body, message, thinking: null, shows: 'text'};    // or 'tokens', 'effect'
    view.actions = h('div', {class: 'actions', role: 'group', 'aria-label': mine ? 'What to do with your message' : 'What to do with the answer'});
    view.failed = h('div', {class: 'failed', role: 'alert', hidden: true});
    element.append(body, view.failed, view.actions);
    view.update = (running) => update(chat, view, running);
    view.finish = () => { view.update(false); view.actions.replaceChildren(...actions(chat, view, does)); };
    view.edit = (label, done) => editor(view, label, done);
    return view;
}

function who(message) { return message.corrects ? 'Corrected by you' : short(message.model ?? '') || 'Answer'; }

function update(chat, view, running) {
    const {message, body, element} = view;
    element.classList.toggle('running', running);
    element.setAttribute('aria-busy', String(running));
    if (message.role === 'user') { body.textContent = message.content; return; }
    think(view, running);
    if (view.shows !== 'text') {
        body.shown = null;
        body.replaceChildren(view.shows === 'tokens' ? tokensOf(chat, view) : effectOf(chat, view));
        return;
    }
    if (!body.shown) body.replaceChildren();
    render(body, message.content);
    view.failed.hidden = !message.extra?.failed;
    view.failed.textContent = message.extra?.failed ?? '';
}

// As noted while it was written; else as the model reads it now.
function tokensOf(chat, view) {
    const {message} = view;
    return message.extra?.tokens?.length ? tokenView(message.extra.tokens) : readView(message.model, plain(chat, path(chat, message.id)));
}

function effectOf(chat, view) { return effectView(view.message.model, plain(chat, path(chat, view.message.id)), view.looked ??= {}); }

// What the model thought, folded; while it thinks the summary says so.
function think(view, running) {
    const {message} = view;
    if (!message.reasoning) return;
    if (!view.thinking) {
        const text = h('div', {class: 'thought'});
        const summary = h('summary', {});
        view.thinking = {text, summary, box: h('details', {class: 'thinking', 'aria-label': 'Thoughts'}, summary, text)};
        view.body.before(view.thinking.box);
    }
    const busy = running && !message.content;
    view.thinking.summary.textContent = busy ? 'Thinking…' : 'Thoughts';
    view.thinking.box.classList.toggle('busy', busy);
    render(view.thinking.text, message.reasoning);
}

function actions(chat, view, does) {
    const {message} = view;
    const copyButton = iconButton('copy', 'Copy', () => copy(message.content, copyButton));
    const list = [...branches(chat, message, does), copyButton];
    if (message.role === 'user') return [...list, iconButton('edit', 'Edit and ask anew', () => does.edit(view))];
    list.push(iconButton('retry', 'Answer anew', () => does.retry(message)));
    const told = figures(message);
    const said = told ? h('span', {class: 'figures'}, told) : null;
    if (!message.content) return [...list, said].filter((item) => item && item !== copyButton);
    list.push(iconButton('edit', 'Correct this answer', () => does.correct(view)), ...ratings(message, does));
    if (message.model) list.push(showButton(view, 'tokens', 'bars', 'Show probabilities of tokens'));
    if (message.model && canExplain(message.model)) list.push(showButton(view, 'effect', 'lens', 'What the adapter changed'));
    return said ? [...list, said] : list;
}

function branches(chat, message, does) {
    const all = siblings(chat, message);
    if (all.length < 2) return [];
    const at = all.indexOf(message);
    return [h('span', {class: 'branches', role: 'group', 'aria-label': 'Branches'},
        iconButton('left', 'Previous branch', () => does.turn(all[at - 1]), {disabled: at === 0}), h('span', {}, `${at + 1}/${all.length}`),
        iconButton('right', 'Next branch', () => does.turn(all[at + 1]), {disabled: at === all.length - 1}))];
}

function ratings(message, does) {
    const button = (value, label) => iconButton('thumb', label, (e) => {
        does.rate(message, message.rating === value ? 0 : value);
        for (const b of e.currentTarget.parentElement.querySelectorAll('[data-rating]')) b.setAttribute('aria-pressed', String(Number(b.dataset.rating) === message.rating));
    }, {'data-rating': value, 'aria-pressed': String(message.rating === value), class: `icon-button ${value < 0 ? 'turned' : ''}`});
    return [button(1, 'A good answer'), button(-1, 'A bad answer')];
}

// The body shows something else than the text, until pressed again.
function showButton(view, what, image, label) {
    return iconButton(image, label, () => {
        view.shows = view.shows === what ? 'text' : what;
        for (const b of view.actions.querySelectorAll('[data-shows]')) b.setAttribute('aria-pressed', String(b.dataset.shows === view.shows));
        view.body.replaceChildren();
        view.body.shown = null;
        view.update(false);
    }, {'data-shows': what, 'aria-pressed': String(view.shows === what)});
}

function figures(message) {
    const {seconds, usage, finish} = message.extra ?? {};
    const parts = [];
    if (usage?.completion_tokens) parts.push(`${usage.completion_tokens} tokens`);
    if (usage?.completion_tokens && seconds > 0.05) parts.push(`${(usage.completion_tokens / seconds).toFixed(1)}/s`);
    if (finish === 'length') parts.push('cut at the length asked for');
    if (finish === 'stopped') parts.push('stopped');
    if (!message.content && finish !== 'error') parts.push('no text');
    return parts.join(' · ');
}

// The text becomes a text area; done(text) when it is to be kept.
function editor(view, label, done) {
    const area = h('textarea', {'aria-label': label, rows: 2, oninput: () => grow(area)});
    area.value = view.message.content;
    const close = () => { box.remove(); view.body.hidden = view.actions.hidden = false; view.actions.querySelector('.icon-edit')?.parentElement.focus(); };
    const keep = () => { const text = area.value.trim(); close(); if (text && text !== view.message.content) done(text); };
    const box = h('form', {class: 'editor', onsubmit: (e) => { e.preventDefault(); keep(); }, onkeydown: (e) => {
        if (e.key === 'Escape') { e.stopPropagation(); close(); }
        if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) keep();
    }}, area, h('div', {class: 'row end'}, h('button', {type: 'button', onclick: close}, 'Cancel'), h('button', {class: 'primary'}, view.message.role === 'user' ? 'Ask anew' : 'Keep the correction')));
    view.body.hidden = view.actions.hidden = true;
    view.body.before(box);
    area.focus();
    grow(area);
}

