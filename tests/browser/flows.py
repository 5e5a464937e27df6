"""What people do with the page, done in a browser: each flow is a function, run in this order in one tab. They ask nothing of what the model says, save that it
says something; flows of adapters are skipped where none is served."""
import asyncio
import base64
import json
import os
import sys
import time

from browser import Browser

HOSTILE = [
    '<script>window.broken = 1</script><img src=x onerror="window.broken = 1">', '[x](javascript:window.broken=1)', '[x](JaVaScRiPt:window.broken=1)', '![x](https://example.org/a.png)',
    '[x](data:text/html,<script>window.broken=1</script>)', '<a href="javascript:window.broken=1">x</a>', '```html\n<script>window.broken = 1</script>\n```', '# <svg onload=window.broken=1>',
    '| <img src=x onerror=window.broken=1> | b |\n|---|---|\n| `<b>` | <iframe src=//x> |', '<javascript:window.broken=1>', '[x]( javascript:window.broken=1 "t")', '[a](//evil.example/x)', '**<b onclick=x>**',
    '[x](vbscript:x)', 'https://example.org/"onmouseover="window.broken=1', '- [ ] <input autofocus onfocus=window.broken=1>', '> <style>*{display:none}</style>', '```"><script>window.broken=1</script>\nx',
]
SLOW = ['*a ' * 20000, '**a' * 20000, '_a ' * 20000, '[' * 30000, '![' * 20000, '`' * 30001, '`a``b' * 10000, '> ' * 5000 + 'a', '- ' * 5000, '<' * 50000, '~~a' * 20000, '\\' * 50000, '| a ' * 20000 + '\n' + '|-' * 20000,
        '[a](' * 15000, '(' * 30000, '# ' * 20000, 'https://' * 10000, '***a' * 15000, '1. a\n' * 5000, '  - a\n' * 5000, '"' * 40000, '[a](b"' * 10000, '```\n' * 20000, '[[a]' * 10000, '\n\n' * 30000,
        '-' * 30000 + 'x', '* ' * 30000 + 'x', '# a' + ' #' * 30000 + 'x', '|' + ' ' * 30000 + 'x\n-', '`' + ' ' * 30000 + '`',
        '# a' + ' ' * 90000 + 'b', '# ' + ' ' * 3000 + 'a\u2028b', '[a](' + ' ' * 90000 + 'x', 'a|b\n' + ' ' * 90000 + 'x', 'a|b\n-' + ' ' * 90000 + 'x', '```' + ' ' * 90000 + '`',
        '~' * 90000 + '`', '|a' * 3000 + '\n' + '|-' * 3000 + '\n' + '|\n' * 6000]

CONTRAST = '''(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 200) return c; } return [255, 255, 255]; };
    const faults = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
        const e = node.parentElement;
        if (!node.data.trim() || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || e.closest('.hidden, :disabled, .skip, noscript, option')) continue;
        const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) faults.push(`${node.data.trim().slice(0, 30)} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
    }
    return faults;
})()'''
STORED = '(await (await fetch("/nm/chats/" + location.hash.split("/")[2])).json())'
LAST = '[...document.querySelectorAll(".message.assistant")].at(-1)'
IDLE = f'!document.querySelector(".running") && document.querySelector(".send")?.getAttribute("aria-label") === "Send" && !!{LAST}?.querySelector(".actions button")'


