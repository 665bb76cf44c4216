"""Tests the import against a fake of Datadog's API."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import fake as fakes

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/datadog"
sys.path.insert(0, str(FOLDER))
import import_assets  # noqa: E402


class ImportTest(unittest.TestCase):
    def setUp(self):
        self.fake = fakes.FakeDatadog()
        server = fakes.serving(self.fake)
        self.address = server.__enter__()
        self.addCleanup(server.__exit__, None, None, None)

    def run_import(self, *arguments, code=0, address=None, **variables):
        environment = {"DD_API_KEY": fakes.API_KEY, "DD_APP_KEY": fakes.APP_KEY, **variables}
        address = [] if "DD_SITE" in variables else ["--api", address or self.address]
        printed = io.StringIO()
        with unittest.mock.patch.dict(os.environ, environment, clear=True), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                actual = import_assets.run([*address, *arguments])
            except SystemExit as end:  # argparse ends the process.
                actual = end.code
        output = printed.getvalue()
        self.assertEqual(actual, code, output)
        for key in (environment["DD_API_KEY"], environment["DD_APP_KEY"], fakes.API_KEY, fakes.APP_KEY):
            self.assertTrue(not key or key not in output, "a key is shown")
        self.assertEqual(self.fake.breaches, [])
        return output

    def monitor(self, key):
        found = [one for one in self.fake.assets["monitor"].values() if f"auditsync_asset:{key}" in one["tags"]]
        self.assertEqual(len(found), 1)
        return found[0]

    def test_everything_is_created_once_and_then_left_alone(self):
        first = self.run_import("sectigo", "ezca", "--notify", "@slack-pki")
        created = first.count("created ")
        self.assertEqual(created, len(self.fake.changes()))
        self.assertEqual([len(self.fake.assets[kind]) for kind in ("pipeline", "dashboard")], [1, 1])
        self.assertTrue(self.monitor("ezca-ca-deleted")["message"].endswith(" @slack-pki"))
        self.assertFalse([one for one in self.fake.assets["monitor"].values() if "cloudtrail-root" in str(one["tags"])])
        second = self.run_import("sectigo", "ezca")
        self.assertEqual(second.count("unchanged "), created, second)
        self.assertEqual(created, len(self.fake.changes()), "the second time, nothing is sent")

    def test_all_sources_are_imported_and_found_over_many_pages(self):
        old = {"name": "", "type": "log alert", "query": "", "options": {"thresholds": {}}}
        for number in range(450):
            self.fake.add("monitor", {**old, "tags": ["managed_by:auditsync", f"auditsync_asset:old-{number}"]})
        self.run_import("cloudtrail", "digicert", "ezca", "sectigo", "teleport")
        changes = len(self.fake.changes())
        output = self.run_import("cloudtrail", "digicert", "ezca", "sectigo", "teleport")
        self.assertEqual(changes, len(self.fake.changes()))
        self.assertEqual(output.count("left as it is"), 450)

    def test_what_differs_is_updated_in_its_place(self):
        self.run_import("ezca")
        monitor = self.monitor("ezca-silent")
        monitor["query"], monitor["name"] = "changed", "renamed"
        for kind, member, value in [("dashboard", "title", "renamed"), ("pipeline", "is_enabled", False)]:
            next(iter(self.fake.assets[kind].values()))[member] = value
        before = {kind: set(assets) for kind, assets in self.fake.assets.items()}
        output = self.run_import("ezca")
        self.assertEqual(output.count("updated "), 3, output)
        self.assertEqual({kind: set(assets) for kind, assets in self.fake.assets.items()}, before)
        self.assertIn("service:EZCA", self.monitor("ezca-silent")["query"])

    def test_an_alert_goes_on_to_where_it_went(self):
        self.assertIn("monitors notify nobody", self.run_import("ezca"))
        self.monitor("ezca-silent")["message"] = "an older text @pagerduty-pki @a@example.com"
        self.run_import("ezca")
        self.assertRegex(self.monitor("ezca-silent")["message"], r"receiver\. @pagerduty-pki @a@example\.com$")
        self.assertNotIn("notify nobody", self.run_import("ezca", "--notify", "@slack-pki"))
        self.assertRegex(self.monitor("ezca-silent")["message"], r"receiver\. @slack-pki$")

    def test_a_dry_run_validates_and_changes_nothing(self):
        output = self.run_import("--dry-run", "ezca")
        self.assertIn("would be created   monitor    EZCA: CA deleted", output)
        self.assertEqual(self.fake.changes(), [])
        self.assertEqual(sum(path.endswith("/validate") for _, path in self.fake.requests), output.count("monitor    "))

    def test_monitors_and_pipelines_of_others_are_not_touched(self):
        self.fake.add("monitor", {"name": "EZCA: CA deleted", "type": "log alert", "query": "", "tags": ["team:pki"], "options": {"thresholds": {}}})
        self.fake.add("dashboard", {"title": "auditsync", "description": "mine", "widgets": []})
        others = [one for kind in ("monitor", "dashboard") for one in self.fake.assets[kind].values()]
        copies = [dict(one) for one in others]
        self.run_import("ezca")
        self.assertEqual(others, copies)
        self.fake.assets["pipeline"].clear()
        self.fake.add("pipeline", {"name": "auditsync", "processors": []})
        self.assertIn("without the tag managed_by:auditsync", self.run_import("ezca", code=78))
        self.assertEqual(next(iter(self.fake.assets["pipeline"].values()))["processors"], [])

    def test_of_two_alike_none_is_chosen(self):
        self.run_import("ezca")
        self.fake.add("monitor", {**self.monitor("ezca-silent")})
        self.assertIn("delete all but one", self.run_import("ezca", code=78))

    def test_rejected_keys_end_it_with_77_and_are_not_shown(self):
        output = self.run_import("ezca", code=77, DD_APP_KEY="a-wrong-application-key")
        self.assertIn("[hidden]", output)
        self.assertIn("docs/DATADOG.md", output)

    def test_a_missing_or_malformed_key_ends_it_with_78_before_any_request(self):
        for variables in ({"DD_API_KEY": ""}, {"DD_APP_KEY": "two words"}, {"DD_APP_KEY": "line\nHost: x"}, {"DD_API_KEY": "", "DD_API_KEY_FILE": "/nowhere"}):
            self.run_import("ezca", code=78, **variables)
        self.assertEqual(self.fake.requests, [])

    def test_a_key_may_come_from_a_file(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(fakes.API_KEY + "\n")
            file.flush()
            self.run_import("ezca", DD_API_KEY="", DD_API_KEY_FILE=file.name)

    def test_no_redirect_is_followed(self):
        thief = fakes.FakeDatadog()
        with fakes.serving(thief) as elsewhere:
            self.fake.answers.append((307, {"Location": f"{elsewhere}/api/v1/monitor"}, {}))
            self.assertIn("answered 307", self.run_import("ezca", code=78))
        self.assertEqual(thief.requests, [])

    def test_the_rate_limit_is_waited_for(self):
        self.fake.answers += [(429, {"X-RateLimit-Reset": "0"}, {})] * 2
        self.run_import("ezca")
        self.fake.answers += [(429, {"Retry-After": "0"}, {})] * 4
        self.assertIn("run it again", self.run_import("ezca", code=75))

    def test_an_outage_ends_it_with_75_and_the_next_run_completes_it(self):
        self.run_import("ezca")
        whole = {kind: len(assets) for kind, assets in self.fake.assets.items()}
        for assets in self.fake.assets.values():
            assets.clear()
        for before in range(0, 12, 3):
            # The API answers so many requests, and then it is down.
            answer, left = self.fake.answer, [before]

            def failing(*arguments):
                left[0] -= 1
                return answer(*arguments) if left[0] >= 0 else (503, {"errors": ["down"]})

            self.fake.answer = failing
            self.assertIn("run it again", self.run_import("ezca", code=75))
            self.fake.answer = answer
        self.run_import("ezca")
        self.assertEqual({kind: len(assets) for kind, assets in self.fake.assets.items()}, whole)

    def test_an_answer_that_is_no_json_and_a_dead_server_end_it_with_75(self):
        self.fake.answers.append((200, {"Content-Type": "text/html"}, b"<html>\x1b[31mblocked"))
        self.assertNotIn("\x1b", self.run_import("ezca", code=75))
        self.run_import("ezca", code=75, address="http://127.0.0.1:1")

    def test_what_a_server_answers_is_escaped_and_cut(self):
        self.fake.answers.append((400, {}, b'{"errors":["\x1b[31m' + b"x" * 100_000 + b'"]}'))
        output = self.run_import("ezca", code=78)
        self.assertNotIn("\x1b", output)
        self.assertLess(len(output), 1000)

    def test_plain_http_goes_to_this_machine_alone(self):
        self.run_import("ezca", code=78, address="http://192.0.2.1")

    def test_the_site_is_a_bare_host(self):
        for site in ("https://datadoghq.eu", "app.datadoghq.eu", "datadoghq.eu/x", "x@evil.example/"):
            self.assertIn("DD_SITE", self.run_import("ezca", code=78, DD_SITE=site))

    def test_the_program_runs_and_ends_with_the_code(self):
        environment = {"DD_API_KEY": fakes.API_KEY, "DD_APP_KEY": fakes.APP_KEY}
        for key, code in [(fakes.APP_KEY, 0), ("wrong", 77)]:
            command = [sys.executable, FOLDER / "import_assets.py", "--api", self.address, "teleport"]
            done = subprocess.run(command, env={**environment, "DD_APP_KEY": key}, capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_an_unknown_source_is_refused(self):
        self.assertIn("ezca", self.run_import("azure", code=2))
        self.run_import(code=2)
        self.assertEqual(self.fake.requests, [])
