// The conversations: trees of messages, kept by the server (SQLite), or in memory alone where it cannot. Also personas, votes and exports.
import {call, request} from '/api.js';
import {newId, note} from '/dom.js';
import {isolated, sound} from '/words.js';

export const store = {kept: true, why: '', memory: new Map(), personas: [], personasKept: false};

// A conversation here: {id, title, model, system, settings, leaf, created, updated, messages: Map, dirty: Set}. What is dirty is not stored yet.
export function newChat(basis) {
    const now = Date.now();
    return {id: newId(), title: '', model: '', system: '', settings: {}, leaf: null, created: now, updated: now, messages: new Map(), dirty: new Set(), ...basis};
}

export function addMessage(chat, parent, role, content, more) {
    const message = {id: newId(), parent, role, content: sound(content), created: Date.now(), ...more};
    chat.messages.set(message.id, message);
    chat.leaf = message.id;
    chat.dirty.add(message.id);
    return message;
}

export function touch(chat, message) { chat.dirty.add(message.id); }

// From the first message to the leaf.
export function path(chat, leaf = chat.leaf) {
    const list = [];
    for (let m = chat.messages.get(leaf); m; m = chat.messages.get(m.parent)) list.unshift(m);
    return list;
}

export function siblings(chat, message) { return [...chat.messages.values()].filter((m) => m.parent === message.parent); }

// The newest end below a message.
export function newestLeaf(chat, id) {
    for (;;) {
        const children = [...chat.messages.values()].filter((m) => m.parent === id);
        if (!children.length) return id;
        id = children[children.length - 1].id;
    }
}

// What the server keeps, or null where it keeps nothing: 503, or a server without these routes.
async function ifKept(address) {
    if (!store.kept) return null;
    try {
        return await call('GET', address);
    } catch (e) {
        if (e.status !== 503 && e.status !== 404) throw e;
        store.kept = false;
        store.why = e.message;
        return null;
    }
}

export async function listChats(search) {
    const kept = await ifKept(search ? `/nm/chats?search=${encodeURIComponent(search)}` : '/nm/chats');
    if (kept) return kept.chats;
    const word = (search ?? '').toLowerCase();
    const fits = (chat) => !word || chat.title.toLowerCase().includes(word) || [...chat.messages.values()].some((m) => m.content.toLowerCase().includes(word));
    return [...store.memory.values()].filter(fits).sort((a, b) => b.updated - a.updated);
}

export async function loadChat(id) {
    if (store.memory.has(id)) return store.memory.get(id);
    if (!store.kept) return null;
    const chat = await call('GET', `/nm/chats/${id}`);
    return newChat({...chat, messages: new Map(chat.messages.map((m) => [m.id, m]))});
}

const queues = new Map();       // by conversation: one request at a time, in order
const unsaved = new Set();      // what could not be stored
const AGAIN = 5000;             // milliseconds until that is tried again

// Stores what is dirty. Never throws: what could not be stored stays dirty, is told once, and tried again.
export function saveChat(chat) {
    if (chat.deleted) return Promise.resolve();
    chat.updated = Date.now();
    if (!store.kept) {
        store.memory.set(chat.id, chat);
        return Promise.resolve();
    }
    const next = (queues.get(chat.id) ?? Promise.resolve()).then(() => put(chat));
    queues.set(chat.id, next);
    return next;
}

async function put(chat) {
    if (chat.deleted) return;
    const ids = [...chat.messages.keys()].filter((id) => chat.dirty.has(id));      // parents come first
    const {id, title, model, system, settings, leaf, created, updated} = chat;
    for (const d of ids) chat.dirty.delete(d);
    try {
        await call('PUT', `/nm/chats/${id}`, {title: sound(title), model, system: sound(system), settings, leaf, created, updated, messages: ids.map((d) => chat.messages.get(d))});
        if (unsaved.delete(chat)) note(`“${isolated(chat.title)}” is stored now.`);
    } catch (e) {
        for (const d of ids) chat.dirty.add(d);
        const passes = !e.status || e.status === 429 || e.status >= 500;
        if (!unsaved.has(chat)) note(`This conversation is not stored: ${e.message}${passes ? ' It is tried again as long as this page is open.' : ''}`, 'bad');
        unsaved.add(chat);
        clearTimeout(chat.again);
        if (passes) chat.again = setTimeout(() => saveChat(chat), AGAIN);
    }
}

// Who leaves would lose it: the browser asks.
addEventListener('beforeunload', (e) => { if (unsaved.size) e.preventDefault(); });

export async function deleteChat(chat) {
    chat.deleted = true;        // an answer under way may still want to be stored
    store.memory.delete(chat.id);
    await queues.get(chat.id);
    if (store.kept) await call('DELETE', `/nm/chats/${chat.id}`);
    unsaved.delete(chat);       // storing may have failed until now
}

// Personas are the store's, the same as `nomoat save` keeps: also where no conversations are kept. In memory with a server that has no such route.
export async function loadPersonas() {
    try {
        store.personas = (await call('GET', '/nm/personas')).personas;
        store.personasKept = true;
    } catch (e) {
        if (e.status !== 503 && e.status !== 404) throw e;
        store.personasKept = false;
    }
    return store.personas;
}

export async function savePersona(persona) {
    if (store.personasKept) await call('PUT', `/nm/personas/${encodeURIComponent(persona.name)}`, persona);
    else store.personas = [...store.personas.filter((p) => p.name !== persona.name), persona];
    await loadPersonas();
}

export async function deletePersona(name) {
    if (store.personasKept) await call('DELETE', `/nm/personas/${encodeURIComponent(name)}`);
    store.personas = store.personas.filter((p) => p.name !== name);
}

export const votes = {
    memory: [],
    async add(vote) {
        if (store.kept) await call('POST', '/nm/votes', vote);
        else this.memory.push(vote);
    },
    // [{a, b, a_wins, b_wins, equal}]: by pair of stacks.
    async tally() {
        if (store.kept) return (await call('GET', '/nm/votes')).tally;
        const rows = new Map();
        for (const {a, b, choice} of this.memory) {
            const [first, second] = a.model <= b.model ? [a, b] : [b, a];
            const row = rows.get(`${first.model}\n${second.model}`) ?? {a: first.model, b: second.model, a_wins: 0, b_wins: 0, equal: 0};
            if (choice === 'both' || choice === 'neither') row.equal++;
            else row[(choice === 'a') === (first === a) ? 'a_wins' : 'b_wins']++;
            rows.set(`${first.model}\n${second.model}`, row);
        }
        return [...rows.values()];
    },
};

export async function counts() { return store.kept ? call('GET', '/nm/feedback') : null; }

// JSON lines. From the server where it keeps things; in memory one conversation can be written here.
export async function exported(what, chat) {
    if (store.kept) return (await request('GET', `/nm/export?what=${what}${chat ? `&chat=${chat}` : ''}`)).text();
    const list = chat ? [store.memory.get(chat)] : [...store.memory.values()];
    return list.map((c) => `${JSON.stringify({messages: plain(c, path(c))})}\n`).join('');
}

// Messages as the API and `tune` take them. An answer that failed is none: what was said before it and after it becomes one message.
export function plain(chat, list) {
    const messages = chat.system.trim() ? [{role: 'system', content: chat.system}] : [];
    for (const {role, content} of list) {
        const last = messages[messages.length - 1];
        if (role === 'assistant' && !content) continue;
        if (role === 'user' && last?.role === 'user') last.content += `\n\n${content}`;
        else messages.push({role, content});
    }
    return messages;
}
