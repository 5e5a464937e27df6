// Figures in words: spans of time, sizes, counts, shares.

export function span(seconds) {
    const s = Math.round(seconds);
    if (s < 10) return `${Math.max(seconds, 0).toFixed(seconds < 1 ? 1 : 0)} s`;
    if (s < 100) return `${s} s`;
    const minutes = Math.round(s / 60);
    if (minutes < 100) return `${minutes} min`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

export function size(bytes) {
    const units = ['B', 'kB', 'MB', 'GB', 'TB'];
    let i = 0;
    for (; bytes >= 1000 && i < units.length - 1; i++) bytes /= 1000;
    return `${bytes >= 100 || !i ? Math.round(bytes) : bytes.toFixed(1)} ${units[i]}`;
}

export const count = (n) => Math.round(n).toLocaleString('en').replaceAll(',', '\u202f');
export const several = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export const times = (n) => (n === 1 ? 'once' : n === 2 ? 'twice' : `${Number(n.toPrecision(3))} times`);

// What every reader of JSON takes: no halves of signs, no NUL. A conversation with one could be neither stored nor sent again.
export const sound = (text) => text.toWellFormed().replaceAll('\0', '\ufffd');

// Somebody's text within a sentence: signs in it that turn the direction of writing end with it.
export const isolated = (text) => `\u2068${text}\u2069`;

// A probability from its logarithm.
export const percent = (logprob) => { const p = 100 * Math.exp(logprob); return `${p >= 99.95 ? '100' : p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : '<0.1'} %`; };
