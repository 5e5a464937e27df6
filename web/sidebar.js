// The list of conversations with its search, the way to the other views, and the theme.
import {app, open} from '/app.js';
import {h, icon, iconButton} from '/dom.js';
import {store} from '/store.js';
import {busy, onTraining, training, undecided} from '/training.js';

let list, search, foot;
const badge = h('span', {class: 'badge', hidden: true});

export function drawSidebar() {
    list = h('div', {class: 'chats', id: 'chats'});
    search = h('input', {type: 'search', placeholder: 'Search', 'aria-label': 'Search the conversations', maxlength: 200, autocomplete: 'off', oninput: () => {
        clearTimeout(search.timer);
        search.timer = setTimeout(app.refresh, 200);
    }});
    foot = h('div', {class: 'foot'});
    document.getElementById('sidebar').replaceChildren(
        h('div', {class: 'side-head'}, h('h1', {}, 'nomoat'), themeButton(), iconButton('plus', 'New conversation (Ctrl Shift O)', () => open('#/'), {class: 'icon-button new'})),
        h('div', {class: 'search'}, icon('search'), search), list, foot);
    drawFoot();
    onTraining(drawBadge);
}

export const searched = () => search?.value.trim() ?? '';
export function focusSearch() { search?.focus(); }

function drawFoot() {
    const link = (href, image, ...label) => h('a', {href, 'aria-current': location.hash.startsWith(href) ? 'page' : null}, icon(image), label);
    foot.replaceChildren(link('#/teach', 'teach', h('span', {}, 'Teach'), ' ', badge), link('#/compare', 'pair', 'Compare blindly'), link('#/feedback', 'tray', 'Feedback'));
}

// How far the run is, or that it waits for somebody.
function drawBadge() {
    const {state} = training;
    const share = () => (state.steps > 0 && state.state === 'training' ? `${Math.floor(100 * state.step / state.steps)} %` : '…');
    const told = busy() ? share() : undecided() ? 'done' : state?.state === 'stopped' && state.resumable ? 'stopped' : '';
    badge.hidden = !told;
    badge.textContent = told;
    badge.classList.toggle('busy', busy());
}

export function drawChats(chats) {
    drawFoot();
    const items = [];
    let group = '';
    for (const chat of chats) {
        const of = searched() ? '' : age(chat.updated);
        if (of !== group) items.push(h('h2', {}, of));
        group = of;
        items.push(h('a', {href: `#/chat/${chat.id}`, class: 'chat', 'aria-current': app.view === 'chat' && app.chat?.id === chat.id ? 'page' : null},
            h('span', {class: 'title'}, chat.title || 'Untitled'), chat.snippet ? h('span', {class: 'snippet'}, marked(chat.snippet)) : null));
    }
    if (!chats.length) items.push(h('p', {class: 'faint'}, searched() ? 'Nothing found.' : 'No conversations yet.'));
    if (!store.kept) items.push(h('p', {class: 'faint unkept'}, 'Conversations are not kept: they end with this tab.', store.why ? ` (${store.why})` : ''));
    const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
    list.replaceChildren(...items);
    if (focused) list.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
}

// What was found stands between U+0001 and U+0002.
function marked(text) { return text.split(/(\u0001[^\u0002]*\u0002)/).map((part) => (part[0] === '\u0001' ? h('mark', {}, part.slice(1, -1)) : part)); }

function age(time) {
    const midnight = new Date().setHours(0, 0, 0, 0);
    const days = Math.ceil((midnight - time) / 86400000);
    return days <= 0 ? 'Today' : days === 1 ? 'Yesterday' : days < 7 ? 'This week' : days < 31 ? 'This month' : 'Earlier';
}

// ---- theme: as the system has it, light, dark ----

const THEMES = {auto: ['auto', 'Theme: as the system’s'], light: ['sun', 'Theme: light'], dark: ['moon', 'Theme: dark']};

function themeButton() {
    const root = document.documentElement;
    const button = iconButton('auto', '', () => {
        const next = {auto: 'light', light: 'dark', dark: 'auto'}[root.dataset.theme ?? 'auto'];
        if (next === 'auto') delete root.dataset.theme;
        else root.dataset.theme = next;
        try { localStorage.setItem('theme', next); } catch { /* forbidden: for this time alone */ }
        show();
    }, {class: 'icon-button theme'});
    const show = () => {
        const [image, label] = THEMES[root.dataset.theme ?? 'auto'];
        button.replaceChildren(icon(image));
        button.setAttribute('aria-label', label);
        button.title = label;
    };
    show();
    return button;
}
