// The view of one conversation: its messages, the composer, and answers under way. An answer goes on when another conversation is looked at.
import {answer} from '/api.js';
import {app, drawHeader, refreshList} from '/app.js';
import {grow, h, icon, iconButton, note, sends, speak, touched} from '/dom.js';
import {messageView} from '/message.js';
import {addMessage, newestLeaf, path, plain, saveChat, touch} from '/store.js';
import {firstModel, short} from '/stack.js';

const runs = new Map();     // by conversation: {message, controller}
const KEEP_EVERY = 2000;    // milliseconds between storing what an answer has so far
const READ_OUT = 600;       // characters: shorter answers are read out to who listens

let views = new Map();      // of the conversation that is shown, by message
let list, composer, area, button, greeting, scroll, down;

export const running = (chat) => runs.has(chat?.id);

export function threadView() {
    list = h('ol', {class: 'messages', 'aria-label': 'Messages'});
    greeting = h('div', {class: 'greeting'});
    area = h('textarea', {id: 'prompt', rows: 1, placeholder: 'Write a message', 'aria-label': 'Message', oninput: () => { app.chat.draft = area.value; grow(area); ready(); }, onkeydown: (e) => {
        if (sends(e)) { e.preventDefault(); submit(); }
    }});
    button = h('button', {class: 'send', onclick: (e) => { if (running(app.chat)) { e.preventDefault(); stop(); } }});
    composer = h('form', {class: 'composer', onsubmit: (e) => { e.preventDefault(); submit(); }}, h('div', {class: 'write'}, area, button),
        h('p', {class: 'hint'}, h('kbd', {}, 'Enter'), ' sends, ', h('kbd', {}, 'Shift Enter'), ' begins a new line, ',
            h('kbd', {}, 'Ctrl /'), ' lists all keys. Models make mistakes.'));
    area.value = app.chat.draft ?? '';
    scroll = h('div', {class: 'scroll', id: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Conversation', onscroll: scrolled}, greeting, list);
    down = iconButton('down', 'To the end', () => { toEnd(); if (!touched()) focusComposer(); }, {class: 'icon-button down', hidden: true});
    new ResizeObserver(() => { if (follows) toEnd(); }).observe(scroll);      // a keyboard came up, or the composer grew
    return [scroll, h('div', {class: 'dock'}, down, h('div', {class: 'dock-in'}, composer))];
}

export function drawThread() {
    views = new Map();
    const messages = path(app.chat);
    for (const message of messages) views.set(message.id, messageView(app.chat, message, does));
    list.replaceChildren(...[...views.values()].map((view) => view.element));
    for (const view of views.values()) {
        if (runs.get(app.chat.id)?.message === view.message) view.update(true);
        else view.finish();
    }
    list.hidden = !messages.length;
    drawGreeting(messages.length === 0);
    ready();
    grow(area);
    toEnd();
}

function drawGreeting(empty) {
    greeting.hidden = !empty;
    if (!empty) return;
    const model = app.chat.model || firstModel();
    greeting.replaceChildren(h('h2', {}, 'What is on your mind?'), h('p', {}, model ? `${short(model)} answers, on this machine.` : 'No model is served yet.'));
}

export function ready() {
    const busy = running(app.chat);
    button.replaceChildren(icon(busy ? 'stop' : 'send'));
    button.setAttribute('aria-label', busy ? 'Stop' : 'Send');
    button.title = busy ? 'Stop (Escape)' : 'Send (Enter)';
    button.type = busy ? 'button' : 'submit';
    button.disabled = !busy && !area.value.trim();
    composer.classList.toggle('busy', busy);
}

// Who leaves the page has stopped the answer: it did not fail.
addEventListener('beforeunload', () => { for (const {controller} of runs.values()) controller.abort(); });

export function focusComposer() { area?.focus(); }

export function stop() { runs.get(app.chat?.id)?.controller.abort(); }

function submit() {
    const text = area.value.trim();
    if (!text || running(app.chat)) return;
    area.value = app.chat.draft = '';
    grow(area);
    ask(app.chat.leaf, text);
}

// A user's message below `parent`, and the answer to it.
function ask(parent, text) {
    const {chat} = app;
    const first = chat.messages.size === 0;
    const message = addMessage(chat, parent, 'user', text);
    if (!chat.title) chat.title = Array.from(message.content.split('\n')[0]).slice(0, 80).join('');
    if (first) app.adopt(chat);
    respond(chat, message);
}

// `shown` is whether the conversation is the one that is looked at, at that moment.
const shown = (chat) => app.chat === chat && app.view === 'chat';

async function respond(chat, question) {
    const {settings} = chat;
    const message = addMessage(chat, question.id, 'assistant', '', {model: chat.model || firstModel()});
    const controller = new AbortController();
    runs.set(chat.id, {message, controller});
    saveChat(chat);
    drawThread();
    drawHeader();
    refreshList();
    if (document.activeElement === document.body && !touched()) focusComposer();    // the button that was pressed is no more
    speak('The answer is being written');
    const into = {content: '', reasoning: ''};
    const extra = {finish: 'stopped'};
    message.extra = extra;
    const begun = performance.now();
    let first = 0;
    try {
        extra.finish = await answer(requestBody(chat, question), into, controller.signal, () => { first ||= performance.now(); grown(chat, message, into); });
    } catch (e) {
        if (e.name !== 'AbortError') { extra.finish = 'error'; extra.failed = e.message; }
    }
    extra.seconds = Math.round(performance.now() - (first || begun)) / 1000;
    if (into.usage) extra.usage = {prompt_tokens: into.usage.prompt_tokens, completion_tokens: into.usage.completion_tokens};
    if (into.tokens && settings.probabilities) extra.tokens = into.tokens;
    Object.assign(message, {content: into.content, reasoning: into.reasoning});
    finish(chat, message);
}

function finish(chat, message) {
    runs.delete(chat.id);
    touch(chat, message);
    saveChat(chat).then(refreshList);
    const brief = message.content.length > 0 && message.content.length < READ_OUT;
    if (!message.extra.failed) speak(brief ? `Answer: ${message.content}` : 'The answer is complete');       // a failure is an alert already
    if (!shown(chat)) return;
    views.get(message.id)?.finish();
    ready();
    drawHeader();
    follow();
}

function grown(chat, message, into) {
    message.content = into.content;
    message.reasoning = into.reasoning;
    const run = runs.get(chat.id);
    if (!(Date.now() - (run.stored ??= Date.now()) < KEEP_EVERY)) {
        run.stored = Date.now();
        touch(chat, message);
        saveChat(chat);
    }
    if (run.frame) return;
    run.frame = requestAnimationFrame(() => {
        run.frame = 0;
        if (!shown(chat) || !runs.has(chat.id)) return;
        views.get(message.id)?.update(true);
        follow();
    });
}

// What is not set is left to the model.
export function sampling(settings) {
    const body = {};
    for (const name of ['temperature', 'top_p', 'top_k', 'min_p', 'presence_penalty', 'max_tokens', 'seed']) if (settings[name] != null) body[name] = settings[name];
    if (settings.think != null) body.chat_template_kwargs = {enable_thinking: settings.think};
    return body;
}

function requestBody(chat, question) {
    const body = {model: chat.model || firstModel(), messages: plain(chat, path(chat, question.id)), stream_options: {include_usage: true}, ...sampling(chat.settings)};
    return chat.settings.probabilities ? {...body, logprobs: true, top_logprobs: 5} : body;
}

const does = {
    retry(message) { if (!running(app.chat)) respond(app.chat, app.chat.messages.get(message.parent)); },
    edit(view) { view.edit('Your message', (text) => { if (!running(app.chat)) ask(view.message.parent, text); }); },
    correct(view) {
        view.edit('The answer as it should be', (text) => {
            const {chat} = app;
            const wrong = view.message;
            addMessage(chat, wrong.parent, 'assistant', text, {model: wrong.model, corrects: wrong.id, rating: 0});
            saveChat(chat);
            drawThread();
            views.get(chat.leaf).actions.querySelector('.icon-edit')?.parentElement.focus();
            note('Kept as a correction, beside the answer it replaces.');
        });
    },
    rate(message, rating) { message.rating = rating; touch(app.chat, message); saveChat(app.chat); },
    turn(message) {
        app.chat.leaf = newestLeaf(app.chat, message.id);
        saveChat(app.chat);
        drawThread();
        views.get(message.id)?.element.scrollIntoView({block: 'nearest'});
        views.get(message.id)?.actions.querySelector('.branches button:not(:disabled)')?.focus();
    },
};

// ---- the end of the text stays in sight until somebody scrolls up, however little ----

const NEAR = 60;        // pixels from the end within which scrolling down follows again
let follows = true, top = 0;

const below = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;

function scrolled() {
    if (below() < 2 || (scroll.scrollTop > top && below() < NEAR)) follows = true;
    else if (scroll.scrollTop < top) follows = false;
    top = scroll.scrollTop;
    down.hidden = below() < scroll.clientHeight / 2;
}

function follow() {
    if (follows) toEnd();
    else scrolled();
}

function toEnd() {
    follows = true;
    scroll.scrollTop = scroll.scrollHeight;
    scrolled();
}
