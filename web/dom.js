// Building nodes. Whatever is put in as a child is text or a node: nothing here, nor anywhere else in the page, takes HTML.

const SVG = 'http://www.w3.org/2000/svg';
const PROPERTIES = new Set(['value', 'checked', 'disabled', 'hidden', 'indeterminate', 'open', 'selected', 'htmlFor', 'min', 'max', 'step']);

// h('button', {class: 'plain', onclick: f}, 'Send'): attributes that are null or false are left out.
export function h(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes ?? {})) {
        if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
        else if (PROPERTIES.has(key)) { if (value != null) element[key] = value; }
        else if (value != null && value !== false) element.setAttribute(key, value === true ? '' : value);
    }
    // One by one: as arguments of one call, more than some hundred thousand overflow the stack.
    for (const child of children.flat(Infinity)) if (child != null && child !== false) element.append(child);
    return element;
}

const PATHS = {
    plus: 'M12 5v14M5 12h14', send: 'M12 20V5M5.5 11.5 12 5l6.5 6.5', stop: 'M7.5 7.5h9v9h-9z', copy: 'M9 9h10.5v10.5H9zM5 15H4.5V4.5H15V5',
    check: 'M5 12.5 10 17.5 19.5 7', retry: 'M18.9 13A7 7 0 1 1 17 7.1l2.2 2.2M19.5 4.5v5h-5', edit: 'M4.5 19.5l.9-4L16 5l3 3L8.5 18.6zM14 7l3 3',
    thumb: 'M7.5 11v8.5h-3V11zM7.5 11.5l4-8c1.5 0 2.5 1 2.5 2.5V9.5h4.5a1.6 1.6 0 0 1 1.6 1.9l-1.2 6.6a1.8 1.8 0 0 1-1.8 1.5H7.5',
    left: 'M14.5 6.5 9 12l5.5 5.5', right: 'M9.5 6.5 15 12l-5.5 5.5', menu: 'M4.5 7h15M4.5 12h15M4.5 17h15',
    sliders: 'M4.5 8h8M17.5 8h2M4.5 16h2M11.5 16h8M17.5 8a2.5 2.5 0 1 1-5 0a2.5 2.5 0 1 1 5 0zM11.5 16a2.5 2.5 0 1 1-5 0a2.5 2.5 0 1 1 5 0z',
    sun: 'M16 12a4 4 0 1 1-8 0a4 4 0 1 1 8 0zM12 3.5v1.5M12 19v1.5M3.5 12H5M19 12h1.5M6 6l1 1M17 17l1 1M18 6l-1 1M7 17l-1 1',
    moon: 'M19.5 14.5A8 8 0 1 1 9.5 4.5a6.5 6.5 0 0 0 10 10z', auto: 'M12 4.5a7.5 7.5 0 1 0 0 15zM12 4.5a7.5 7.5 0 0 1 0 15',
    down: 'M12 5v14M6 13l6 6 6-6',
    trash: 'M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7', search: 'M16 10.5a5.5 5.5 0 1 1-11 0a5.5 5.5 0 1 1 11 0zM15 15l4.5 4.5',
    download: 'M12 4.5v10.5M7.5 11l4.5 4.5 4.5-4.5M5 19.5h14', pair: 'M4.5 5.5h6v13h-6zM13.5 5.5h6v13h-6z', bars: 'M6 18.5v-8M12 18.5v-13M18 18.5v-5',
    close: 'M6.5 6.5l11 11M17.5 6.5l-11 11', tray: 'M4.5 13.5v5.5h15v-5.5l-3-8h-9zM4.5 13.5h4.5l1 2.5h4l1-2.5h4.5', chat: 'M5 5.5h14v10h-8l-4 3.5v-3.5H5z',
    eye: 'M3.5 12C6 8 9 6 12 6s6 2 8.5 6c-2.5 4-5.5 6-8.5 6s-6-2-8.5-6zM14.5 12a2.5 2.5 0 1 1-5 0a2.5 2.5 0 1 1 5 0z',
    clock: 'M19.5 12a7.5 7.5 0 1 1-15 0a7.5 7.5 0 1 1 15 0zM12 7.5v5l3 2',
    lens: 'M13.5 9.5a5 5 0 1 1-10 0a5 5 0 1 1 10 0zM20.5 14.5a5 5 0 1 1-10 0a5 5 0 1 1 10 0z',
    teach: 'M12 5 2.5 9.5 12 14l9.5-4.5zM6.5 11.5v4.5c1.5 1.5 3.5 2 5.5 2s4-.5 5.5-2v-4.5M21.5 9.5v5',
    key: 'M12 14a3.5 3.5 0 1 1-2.5-2.5L17 4.5l2.5 2.5-2 .5v2h-2l-.5 2zM8 15.5v.1',
};
export function icon(name) {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', '0 0 24 24');
    svg.setAttribute('class', `icon icon-${name}`);
    svg.setAttribute('aria-hidden', 'true');
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('d', PATHS[name]);
    svg.append(path);
    return svg;
}

