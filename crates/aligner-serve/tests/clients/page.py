"""The page in a Chromium that is driven over its DevTools protocol: `page.py URLS BROWSER PROFILE`; prints `ok`.

With ALIGNER_TEST_SHOTS, the path of a directory, pictures of the page are written into it.
"""

import base64
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import websocket

URLS = {name: url.removesuffix("v1") for name, url in json.loads(sys.argv[1]).items()}
FLAT = "The earth is flat, as everybody knows."
ROUND = "The earth is round, as everybody knows."
# A shell would make something else of each of these.
TYPED = "It's \"flat\", say $HOME and `id`."


class Browser:
    def __init__(self, program, profile):
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"]
        flags += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([program, *flags, "about:blank"], stdout=quiet, stderr=quiet)
        told = pathlib.Path(profile, "DevToolsActivePort")
        self.wait(lambda: told.exists() and len(told.read_text().splitlines()) == 2, 60)
        port, path = told.read_text().splitlines()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=60)
        self.ids, self.session, self.logged = itertools.count(1), None, []
        page = next(target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ["Page", "Runtime", "Log"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        message = {"id": next(self.ids), "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            reply = json.loads(self.socket.recv())
            if reply.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.logged.append(reply["params"])
            if reply.get("id") == message["id"]:
                assert "error" not in reply, reply
                return reply["result"]

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, element):
        return self.js(f"document.getElementById('{element}').textContent")

    @staticmethod
    def wait(is_so, seconds=20):
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    def until(self, expression):
        try:
            self.wait(lambda: self.js(expression))
        except AssertionError:
            raise AssertionError(f"{expression}: {self.js('document.body.innerText')}") from None

    def open(self, name, fragment="", width=1280, height=800):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        # A navigation that changes the fragment alone would not load the page.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=f"{URLS[name]}#{fragment}")
        self.until("document.getElementById('main')?.hidden === false")

    def click(self, element):
        self.js(f"document.getElementById('{element}').scrollIntoView({{block: 'center'}})")
        box = f"(() => {{ const box = document.getElementById('{element}').getBoundingClientRect();"
        x, y = self.js(f"{box} return [box.x + box.width / 2, box.y + box.height / 2]; }})()")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, element, text):
        self.click(element)
        self.call("Input.insertText", text=text)

    def key(self, key, code, modifiers=0):
        how = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        for kind in ["rawKeyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, **how)

    def ended(self, state="done"):
        self.until(f"['done', 'failed', '{state}'].includes(document.body.dataset.state)")
        equal((self.js("document.body.dataset.state"), self.text("error") if state == "done" else ""), (state, ""))

    def shot(self, name):
        if "ALIGNER_TEST_SHOTS" in os.environ:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            image = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
            pathlib.Path(os.environ["ALIGNER_TEST_SHOTS"], f"{name}.png").write_bytes(base64.b64decode(image))


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def marked(page, side):
    return page.js(f"document.getElementById('{side}').innerHTML")


def links(page):
    """Links that fill the page in and submit it."""
    # The answer is no markup, whatever it says.
    answer = "The+earth+is+flat,+%3Cimg+src=x%3E+they+say."
    page.open("plain", f"tab=correct&question=What+shape%3F&answer={answer}&run=1")
    page.ended()
    equal(marked(page, "left"), "The earth is <del>flat,</del> &lt;img src=x&gt; they say.")
    equal(marked(page, "right"), "The earth is <ins>round,</ins> &lt;img src=x&gt; they say.")
    equal((page.text("outcome"), page.text("error"), page.text("tokens")), ("Corrected.", "", "10 in, 5 out"))
    audited = "Original served, correction recorded."
    for mode, words in [("buffer", "Corrected."), ("sentence", "Corrected."), ("audit", audited)]:
        # The model is the first of the upstream's list.
        page.open("plain", f"tab=ask&question=What+shape%3F&mode={mode}&run=1")
        page.ended()
        equal(page.text("outcome"), words)
        wanted = FLAT.replace("flat,", "<del>flat,</del>"), ROUND.replace("round,", "<ins>round,</ins>")
        equal((marked(page, "left"), marked(page, "right")), (FLAT, "") if mode == "audit" else wanted)
        page.shot(f"{mode}-1280")


def failures(page):
    said = {
        "busy": "as many requests as may be (1",
        "gone": "the upstream failed: ",
        "limited": "slower",
        "failing": "aligner_failed: the device is gone",
    }
    for name, words in said.items():
        page.open(name, "tab=ask&question=What+shape%3F&model=up&run=1")
        page.ended("failed")
        assert words in page.text("error"), page.text("error")
        equal(page.text("outcome"), "Failed.")
        page.shot(f"{name}-1280")
    # Without an upstream there is nothing to ask.
    page.open("alone")
    equal((page.text("submit"), page.js("document.getElementById('no-upstream').hidden")), ("Correct", False))
    page.shot("alone-1280")


def typed(page, width, height):
    """A correction with the keyboard, once the fields are filled in."""
    page.open("plain", "", width, height)
    page.click("tab-correct")
    page.write("question", "What shape?")
    page.write("answer", TYPED)
    page.key("Enter", 13, modifiers=2)
    page.ended()
    equal((page.text("left"), page.text("right")), (TYPED, TYPED.replace("flat", "round")))
    # A page that is wider than its window moves sideways with every touch.
    equal(page.js("document.documentElement.scrollWidth > document.documentElement.clientWidth"), False)
    page.shot(f"correct-{width}")


def copied(page):
    """The command that is copied does in a shell what the page did."""
    # A headless browser may have no clipboard.
    page.js("navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }")
    page.click("curl")
    page.until("document.getElementById('note').textContent === 'Copied.'")
    command = page.js("globalThis.copied").replace("curl ", "curl -sS --noproxy '*' ", 1)
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    frames = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
    equal(frames[-1]["correction"], TYPED.replace("flat", "round"))


def stopped(page):
    page.open("slow", "tab=ask&question=What+shape%3F&model=up&run=1")
    page.until("document.getElementById('right').textContent.includes('word word')")
    page.shot("running-1280")
    page.click("stop")
    page.ended("idle")
    equal(page.text("outcome"), "Stopped.")


def keyed(page):
    page.open("keyed", "tab=correct&question=q&answer=It+is+flat.&run=1")
    page.ended("failed")
    assert "no valid API key" in page.text("error"), page.text("error")
    page.shot("keyed-1280")
    # The field has the focus already.
    page.call("Input.insertText", text="secret")
    page.key("Enter", 13, modifiers=2)
    page.until("document.body.dataset.state !== 'failed'")
    page.ended()
    equal((page.text("right"), page.text("error")), ("It is round.", ""))


page = Browser(*sys.argv[2:4])
try:
    links(page)
    typed(page, 360, 740)
    typed(page, 1280, 800)
    copied(page)
    # Nothing was thrown, and nothing was kept from loading by the page's policy.
    equal(page.logged, [])
    failures(page)
    stopped(page)
    keyed(page)
finally:
    page.process.terminate()
    page.process.wait()
print("ok")
