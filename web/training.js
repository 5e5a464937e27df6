// The run of training that the server has, or had last: followed while it goes on, and told to whoever listens. Its state is the server's; nothing of it is kept here.
import {call, stream} from '/api.js';

// state: as GET /nm/teach gives it, null until then. served: whether this server teaches at all; why not. lost: why nothing is heard of it at present.
export const training = {state: null, served: true, why: '', lost: ''};

const PAUSE = 2000;     // milliseconds between asking, where the stream breaks off
const listeners = new Set();
let following = null;

// f() after each change, until it gives false.
export function onTraining(f) { listeners.add(f); }

function tell() { for (const f of [...listeners]) if (f() === false) listeners.delete(f); }

export const busy = () => ['preparing', 'training', 'stopping'].includes(training.state?.state);
export const undecided = () => training.state?.state === 'done' && !training.state.decided;

function take(state) {
    training.state = state;
    training.lost = '';
    tell();
}

// Asks, and follows while something goes on. A tab that is not looked at does not: a browser holds few connections to one server.
export function follow() {
    if (following || document.hidden) return;
    const own = following = new AbortController();
    watch(own.signal).finally(() => { if (following === own) following = null; });
}

export function unfollow() {
    following?.abort();
    following = null;
}

async function watch(signal) {
    while (!signal.aborted) {
        try {
            take(await call('GET', '/nm/teach', undefined, signal));
            if (!busy()) return;
            for await (const state of stream('GET', '/nm/teach/events', undefined, signal)) {
                take(state);
                if (!busy()) return;
            }
        } catch (e) {
            if (signal.aborted) return;
            failed(e);
            if (!busy()) return;
        }
        await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    }
}

function failed(e) {
    if ([404, 501, 503].includes(e.status)) Object.assign(training, {served: false, why: e.message, state: null});
    else training.lost = e.message;
    tell();
}

// What is asked of the run: "stop", "resume", "keep", "discard"; or a new one from a lesson. Throws what the server says against it.
export async function command(name) { return began(await call('POST', `/nm/teach/${name}`, {})); }
export async function begin(lesson) { return began(await call('POST', '/nm/teach', lesson)); }

function began(state) {
    unfollow();     // what it would say next may be older
    if (state?.state) take(state);
    follow();
}
