// Talking with the server: JSON calls, streams of server-sent events, the key it may ask for, errors in words for people.
import {dialog, h} from '/dom.js';
import {sound} from '/words.js';

export class ApiError extends Error {
    constructor(status, message, code) { super(message); this.status = status; this.code = code; }
}

// The key lives as long as the tab.
const key = {
    get() { try { return sessionStorage.getItem('key'); } catch { return this.held ?? null; } },
    set(value) { this.held = value; try { sessionStorage.setItem('key', value); } catch { /* forbidden: held in memory */ } },
};

let asking = null;      // one box, however many calls wait for it

function askKey(wrong) {
    asking ??= dialog('This server asks for a key', (close) => h('form', {onsubmit: (e) => { e.preventDefault(); close(new FormData(e.target).get('key').trim()); }},
        h('p', {}, wrong ? 'That key was not taken. ' : '', 'It is what the server was started with: --api-key-file or NOMOAT_API_KEY. This tab remembers it until it is closed.'),
        h('label', {class: 'field'}, 'Key', h('input', {name: 'key', type: 'password', required: true, autofocus: true, autocomplete: 'current-password'})),
        h('div', {class: 'row end'}, h('button', {class: 'primary'}, 'Continue')))).finally(() => { asking = null; });
    return asking;
}

// A response with a good status, asking for a key as often as need be. body: what becomes JSON, or a file as it is.
export async function request(method, path, body, signal) {
    for (;;) {
        const sent = key.get();
        const headers = {};
        if (sent) headers.Authorization = `Bearer ${sent}`;
        const raw = body instanceof Blob;
        if (body !== undefined) headers['Content-Type'] = raw ? 'application/octet-stream' : 'application/json';
        let response;
        try {
            response = await fetch(path, {method, headers, signal, body: body === undefined || raw ? body : JSON.stringify(body)});
        } catch (e) {
            if (e.name === 'AbortError') throw e;
            throw new ApiError(0, 'The server does not answer. Is “nomoat serve” still running?', 'unreachable');
        }
        if (response.ok) return response;
        if (response.status !== 401) throw await failure(response);
        if (key.get() !== sent) continue;      // another call got one meanwhile
        const given = await askKey(sent !== null && sent !== '');
        if (!given) throw new ApiError(401, 'The server asks for a key. Reload the page to give one.', 'unauthorized');
        key.set(given);
    }
}

// The answer's JSON; null where it has no content.
export async function call(method, path, body, signal) {
    const response = await request(method, path, body, signal);
    return response.status === 204 ? null : response.json();
}

async function failure(response) {
    let error = {};
    try {
        const body = await response.json();
        error = typeof body.error === 'string' ? {message: body.error} : body.error ?? body;
    } catch { /* no JSON: the status must do */ }
    return kind(response.status, error, response.headers.get('Retry-After'));
}

// What people are told; the server's own line stands behind it where it helps.
function kind(status, error, after) {
    const said = typeof error.message === 'string' ? error.message : '';
    const code = error.code ?? error.type;
    if (code === 'exceed_context_size_error' && error.n_ctx) {
        return new ApiError(status, `The conversation has become too long for this model: ${error.n_prompt_tokens} tokens, and it reads ${error.n_ctx}. Branch off earlier, or begin a new one.`, code);
    }
    if (status === 429) return new ApiError(status, `The server is busy${after ? `: try again in ${after} s` : ''}. ${said}`.trim(), code);
    if (status === 404 && code === 'model_not_found') return new ApiError(status, `The server has no such model. ${said}`.trim(), code);
    return new ApiError(status, said || `The server answered with status ${status}.`, code);
}

const BROKEN = 'The answer broke off: the connection to the server was lost.';
const failed = (object) => object.error && typeof object.error === 'object';

// The objects of a stream of server-sent events, to its end or "[DONE]".
export async function* stream(method, path, body, signal) {
    const response = await request(method, path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    try {
        for (;;) {
            const {value, done} = await reader.read();
            const lines = (rest + (value ?? (done ? '\n' : ''))).split(/\r?\n/);
            rest = lines.pop();
            for (const line of lines) {
                if (!line.startsWith('data:')) continue;
                const data = line.slice(5).trim();
                if (data === '[DONE]') return;
                const object = JSON.parse(data);
                if (failed(object)) throw kind(object.error.status ?? 500, object.error);
                yield object;
            }
            if (done) return;
        }
    } catch (e) {
        if (e.name === 'AbortError' || e instanceof ApiError) throw e;
        throw new ApiError(0, BROKEN, 'unreachable');
    } finally {
        reader.cancel().catch(() => {});
    }
}

// An answer as it grows. into: {content, reasoning, tokens}, which change; each() is called after each change. Gives why it ended.
export async function answer(body, into, signal, each) {
    let finish = null;
    for await (const chunk of stream('POST', '/v1/chat/completions', {...body, stream: true}, signal)) {
        const choice = chunk.choices?.[0];
        if (chunk.usage) into.usage = chunk.usage;
        if (!choice) continue;
        const delta = choice.delta ?? {};
        if (delta.reasoning_content) into.reasoning = (into.reasoning ?? '') + sound(delta.reasoning_content);
        if (delta.content) into.content += sound(delta.content);
        // Tokens of the reasoning come with no content: what is shown is the answer's own.
        if (choice.logprobs?.content && !delta.reasoning_content) (into.tokens ??= []).push(...choice.logprobs.content.map(token));
        if (choice.finish_reason) finish = choice.finish_reason;
        each();
    }
    if (!finish) throw new ApiError(0, BROKEN, 'unreachable');
    return finish;
}

function token(t) { return [sound(t.token), t.logprob, (t.top_logprobs ?? []).map((alternative) => [sound(alternative.token), alternative.logprob])]; }