class Flows:
    def __init__(self, browser, page, url, folder):
        self.browser, self.page, self.url, self.folder, self.teaches = browser, page, url.rstrip('/'), folder, False

    async def say(self, text, wait=True):
        await self.page.js('document.getElementById("prompt").focus()')
        await self.page.type(text)
        await self.page.key('Enter')
        await self.page.until('document.querySelector(".running") || ' + IDLE)
        if wait:
            await self.page.until(IDLE, 'the answer ends', 120)

    async def tap(self, selector):
        await asyncio.sleep(0.3)        # what slides has come to rest
        x, y = await self.page.js(f'(e => {{ e.scrollIntoView({{block: "nearest"}}); const r = e.getClientRects()[0]; return [r.left + r.width / 2, r.top + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))')
        await self.page.send('Input.dispatchTouchEvent', type='touchStart', touchPoints=[{'x': x, 'y': y}])
        await self.page.send('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])
        await asyncio.sleep(0.2)

    async def length(self, text):
        """Bounds answers, so that a slow model does not make the test slow."""
        await self.page.js('localStorage.setItem("last", JSON.stringify(' + json.dumps(text) + '))')

    async def fresh(self, settings=None):
        await self.length({'model': '', 'system': '', 'settings': {'max_tokens': 48, **(settings or {})}})
        await self.page.go(self.url + '/#/')
        await self.fresh_here()

    async def fresh_here(self):
        await self.page.js('location.hash = "#/"; dispatchEvent(new HashChangeEvent("hashchange"))')
        await self.page.until('document.querySelector(".greeting:not([hidden])")')

    async def reload(self):
        """Until the old page is gone: it may look as the new one is to."""
        await self.page.js('window.before = true')
        await self.page.send('Page.reload')
        for _ in range(3):
            try:
                await self.page.until('!window.before && document.readyState === "complete" && document.querySelector("main header")', 'the page is drawn anew')
                return
            except RuntimeError:        # asked just when the one gave way to the other
                pass

    async def intercepted(self, pattern, answer):
        self.page.intercept = answer
        await self.page.send('Fetch.enable', patterns=[{'urlPattern': f'*{pattern}*'}])

    async def released(self):
        await self.page.send('Fetch.disable')
        self.page.errors[:] = [e for e in self.page.errors if 'Failed to load resource' not in e]     # what was put in its way

    async def download(self, act):
        before = set(os.listdir(self.browser.folder))
        await self.page.send('Browser.setDownloadBehavior', behavior='allow', downloadPath=self.browser.folder)
        await act()
        for _ in range(200):
            new = [n for n in set(os.listdir(self.browser.folder)) - before if n.endswith('.jsonl')]
            if new:
                with open(os.path.join(self.browser.folder, new[0]), encoding='utf-8') as file:
                    return new[0], [json.loads(line) for line in file]
            await asyncio.sleep(0.05)
        raise AssertionError('nothing was downloaded')

    # ---- the flows ----

    async def answer_streams(self):
        await self.fresh()
        assert await self.page.js('document.activeElement.id') == 'prompt'
        await self.say('Tell me about the moon', wait=False)
        await self.page.until(f'{LAST}.querySelector(".body").textContent.length > 0', 'first text', 120)
        assert await self.page.js('document.querySelector(".send").getAttribute("aria-label")') == 'Stop'
        await self.page.until(IDLE, 'the answer ends', 120)
        assert 'tokens' in await self.page.js(f'{LAST}.querySelector(".figures").textContent')
        await self.page.until('document.querySelector(".chat[aria-current=page] .title")?.textContent === "Tell me about the moon"')
        assert '/chat/' in await self.page.js('location.hash')

    async def goes_on(self):
        await self.say('And now in one sentence.')
        assert await self.page.js('document.querySelectorAll(".message").length') == 4

    async def is_stopped(self):
        await self.fresh({'max_tokens': 4000})
        await self.say('Count slowly from one to one thousand', wait=False)
        await self.page.until(f'{LAST}.querySelector(".body").textContent.length > 0', 'first text', 120)
        await self.page.key('Escape')
        await self.page.until(IDLE, 'it stops', 10)
        assert 'stopped' in await self.page.js(f'{LAST}.querySelector(".actions").textContent')
        await self.page.key('Enter')       # an empty message is none
        assert await self.page.js('document.querySelectorAll(".message").length') == 2

    async def scrolling_is_left_alone(self):
        """Who scrolls up while an answer grows, however little, stays there; who comes back to the end is taken along again."""
        await self.page.size(1280, 400)
        await self.fresh({'max_tokens': 4000, 'temperature': 0})
        await self.say('Count from one to ten thousand, one number a line', wait=False)
        at = 'document.getElementById("scroll")'
        await self.page.until(f'{at}.scrollHeight > {at}.clientHeight + 150 || !document.querySelector(".running")', 'more than a screen', 120)
        if not await self.page.js('!!document.querySelector(".running")'):
            await self.page.size(1280, 860)
            return 'the model says too little'
        await self.page.send('Input.dispatchMouseEvent', type='mouseWheel', x=640, y=150, deltaX=0, deltaY=-30)
        await asyncio.sleep(0.4)
        left = await self.page.js(f'{at}.scrollTop')
        height = await self.page.js(f'{at}.scrollHeight')
        await self.page.until(f'{at}.scrollHeight > {height} + 60', 'it grows on', 60)
        assert await self.page.js(f'{at}.scrollTop') == left
        await self.page.until('document.querySelector(".down:not([hidden])")', 'the way to the end', 60)
        await self.page.click('.down')
        await self.page.until(f'{at}.scrollHeight - {at}.scrollTop - {at}.clientHeight < 2')
        height = await self.page.js(f'{at}.scrollHeight')
        await self.page.until(f'{at}.scrollHeight > {height} + 60 && {at}.scrollHeight - {at}.scrollTop - {at}.clientHeight < 2', 'it is followed again', 60)
        await self.page.key('Escape')
        await self.page.until(IDLE, 'it stops', 10)
        await self.page.size(1280, 860)

    async def what_is_written_waits(self):
        """A draft stays while another view is looked at, of a conversation that has no message yet as well."""
        await self.fresh()
        await self.page.type('Not sent yet')
        await self.page.js('location.hash = "#/feedback"')
        await self.page.until('document.querySelector(".exports")')
        await self.page.js('location.hash = "#/"')
        await self.page.until('document.getElementById("prompt")?.value === "Not sent yet"')
        await self.page.js('document.getElementById("prompt").select()')
        await self.page.key('Delete')

    async def branches(self):
        await self.fresh()
        await self.say('Name a colour')
        await self.page.click('.assistant .actions button', 'Answer anew')
        await self.page.until(IDLE + ' && document.querySelector(".assistant .branches span")?.textContent === "2/2"', 'a second answer', 120)
        await self.page.click('.assistant .branches button', 'Previous branch')
        await self.page.until('document.querySelector(".assistant .branches span").textContent === "1/2"')
        assert await self.page.js('document.activeElement.getAttribute("aria-label")') == 'Next branch'
        await self.page.click('.user .actions button', 'Edit and ask anew')
        await self.page.until('document.activeElement.closest(".editor")')
        await self.page.js('document.activeElement.select()')
        await self.page.type('Name a fruit')
        await self.page.click('.editor button', 'Ask anew')
        await self.page.until(IDLE + ' && document.querySelector(".user .branches span")?.textContent === "2/2"', 'a second question', 120)
        assert await self.page.js('document.querySelector(".user .body").textContent') == 'Name a fruit'

    async def feedback_is_kept(self):
        await self.page.click('.assistant .actions button', 'A bad answer')
        assert await self.page.js(f'{LAST}.querySelector("[data-rating=\\"-1\\"]").getAttribute("aria-pressed")') == 'true'
        await self.page.click('.assistant .actions button', 'Correct this answer')
        await self.page.js('document.activeElement.select()')
        await self.page.type('An apple, corrected')
        await self.page.key('Enter', control=True)
        await self.page.until(f'{LAST}.querySelector(".who").textContent === "Corrected by you"')
        await self.page.click('.assistant .actions button', 'A good answer')
        await self.page.until(f'(async () => {STORED}.messages.some(m => m.rating === 1))()', 'it is stored')
        hash_ = await self.page.js('location.hash')
        await self.reload()
        await self.page.until(f'location.hash === {json.dumps(hash_)} && {LAST}?.querySelector(".body").textContent === "An apple, corrected"', 'it is there after a reload')
        assert await self.page.js(f'{LAST}.querySelector("[data-rating=\\"1\\"]").getAttribute("aria-pressed")') == 'true'
        assert await self.page.js('document.querySelector(".user .branches span").textContent') == '2/2'

    async def is_found(self):
        await self.page.key('k', control=True)
        await self.page.type('corrected')
        await self.page.until('document.querySelectorAll(".chat").length >= 1 && document.querySelector(".chat mark")?.textContent.toLowerCase() === "corrected"', 'it is found')
        await self.page.js('document.activeElement.select()')
        await self.page.type('nothing has this zqx')
        await self.page.until('document.querySelector(".chats").textContent.includes("Nothing found")')
        await self.page.js('(s => { s.value = ""; s.dispatchEvent(new Event("input")); })(document.querySelector("input[type=search]"))')
        await self.page.until('document.querySelectorAll(".chat").length >= 3')

    async def is_exported(self):
        name, lines = await self.download(lambda: self.page.click('.tools button', 'Export as JSON lines'))
        assert name == 'name-a-colour.jsonl', name
        assert lines[0]['messages'][-1] == {'role': 'assistant', 'content': 'An apple, corrected'}, lines
        await self.page.js('location.hash = "#/feedback"')
        await self.page.until('document.querySelector(".exports h3")')
        _, lines = await self.download(lambda: self.page.click('.exports button', 'Export pairs'))
        assert lines[0]['chosen'][0]['content'] == 'An apple, corrected', lines

    async def is_renamed_and_deleted(self):
        await self.fresh()
        await self.say('Hello')
        await self.page.click('.tools button', 'Rename')
        await self.page.js('document.activeElement.select()')
        await self.page.type('Another name')
        await self.page.key('Enter')
        await self.page.until('document.querySelector(".chat[aria-current=page] .title")?.textContent === "Another name" && !document.querySelector("dialog")')
        assert await self.page.js('document.activeElement.getAttribute("aria-label")') == 'Rename'
        await self.page.click('.tools button', 'Delete')
        await self.page.click('dialog button', 'Delete')
        await self.page.until('location.hash === "#/" && ![...document.querySelectorAll(".chat")].some(c => c.textContent === "Another name")')

    async def half_an_answer_is_kept(self):
        await self.fresh({'max_tokens': 4000, 'temperature': 0})
        await self.say('Count from one to ten thousand, one number a line', wait=False)
        await self.page.until(f'(async () => !document.querySelector(".running") || {STORED}.messages?.[1]?.content)()', 'some of it is stored')
        self.page.errors[:] = [e for e in self.page.errors if '404' not in e]
        if not await self.page.js('!!document.querySelector(".running")'):
            return 'the model says too little'
        await self.reload()
        await self.page.until(f'{LAST}?.querySelector(".actions button") && {LAST}.querySelector(".body").textContent.length > 0', 'what had come is there after a reload')
        told = await self.page.js(f'{LAST}.textContent.slice(-300)')
        assert 'stopped' in told, told

    async def deleted_while_it_answers(self):
        await self.fresh({'max_tokens': 4000})
        await self.say('Count slowly from one to twenty thousand', wait=False)
        await self.page.click('.tools button', 'Delete')
        await self.page.click('dialog button', 'Delete')
        await self.page.until('location.hash === "#/" && ![...document.querySelectorAll(".chat")].some(c => c.textContent.includes("twenty thousand"))')
        await asyncio.sleep(0.7)
        await self.reload()
        await self.page.until('document.querySelectorAll(".chat").length > 1')
        assert not await self.page.js('[...document.querySelectorAll(".chat")].some(c => c.textContent.includes("twenty thousand"))')

    async def another_tab_is_seen(self):
        """What another tab added to the conversation that is open is there when one comes back to this one."""
        await self.fresh()
        await self.say('Hello')
        await self.page.until('document.querySelector(".chat[aria-current=page]")')
        await self.page.until(f'(async () => {STORED}.messages?.[1]?.extra?.seconds != null)()', 'it is stored to its end')
        self.page.errors[:] = [e for e in self.page.errors if '404' not in e]
        await self.page.js('''(async () => {
            const path = '/nm/chats/' + location.hash.split('/')[2], chat = await (await fetch(path)).json();
            const said = {id: 'elsewhere', parent: chat.leaf, role: 'user', content: 'Said in another tab', created: Date.now()};
            await fetch(path, {method: 'PUT', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({...chat, id: undefined, leaf: 'elsewhere', updated: Date.now() + 1, messages: [said]})});
            dispatchEvent(new Event('focus'));
        })()''')
        await self.page.until('document.querySelectorAll(".message").length === 3 && document.querySelectorAll(".user .body")[1].textContent === "Said in another tab"')

    async def server_comes_back(self):
        """What could not be stored is stored as soon as the server is there again, with nobody's doing."""
        async def fail(params):
            if params['request']['method'] == 'PUT':
                await self.page.send('Fetch.failRequest', requestId=params['requestId'], errorReason='ConnectionRefused')
            else:
                await self.page.send('Fetch.continueRequest', requestId=params['requestId'])
        await self.fresh()
        await self.intercepted('/nm/chats/', fail)
        await self.say('Stored later')
        await self.page.until('document.querySelector(".note.bad")?.textContent.includes("tried again")')
        await self.released()
        await self.page.until('(async () => (await fetch("/nm/chats/" + location.hash.split("/")[2])).ok)()', 'it is stored', 20)
        self.page.errors[:] = [e for e in self.page.errors if '404' not in e]

    async def no_sign_hinders_storing(self):
        """An answer with U+0000, and a question with half a sign: what no JSON takes elsewhere is replaced."""
        async def answer(params):
            body = b'data: {"choices": [{"delta": {"content": "a\\u0000b"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
            await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=200, body=base64.b64encode(body).decode())
        await self.fresh()
        await self.intercepted('/v1/chat/completions', answer)
        await self.page.js('(a => { a.value = "half \\ud83d"; a.dispatchEvent(new Event("input")); })(document.getElementById("prompt"))')
        await self.say('!')
        await self.released()
        await self.page.until(f'(async () => {STORED}.messages?.[1]?.content === "a\\ufffdb")()', 'it is stored')

    async def stack_is_chosen(self):
        await self.fresh()
        await self.page.key(',', control=True)
        await self.page.until('!document.getElementById("panel").hidden')
        if not await self.page.js('document.querySelectorAll(".adapter").length'):
            return 'no adapter is served'
        name = await self.page.js('document.querySelector(".adapter label span").title')
        if not await self.page.js('document.querySelector(".adapter:first-child input[type=checkbox]").checked'):
            await self.page.click('.adapter:first-child input[type=checkbox]')
        await self.page.js('document.querySelector(".adapter:first-child input[type=range]").focus()')
        for _ in range(4):
            await self.page.key('ArrowLeft')
        scale = await self.page.js('document.querySelector(".adapter:first-child output").textContent')
        wanted = f'+{name}={float(scale):g}'
        assert (await self.page.js('document.querySelector(".who-answers span").textContent')).endswith(wanted)
        await self.say('Hello')
        assert (await self.page.js(f'{LAST}.querySelector(".who").textContent')).endswith(wanted)
        await self.page.key(',', control=True)

    async def persona_is_kept(self):
        await self.fresh()
        await self.page.key(',', control=True)
        await self.page.click('#system')
        await self.page.type('Answer as a pirate.')
        await self.page.click('.quiet')
        await self.page.type('Pirate')
        await self.page.key('Enter')
        await self.page.until('document.getElementById("persona")?.value === "Pirate"')
        await self.fresh()
        await self.page.js('document.getElementById("panel").hidden && document.querySelector(".who-answers").click()')
        await self.page.js('(s => { s.value = "Pirate"; s.dispatchEvent(new Event("change")); })(document.getElementById("persona"))')
        await self.page.until('document.getElementById("system").value === "Answer as a pirate."')
        await self.page.js('(s => { s.value = ""; s.dispatchEvent(new Event("change")); })(document.getElementById("persona"))')
        await self.page.until('document.getElementById("system").value === "" && document.getElementById("persona").value === ""', 'without it nothing of it stays')
        await self.page.js('(s => { s.value = "Pirate"; s.dispatchEvent(new Event("change")); })(document.getElementById("persona"))')
        await self.page.click('#panel button', 'Delete this persona')
        await self.page.click('dialog button', 'Delete')
        await self.page.until('![...document.getElementById("persona").options].some(o => o.value === "Pirate")')
        await self.page.key(',', control=True)

    async def tokens_are_seen(self):
        await self.fresh({'probabilities': True})
        await self.say('Tell me about the moon')
        await self.page.click('.assistant .actions button', 'Show probabilities of tokens')
        await self.page.until('document.querySelectorAll(".tokens .token").length > 1')
        await self.page.js('document.querySelector(".tokens .token").focus()')
        await self.page.key('ArrowRight')
        assert await self.page.js('document.querySelectorAll(".tip:not([hidden]) tr").length') >= 2
        assert '%' in await self.page.js('document.activeElement.getAttribute("aria-label")')
        text = await self.page.js('[...document.querySelectorAll(".tokens .token")].map(t => t.textContent).join("")')
        assert len(text) > 5

    async def tokens_are_read(self):
        """An answer with which nothing was noted: the model reads it. A finger shows what stands behind a token as a pointer does."""
        await self.fresh()
        await self.say('Tell me about the moon')
        text = await self.page.js(f'{LAST}.querySelector(".body").textContent')
        await self.page.click('.assistant .actions button', 'Show probabilities of tokens')
        await self.page.until('document.querySelectorAll(".tokens .token").length > 1', seconds=60)
        assert len(text) > 5 and text[:5] in await self.page.js('[...document.querySelectorAll(".tokens .token")].map(t => t.textContent).join("")')
        await self.page.size(360, 740, True)
        for _ in range(2):      # again where it is already
            await self.tap('.tokens .token:nth-child(2)')
            assert await self.page.js('document.querySelectorAll(".tip:not([hidden]) tr").length') >= 2
        await self.page.size(1280, 860)

    async def fingers_do(self):
        """A phone: Enter begins a new line and the button sends; the list goes away over what is open already."""
        await self.page.size(360, 740, True)
        await self.fresh()
        await self.page.js('document.getElementById("prompt").focus()')
        await self.page.type('One')
        await self.page.key('Enter')
        await self.page.type('Two')
        assert await self.page.js('document.getElementById("prompt").value') == 'One\nTwo'
        await self.tap('.send')
        await self.page.until(IDLE, 'the answer ends', 120)
        await self.tap('.menu')
        await self.page.until('document.body.classList.contains("sidebar-open") && document.querySelector(".chat[aria-current=page]")')
        await self.tap('.chat[aria-current=page]')
        await self.page.until('!document.body.classList.contains("sidebar-open") && document.querySelectorAll(".message").length === 2')
        await self.page.size(1280, 860)

    async def theme_switches(self):
        await self.page.theme('light')
        seen = []
        for _ in range(3):
            seen.append(await self.page.js('[document.querySelector(".theme").getAttribute("aria-label"), getComputedStyle(document.body).backgroundColor].join()'))
            await self.page.click('.theme')
        assert len(set(seen)) == 3 and 'dark' in ''.join(seen), seen
        await self.page.click('.theme')
        await self.page.click('.theme')       # dark stays after a reload
        await self.reload()
        await self.page.until('document.documentElement?.dataset.theme === "dark" && document.querySelector(".theme")')
        await self.page.click('.theme')

    async def blind_comparison(self):
        await self.page.js('location.hash = "#/compare"')
        await self.page.until('document.getElementById("question")')
        if await self.page.js('document.querySelectorAll(".adapter").length + document.querySelector(".sides option").parentElement.children.length') < 2:
            return 'one model alone is served'
        await self.page.js('document.getElementById("question").focus()')
        await self.page.type('Say hello to the moon')
        await self.page.key('Enter')
        await self.page.until('document.querySelectorAll(".votes button:not(:disabled)").length === 4', 'both answer', 240)
        assert not await self.page.js('document.querySelectorAll(".revealed").length')
        await self.page.click('.votes button', 'The first is better')
        await self.page.until('document.querySelectorAll(".revealed").length === 2 && document.querySelector(".tally td")')
        await self.page.js('document.getElementById("question").select()')
        await self.page.type('Count slowly from one to twenty thousand')
        await self.page.key('Enter')
        await self.page.until('document.querySelector(".ask button").textContent === "Stop" && document.querySelector(".pair").textContent.length > 40', 'both answer', 60)
        await self.page.click('.ask button', 'Stop')        # what has come so far can be voted on
        await self.page.until('document.querySelector(".ask button").textContent === "Ask both" && document.querySelectorAll(".votes button:not(:disabled)").length === 4', seconds=10)

    async def memory_serves_where_nothing_is_kept(self):
        async def refuse(params):
            await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=503, body=base64.b64encode(b'{"error": {"message": "no SQLite here"}}').decode())
        await self.intercepted('/nm/', refuse)
        await self.page.go(self.url + '/?memory#/')
        await self.page.until('document.querySelector(".unkept")?.textContent.includes("no SQLite here")')
        await self.fresh_here()
        await self.say('Hello')
        await self.page.js('location.hash = "#/"')
        await self.page.until('document.querySelector(".greeting:not([hidden])")')
        await self.page.click('.chat', 'Hello')
        await self.page.until('document.querySelectorAll(".message").length === 2')
        name, lines = await self.download(lambda: self.page.click('.tools button', 'Export as JSON lines'))
        assert lines[0]['messages'][0] == {'role': 'user', 'content': 'Hello'}, lines
        await self.released()
        await self.page.go(self.url + '/?kept#/')

    async def nothing_of_a_model_is_html(self):
        report = await self.page.js(f'''(async () => {{
            const {{render}} = await import('/markdown.js');
            const box = document.createElement('div');
            document.body.append(box);
            const faults = [];
            for (const text of {json.dumps(HOSTILE)}) {{
                render(box, text);
                for (const e of box.querySelectorAll('script, img, svg:not(.icon), iframe, style, object, embed, form, link, input:not([type=checkbox])')) faults.push(text + ' made ' + e.outerHTML);
                for (const e of box.querySelectorAll('*')) for (const a of e.attributes) if (/^on|style|^src/.test(a.name)) faults.push(text + ' has ' + a.name);
                for (const a of box.querySelectorAll('a')) if (!/^(https?:|mailto:)/.test(a.href) || a.hostname === location.hostname) faults.push(text + ' leads to ' + a.href);
            }}
            box.remove();
            await new Promise(r => setTimeout(r, 100));
            if (window.broken) faults.push('something ran');
            return faults;
        }})()''')
        assert not report, report

    async def markdown_is_fast(self):
        times = await self.page.js(f'''(async () => {{
            const {{render}} = await import('/markdown.js');
            return {json.dumps(SLOW)}.map((text) => {{ const t = performance.now(); render(document.createElement('div'), text); return [text.slice(0, 12), Math.round(performance.now() - t)]; }});
        }})()''')
        slow = [t for t in times if t[1] > 1500]
        assert not slow, slow

    async def much_is_shown(self):
        """More nodes beside each other than a call takes arguments."""
        counts = await self.page.js('''(async () => {
            const {h} = await import('/dom.js'), {render} = await import('/markdown.js'), box = h('div');
            render(box, '- ' + 'a\\n'.repeat(70000));
            return [box.querySelector('li').childNodes.length, h('p', {}, Array(200000).fill('a')).childNodes.length];
        })()''')
        assert counts == [139999, 200000], counts

    async def grows_as_it_would_at_once(self):
        """A text rendered piece by piece is what it is when rendered at once."""
        fault = await self.page.js('''(async () => {
            const {render} = await import('/markdown.js');
            const text = '# A\\n\\nOne *two* **three\\nfour** `x`\\n\\n- a\\n  - b\\n\\n    more\\n- c\\n\\n1. x\\n2. y\\n\\n```js\\nlet a = 1; // c\\n\\n```\\n\\n| a | b |\\n|---|--:|\\n| 1 | 2 |\\n\\n> q\\n> r\\n\\n---\\nend <b> https://a.example/x.';
            const slow = document.createElement('div'), fast = document.createElement('div');
            for (let i = 1; i <= text.length; i++) render(slow, text.slice(0, i));
            render(fast, text);
            return slow.innerHTML === fast.innerHTML ? '' : slow.innerHTML + ' != ' + fast.innerHTML;
        })()''')
        assert not fault, fault

    async def key_is_asked(self):
        keys = []

        async def guard(params):
            key = {k.lower(): v for k, v in params['request']['headers'].items()}.get('authorization')
            keys.append(key)
            if key == 'Bearer sesame':
                await self.page.send('Fetch.continueRequest', requestId=params['requestId'])
            else:
                await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=401, body=base64.b64encode(b'{"error": {"message": "a key"}}').decode())
        await self.intercepted('/nm/', guard)
        await self.page.js('sessionStorage.removeItem("key")')
        await self.page.go(self.url + '/?again#/')
        for key in ('wrong', 'sesame'):
            await self.page.until('document.activeElement.name === "key" && document.activeElement.value === ""', 'the box')
            await self.shots('key')
            await self.page.type(key)
            await self.page.key('Enter')
            await asyncio.sleep(0.3)
        await self.page.until('!document.querySelector("dialog") && document.querySelectorAll(".chat").length > 0')
        assert 'Bearer wrong' in keys and 'Bearer sesame' in keys
        await self.released()
        await self.page.js('sessionStorage.removeItem("key")')

    async def errors_are_told(self):
        await self.fresh()
        answers = [(429, b'{"error": {"message": "16 answers are under way"}}', 'busy'), (400, b'{"error": {"code": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 2048}}', '2048'),
                   (500, b'<html>', '500'), (None, None, 'nomoat serve')]
        for status, body, said in answers:
            async def fail(params, status=status, body=body):
                if status:
                    await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=status, body=base64.b64encode(body).decode(), responseHeaders=[{'name': 'Retry-After', 'value': '3'}])
                else:
                    await self.page.send('Fetch.failRequest', requestId=params['requestId'], errorReason='ConnectionRefused')
            await self.intercepted('/v1/chat/completions', fail)
            await self.say('Hello')
            text = await self.page.js(f'{LAST}.querySelector(".failed").textContent')
            assert said in text, text
            await self.released()
        await self.shots('error')
        await self.page.click('.assistant .actions button', 'Answer anew')     # and all is well again
        await self.page.until(IDLE + f' && {LAST}.querySelector(".failed").hidden && {LAST}.querySelector(".body").textContent', seconds=120)

    async def keyboard_alone(self):
        """Tab goes to every control, each visible with focus, and back to the beginning."""
        await self.page.js('document.activeElement.blur(); location.hash = "#/"')
        await asyncio.sleep(0.3)
        await self.page.js('document.querySelector(".skip").click()')
        assert await self.page.js('location.hash === "#/" && document.activeElement.id === "main"')
        await self.page.js('document.activeElement.blur()')
        seen = []
        for _ in range(60):
            await self.page.key('Tab')
            seen.append(await self.page.js('(() => { const e = document.activeElement, r = e.getBoundingClientRect(); return [e.tagName, e.getAttribute("aria-label") ?? e.textContent.slice(0, 30),'
                                           'e === document.body || r.width > 0]; })()'))
        names = ' '.join(str(s[1]) for s in seen)
        assert all(s[2] for s in seen), seen
        await self.page.size(1000, 700)      # room for the list, none for the panel beside it
        await self.page.key('k', control=True)
        assert await self.page.js('document.activeElement.type === "search" && document.getElementById("scrim").hidden')
        await self.page.key(',', control=True)
        assert await self.page.js('document.getElementById("panel").contains(document.activeElement) && document.getElementById("main").inert')
        await self.page.key('Escape')
        assert await self.page.js('document.activeElement.className === "who-answers" && !document.getElementById("main").inert')
        await self.page.size(1280, 860)
        assert 'Message' in names and 'New conversation' in names and 'Compare blindly' in names, names

    # ---- Teach and See ----

    async def taught_by(self, *files):
        await self.page.js('location.hash = "#/teach"')
        await self.page.until('document.querySelector(".lesson, .run, .teach .lead")')
        if files:
            document = await self.page.send('DOM.getDocument')
            input_ = await self.page.send('DOM.querySelector', nodeId=document['root']['nodeId'], selector='#lesson-files')
            await self.page.send('DOM.setFileInputFiles', files=list(files), nodeId=input_['nodeId'])

    def lines(self, name, count):
        """Data of so many short lessons."""
        path = os.path.join(self.browser.folder, name)
        with open(path, 'w', encoding='utf-8') as file:
            for i in range(count):
                file.write(json.dumps({'prompt': f'What is {i}?', 'completion': f'Aye, it be the number {i}, arr!'}) + '\n')
        return path

    async def fill(self, selector, value):
        await self.page.js(f'(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event("input")); }})(document.querySelector({json.dumps(selector)}))')

    async def lesson_is_put_together(self):
        """A file is dropped, one of the wrong kind is refused; a name is suggested; feedback is counted. What the tab remembers of a lesson is there."""
        await self.page.js('sessionStorage.setItem("lesson", JSON.stringify({settings: {meter: 256}}))')      # less to measure than usual
        await self.page.go(self.url + '/?lesson#/teach')
        await self.taught_by()
        if await self.page.js('!!document.querySelector(".teach > .lead")'):
            self.teaches = False
            return 'the server does not teach'
        self.teaches = True
        assert await self.page.js('document.querySelector(".chips li").textContent') == 'meter 256'
        await self.page.click('.ways button', 'Go')
        await self.page.until('document.querySelector(".teach .failed:not([hidden])")?.textContent.includes("Choose what is taught")')
        box = await self.page.js('(() => { const e = document.querySelector(".drop"); e.scrollIntoView(); const r = e.getBoundingClientRect(); return [r.left + 40, r.top + 20]; })()')
        data = {'items': [], 'files': [self.lines('talks.jsonl', 40), self.lines('picture.png', 1)], 'dragOperationsMask': 1}
        for kind in ('dragEnter', 'dragOver', 'drop'):
            await self.page.send('Input.dispatchDragEvent', type=kind, x=box[0], y=box[1], data=data)
        await self.page.until('document.querySelector(".sources input:checked") && document.querySelector(".note.bad")?.textContent.match(/picture.png\\u2069 is of no kind/)')
        await self.page.click('.note button', 'Dismiss')
        assert await self.page.js('document.getElementById("lesson-name").value') == 'talks'
        counts = await self.page.js('(async () => (await fetch("/nm/feedback")).json())()')
        told = await self.page.js('document.querySelector("[data-chats=corrections]").textContent')
        assert f'({counts["corrections"]})' in told, told
        await self.shots('teach')

    async def masks_are_seen(self):
        if not self.teaches:
            return 'the server does not teach'
        await self.page.click('.ways button', 'See what is trained')
        await self.page.until('document.querySelectorAll(".masks mark.trained").length > 2', 'the masks')
        assert await self.page.js('document.activeElement.textContent') == 'What is trained'
        trained = await self.page.js('[...document.querySelectorAll(".masks .sample mark")].map(m => m.textContent).join("")')
        assert 'Aye, it be the number' in trained and 'What is' not in trained, trained
        assert await self.page.js('getComputedStyle(document.querySelector(".sample mark")).textDecorationLine') == 'underline'
        await self.page.js('document.querySelector(".masks").scrollIntoView()')
        await self.shots('teach-masks')

    async def forecast_is_made(self):
        """A lesson that is changed forgets what was foreseen of the one before; another choice applies its setting."""
        if not self.teaches:
            return 'the server does not teach'
        await self.page.click('.lesson-settings summary')
        await self.page.click('.times input[value=epochs]')
        await self.fill('.times input[type=number]', '3')
        await self.fill('.numbers label:nth-child(4) input', '64')
        assert not await self.page.js('!!document.querySelector(".masks")')
        await self.page.click('.ways button', 'Forecast')
        await self.page.until('document.querySelector(".forecast .headline")', 'the forecast', 90)
        assert await self.page.js('document.querySelectorAll(".choices button").length') > 1
        await self.page.click('.forecast summary', 'Where the time goes')
        await self.page.js('document.querySelector(".forecast").scrollIntoView()')
        await self.shots('teach-forecast')
        await self.page.js('[...document.querySelectorAll(".choices button")].find(b => b.textContent.startsWith("no anchor")).click()')
        assert 'no anchor' in await self.page.js('document.querySelector(".chips").textContent')
        await self.page.until('document.querySelector(".forecast .headline")', 'the forecast without the anchor', 90)
        await self.page.js('[...document.querySelectorAll(".choices button")].find(b => b.textContent.startsWith("rank 8")).click()')
        assert await self.page.js('document.querySelector(".numbers input").value') == '8'
        await self.page.until('document.querySelector(".choices strong")?.textContent === "rank 4"', 'the forecast of rank 8', 90)

    async def run_is_seen_and_stopped(self):
        """Live loss, a badge, another view meanwhile, a reload; then it stops and its checkpoint is there."""
        if not self.teaches:
            return 'the server does not teach'
        await self.fill('#lesson-name', 'pirate')
        await self.fill('.numbers input', '4')
        await self.page.click('.ways button', 'Go')
        await self.page.until('document.querySelector(".run h3")?.textContent.startsWith("pirate")', 'it begins')
        await self.page.until('document.querySelector(".chart > .curve .loss")', 'two steps', 900)
        assert 'Loss: ' in await self.page.js('document.querySelector(".chart > .curve").getAttribute("aria-label")')
        assert '%' in await self.page.js('document.querySelector(".badge").textContent')
        await self.page.js('location.hash = "#/feedback"')
        await self.page.until('document.querySelector(".exports h3")')
        await self.reload()
        await self.page.until('document.querySelector(".badge:not([hidden])")', 'the badge after a reload')
        await self.taught_by()
        await self.page.until('document.querySelector(".chart > .curve .loss")', 'the run after a reload')
        await self.page.click('.run button', 'Stop')
        await self.page.until('[...document.querySelectorAll(".run button")].some(b => b.textContent === "Go on")', 'it stops', 300)
        assert await self.page.js('document.activeElement.tagName') == 'H3'
        await self.shots('teach-stopped')

    async def run_goes_on_and_ends(self):
        if not self.teaches:
            return 'the server does not teach'
        step = await self.page.js('document.querySelector(".run .where").textContent')
        await self.page.click('.run button', 'Go on')
        await self.page.until(f'document.querySelector(".run .where")?.textContent.startsWith("Step") && document.querySelector(".run .where").textContent !== {json.dumps(step)}', 'it goes on', 300)
        await self.shots('teach-run')
        await self.page.until('document.querySelector(".decide")', 'it is done', 900)
        assert await self.page.js('document.querySelector(".badge").textContent') == 'done'
        assert await self.page.js('document.querySelectorAll(".samples .triple").length') > 0
        await self.shots('teach-done')

    async def adapter_is_compared_and_kept(self):
        if not self.teaches:
            return 'the server does not teach'
        await self.page.js('document.querySelector(".asking textarea").focus()')
        await self.page.type('What is 7?')
        await self.page.key('Enter')
        await self.page.until('document.querySelectorAll(".asking article").length === 2 && document.getElementById("spoken").textContent === "Both answers are complete"', 'both answer', 120)
        assert not await self.page.js('[...document.querySelectorAll(".asking .failed")].map(f => f.textContent).join("")')
        await self.page.js('document.querySelector(".asking").scrollIntoView()')
        await self.shots('teach-compare')
        await self.page.click('.asking button', 'Compare blindly, and vote')
        await self.page.until('location.hash === "#/compare" && document.querySelectorAll(".sides .adapter input:checked").length === 1')
        await self.taught_by()
        await self.page.click('.decide button', 'Keep')
        await self.page.until('document.querySelector(".teach .last")?.textContent.startsWith("pirate is kept") && document.querySelector(".badge").hidden')
        await self.fresh()
        await self.page.key(',', control=True)
        assert await self.page.js('[...document.querySelectorAll("#panel .adapter span")].some(s => s.title === "pirate")')
        await self.page.key(',', control=True)

    async def adapter_is_discarded(self):
        """The shortest run there is: one step; a name that is taken is refused first."""
        if not self.teaches:
            return 'the server does not teach'
        await self.taught_by(self.lines('short.jsonl', 2))
        await self.page.until('[...document.querySelectorAll(".sources .name")].some(n => n.textContent === "short.jsonl")')
        await self.page.click('.sources .name', 'talks.jsonl')
        await self.fill('#lesson-name', 'pirate')
        await self.page.js('document.querySelector(".lesson-settings details").open = true')
        await self.fill('.times input[type=number]', '1')
        await self.page.click('.ways button', 'Go')
        await self.page.until('document.querySelector(".teach .failed:not([hidden])")?.textContent.includes("name")', 'the name is taken')
        await self.shots('teach-refused')
        self.page.errors[:] = [e for e in self.page.errors if '409' not in e]
        await self.fill('#lesson-name', 'passing')
        await self.page.click('.ways button', 'Go')
        await self.page.until('document.querySelector(".decide")', 'it is done', 900)
        await self.page.click('.decide button', 'Discard')
        await self.page.click('dialog button', 'Discard')
        await self.page.until('document.querySelector(".teach .last")?.textContent.startsWith("passing was discarded")')
        assert not await self.page.js('(async () => (await (await fetch("/v1/models")).json()).data.some(m => m.id.includes("passing")))()')
        await self.page.click('.sources button', 'Remove short.jsonl')
        await self.page.click('dialog button', 'Remove')
        await self.page.until('![...document.querySelectorAll(".sources .name")].some(n => n.textContent === "short.jsonl")')

    async def teaching_survives_faults(self):
        """The stream is refused: the state is asked for instead. The server is gone: it is told, and the view stays. A server that cannot teach says so."""
        state = {'state': 'training', 'id': 'x', 'name': 'held', 'model': 'm', 'step': 1, 'steps': 9, 'epochs': 1, 'loss': 3, 'first_loss': 3, 'curve': {'per': 1, 'losses': [3]}, 'looks': [], 'tokens_per_second': 9,
                 'seconds': 4, 'seconds_left': 40, 'notes': [], 'error': None, 'result': None, 'decided': None, 'resumable': False}
        down = False

        async def answer(params):
            if down:
                await self.page.send('Fetch.failRequest', requestId=params['requestId'], errorReason='ConnectionRefused')
                return
            if '/files' in params['request']['url']:
                await self.page.send('Fetch.continueRequest', requestId=params['requestId'])
                return
            code, body = (500, {'error': {'message': 'no stream'}}) if params['request']['url'].endswith('/events') else (200, state)
            state['step'] += code == 200 and state['step'] < 8
            await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=code, body=base64.b64encode(json.dumps(body).encode()).decode())
        await self.intercepted('/nm/teach', answer)
        await self.page.go(self.url + '/?polled#/teach')
        await self.page.until('document.querySelector(".where")?.textContent.startsWith("Step 4 of 9")', 'it is asked for again and again', 20)
        down = True
        await self.page.until('document.querySelector(".run .failed:not([hidden])")?.textContent.includes("does not answer")', 'the loss of the server is told', 10)
        await self.shots('teach-lost')
        down = False
        state.update(state='failed', error='talks.jsonl: the disk is full', resumable=False)
        await self.page.until('document.querySelector(".put-together > .failed")?.textContent.includes("the disk is full")', 'the failure is told', 10)
        await self.released()

        async def refuse(params):
            await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=404, body=base64.b64encode(b'{"error": {"message": "no such route"}}').decode())
        await self.intercepted('/nm/teach', refuse)
        await self.page.go(self.url + '/?unserved#/teach')
        await self.page.until('document.querySelector(".teach .lead")?.textContent.includes("does not teach")')
        await self.released()

    async def effect_is_seen(self):
        await self.fresh({'temperature': 0})        # a sign that is more than one token would not be whole here
        await self.say('Tell me about the moon')
        if not await self.page.js(f'{LAST}.querySelector("[data-shows=effect]") !== null'):
            return 'no adapter is served'
        await self.page.click('.assistant .actions button', 'What the adapter changed')
        await self.page.until('document.querySelector(".effect .failed, .effect .token")', 'the effect', 60)
        if 'no such' in await self.page.js('document.querySelector(".effect .failed")?.textContent ?? ""'):
            self.page.errors.clear()
            return 'the server does not explain'
        text = await self.page.js('[...document.querySelectorAll(".effect .tokens .token")].map(t => t.textContent).join("")')
        whole = await self.page.js('(async () => (await (await fetch("/nm/chats/" + location.hash.split("/")[2])).json()).messages.at(-1).content)()')
        assert text.strip() == whole.strip(), (text, whole)
        assert 'On average a token is' in await self.page.js('document.querySelector(".mean").textContent')
        await self.page.js('document.querySelector(".effect .tokens .token").focus()')
        await self.page.key('ArrowRight')
        name = await self.page.js('document.activeElement.getAttribute("aria-label")')
        assert ' % with ' in name and 'likel' in name, name
        assert await self.page.js('document.querySelectorAll(".effect .tip:not([hidden]) table").length') == 2
        await self.shots('effect')
        choose = '(i => { const s = document.querySelector(".stacks select"); s.selectedIndex = i; s.dispatchEvent(new Event("change")); })'
        alone = await self.page.js('document.querySelectorAll(".stacks select")[1].selectedIndex')
        await self.page.js(f'{choose}({alone})')
        await self.page.until('document.querySelector(".effect-shown").textContent.includes("Both are the same")')
        await self.page.js(f'{choose}({1 - min(alone, 1)})')
        await self.page.until('document.querySelector(".effect .token")', seconds=60)
        await self.page.click('.assistant .actions button', 'What the adapter changed')
        await self.page.until(f'!document.querySelector(".effect") && {LAST}.querySelector(".body").textContent.length > 5')

        async def fail(params):
            await self.page.send('Fetch.fulfillRequest', requestId=params['requestId'], responseCode=429, body=base64.b64encode(b'{"error": {"message": "16 answers are under way"}}').decode())
        await self.intercepted('/nm/explain', fail)
        await self.page.click('.assistant .actions button', 'What the adapter changed')
        await self.page.until('document.querySelector(".effect .failed")?.textContent.includes("busy")')
        await self.released()

    async def views_look(self):
        """Screenshots of each view; names of all controls, contrast, and nothing wider than the screen."""
        await self.fresh({'probabilities': True, 'think': True})
        await self.shots('empty')
        await self.say('Tell me about the moon')
        await self.shots('chat')
        await self.page.js('document.querySelector(".thinking summary")?.click(); document.getElementById("scroll").scrollTop = 0')
        await self.shots('chat-top')
        await self.page.click('.assistant .actions button', 'Show probabilities of tokens')
        await self.page.js('document.querySelectorAll(".tokens .token")[3].focus()')
        await self.shots('tokens')
        await self.page.click('.user .actions button', 'Edit and ask anew')
        await self.shots('edit')
        await self.page.key('Escape')
        await self.page.js('document.querySelector(".who-answers").click()')
        await self.page.js('document.querySelector(".adapter input[type=checkbox]")?.click()')
        await self.shots('settings')
        await self.page.js('document.querySelector(".who-answers").click()')
        await self.page.size(360, 740, True)
        await self.page.js('document.querySelector(".menu").click()')
        assert await self.page.js('document.activeElement.matches("#sidebar .new")')
        await self.shots('conversations')
        await self.page.key('Escape')
        await self.page.key('/', control=True)
        await self.shots('keys')
        await self.page.key('Escape')
        for view in ('compare', 'feedback'):
            await self.page.js(f'location.hash = "#/{view}"')
            await self.page.until(f'document.querySelector(".{view}-view h3")')
            await self.shots(view)

    async def shots(self, name):
        for size, phone in ((None, False), ('phone', True)):
            await self.page.size(360 if phone else 1280, 740 if phone else 860, phone)
            for theme in ('light', 'dark'):
                await self.page.theme(theme)
                await self.page.shot(os.path.join(self.folder, f'{name}-{"phone-" if phone else ""}{theme}.png'))
                faults = await self.page.js(CONTRAST)
                assert not faults, f'{name}, {theme}: too little contrast: {faults}'
            wide = await self.page.js('[...document.querySelectorAll("body, main, #scroll, .panel, dialog, .sidebar")].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className + e.scrollWidth)')
            assert not wide, f'{name} is wider than the screen: {wide}'
            unnamed = await self.page.unnamed()
            assert not unnamed, f'{name}: without a name: {unnamed}'
        await self.page.size(1280, 860)
        await self.page.theme('light')


