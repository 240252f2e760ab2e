"""The proxy between a front end and evcxr, for which the test answers. `scripts/test` runs it."""

import json
import queue
import socket
import threading
import time

import pytest
import zmq
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from cells import LAG
from library import LONGEST_LINE
from outbox import FULL, JOINED
from proxy import COMPILING, ENDED, NOT_LISTENING, PATIENCE, PAUSE, Proxy
from stand_ins import SECONDS, Kernel, Library


@pytest.fixture
def ends(tmp_path):
    """A proxy with its kernel and a front end."""
    (front_file, front), (_, back) = (write_connection_file(str(tmp_path / name), key=b"a key") for name in ("front", "back"))
    kernel, proxy, stopped = Kernel(back), Proxy(front, back, lambda: "attach()"), threading.Event()
    thread = threading.Thread(target=proxy.serve, args=(lambda: not stopped.is_set(),))
    thread.start()
    client = BlockingKernelClient(connection_file=front_file)
    client.load_connection_file()
    client.start_channels(hb=False)
    kernel.greet()
    try:
        yield kernel, proxy, client
    finally:
        stopped.set()
        thread.join()
        client.stop_channels()
        proxy.close()
        kernel.close()


def press_stop(client):
    client.control_channel.send(client.session.msg("interrupt_request"))
    return client.get_control_msg


def published(client, *kinds, seconds=SECONDS):
    """What is published until one of the kinds comes."""
    messages = []
    while not messages or messages[-1]["msg_type"] not in kinds:
        messages.append(client.get_iopub_msg(timeout=seconds))
    return messages


def of_cell(client, number=SECONDS):
    """What is published of a cell, from busy to idle."""
    messages = []
    while not messages or messages[-1]["content"].get("execution_state") != "idle":
        messages.append(client.get_iopub_msg(timeout=number))
    return messages


def test_messages_pass_in_both_directions(ends):
    kernel, _, client = ends
    cell = client.execute("1 + 1", allow_stdin=True)
    message = kernel.take()
    assert message["content"]["code"] == "1 + 1" and message["header"]["msg_id"] == cell
    kernel.session.send(kernel.sockets["stdin"], "input_request", {"prompt": "name"}, message, message["identities"])
    assert client.get_stdin_msg(timeout=SECONDS)["content"] == {"prompt": "name"}
    client.input("Ada")
    assert kernel.take("stdin")["content"] == {"value": "Ada"}
    kernel.publish(message, "execute_result", data={"text/plain": "2"}, metadata={}, execution_count=2)
    kernel.answer(message, status="ok", execution_count=2)
    kernel.publish(message, "status", execution_state="idle")
    result, _ = of_cell(client)
    assert result["content"]["data"] == {"text/plain": "2"} and result["parent_header"]["msg_id"] == cell
    assert client.get_shell_msg(timeout=SECONDS)["content"] == {"status": "ok", "execution_count": 2}
    # While a cell runs, what is no cell need not wait for it.
    client.execute("busy")
    client.complete("let")
    assert kernel.take()["msg_type"] == "execute_request"
    assert kernel.take()["msg_type"] == "complete_request"


def test_the_heartbeat_is_an_echo(ends):
    _, _, client = ends
    with zmq.Context() as context, context.socket(zmq.REQ) as beat:
        beat.linger = 0
        beat.connect(f"tcp://127.0.0.1:{client.hb_port}")
        for text in (b"ping", b""):
            beat.send(text)
            assert beat.poll(1000 * SECONDS) and beat.recv() == text


