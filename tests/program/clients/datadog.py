"""Sends logs with Datadog's own client to a receiver: `datadog.py HOST:PORT KEY`. Prints what each call came to, a line each."""

import sys

from datadog_api_client import ApiClient, Configuration
from datadog_api_client.exceptions import ApiException
from datadog_api_client.v1.api.authentication_api import AuthenticationApi
from datadog_api_client.v1.api.logs_api import LogsApi as LogsApiV1
from datadog_api_client.v1.model.http_log import HTTPLog as HTTPLogV1
from datadog_api_client.v1.model.http_log_item import HTTPLogItem as HTTPLogItemV1
from datadog_api_client.v2.api.logs_api import LogsApi
from datadog_api_client.v2.model.content_encoding import ContentEncoding
from datadog_api_client.v2.model.http_log import HTTPLog
from datadog_api_client.v2.model.http_log_item import HTTPLogItem


def called(name, call):
    try:
        _, status, _ = call()
        print(name, status)
    except ApiException as error:
        print(name, error.status, error.body)


def main(address, key):
    configuration = Configuration()
    # The second of the servers that the client knows for each call: any name, by any protocol.
    configuration.server_index = 1
    configuration.server_variables.update({"name": address, "protocol": "http"})
    configuration.api_key["apiKeyAuth"] = key
    configuration.return_http_data_only = False
    with ApiClient(configuration) as client:
        called("validate", AuthenticationApi(client).validate)

        def item(number):
            return HTTPLogItem(ddsource="test", ddtags="env:test", hostname="h", message="m", service="s", n=number)

        logs, number = LogsApi(client), 0
        for encoding in (None, ContentEncoding.GZIP, ContentEncoding.DEFLATE):
            options = {} if encoding is None else {"content_encoding": encoding}
            items = HTTPLog([item(number), item(number + 1)])
            called(f"v2 {encoding}", lambda: logs.submit_log(items, ddtags="team:pki", **options))
            number += 2
        first = HTTPLogV1([HTTPLogItemV1(ddsource="test", message="m", n=str(number))])
        called("v1", lambda: LogsApiV1(client).submit_log(first))


main(*sys.argv[1:])