FLOWS = [Flows.answer_streams, Flows.goes_on, Flows.is_stopped, Flows.scrolling_is_left_alone, Flows.what_is_written_waits, Flows.branches, Flows.feedback_is_kept, Flows.is_found, Flows.is_exported, Flows.is_renamed_and_deleted, Flows.half_an_answer_is_kept, Flows.deleted_while_it_answers, Flows.another_tab_is_seen, Flows.server_comes_back, Flows.no_sign_hinders_storing,
         Flows.stack_is_chosen, Flows.persona_is_kept, Flows.tokens_are_seen, Flows.tokens_are_read, Flows.fingers_do, Flows.theme_switches, Flows.blind_comparison, Flows.memory_serves_where_nothing_is_kept, Flows.nothing_of_a_model_is_html, Flows.markdown_is_fast, Flows.much_is_shown, Flows.grows_as_it_would_at_once,
         Flows.errors_are_told, Flows.keyboard_alone, Flows.lesson_is_put_together, Flows.masks_are_seen, Flows.forecast_is_made, Flows.run_is_seen_and_stopped, Flows.run_goes_on_and_ends,
         Flows.adapter_is_compared_and_kept, Flows.adapter_is_discarded, Flows.teaching_survives_faults, Flows.effect_is_seen, Flows.views_look, Flows.key_is_asked]