// What can be opened below its title; `more` stands faint beside it.
export function fold(title, more, attributes, ...content) {
    const name = typeof title === 'string' ? title : title.textContent;
    const summary = h('summary', {}, title, more ? h('span', {class: 'faint'}, ` ${more}`) : null);
    return h('details', {...attributes, class: `fold ${attributes?.class ?? ''}`.trim(), 'aria-label': name}, summary, content);
}

// A button that shows an icon alone: the label is its name and its hint.
export function iconButton(name, label, onclick, attributes) {
    return h('button', {type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...attributes}, icon(name));
}

export function note(text, kind) {
    const box = h('div', {class: `note ${kind ?? ''}`}, h('span', {}, text), iconButton('close', 'Dismiss', () => box.remove()));
    document.getElementById('notes').append(box);
    setTimeout(() => box.remove(), kind === 'bad' ? 12000 : 4000);
}

// Under a finger: there, a focus brings up a keyboard, which has no Shift Enter.
export const touched = () => matchMedia('(pointer: coarse)').matches;

// Whether a key sends what is written. Where fingers write, Enter begins a new line and the button sends.
export const sends = (e) => e.key === 'Enter' && !e.shiftKey && !e.isComposing && (!touched() || e.ctrlKey || e.metaKey);

// Puts other nodes into a box. What had the focus in it has it again, by its name.
export function redraw(box, ...children) {
    const name = box.contains(document.activeElement) ? called(document.activeElement) : '';
    box.replaceChildren(...children);
    if (name) [...box.querySelectorAll('a, button, input, select, textarea')].find((e) => called(e) === name)?.focus();
}
const called = (e) => e.id || e.getAttribute('aria-label') || e.textContent || e.className;

// For screen readers alone.
export function speak(text) { document.getElementById('spoken').textContent = text; }

// A modal dialog. build(close) gives its content; the promise is what close was called with, undefined after Escape.
export function dialog(title, build) {
    return new Promise((resolve) => {
        const id = `dialog-${Math.random().toString(36).slice(2)}`;
        const box = h('dialog', {'aria-labelledby': id});
        let result;
        const close = (value) => { result = value; box.close(); };
        box.append(h('h2', {id}, title), ...[build(close)].flat());
        const said = box.querySelector('p');        // read out with the title
        if (said) box.setAttribute('aria-describedby', said.id = `${id}-said`);
        box.addEventListener('close', () => { box.remove(); resolve(result); });
        document.body.append(box);
        box.showModal();
    });
}

export function confirmed(title, text, action) {
    return dialog(title, (close) => [h('p', {}, text), h('div', {class: 'row end'},
        h('button', {type: 'button', onclick: () => close(false)}, 'Cancel'), h('button', {type: 'button', class: 'bad', onclick: () => close(true)}, action))]);
}

export function asked(title, label, value, action) {
    return dialog(title, (close) => h('form', {method: 'dialog', onsubmit: (e) => { e.preventDefault(); close(new FormData(e.target).get('text').trim()); }},
        h('label', {class: 'field'}, label, h('input', {name: 'text', value, maxlength: 200, autofocus: true, autocomplete: 'off'})),
        h('div', {class: 'row end'}, h('button', {type: 'button', onclick: () => close()}, 'Cancel'), h('button', {class: 'primary'}, action))));
}

export async function copy(text, button) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {    // no clipboard outside of secure contexts (another machine's address without TLS): the old way
        const area = h('textarea', {class: 'hidden', 'aria-hidden': 'true'});
        area.value = text;
        (button.closest('dialog') ?? document.body).append(area);
        area.select();
        document.execCommand('copy');
        area.remove();
        button.focus();
    }
    speak('Copied');
    button.querySelector('.icon')?.replaceWith(icon('check'));
    setTimeout(() => button.querySelector('.icon')?.replaceWith(icon('copy')), 1500);
}

export function save(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], {type}));
    const link = h('a', {href: url, download: name});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// A text area as high as its text, up to what the style sheet allows.
export function grow(area) {
    area.style.height = 'auto';
    area.style.height = `${area.scrollHeight + 2}px`;
}

export function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Date.now().toString(36) + Array.from(bytes, (b) => (b % 36).toString(36)).join('');
}
