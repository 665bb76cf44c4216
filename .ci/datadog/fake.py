"""A fake of the parts of Datadog's API that the import uses. It refuses requests that the real one would, and counts broken rules."""

import contextlib
import http.server
import itertools
import json
import threading
import urllib.parse

import models

API_KEY, APP_KEY = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210fedcba98"
KINDS = {"/api/v1/monitor": "monitor", "/api/v1/dashboard": "dashboard", "/api/v1/logs/config/pipelines": "pipeline"}
LARGEST_PAGE = 1000


class FakeDatadog:
    def __init__(self):
        self.assets = {kind: {} for kind in KINDS.values()}
        self.requests = []  # Methods and paths.
        self.headers = []
        self.breaches = []
        self.answers = []  # (status, headers, body) of the first answers.
        self.ids = itertools.count(1)

    def changes(self):
        return [(method, path) for method, path in self.requests if method != "GET" and not path.endswith("/validate")]

    def add(self, kind, body):
        number = next(self.ids)
        asset = {**body, "id": number if kind == "monitor" else f"id-{number}"}
        self.assets[kind][str(asset["id"])] = asset
        return asset

    def answer(self, method, path, query, headers, body):
        if headers.get("DD-API-KEY") != API_KEY or headers.get("DD-APPLICATION-KEY") != APP_KEY:
            # Even if the server echoes the keys, the import must not show them.
            return 403, {"errors": ["Forbidden", headers.get("DD-API-KEY"), headers.get("DD-APPLICATION-KEY")]}
        base, _, last = path.rpartition("/")
        kind, one = (KINDS[path], None) if path in KINDS else (KINDS.get(base), last)
        if kind is None:
            return 404, {"errors": ["Not found"]}
        assets = self.assets[kind]
        if method in ("POST", "PUT"):
            wrong = models.mistakes(kind, body)
            if wrong:
                self.breaches += wrong
                return 400, {"errors": wrong}
        if kind == "monitor" and method == "POST" and one == "validate":
            return 200, {}
        if method == "POST" and one is None:
            return 200, self.seen(kind, self.add(kind, body))
        if one is not None and one not in assets:
            return 404, {"errors": ["Not found"]}
        if method == "PUT" and one is not None:
            assets[one] = {**body, "id": assets[one]["id"]}
            return 200, self.seen(kind, assets[one])
        if method == "GET" and one is not None:
            return 200, self.seen(kind, assets[one])
        if method == "GET":
            return 200, self.listed(kind, list(assets.values()), query)
        return 405, {"errors": ["Method not allowed"]}

    def listed(self, kind, assets, query):
        if kind == "dashboard":
            return {"dashboards": [{"id": one["id"], "title": one["title"], "description": one.get("description")} for one in assets]}
        if kind == "monitor":
            tags = set(query["monitor_tags"].split(","))
            size, page = int(query["page_size"]), int(query["page"])
            if size > LARGEST_PAGE:
                self.breaches.append(f"a page of {size} monitors")
            assets = [one for one in assets if tags <= set(one["tags"])][size * page : size * (page + 1)]
        return [self.seen(kind, one) for one in assets]

    @staticmethod
    def seen(kind, asset):
        """The asset as Datadog returns it, with added members and in another order."""
        asset = json.loads(json.dumps(asset))
        if kind == "monitor":
            asset["options"] = {"silenced": {}, "new_host_delay": 300, **asset["options"]}
            asset["options"]["thresholds"] = {name: float(value) for name, value in asset["options"]["thresholds"].items()}
            asset["tags"] = list(reversed(asset["tags"]))
            asset.update(created="2026-01-01T00:00:00+00:00", multi=False, overall_state="No Data")
        elif kind == "dashboard":
            for number, widget in enumerate(asset["widgets"]):
                widget["id"] = number
            asset.update(author_handle="a@example.com", created_at="2026-01-01T00:00:00+00:00", is_read_only=False)
        else:
            asset.update(type="pipeline", is_read_only=False)
        return dict(sorted(asset.items()))


@contextlib.contextmanager
def serving(fake):
    """Runs the fake on a port of this machine, and yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        # Send head and body together.
        wbufsize = -1

        def handle_one(self):
            parts = urllib.parse.urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            fake.requests.append((self.command, parts.path))
            fake.headers.append(dict(self.headers))
            headers = {}
            if fake.answers:
                status, headers, answer = fake.answers.pop(0)
            else:
                status, answer = fake.answer(self.command, parts.path, dict(urllib.parse.parse_qsl(parts.query)), self.headers, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = handle_one

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