async def main(url, folder):
    os.makedirs(folder, exist_ok=True)
    failed = 0
    print(f'1..{len(FLOWS)}')
    async with Browser() as browser:
        page = await browser.page()
        await page.size(1280, 860)
        await page.theme('light')
        await page.go(url)
        flows = Flows(browser, page, url, folder)
        for number, flow in enumerate(FLOWS, 1):
            begun, fault, skipped = time.time(), None, None
            try:
                skipped = await flow(flows)
                assert not page.errors, f'the console says: {page.errors}'
            except (AssertionError, RuntimeError, ValueError, asyncio.TimeoutError) as e:
                fault = f'{type(e).__name__}: {e}'
                await page.shot(os.path.join(folder, f'failed-{flow.__name__}.png'))
                await page.send('Fetch.disable')
                await page.key('Escape')
            page.errors.clear()
            failed += fault is not None
            print(f'{"not ok" if fault else "ok"} {number} - {flow.__name__.replace("_", " ")}' + (f' # SKIP {skipped}' if skipped else f' # {time.time() - begun:.1f} s'))
            if fault:
                print('# ' + fault.replace('\n', '\n# '))
            sys.stdout.flush()
    return failed

if __name__ == '__main__':
    sys.exit(1 if asyncio.run(main(sys.argv[1], sys.argv[2])) else 0)