def test_what_is_malformed_or_not_signed_is_neither_passed_nor_answered(ends, capsys):
    kernel, _, client = ends
    stranger = Session(key=b"another key")
    request = stranger.serialize(stranger.msg("execute_request", {"code": "steal()"}))
    signed, tampered = (
        client.session.serialize(client.session.msg("execute_request", {"code": "late()"})) for _ in range(2)
    )
    bad = [
        [b""], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", b"{}"], request, request[:3], request * 2,
        [*tampered[:5], b'{"code": "steal()"}'], [*signed[:1], b"00", *signed[2:]], [b"x" * 100_000] * 50,
        client.session.serialize({**client.session.msg("execute_request"), "header": 3}),
        client.session.serialize({**client.session.msg("execute_request"), "content": b"[" * 100_000}),
    ]
    with zmq.Context() as context:
        attackers = []
        for channel in ("shell", "control", "stdin", "hb"):
            for _ in range(5):  # those who come and go are no trouble either
                attackers.append(context.socket(zmq.DEALER))
                attackers[-1].linger = 0
                attackers[-1].connect(f"tcp://127.0.0.1:{getattr(client, f'{channel}_port')}")
                if channel != "hb":
                    for frames in bad:
                        attackers[-1].send_multipart(frames)
        assert kernel.take(seconds=1) is None and kernel.take("control", seconds=0) is None
        assert not any(attacker.poll(0) for attacker in attackers)
        for attacker in attackers:
            attacker.close()
    said = capsys.readouterr().err
    for channel in ("shell", "control", "stdin"):
        assert f"proxy: dropped a message on {channel}: ValueError: " in said
    assert "ValueError: Invalid Signature" in said
    assert "Traceback" not in said and max(map(len, said.splitlines())) < 300
    client.execute("1")
    assert kernel.run() == "1"
    assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "ok"
    # The same message again is a replay.
    client.shell_channel.socket.send_multipart(signed)
    client.shell_channel.socket.send_multipart(signed)
    assert kernel.run() == "late()" and kernel.take(seconds=1) is None


