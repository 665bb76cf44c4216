"""Lets moto do one request at a time; Python loads this before it, by PYTHONPATH.

moto looks at an object's tag and replaces the object in two steps, and its server has a thread for every request. Of two
conditional writes at the same moment both may so be done. S3 does both steps in one.
"""

import threading

import werkzeug.serving

run_simple = werkzeug.serving.run_simple


def run_one_at_a_time(host, port, application, **options):
    turn = threading.Lock()

    def answer(environ, start_response):
        with turn:
            return application(environ, start_response)

    run_simple(host, port, answer, **options)


werkzeug.serving.run_simple = run_one_at_a_time
