// The page's state, its views by the address's fragment ("#/", "#/chat/ID", "#/teach", "#/compare", "#/feedback"), its header and keys.
import {compareView} from '/compare.js';
import {asked, confirmed, dialog, h, icon, iconButton, note, redraw, save, touched} from '/dom.js';
import {feedbackView} from '/feedback.js';
import {drawPanel, lastSettings} from '/panel.js';
import {drawChats, drawSidebar, focusSearch, searched} from '/sidebar.js';
import {deleteChat, exported, listChats, loadChat, loadPersonas, newChat, saveChat, store} from '/store.js';
import {firstModel, loadModels, models, short} from '/stack.js';
import {teachView} from '/teach.js';
import {drawThread, focusComposer, running, stop, threadView} from '/thread.js';
import {follow, unfollow} from '/training.js';
import {isolated} from '/words.js';

export const app = {
    chat: null,             // the conversation that is open
    blank: null,            // the one that has no message yet: what is written in it waits while other views are looked at
    view: '',
    open: new Map(),        // conversations of this tab by id: one that is being answered stays
    refresh: () => refreshList(),
    showPanel: (shown) => showPanel(shown),
    // A new conversation has its first message: it gets its address.
    adopt(chat) {
        app.open.set(chat.id, chat);
        history.replaceState(null, '', `#/chat/${chat.id}`);
    },
};

const VIEWS = {teach: ['Teach', teachView], compare: ['Compare blindly', compareView], feedback: ['Feedback', feedbackView]};

const main = document.getElementById('main');
const header = h('header', {class: 'top'});

export function open(hash) {
    if (location.hash === hash) route();
    else location.hash = hash;
}

