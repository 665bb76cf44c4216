#!/usr/bin/env python3
"""Imports the log pipeline, the dashboard and the monitors of this folder into Datadog. docs/DATADOG.md shows how.

    DD_API_KEY=… DD_APP_KEY=… DD_SITE=datadoghq.eu ./import_assets.py --dry-run sectigo ezca

It needs only Python 3.8. It finds assets that it imported before by the mark `managed_by:auditsync`, and updates those that differ. So you
can run it as often as you like. It deletes nothing. It ends with 0, or with 2 (command line), 75 (try again), 77 (credentials) or 78
(configuration).
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

FOLDER = pathlib.Path(__file__).resolve().parent
MARK = "managed_by:auditsync"
# Each monitor has a tag of its own, which stays the same when its name changes.
KEY = "auditsync_asset:"
TIMEOUT = 30  # seconds for one request
TRIES = 4  # for a request that Datadog's rate limit refuses
LONGEST_WAIT = 60  # seconds between two tries
LARGEST_EXCERPT = 500  # characters of a server's answer
PAGE = 200  # monitors in one answer
PAGES = 50
TRY_AGAIN, CREDENTIALS, CONFIGURATION = 75, 77, 78


class Failure(Exception):
    """Why the import ends, and its exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would take the keys to another host."""

    def redirect_request(self, *_):
        return None


def secret(name):
    """The value of the variable `name`, or the content of the file that `name`_FILE names."""
    value, path = os.environ.get(name, ""), os.environ.get(name + "_FILE", "")
    if not value and path:
        try:
            value = pathlib.Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(CONFIGURATION, f"{name}_FILE: {type(error).__name__}: the file cannot be read")
    if not re.fullmatch(r"[!-~]+", value):
        raise Failure(CONFIGURATION, f"{name} (or {name}_FILE) must be set to a key, without blanks")
    return value


def api_address(override):
    """The address of the API: `override` for your own proxy or a test, else the API of DD_SITE."""
    if override is None:
        site = os.environ.get("DD_SITE") or "datadoghq.com"
        if not re.fullmatch(r"(?!app\.|api\.)[a-z0-9-]+(\.[a-z0-9-]+)+", site):
            raise Failure(CONFIGURATION, "DD_SITE must be a site such as datadoghq.eu, without a scheme and without app.")
        return f"https://api.{site}"
    parts = urllib.parse.urlsplit(override)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")):
        raise Failure(CONFIGURATION, "--api must be an https address; only an address of this machine may have http")
    return override.rstrip("/")


class Api:
    """The parts of Datadog's API that the import needs."""

    def __init__(self, address, api_key, app_key):
        self.address = address
        self.secrets = [api_key, app_key]
        self.headers = {"DD-API-KEY": api_key, "DD-APPLICATION-KEY": app_key, "Content-Type": "application/json", "User-Agent": "auditsync-assets"}
        self.opener = urllib.request.build_opener(NoRedirects)

    def shown(self, text):
        """A server's answer, safe to print: without keys and control characters, and short."""
        for key in self.secrets:
            text = text.replace(key, "[hidden]")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:LARGEST_EXCERPT]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, TRIES + 1):
            request = urllib.request.Request(self.address + path, data=data, headers=self.headers, method=method)
            try:
                with self.opener.open(request, timeout=TIMEOUT) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                status, headers = error.code, error.headers
                text = self.shown(error.read(64 * 1024).decode("utf-8", "replace"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Failure(TRY_AGAIN, f"{method} {path}: no usable answer from {self.address}: {self.shown(str(error))}; run it again")
            if status == 429 and attempt < TRIES:
                time.sleep(wait(headers))
                continue
            raise refused(status, f"{method} {path}: {self.address} answered {status}: {text}")

    def monitors(self):
        query = {"monitor_tags": MARK, "page_size": PAGE}
        found = []
        for page in range(PAGES):
            some = self.call("GET", "/api/v1/monitor?" + urllib.parse.urlencode({**query, "page": page}))
            found += some
            if len(some) < PAGE:
                break
        return [one for one in found if MARK in (one.get("tags") or [])]


def wait(headers):
    """How long to wait before the next request, in seconds."""
    for name in ("X-RateLimit-Reset", "Retry-After"):
        if re.fullmatch(r"[0-9]{1,6}", headers.get(name) or ""):
            return min(int(headers[name]), LONGEST_WAIT)
    return 5


def refused(status, message):
    if status in (401, 403):
        hint = "DD_API_KEY and DD_APP_KEY must belong to DD_SITE, and the application key needs the permissions that docs/DATADOG.md lists"
        return Failure(CREDENTIALS, f"{message}; {hint}")
    if status in (408, 429) or status >= 500:
        return Failure(TRY_AGAIN, message + "; run it again")
    return Failure(CONFIGURATION, message)


def load(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def sources():
    """The sources that have monitors of their own."""
    return sorted(path.stem for path in (FOLDER / "monitors").glob("*.json") if path.stem != "auditsync")


def monitors(wanted):
    """The monitors of the `wanted` sources and of auditsync."""
    return [monitor for name in ["auditsync", *wanted] for monitor in load(f"monitors/{name}.json")]


def holds(present, wanted):
    """Whether `present` has everything in `wanted`. Datadog adds members of its own."""
    if isinstance(wanted, dict):
        return isinstance(present, dict) and all(key in present and holds(present[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(present, list) and len(present) == len(wanted) and all(map(holds, present, wanted))
    return present == wanted


def asset_key(monitor):
    return next((tag for tag in monitor.get("tags") or [] if tag.startswith(KEY)), None)


def handles(message):
    """The handles in a message, to which Datadog sends an alert."""
    return re.findall(r"(?<!\S)@\S+", message or "")


class Import:
    """Creates or updates one asset after another. Alerts go to the handles in `notify`."""

    def __init__(self, api, is_dry, notify):
        self.api = api
        self.is_dry = is_dry
        self.notify = notify

    def bring(self, kind, name, path, wanted, present, details=None):
        """Creates the asset, or updates the `present` one if its `details` differ."""
        if len(present) > 1:
            raise Failure(CONFIGURATION, f"there are {len(present)} of the {kind} {name!r}; delete all but one")
        if not present:
            change, send = "created", ("POST", path)
        elif holds(details(present[0]) if details else present[0], wanted):
            change, send = "unchanged", None
        else:
            change, send = "updated", ("PUT", f"{path}/{urllib.parse.quote(str(present[0]['id']), safe='')}")
        if send and not self.is_dry:
            self.api.call(*send, wanted)
        elif send:
            change = "would be " + change
        print(f"{change:18} {kind:10} {name}", flush=True)

    def pipeline(self):
        wanted, path = load("pipeline.json"), "/api/v1/logs/config/pipelines"
        present = [one for one in self.api.call("GET", path) if one.get("name") == wanted["name"] and not one.get("is_read_only")]
        if any(MARK not in (one.get("tags") or []) for one in present):
            hint = "rename it, or give it the tag to have it overwritten"
            raise Failure(CONFIGURATION, f"there is a log pipeline {wanted['name']!r} without the tag {MARK}; {hint}")
        self.bring("pipeline", wanted["name"], path, wanted, present)

    def dashboard(self):
        wanted, path = load("dashboard.json"), "/api/v1/dashboard"
        present = [one for one in self.api.call("GET", path)["dashboards"] if MARK in (one.get("description") or "")]
        self.bring("dashboard", wanted["title"], path, wanted, present, lambda one: self.api.call("GET", f"{path}/{urllib.parse.quote(one['id'], safe='')}"))

    def monitors(self, all_monitors):
        path = "/api/v1/monitor"
        present, silent = {}, 0
        for one in self.api.monitors():
            present.setdefault(asset_key(one), []).append({**one, "tags": sorted(one["tags"])})
        for monitor in all_monitors:
            same = present.pop(asset_key(monitor), [])
            # Without --notify, alerts keep their present handles.
            notify = self.notify or [handle for one in same[:1] for handle in handles(one.get("message"))]
            silent += not notify
            wanted = {**monitor, "message": " ".join([monitor["message"], *notify]), "tags": sorted(monitor["tags"])}
            if self.is_dry:
                self.api.call("POST", path + "/validate", wanted)
            self.bring("monitor", wanted["name"], path, wanted, same)
        for left in (one for some in present.values() for one in some):
            print(f"{'left as it is':18} {'monitor':10} {self.api.shown(left['name'])} (not among what is imported now)")
        if silent:
            print(f"{silent} monitors notify nobody: name a handle with --notify", file=sys.stderr)


def main(arguments):
    parser = argparse.ArgumentParser(description="Imports auditsync's assets into Datadog.")
    known = sources()
    parser.add_argument("sources", nargs="+", choices=known, metavar="SOURCE", help="whose monitors to import: " + ", ".join(known))
    parser.add_argument("--dry-run", action="store_true", help="change nothing; validate, and print what would be done")
    notify = "where alerts go, such as @slack-pki; may be given several times (default: where they went before)"
    parser.add_argument("--notify", action="append", default=[], metavar="HANDLE", help=notify)
    parser.add_argument("--api", metavar="ADDRESS", help="another address of the API, such as a proxy of your own")
    options = parser.parse_args(arguments)
    api = Api(api_address(options.api), secret("DD_API_KEY"), secret("DD_APP_KEY"))
    work = Import(api, options.dry_run, options.notify)
    work.pipeline()
    work.dashboard()
    work.monitors(monitors(dict.fromkeys(options.sources)))


def run(arguments):
    """Runs the import with these arguments, and returns its exit code."""
    try:
        main(arguments)
    except Failure as failure:
        print(f"import_assets: {failure}", file=sys.stderr)
        return failure.code
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
