"""Tests the assets: they fit Datadog's models, name attributes that auditsync sends, and find the intended events."""

import json
import pathlib
import re
import unittest

import models
import query
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/datadog"
MONITORS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "monitors").glob("*.json"))}
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PIPELINE = json.loads((FOLDER / "pipeline.json").read_text())
LOG_QUERY = re.compile(r'logs\("(.*)"\)\.index\("\*"\)\.rollup\("count"\)\.last\("(\d+[mhd])"\) ([<>]) (\d+)')
METRIC_QUERY = re.compile(r"(?:max|min|sum)\(last_\d+m\):(.*) ([<>]) (\d+)")
# Attributes of the sources' own records at the top level of an entry.
OWN = {"EventID", "errorCode", "eventSource", "eventType", "readOnly", "userIdentity.type", "userIdentity.invokedBy"}


def entry(source=None, status="info", name=None, outcome=None, **own):
    """An entry as Datadog has it."""
    event = {key: value for key, value in [("name", name), ("outcome", outcome)] if value}
    return {"ddsource": source, "service": own.pop("service", source), "status": status, "evt": event, **own}


def ezca(number):
    return entry("ezca-log", service="EZCA", EventID=number)


def aws(name, **own):
    return entry("cloudtrail", name=name, **own)


ROOT_USER = {"type": "Root", "arn": "arn:aws:iam::111122223333:root"}
SERVICE_AS_ROOT = {"type": "Root", "invokedBy": "support.amazonaws.com"}
# Entries, and the monitors that look for them, apart from the one for silence.
SAMPLES = [
    (ezca(4888), {"ezca-certificate-request-denied"}),
    (ezca("4888"), {"ezca-certificate-request-denied"}),
    (ezca(4882), {"ezca-ca-permissions-changed"}),
    (ezca(92), {"ezca-ca-change-denied"}),
    (ezca(19), {"ezca-ca-deleted"}),
    (ezca(23), {"ezca-intermediate-ca-rejected"}),
    (ezca(4870), {"mass-revocation"}),
    *[(ezca(number), set()) for number in (28, 22, 12, 4872, 4887, 192, 488)],
    (entry("sectigo", "error", "login", "DENIED"), {"sectigo-denied", "sectigo-failures"}),
    (entry("sectigo", "error", "login", "rejected"), {"sectigo-denied", "sectigo-failures"}),
    (entry("sectigo", "error", "login", "FAILURE"), {"sectigo-failures"}),
    (entry("sectigo", "warn", "certificate_revoked", "SUCCESS"), {"mass-revocation"}),
    (entry("sectigo", "warn", "RevokeCertificate", "SUCCESS"), {"mass-revocation"}),
    (entry("sectigo", "warn", "roleChanged", "SUCCESS"), {"sectigo-trust-changed"}),
    (entry("sectigo", "warn"), {"sectigo-trust-changed"}),
    (entry("sectigo", "notice", "PasswordReset", "SUCCESS"), set()),
    (entry("sectigo", "info", "certificate_issued", "SUCCESS"), set()),
    (entry("digicert", "warn", "Revoke certificate", "Success"), {"mass-revocation"}),
    (entry("digicert", "warn", "Delete user", "Success"), set()),
    (entry("teleport", "info", "user.login", "success"), set()),
    (aws("StopLogging", status="warn"), {"cloudtrail-guard-stopped"}),
    (aws("DeleteDetector", status="error", errorCode="AccessDenied"), {"cloudtrail-guard-stopped", "cloudtrail-denied"}),
    (aws("StartLogging"), set()),
    (aws("RunInstances", userIdentity=ROOT_USER, readOnly=False), {"cloudtrail-root"}),
    (aws("ConsoleLogin", userIdentity=ROOT_USER), {"cloudtrail-root"}),
    (aws("DescribeInstances", userIdentity=ROOT_USER, readOnly=True), set()),
    (aws("RunInstances", userIdentity=SERVICE_AS_ROOT, readOnly=False), set()),
    (aws("RunInstances", userIdentity=ROOT_USER, eventType="AwsServiceEvent"), set()),
    (aws("DeleteCertificateAuthority", eventSource="acm-pca.amazonaws.com"), {"cloudtrail-private-ca-changed"}),
    (aws("IssueCertificate", eventSource="acm-pca.amazonaws.com"), set()),
    (aws("CreatePermission", eventSource="ram.amazonaws.com"), set()),
    (aws("RevokeCertificate", eventSource="acm-pca.amazonaws.com"), {"mass-revocation"}),
    (aws("IssueCertificate", eventSource="acm-pca.amazonaws.com", errorCode="AccessDeniedException"), {"cloudtrail-certificate-denied", "cloudtrail-denied"}),
    (aws("RunInstances", errorCode="Client.UnauthorizedOperation"), {"cloudtrail-denied"}),
    (aws("GetObject", errorCode="NoSuchKey"), set()),
    (entry("receiver", "info", "session.start", service="teleport.log"), set()),
    (entry("nginx", "error", "StopLogging", "DENIED", service="shop", errorCode="AccessDenied"), set()),
]
# Ids in EZCA's table, with their criticality.
EZCA = {4882: "High", 92: "High", 23: "High", 19: "High", 28: "Medium", 22: "Medium", 12: "Low", 4888: "High", 4870: "Medium", 4872: "Low", 4887: "Low"}


