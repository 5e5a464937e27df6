"""A browser without a window, driven over its DevTools protocol: what the page's tests need of it and no more."""
import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request

import websockets

KEYS = {'Enter': (13, '\r'), 'Escape': (27, ''), 'Tab': (9, ''), 'ArrowRight': (39, ''), 'ArrowLeft': (37, ''), 'ArrowUp': (38, ''), 'End': (35, ''), 'Delete': (46, '')}


class Page:
    """One tab. What the console says at level error, and exceptions, gather in .errors."""

    def __init__(self, socket):
        self.socket, self.errors, self.waiting, self.number, self.intercept = socket, [], {}, 0, None
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if 'id' in message:
                future = self.waiting.pop(message['id'], None)
                if future and not future.done():
                    future.set_result(message)
                continue
            self.happened(message['method'], message['params'])

    def happened(self, method, params):
        if method == 'Runtime.exceptionThrown':
            details = params['exceptionDetails']
            self.errors.append(details.get('exception', {}).get('description', details['text']))
        elif method == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'):
            self.errors.append(' '.join(str(a.get('value', a.get('description'))) for a in params['args']))
        elif method == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
            self.errors.append(params['entry']['text'] + ' ' + params['entry'].get('url', ''))
        elif method == 'Fetch.requestPaused':
            asyncio.create_task(self.intercept(params))

    async def send(self, method, **params):
        self.number += 1
        future = asyncio.get_running_loop().create_future()
        self.waiting[self.number] = future
        await self.socket.send(json.dumps({'id': self.number, 'method': method, 'params': params}))
        answer = await asyncio.wait_for(future, 60)
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']

    async def js(self, expression):
        """The value of an expression (awaited) in the page."""
        result = await self.send('Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(result['exceptionDetails'].get('exception', {}).get('description', expression))
        return result['result'].get('value')

    async def until(self, expression, what=None, seconds=120):
        for _ in range(int(seconds * 20)):
            value = await self.js(f'(async () => Boolean(await ({expression})))()')
            if value:
                return value
            await asyncio.sleep(0.05)
        raise AssertionError(f'did not happen within {seconds} s: {what or expression}')

    async def go(self, url):
        await self.send('Page.navigate', url=url)
        await self.until('document.readyState === "complete" && document.querySelector("#sidebar h1") && document.querySelector("main header")', 'the page is drawn')

    async def key(self, key, control=False, shift=False):
        code, text = KEYS[key] if key in KEYS else (ord(key.upper()), key)
        modifiers = (2 if control else 0) + (8 if shift else 0)
        event = {'key': key, 'windowsVirtualKeyCode': code, 'modifiers': modifiers}
        if text and not control:
            event['text'] = text
        await self.send('Input.dispatchKeyEvent', type='keyDown', **event)
        await self.send('Input.dispatchKeyEvent', type='keyUp', key=key, windowsVirtualKeyCode=code, modifiers=modifiers)

    async def type(self, text):
        await self.send('Input.insertText', text=text)

    async def click(self, selector, text=None):
        """A real click in the middle of what is found: by selector, and where given by its text or name."""
        finder = f'[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.checkVisibility()' + \
            (f' && (e.textContent.trim() === {json.dumps(text)} || e.getAttribute("aria-label") === {json.dumps(text)})' if text else '') + ').at(-1)'
        await self.until(f'!!{finder}', f'there is {selector} {text or ""}')
        box = await self.js(f'(() => {{ const e = {finder}; e.scrollIntoView({{block: "nearest"}}); const r = e.getBoundingClientRect();'
                            'return [r.left + r.width / 2, r.top + r.height / 2]; })()')
        await self.send('Input.dispatchMouseEvent', type='mouseMoved', x=box[0], y=box[1])
        for kind in ('mousePressed', 'mouseReleased'):
            await self.send('Input.dispatchMouseEvent', type=kind, x=box[0], y=box[1], button='left', clickCount=1)

    async def size(self, width, height, phone=False):
        await self.send('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        await self.send('Emulation.setTouchEmulationEnabled', enabled=phone)

    async def theme(self, name):
        await self.send('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': name}])

    async def shot(self, path):
        await asyncio.sleep(0.25)       # what slides has come to rest
        data = await self.send('Page.captureScreenshot', format='png')
        with open(path, 'wb') as file:
            file.write(base64.b64decode(data['data']))

    async def unnamed(self):
        """Controls of the accessibility tree that have no name."""
        nodes = (await self.send('Accessibility.getFullAXTree'))['nodes']
        controls = {'button', 'link', 'textbox', 'searchbox', 'checkbox', 'radio', 'slider', 'combobox', 'spinbutton', 'switch', 'menuitem', 'tab', 'dialog', 'img', 'region', 'group'}
        return [n['role']['value'] + ' ' + json.dumps(n.get('properties', []))[:200] for n in nodes
                if not n.get('ignored') and n.get('role', {}).get('value') in controls and not n.get('name', {}).get('value')]


class Browser:
    async def __aenter__(self):
        self.folder = tempfile.mkdtemp(prefix='nomoat-browser-')
        arguments = [shutil.which('chromium') or 'chromium', '--headless=new', '--remote-debugging-port=0', f'--user-data-dir={self.folder}', '--no-first-run', '--disable-gpu', '--hide-scrollbars',
                     '--disable-background-networking', '--disable-component-update', '--window-size=1280,860', 'about:blank']
        if os.geteuid() == 0:
            arguments.insert(1, '--no-sandbox')
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = os.path.join(self.folder, 'DevToolsActivePort')
        for _ in range(400):
            if os.path.exists(port_file) and len(open(port_file).read().split('\n')) > 1:
                break
            await asyncio.sleep(0.1)
        self.port = int(open(port_file).read().split('\n')[0])
        return self

    async def page(self):
        request = urllib.request.Request(f'http://127.0.0.1:{self.port}/json/new?about:blank', method='PUT')
        target = json.load(urllib.request.urlopen(request))
        socket = await websockets.connect(target['webSocketDebuggerUrl'], max_size=None)
        page = Page(socket)
        for domain in ('Page', 'Runtime', 'Log', 'Accessibility', 'DOM'):
            await page.send(f'{domain}.enable')
        return page

    async def __aexit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)
