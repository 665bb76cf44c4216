"""Lets moto do one request at a time; Python loads this before it, by PYTHONPATH.

moto looks at an object's tag and replaces the object in two steps, and its server has a thread for every request. Of two
conditional writes at the same moment both may so be done. S3 does both steps in one. The same holds for a message of a queue,
which two may receive. A request that waits for a message lets others have their turn.
"""

import threading

import werkzeug.serving

run_simple = werkzeug.serving.run_simple


def run_one_at_a_time(host, port, application, **options):
    turn = threading.Lock()

    def answer(environ, start_response):
        with turn:
            return application(environ, start_response)

    let_others_go_on_while_a_queue_is_empty(turn)
    run_simple(host, port, answer, **options)


def let_others_go_on_while_a_queue_is_empty(turn):
    from moto.sqs.models import Queue

    wait_for_messages = Queue.wait_for_messages

    def wait(queue, timeout):
        turn.release()
        try:
            wait_for_messages(queue, timeout)
        finally:
            turn.acquire()

    Queue.wait_for_messages = wait


werkzeug.serving.run_simple = run_one_at_a_time
