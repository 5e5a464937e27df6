// What people said of answers, in figures, and its export as JSON lines for `nomoat tune`.
import {h, icon, note, save} from '/dom.js';
import {counts, exported, store} from '/store.js';

const KINDS = [
    ['chats', 'Conversations', 'Each as it stands, one a line: {"messages": …}', 'chats'],
    ['liked', 'Liked answers', 'Conversations up to an answer with thumb up', 'liked'],
    ['corrections', 'Corrections', 'Conversations that end in an answer you corrected', 'corrections'],
    ['pairs', 'Pairs', 'A better and a worse answer to the same prompt: from corrections, thumbs and votes', 'pairs'],
    ['votes', 'Votes', 'Blind comparisons with both answers', 'votes'],
];

export function feedbackView() {
    const list = h('ul', {class: 'exports'});
    const lead = h('p', {class: 'lead'}, 'Thumbs, corrections and votes are data: ', h('a', {href: '#/teach'}, 'teach'), ' an adapter with them, or write them to files, for ',
        h('code', {}, 'nomoat tune'), ' or for others.');
    const box = h('div', {class: 'page'}, lead, list);
    draw(list);
    return box;
}

async function draw(list) {
    let n = null;
    try { n = await counts(); } catch (e) { if (e.status !== 503 && e.status !== 404) note(e.message, 'bad'); }
    if (!n) {
        list.replaceChildren(h('li', {}, h('p', {class: 'faint'}, `This server keeps nothing, so there is nothing to export but the open conversation. ${store.why}`)));
        return;
    }
    list.replaceChildren(...KINDS.map(([what, title, text, count]) => h('li', {}, h('div', {}, h('h3', {}, title, h('span', {class: 'count'}, n[count])), h('p', {class: 'faint'}, text)),
        h('button', {type: 'button', disabled: !n[count], 'aria-label': `Export ${title.toLowerCase()}`, onclick: () => write(what)}, icon('download'), 'Export'))));
}

async function write(what) {
    try { save(`nomoat-${what}.jsonl`, 'application/jsonl', await exported(what)); } catch (e) { note(e.message, 'bad'); }
}