def key(monitor):
    return next(tag.split(":", 1)[1] for tag in monitor["tags"] if tag.startswith("auditsync_asset:"))


def texts(value):
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts(inner)


def log_monitors():
    for group, monitors in MONITORS.items():
        for monitor in monitors:
            if monitor["type"] == "log alert":
                match = LOG_QUERY.fullmatch(monitor["query"])
                assert match, f"{key(monitor)}: {monitor['query']}"
                yield group, key(monitor), monitor, match.groups()


def searches():
    """Each search in an asset, and its place there."""
    for _, name, _, (search, *_) in log_monitors():
        yield name, search
    found = [PIPELINE, DASHBOARD]
    while found:
        value = found.pop()
        if isinstance(value, dict):
            for member, inner in value.items():
                is_search = member == "query" and isinstance(inner, str) and "data_source" not in value and value.get("type") != "manage_status"
                if is_search or member == "query_string":
                    yield "pipeline or dashboard", re.sub(r"\$\w+", "", inner)
        found += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []


class AssetsTest(unittest.TestCase):
    def test_everything_fits_the_models_of_datadogs_client(self):
        self.assertEqual(models.mistakes("dashboard", DASHBOARD), [])
        self.assertEqual(models.mistakes("pipeline", PIPELINE), [])
        for monitor in (one for monitors in MONITORS.values() for one in monitors):
            self.assertEqual(models.mistakes("monitor", monitor), [], monitor["name"])
            self.assertIn(monitor["priority"], range(1, 6))

    def test_each_monitor_has_the_mark_and_a_name_and_a_key_of_its_own(self):
        monitors = [one for some in MONITORS.values() for one in some]
        for monitor in monitors:
            self.assertIn("managed_by:auditsync", monitor["tags"])
        for values in (list(map(key, monitors)), [one["name"] for one in monitors]):
            self.assertEqual(len(values), len(set(values)))
        self.assertIn("managed_by:auditsync", DASHBOARD["description"])
        self.assertIn("managed_by:auditsync", PIPELINE["tags"])

    def test_the_threshold_of_a_query_is_that_of_its_options(self):
        for monitor in (one for monitors in MONITORS.values() for one in monitors):
            pattern = LOG_QUERY if monitor["type"] == "log alert" else METRIC_QUERY
            match = pattern.fullmatch(monitor["query"])
            self.assertTrue(match, monitor["query"])
            self.assertEqual(int(match.groups()[-1]), monitor["options"]["thresholds"]["critical"], monitor["name"])

    def test_a_monitor_finds_its_events_and_no_others(self):
        monitors = [(name, query.Search(search).finds) for _, name, _, (search, _, sign, _) in log_monitors() if sign == ">"]
        found = {name: 0 for name, _ in monitors}
        for sample, expected in SAMPLES:
            actual = {name for name, finds in monitors if finds(sample)}
            self.assertEqual(actual, expected, sample)
            for name in actual:
                found[name] += 1
        self.assertEqual([name for name, times in found.items() if times == 0], [], "no sample shows these")

    def test_a_monitor_of_single_events_looks_at_a_day_because_they_arrive_late(self):
        """auditsync restamps events that are older than 17 h."""
        for _, name, _, (_, window, sign, limit) in log_monitors():
            if sign == ">" and limit == "0":
                self.assertEqual(window, "1d", name)

    def test_each_source_has_a_monitor_for_silence(self):
        silent = {
            group: query.Search(search).finds
            for group, name, _, (search, _, sign, limit) in log_monitors()
            if (name, sign, limit) == (f"{group}-silent", "<", "1")
        }
        self.assertEqual(set(silent), set(MONITORS) - {"auditsync"})
        for sample, _ in SAMPLES:
            source = "ezca" if sample["service"] == "EZCA" else sample["ddsource"]
            self.assertEqual({group for group, finds in silent.items() if finds(sample)}, {source} & set(silent), sample)
        # Without any event, the count is then 0.
        options = [monitor["options"] for _, _, monitor, (_, _, sign, _) in log_monitors() if sign == "<"]
        self.assertTrue(all(one["on_missing_data"] == "default" for one in options))

    def test_ezcas_high_events_each_have_a_monitor(self):
        found = [search for _, _, _, (search, *_) in log_monitors() if search.startswith("service:EZCA @EventID:")]
        looked_for = {int(search.rsplit(":", 1)[1]) for search in found}
        self.assertEqual(looked_for, {number for number, criticality in EZCA.items() if criticality == "High"})

    def test_the_pipeline_names_each_of_ezcas_events_once_and_no_other(self):
        names, outcomes = (
            [(one["name"], query.Search(one["filter"]["query"]).finds) for one in processor["categories"]]
            for processor in PIPELINE["processors"][1]["processors"]
        )
        for number in [*EZCA, 192]:
            for categories in (names, outcomes):
                self.assertEqual(sum(finds(ezca(number)) for _, finds in categories), number in EZCA, number)
        self.assertEqual({number for number in EZCA if outcomes[0][1](ezca(number))}, {92, 4888, 23})
        self.assertEqual(outcomes[0][0], "failure")

    def test_the_pipeline_and_the_dashboard_are_for_all_entries_and_no_others(self):
        events = query.Search(PIPELINE["filter"]["query"]).finds
        for sample, _ in SAMPLES:
            self.assertEqual(events(sample), sample["ddsource"] != "nginx", sample)
        base = f"({PIPELINE['filter']['query']}) $source $env"
        shown = [text for text in texts(DASHBOARD) if "service:EZCA" in text]
        self.assertEqual(len(shown), 5)
        self.assertTrue(all(text.startswith(base) for text in shown))

    def test_every_search_can_be_read_and_names_attributes_that_exist(self):
        writer = (ROOT / "src/destination/datadog/entry.rs").read_text()
        count = 0
        for where, search in searches():
            query.Search(search)
            for name in query.attributes(search) - OWN:
                parts = name.split(".")
                is_written = all(f'"{part}"' in writer or f'\\"{part}\\"' in writer for part in parts)
                self.assertTrue(len(parts) > 1 and is_written, f"{where}: {name}")
            count += 1
        self.assertGreater(count, 35)
        for facet in (text for text in texts(DASHBOARD) if text.startswith("@")):
            self.assertIn(f"`{facet[1:]}`", (ROOT / "docs/EVENTS.md").read_text())

    def test_every_metric_exists_and_is_collected(self):
        document = dict(re.findall(r"^\| `(auditsync_\w+)` \| (\w+) ", (ROOT / "docs/METRICS.md").read_text(), re.MULTILINE))
        collected = set()
        instance = yaml.safe_load((FOLDER / "openmetrics.yaml").read_text())["instances"][0]
        for metric in instance["metrics"]:
            name, options = (metric, {}) if isinstance(metric, str) else next(iter(metric.items()))
            kind = document.get(f"auditsync_{name}") or document.get(f"auditsync_{name}_total")
            self.assertIn(kind, ("gauge", "counter"), name)
            collected.add(f"auditsync.{options.get('name', name)}" + (".count" if kind == "counter" else ""))
        annotation = re.search(r"\{\"openmetrics\":.*?\]\}\}", (ROOT / "docs/DATADOG.md").read_text(), re.DOTALL).group()
        for member in ("namespace", "raw_metric_prefix", "metrics"):
            self.assertEqual(json.loads(annotation)["openmetrics"]["instances"][0][member], instance[member])
        used = {name for text in texts([DASHBOARD, *MONITORS.values()]) for name in re.findall(r"(?<=:)auditsync\.[a-z_.]+", text)}
        self.assertEqual(used, collected)
        values = "`result`: saved, conflict, failed"
        self.assertIn(values, (ROOT / "docs/METRICS.md").read_text())

    def test_the_searches_know_the_words_of_the_sources_severities(self):
        sectigo = (ROOT / "src/source/sectigo/severity.rs").read_text()
        for word in ('"den"', '"rej"', '"revo*"'):
            self.assertIn(word, sectigo)
        ezca = (ROOT / "src/source/receiver/ezca.toml").read_text()
        events = dict(re.findall(r'^(\d+) = \{ name = "([^"]*)"', ezca, re.MULTILINE))
        names = {one["filter"]["query"].split(":")[1]: one["name"] for one in PIPELINE["processors"][1]["processors"][0]["categories"]}
        self.assertEqual(events, names)
        cloudtrail = (ROOT / "src/source/cloudtrail/severity.rs").read_text()
        guards = re.search(r"Fits::Name\(&\[([^\]]*\"StopLogging\"[^\]]*)\]", cloudtrail).group(1)
        search = next(search for _, name, _, (search, *_) in log_monitors() if name == "cloudtrail-guard-stopped")
        self.assertEqual(set(re.findall(r'"(\w+)"', guards)), set(re.findall(r"[A-Z]\w+", search)) - {"OR"})


class QueryTest(unittest.TestCase):
    def test_the_reader_of_searches_refuses_what_it_does_not_know(self):
        for text in ("", "a", "a:", "(a:b", "a:b)", "a:(b", "a:(b c)", "a:b OR", "a:(b:c)", "OR a:b", "a:b - "):
            with self.assertRaises(ValueError, msg=text):
                query.Search(text)

    def test_terms_bind_as_in_datadog(self):
        finds = query.Search("a:1 b:2 OR -c:3").finds
        for sample, expected in [({"a": 1, "b": 2, "c": 3}, True), ({"a": 1, "c": 3}, False), ({"c": 4}, True), ({}, True)]:
            self.assertEqual(finds(sample), expected, sample)