async function route() {
    const {hash} = location;
    showSidebar(false);
    const [, view = '', id] = (/^#\/(\w*)(?:\/([\w-]+))?/.exec(hash) ?? []);
    if (Object.hasOwn(VIEWS, view)) return otherView(view);
    if (view === 'chat' && id) {
        const chat = app.open.get(id) ?? await loadChat(id).catch((e) => { note(e.message, 'bad'); return null; });
        if (location.hash !== hash) return;     // meanwhile somebody went elsewhere
        if (!chat) return open('#/');
        app.open.set(id, chat);
        return showChat(chat);
    }
    app.blank = app.blank?.messages.size === 0 ? Object.assign(app.blank, lastSettings()) : newChat(lastSettings());
    return showChat(app.blank);
}

function showChat(chat) {
    app.chat = chat;
    app.view = 'chat';
    main.className = 'main chat-view';
    main.replaceChildren(header, ...threadView());
    drawThread();
    drawHeader();
    if (panelShown()) drawPanel();
    refreshList();
    if (!touched()) focusComposer();
}

function otherView(view) {
    app.view = view;
    showPanel(false);
    main.className = `main ${view}-view`;
    const [title, build] = VIEWS[view];
    header.replaceChildren(menuButton(), h('h2', {class: 'view-title'}, title));
    document.title = `${title} · nomoat`;
    main.replaceChildren(header, h('div', {class: 'scroll', id: 'scroll', tabindex: 0, role: 'region', 'aria-label': title}, build()));
    refreshList();
}

// ---- the header of a conversation ----

function menuButton() { return iconButton('menu', 'Conversations', () => showSidebar(true), {class: 'icon-button menu'}); }

export function drawHeader() {
    if (app.view !== 'chat') return;
    const {chat} = app;
    const begun = chat.messages.size > 0;
    const who = h('button', {type: 'button', class: 'who-answers', 'aria-expanded': String(panelShown()), 'aria-controls': 'panel', onclick: () => showPanel(!panelShown())},
        h('span', {}, short(chat.model || firstModel()) || 'No model'), h('span', {class: 'hidden'}, ': settings'), icon('sliders'));
    const tools = h('div', {class: 'tools', role: 'group', 'aria-label': 'This conversation', hidden: !begun},
        iconButton('edit', 'Rename', rename), iconButton('download', 'Export as JSON lines', exportChat), iconButton('trash', 'Delete', remove));
    redraw(header, menuButton(), who, chat.title ? h('h2', {class: 'chat-title'}, chat.title) : h('span', {class: 'chat-title'}), tools);
    document.title = chat.title ? `${chat.title} · nomoat` : 'nomoat';
}

async function rename() {
    const {chat} = app;
    const title = await asked('Rename', 'Title', chat.title, 'Rename');
    if (!title) return;
    chat.title = title;
    await saveChat(chat);
    drawHeader();
    refreshList();
}

async function exportChat() {
    const {chat} = app;
    try { save(`${fileName(chat.title)}.jsonl`, 'application/jsonl', await exported('chats', chat.id)); } catch (e) { note(e.message, 'bad'); }
}

const fileName = (title) => title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').replace(/^(.{40}).*/su, '$1') || 'conversation';

async function remove() {
    const {chat} = app;
    if (!await confirmed('Delete this conversation?', `“${isolated(chat.title)}” goes away with all its branches and its feedback.`, 'Delete')) return;
    if (running(chat)) stop();
    try {
        await deleteChat(chat);
        app.open.delete(chat.id);
        open('#/');
    } catch (e) { chat.deleted = false; note(e.message, 'bad'); }
}

// ---- panels ----

const panelShown = () => !document.getElementById('panel').hidden;
// As in app.css: wide has room for the panel beside the text, narrow has none for the list.
const wide = matchMedia('(min-width: 72rem)'), narrow = matchMedia('(max-width: 52rem)');

// What lies over the rest takes it out of reach, for pointer and keyboard alike.
function cover() {
    const list = narrow.matches && document.body.classList.contains('sidebar-open'), panel = !wide.matches && panelShown();
    document.getElementById('scrim').hidden = !(list || panel);
    main.inert = list || panel;
    document.getElementById('sidebar').inert = panel && !list;
    document.getElementById('panel').inert = list;
}
for (const query of [wide, narrow]) query.addEventListener('change', cover);

function showPanel(shown) {
    const panel = document.getElementById('panel');
    const had = panel.contains(document.activeElement);
    panel.hidden = !shown;
    if (shown) drawPanel();
    cover();
    header.querySelector('.who-answers')?.setAttribute('aria-expanded', String(shown));
    if (shown) panel.querySelector('button, select')?.focus();
    else if (had) header.querySelector('.who-answers')?.focus();
}

function showSidebar(shown) {
    const was = document.body.classList.contains('sidebar-open');
    document.body.classList.toggle('sidebar-open', shown && narrow.matches);
    cover();
    if (!narrow.matches) return;
    if (shown) document.querySelector('#sidebar .new').focus();
    else if (was) header.querySelector('.menu')?.focus();
}

export async function refreshList() {
    try {
        const search = searched(), list = await listChats(search);
        drawChats(list);
        if (!search) await catchUp(app.chat, list.find(({id}) => id === app.chat?.id));
    } catch (e) { note(e.message, 'bad'); }
}

// Another tab, or another device, may have gone on with the conversation that is open: it is read anew, unless something is under way here.
async function catchUp(chat, listed) {
    const idle = () => app.view === 'chat' && app.chat === chat && !running(chat) && !chat.dirty.size && !document.querySelector('.editor');
    if (!store.kept || !listed || !idle() || listed.updated <= chat.updated) return;
    const newer = await loadChat(chat.id);
    if (!idle()) return;
    app.open.set(chat.id, Object.assign(newer, {draft: chat.draft}));
    showChat(newer);
}

// ---- keys ----

const KEYS = [['Enter', 'send'], ['Shift Enter', 'new line'], ['Escape', 'stop the answer; close a panel'], ['Ctrl Shift O', 'new conversation'], ['Ctrl K', 'search'], ['Ctrl ,', 'settings'],
    ['Ctrl Enter', 'keep an edit'], ['Ctrl /', 'this list']];

function help() {
    dialog('Keys', (close) => [h('dl', {class: 'keys'}, KEYS.map(([keys, what]) => [h('dt', {}, keys.split(' ').map((k) => h('kbd', {}, k))), h('dd', {}, what)])),
        h('div', {class: 'row end'}, h('button', {type: 'button', class: 'primary', onclick: () => close()}, 'Close'))]);
}

// What is open already gets no new address: the list over it goes all the same.
document.getElementById('sidebar').addEventListener('click', (e) => { if (e.target.closest('a')?.hash === location.hash) showSidebar(false); });
// Not by its address, which is the views'.
document.querySelector('.skip').addEventListener('click', (e) => { e.preventDefault(); main.focus(); });

document.addEventListener('keydown', (e) => {
    if (document.querySelector('dialog[open]')) return;
    const control = e.ctrlKey || e.metaKey;
    const does = control && e.shiftKey && e.key.toLowerCase() === 'o' ? () => open('#/') : control && e.key === 'k' ? () => { showSidebar(true); focusSearch(); } :
        control && e.key === ',' ? () => { if (app.view === 'chat') showPanel(!panelShown()); } : control && e.key === '/' ? help : e.key === 'Escape' ? escape : null;
    if (!does) return;
    e.preventDefault();
    does();
});

function escape() {
    if (document.body.classList.contains('sidebar-open')) showSidebar(false);
    else if (panelShown() && !wide.matches) showPanel(false);
    else if (running(app.chat) && app.view === 'chat') stop();
    else if (panelShown()) showPanel(false);
}

document.getElementById('scrim').addEventListener('click', () => { showSidebar(false); showPanel(false); });
addEventListener('focus', () => { if (app.view) { refreshList(); follow(); } });      // another tab may have changed them
document.addEventListener('visibilitychange', () => { if (document.hidden) unfollow(); else if (app.view) follow(); });
addEventListener('hashchange', () => { if (location.hash.startsWith('#/') || !location.hash) route(); });

async function start() {
    drawSidebar();
    try { await loadModels(); } catch (e) { note(e.message, 'bad'); }
    await route();
    follow();
    loadPersonas().catch((e) => { if (store.kept) note(e.message, 'bad'); });
    if (!models.list.length) drawHeader();
}
start();
