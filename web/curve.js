// The curve of a run as a drawing: its loss step by step, faint, and smoothed, bold; validation as marks on a broken line.
import {h} from '/dom.js';
import {count} from '/words.js';

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 220, LEFT = 42, RIGHT = 12, TOP = 10, BOTTOM = 24;

function shape(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text != null) element.textContent = text;
    return element;
}

// {element, draw(state)}. It is as wide as there is room, and drawn anew when that changes.
export function curveView() {
    const svg = shape('svg', {class: 'curve', role: 'img', height: HEIGHT});
    const legend = h('p', {class: 'legend', 'aria-hidden': 'true'}, key('loss', 'loss of a step'), key('mean', 'smoothed'), key('look', 'validation'));
    let state = null;
    const draw = () => { if (state) fill(svg, state, Math.max(svg.clientWidth, 240)); };
    new ResizeObserver(draw).observe(svg);
    return {element: h('div', {class: 'chart'}, legend, svg), draw(next) { state = next; draw(); }};
}

function key(kind, text) {
    const line = shape('svg', {class: 'curve key', width: 24, height: 12});
    line.append(shape('path', {class: kind, d: 'M1 6H23'}), ...(kind === 'look' ? [mark(12, 6)] : []));
    return h('span', {}, line, text);
}

const mark = (x, y) => shape('path', {class: 'mark', d: `M${x} ${y - 4}l4 4l-4 4l-4 -4z`});

export function points(state) {
    const {per = 1, losses = []} = state.curve ?? {};
    return losses.map((loss, i) => [(i + 1) * per, loss]).filter(([, loss]) => Number.isFinite(loss));
}

// The mean of a tenth of what is there round each point, as far as there are neighbours.
function smoothed(list) {
    const reach = Math.floor(list.length / 20);
    return list.map(([x], i) => {
        const near = list.slice(Math.max(i - reach, 0), i + reach + 1);
        return [x, near.reduce((sum, [, y]) => sum + y, 0) / near.length];
    });
}

function fill(svg, state, width) {
    const list = points(state);
    const looks = (state.looks ?? []).filter((l) => Number.isFinite(l.validation)).map((l) => [l.step, l.validation]);
    const values = [...list, ...looks].map(([, y]) => y);
    svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute('aria-label', described(list, looks));
    if (!values.length) {
        svg.replaceChildren(shape('text', {x: width / 2, y: HEIGHT / 2, class: 'middle'}, 'The first step is not done yet'));
        return;
    }
    const ticks = nice(Math.min(...values), Math.max(...values), 4);
    const last = Math.max(state.steps || 0, list.at(-1)?.[0] ?? 1, 1);
    const x = (step) => LEFT + (width - LEFT - RIGHT) * step / last;
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (ticks.at(-1) - value) / (ticks.at(-1) - ticks[0]);
    const through = (pairs) => pairs.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join('L');
    const line = (kind, pairs) => (pairs.length ? [shape('path', {class: kind, d: `M${through(pairs)}${pairs.length > 1 ? '' : 'h0'}`})] : []);     // one is a dot
    svg.replaceChildren(...grid(ticks, y, width), ...steps(last, x), ...line('loss', list), ...line('mean', smoothed(list)), ...line('look', looks),
        ...looks.map(([a, b]) => mark(x(a), y(b))));
}

function grid(ticks, y, width) {
    const digits = ticks[1] - ticks[0] < 0.1 ? 2 : ticks[1] - ticks[0] < 1 ? 1 : 0;
    return ticks.flatMap((value) => [shape('path', {class: 'grid', d: `M${LEFT} ${y(value)}H${width - RIGHT}`}),
        shape('text', {x: LEFT - 6, y: y(value) + 4, class: 'end'}, value.toFixed(digits))]);
}

function steps(last, x) {
    const marks = nice(0, last, 5).filter((step) => Number.isInteger(step) && step <= last);
    return marks.map((step) => shape('text', {x: x(step), y: HEIGHT - 6, class: step > last * 0.95 ? 'end' : step ? 'middle' : ''}, step ? count(step) : 'step 0'));
}

// Round numbers that take in least and most, some `wanted` of them.
function nice(least, most, wanted) {
    const rough = (most - least || Math.abs(most) || 1) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const by = power * ([1, 2, 5].find((n) => n * power >= rough) ?? 10);
    const first = Math.floor(least / by);
    const list = [];
    for (let i = first; i <= first + 1 || (i - 1) * by < most; i++) list.push(Number((i * by).toPrecision(12)));
    return list;
}

function described(list, looks) {
    if (!list.length) return 'Loss: the first step is not done yet';
    const said = ([step, value]) => `${value.toFixed(3)} at step ${step}`;
    const seen = looks.length ? `; validation ${[looks[0], ...looks.slice(1).slice(-1)].map(said).join(', ')}` : '';
    return `Loss: ${list[0][1].toFixed(3)} at first, ${said(smoothed(list).at(-1))}${seen}`;
}