def test_a_failed_cell_is_an_error_and_those_that_wait_are_not_run(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    failed, *waiting = [client.execute(code) for code in ("fails()?", "next()", "last()")]
    message = kernel.take()
    assert library.hears() == "cell"
    kernel.publish(message, "stream", name="stderr", text="no such file\n")
    library.say(cell="failed", fence="fence 1")
    kernel.answer(message, status="ok", execution_count=2)
    kernel.publish(message, "status", execution_state="idle")
    # Evcxr may call a cell done before all of its output has come.
    with pytest.raises(queue.Empty):
        client.get_shell_msg(timeout=0.5)
    kernel.publish(message, "stream", name="stderr", text="have a look\n")
    kernel.publish(message, "stream", name="stderr", text="without end: fence 1\n")
    kernel.publish(message, "stream", name="stdout", text="the last line\n")
    kernel.publish(message, "stream", name="stdout", text="fence 1\n")
    reply = client.get_shell_msg(timeout=SECONDS)
    assert reply["parent_header"]["msg_id"] == failed
    content = reply["content"]
    assert (content["status"], content["execution_count"]) == ("error", 2)
    assert content["traceback"] == ["no such file", "have a look", "without end: "]
    assert content["evalue"] == "no such file\nhave a look\nwithout end:"
    *streams, _ = of_cell(client)
    said = "".join(stream["content"]["text"] for stream in streams)
    assert said == "no such file\nhave a look\nwithout end: the last line\n"
    for cell in waiting:
        reply = client.get_shell_msg(timeout=SECONDS)
        assert (reply["parent_header"]["msg_id"], reply["content"]["status"]) == (cell, "aborted")
        assert [message["content"]["execution_state"] for message in of_cell(client)] == ["busy", "idle"]
    client.execute("again()")
    assert kernel.run() == "again()"
    assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "ok"


def end_of(kernel, library, message, cell="ok", fence="fence", lines=("stdout", "stderr")):
    """The cell ends."""
    library.say(cell=cell, fence=fence)
    for name in lines:
        kernel.publish(message, "stream", name=name, text=f"{fence}\n")
    kernel.answer(message, status="ok", execution_count=2)
    kernel.publish(message, "status", execution_state="idle")


def test_what_a_cell_prints_is_joined_in_its_order_with_all_else(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    client.execute("prints()")
    message = kernel.take()
    begun = time.monotonic()
    for name, lines in (("stdout", 3000), ("stderr", 2), ("stdout", 1)):
        for line in range(lines):
            kernel.publish(message, "stream", name=name, text=f"{name} {line}\n")
    kernel.publish(message, "display_data", data={"text/plain": "a figure"}, metadata={})
    kernel.publish(message, "stream", name="stdout", text="x" * 200_000 + "\n")
    end_of(kernel, library, message)
    *messages, _ = of_cell(client)
    order, texts = [], {}
    for content in [message["content"] for message in messages]:
        text = content.get("text", "")
        assert len(text) <= FULL
        if not order or order[-1] != content.get("name"):
            order.append(content.get("name"))
            texts[len(order)] = ""
        texts[len(order)] += text
    assert order == ["stdout", "stderr", "stdout", None, "stdout"]
    assert texts[1] == "".join(f"stdout {line}\n" for line in range(3000)) and texts[5] == "x" * 200_000 + "\n"
    assert texts[2] + texts[3] == "stderr 0\nstderr 1\nstdout 0\n"
    # One for each time that text is joined for, and those of the long line: a busy machine takes longer.
    assert len(messages) < 20 + (time.monotonic() - begun) / JOINED
    # What is printed slowly is not held back.
    client.execute("slow()")
    message = kernel.take()
    kernel.publish(message, "stream", name="stdout", text="now\n")
    (stream,) = published(client, "stream")
    assert stream["content"]["text"] == "now\n"


def test_the_answer_waits_for_output_that_lags(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    client.execute("prints()")
    message = kernel.take()
    library.say(cell="ok", fence="fence")
    kernel.answer(message, status="ok", execution_count=2)
    for line in range(4):  # longer than a last line is waited for in silence
        kernel.publish(message, "stream", name="stdout", text=f"{line}\n")
        time.sleep(LAG * 0.6)
    assert not client.shell_channel.msg_ready()
    end_of(kernel, library, message)
    *messages, _ = of_cell(client)
    assert "".join(message["content"]["text"] for message in messages) == "0\n1\n2\n3\n"


def test_a_last_line_that_comes_too_late_is_not_seen(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    client.execute("prints()")
    message = kernel.take()
    end_of(kernel, library, message, lines=("stdout",))
    of_cell(client)
    kernel.publish(message, "stream", name="stderr", text="late: fence\n")
    (stream,) = published(client, "stream")
    assert stream["content"]["text"] == "late: "
    assert stream["parent_header"]["msg_id"] == message["header"]["msg_id"]


def test_no_more_is_published_than_a_server_passes_on(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    client.execute("prints()")
    message = kernel.take()
    line = "x" * 9_999 + "\n"
    for _ in range(700):
        kernel.publish(message, "stream", name="stdout", text=line)
    library.say(cell="ok", fence="fence")
    kernel.answer(message, status="ok", execution_count=2)
    came = []
    while sum(size for _, size in came) < 4_000_000:
        published_message = client.get_iopub_msg(timeout=SECONDS)
        came.append((published_message["header"]["date"].timestamp(), len(json.dumps(published_message["content"]))))
        # JupyterLab's server leaves out what comes then. (When it was sent: on a slow machine this test is late to listen.)
        assert sum(size for at, size in came if at > came[-1][0] - 3) < 3_000_000
    # The stop button: what is still on its way is left out, and the cell says so.
    press_stop(client)
    end_of(kernel, library, message)
    *rest, said, _ = of_cell(client)
    size = sum(size for _, size in came) + sum(len(message["content"]["text"]) for message in rest)
    assert size < 6_900_000 and said["content"]["name"] == "stderr" and "MB more were printed" in said["content"]["text"]
    assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "ok"


def test_an_error_of_the_compiler_stops_what_waits_unless_the_front_end_wants_it_run(ends):
    kernel, _, client = ends
    client.execute("nonsense")
    client.execute("next()")
    assert kernel.run(status="error") == "nonsense"
    assert [client.get_shell_msg(timeout=SECONDS)["content"]["status"] for _ in range(2)] == ["error", "aborted"]
    client.execute("nonsense", stop_on_error=False)
    client.execute("next()")
    assert [kernel.run(status="error"), kernel.run()] == ["nonsense", "next()"]


def test_a_fence_that_never_comes_holds_nothing_up(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    client.execute("1")
    message = kernel.take()
    library.say(cell="ok", fence="fence 1")
    kernel.answer(message, status="ok", execution_count=2)
    assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "ok"


def test_the_stop_button_asks_the_library_first_and_kills_when_pressed_again(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    assert press_stop(client)(timeout=SECONDS)["content"] == {"status": "ok"}, "without a cell"
    client.execute("long()")
    message = kernel.take()
    assert press_stop(client)(timeout=SECONDS)["content"] == {"status": "ok"}
    assert [library.hears(), library.hears()] == ["cell", "interrupt"], "nothing without a cell"
    started = time.monotonic()
    (advice,) = published(client, "stream")
    assert advice["content"]["text"] == NOT_LISTENING and advice["parent_header"]["msg_id"] == message["header"]["msg_id"]
    assert PATIENCE - 0.5 < time.monotonic() - started < PATIENCE + 1.5
    assert kernel.take("control", seconds=0) is None
    answer = press_stop(client)
    kernel.answer(kernel.take("control"), channel="control", status="ok")
    assert answer(timeout=SECONDS)["content"] == {"status": "ok"}
    library.socket.close()
    library.lines.close()
    kernel.answer(message, status="error", execution_count=2)
    (ended,) = published(client, "stream")
    assert ended["content"]["text"] == ENDED
    assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "error"
    # The next process is told to connect before any cell, and no front end sees it.
    assert kernel.run() == "attach()"
    with pytest.raises(queue.Empty):
        client.get_iopub_msg(timeout=0.5)
    # As long as it has not, the button kills.
    client.execute("long()")
    assert kernel.take()["content"]["code"] == "long()"
    press_stop(client)
    assert kernel.take("control")["msg_type"] == "interrupt_request"


LOADS = ':dep mlm_core = { path = "../mlm_core" }\nuse mlm_core::*;'


def test_a_cell_that_loads_the_library_waits_until_it_has_connected(ends):
    kernel, proxy, client = ends
    client.execute("1")
    assert kernel.run() == "1", "nothing to wait for"
    of_cell(client)
    cell = client.execute(LOADS)
    client.execute("next()")
    message = kernel.take()
    assert message["content"]["code"] == "attach()"
    (said,) = published(client, "stream")
    assert said["content"]["text"] == COMPILING and said["parent_header"]["msg_id"] == cell
    assert kernel.take(seconds=1) is None
    library = Library(proxy)
    kernel.answer(message, status="ok", execution_count=1)
    message = kernel.take()
    assert message["content"]["code"] == LOADS and library.hears() == "cell"
    end_of(kernel, library, message, cell="failed")
    replies = [client.get_shell_msg(timeout=SECONDS)["content"]["status"] for _ in range(3)]
    assert replies == ["ok", "error", "aborted"]
    client.execute(LOADS)
    assert kernel.run() == LOADS, "it is there"


def test_a_library_that_cannot_be_loaded_lets_the_cell_say_why(ends):
    kernel, _, client = ends
    for _ in range(2):
        client.execute(LOADS)
        assert kernel.run(status="error") == "attach()"
        assert kernel.run(status="error") == LOADS
        assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "error"


def test_the_stop_button_while_the_library_is_compiled_leaves_out_the_cells_that_wait(ends):
    kernel, _, client = ends
    for code in (LOADS, "next()"):
        client.execute(code)
    client.complete("let")  # arrives after them
    message = kernel.take()
    assert kernel.take()["msg_type"] == "complete_request"
    assert press_stop(client)(timeout=SECONDS)["content"] == {"status": "ok"}
    assert [client.get_shell_msg(timeout=SECONDS)["content"]["status"] for _ in range(2)] == ["aborted", "aborted"]
    client.execute("later()")
    assert kernel.take(seconds=1) is None, "it is still compiled"
    kernel.answer(message, status="ok", execution_count=1)
    assert kernel.run() == "later()"


def test_a_display_appears_below_its_cell_and_changes_while_later_ones_run(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    first = client.execute("live()")
    message = kernel.take()
    library.say(display="7-1", data={"text/plain": "0"}, new=True)
    library.say(cell="ok", fence="f")
    for name in ("stdout", "stderr"):
        kernel.publish(message, "stream", name=name, text="f\n")
    kernel.answer(message, status="ok", execution_count=2)
    (shown,) = published(client, "display_data")
    assert shown["content"] == {"data": {"text/plain": "0"}, "metadata": {}, "transient": {"display_id": "7-1"}}
    library.say(display="7-1", data={"text/plain": "between cells"})
    assert published(client, "update_display_data")[-1]["parent_header"]["msg_id"] == first
    later = client.execute("next()")
    kernel.take()
    library.say(display="7-2", data={"text/plain": "of no cell"})
    end = time.monotonic() + 2
    states = 0
    while time.monotonic() < end:
        library.say(display="7-1", data={"text/plain": str(states)})
        states += 1
    library.say(display="7-1", data={"text/plain": "the end"})
    updates = []
    while not updates or updates[-1]["content"]["data"] != {"text/plain": "the end"}:
        updates.append(client.get_iopub_msg(timeout=SECONDS))
    assert {update["msg_type"] for update in updates} == {"update_display_data"}
    assert {update["content"]["transient"]["display_id"] for update in updates} == {"7-1"}
    assert {update["parent_header"]["msg_id"] for update in updates} == {later}
    assert 5 <= len(updates) <= 2 / PAUSE + 2, f"{len(updates)} of {states} states"


def test_a_display_says_when_its_process_has_ended(ends):
    kernel, proxy, client = ends
    library = Library(proxy)
    client.execute("live()")
    kernel.take()
    for name, lost in (("7-1", "Run::resume(\"a<b\")"), ("7-2", None)):
        library.say(display=name, data={"text/html": "<b>figure</b>", "text/plain": "figure"}, new=True, lost=lost)
        published(client, "display_data")
    library.socket.close()
    library.lines.close()
    (update,) = published(client, "update_display_data")[-1:]
    assert update["content"]["transient"] == {"display_id": "7-1"}
    assert update["content"]["data"]["text/plain"] == 'Run::resume("a<b")'
    assert update["content"]["data"]["text/html"].startswith("<b>figure</b><p>Run::resume(&quot;a&lt;b&quot;)")
    with pytest.raises(queue.Empty):
        client.get_iopub_msg(timeout=0.5)


def test_strangers_and_floods_reach_nobody(ends):
    kernel, proxy, client = ends
    for secret in ("wrong", "0" * 32, "\n"):
        assert Library(proxy, secret).hears() == ""
    library = Library(proxy)
    silent = socket.create_connection(library.socket.getpeername())
    assert Library(proxy).hears() == "", "one is there already"
    client.execute("flood()")
    message = kernel.take()
    assert library.hears() == "cell"
    library.socket.sendall(b"[1]\nnot JSON\n" + b"[" * 100_000 + b"\n" + b'{"display": 3}\n{"display": "a", "data": 3}\n')
    for nth in range(2_000):
        library.say(display=f"7-{nth}", data={"text/plain": "x" * 1000}, new=True)
    kernel.publish(message, "stream", name="stdout", text="still here\n")
    (*_, stream) = published(client, "stream")
    assert stream["content"]["text"] == "still here\n"
    # A line that is too long ends the connection, and nothing else.
    library.say(display="7-1", data={"text/plain": "x" * (LONGEST_LINE + 100_000)})
    assert library.hears() == "" and silent.recv(1) == b""
    kernel.answer(message, status="ok", execution_count=2)
    assert client.get_shell_msg(timeout=SECONDS)["content"]["status"] == "ok"
