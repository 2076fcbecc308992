"""Results that are sent on: none is lost, they come in order, and a receiver that is gone delays nothing."""

import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hub_environment import free_port
from paho.mqtt import client as paho
from test_house import ROOT
from webhook_receiver import Receiver

from hubmodels.line import outputs as module
from hubmodels.line.line import Line
from hubmodels.line.log import InspectionLog, LogError
from hubmodels.line.log_queue import LogQueue
from hubmodels.line.outputs import Delivery, Mqtt, Outputs, Webhook, short_form, verdict_of

GOOD = ROOT / "examples/parts/washer/good.png"
MOSQUITTO = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
needs_broker = pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed: apt-get install mosquitto")
RESULT = {"sha256": "ab", "category": "washer", "verdicts": 1, "defective_verdicts": 1, "agree": None}
NUMBERS = {"is_anomalous": True, "image_score": 2.5, "latency_ms": {"model": 30.0}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, seconds in (("FIRST_WAIT", 0.02), ("LONGEST_WAIT", 0.1), ("LOOK", 0.05), ("END_IN", 1.0)):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def log(tmp_path):
    return InspectionLog(tmp_path / "log")


@pytest.fixture
def receiver():
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.end()


def add(log, *names, outputs=None):
    for name in names:
        log.add("inspection", {"picture": name, **RESULT, "methods": {"GLASS": NUMBERS}})
        if outputs:
            outputs.wake()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def names(begin, end):
    return [f"{number:03}.png" for number in range(begin, end)]


def test_each_result_arrives_in_order_and_can_be_told_from_a_duplicate(log, receiver):
    add(log, "before.png")
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, *names(0, 5), outputs=outputs)
        log.add("inspection", {"picture": "copy.png", "sha256": "ab", "same_as": "000.png"})
        log.add("lost_line", {"bytes": 7})
        log.add("inspection", {"picture": "bad.png", "error": {"kind": "corrupt", "message": "it is broken"}})
        wait_for(lambda: len(receiver.messages) == 6)  # another process wrote the last lines
    assert receiver.pictures == [*names(0, 5), "bad.png"]
    assert [message["line"] for message in receiver.messages] == [2, 3, 4, 5, 6, 9]
    assert [message["result"] for message in receiver.messages] == ["defective"] * 5 + ["not judged"]
    assert receiver.messages[0]["methods"]["GLASS"] == NUMBERS
    for message in receiver.messages:
        assert log.verify(message["hash"]).lines == 9
    with Outputs.of(log, webhook=receiver.url):
        add(log, "later.png")
    assert receiver.pictures == [*names(0, 5), "bad.png", "later.png"]


def test_a_line_wakes_its_outputs(log, receiver, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 60)
    with Outputs.of(log, webhook=receiver.url) as outputs:
        time.sleep(0.2)  # it waits
        Line("washer", {}, log=log, outputs=outputs).keep({"picture": "a.png", **RESULT})
        wait_for(lambda: receiver.pictures == ["a.png"])


def test_a_result_that_was_refused_is_sent_again_before_the_next(log, receiver, caplog):
    receiver.statuses = [500, 503, 404, 200, 200, 302]
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, *names(0, 4), outputs=outputs)
        wait_for(lambda: len(receiver.messages) == 4)
    assert receiver.pictures == names(0, 4) and receiver.tried == 8
    assert "the answer has the status 503; trying again in 0 s" in caplog.text and "works again" in caplog.text


def test_waits_grow_up_to_a_limit(log, receiver, caplog, monkeypatch):
    receiver.statuses = [500] * 6
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, "a.png", outputs=outputs)
        wait_for(lambda: receiver.messages)
    waits = [record.args[-1] for record in caplog.records if "trying again" in record.message]
    assert waits == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]


def test_a_receiver_that_is_gone_gets_everything_later_also_after_a_restart(log, receiver, caplog):
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, *names(0, 2), outputs=outputs)
        wait_for(lambda: len(receiver.messages) == 2)
        receiver.end()
        add(log, *names(2, 5), outputs=outputs)
    assert "are sent after the next start" in caplog.text
    add(log, *names(5, 8))  # by a program without outputs
    receiver.start()
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, *names(8, 9), outputs=outputs)
        wait_for(lambda: len(receiver.messages) == 9)
    assert receiver.pictures == names(0, 9)


def test_a_slow_receiver_does_not_delay_the_line(log, receiver):
    receiver.delay = 0.3
    with Outputs.of(log, webhook=receiver.url) as outputs:
        begun = time.monotonic()
        add(log, *names(0, 3), outputs=outputs)
        assert time.monotonic() - begun < 0.3 and len(receiver.messages) == 0
        wait_for(lambda: len(receiver.messages) == 3)
    assert receiver.pictures == names(0, 3)


def test_a_receiver_without_an_answer_is_given_up_after_a_while(log, receiver, monkeypatch, caplog):
    monkeypatch.setattr(module, "ANSWER_IN", 0.2)
    receiver.delay = 0.6
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, "a.png", outputs=outputs)
        wait_for(lambda: "timed out" in caplog.text)
        receiver.delay = 0
        wait_for(lambda: receiver.messages)
    assert set(receiver.pictures) == {"a.png"}  # twice is allowed: it confirmed too late


def test_the_program_ends_soon_although_much_waits(log, receiver, caplog, monkeypatch):
    monkeypatch.setattr(module, "END_IN", 0.3)
    receiver.delay = 0.1
    with Outputs.of(log, webhook=receiver.url) as outputs:
        add(log, *names(0, 30), outputs=outputs)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1.5 and 1 <= len(receiver.messages) < 30
    receiver.delay = 0
    with Outputs.of(log, webhook=receiver.url):
        wait_for(lambda: len(receiver.messages) == 30)
    assert receiver.pictures == names(0, 30)


@pytest.mark.parametrize("secret", ["of the plant", ""])
def test_the_body_is_signed(log, receiver, monkeypatch, secret):
    monkeypatch.setenv(module.SECRET, secret)
    with Outputs.of(log, webhook=receiver.url):
        add(log, "ä.png")
    (headers,), (body,) = receiver.headers, receiver.bodies
    signature = "sha256=" + hmac.new(b"of the plant", body, hashlib.sha256).hexdigest()
    assert headers[module.SIGNATURE] == (signature if secret else None)
    assert headers["content-type"] == "application/json" and "of the plant" not in repr(Webhook(receiver.url, secret))


def queue_of(log, **bounds):
    return LogQueue(log, "test", **bounds)


def waiting(queue):
    found = []
    while results := queue.next():
        found += [result["picture"] for result, _ in results]
        queue.done(results[-1].position)
    return found


@pytest.mark.parametrize("bound", ["most_lines", "most_bytes"])
def test_too_old_results_are_skipped_counted_and_said(tmp_path, caplog, bound):
    log = InspectionLog(tmp_path / "log", largest=1000)  # two or three lines a file
    queue_of(log)
    add(log, "000.png")
    size = log.files()[0].stat().st_size
    add(log, *names(1, 10))
    queue = queue_of(log, **{bound: 3 if bound == "most_lines" else 3 * size + size // 2})
    assert waiting(queue) == names(7, 10)
    assert "the oldest 7 results are not delivered, 7 since the beginning" in caplog.text
    add(log, *names(10, 14))
    assert waiting(queue) == names(11, 14)
    assert "the oldest 1 results are not delivered, 8 since the beginning" in caplog.text
    assert queue_of(log).position.skipped == 8 and len(list(log.lines())) == 14


def test_a_result_is_skipped_while_the_receiver_is_gone(log, receiver):
    receiver.end()
    delivery = Delivery(LogQueue(log, "test", most_lines=2), Webhook(receiver.url))
    with Outputs((delivery,)) as outputs:
        add(log, *names(0, 5), outputs=outputs)
        wait_for(lambda: json.loads(delivery.waiting.file.read_text())["skipped"] == 3)
        receiver.start()
        wait_for(lambda: len(receiver.messages) == 2)
    assert receiver.pictures == names(3, 5)


def test_results_are_found_over_files_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("hubmodels.line.log_queue.BLOCK", 700)
    log = InspectionLog(tmp_path / "log", largest=2000)
    queue = queue_of(log)
    add(log, *names(0, 20))
    assert len(log.files()) > 3 and len(queue.next()) < 5
    assert waiting(queue) == names(0, 20) and waiting(queue_of(log)) == []


def test_a_position_is_found_again_when_files_of_the_log_change(tmp_path, caplog):
    log = InspectionLog(tmp_path / "log", largest=1000)
    queue = queue_of(log)
    add(log, *names(0, 9))
    queue.done(queue.next()[1].position)
    first, second, _ = log.files()
    second.write_bytes(first.read_bytes() + second.read_bytes())
    first.unlink()
    assert waiting(queue_of(log)) == names(2, 9) and caplog.text == ""
    queue.done(queue.position._replace(file=first.name))
    second.unlink()  # with lines that were not delivered
    assert waiting(queue_of(log)) == names(6, 9) and "line 2 is not in the log any more" in caplog.text


def test_another_log_in_the_same_folder_is_delivered_from_its_beginning(log, caplog):
    queue = queue_of(log)
    add(log, *names(0, 6))
    assert waiting(queue) == names(0, 6)
    for path in [*log.files(), log.folder / "end.json"]:
        path.unlink()
    assert waiting(queue) == []
    add(log, *names(6, 8))
    assert waiting(queue) == names(6, 8) and "it is another log" in caplog.text
    for path in [*log.files(), log.folder / "end.json"]:
        path.unlink()
    add(log, *names(8, 14))  # longer than the one before
    assert waiting(queue) == names(8, 14)


def test_a_line_that_is_not_finished_waits(log):
    queue = queue_of(log)
    add(log, *names(0, 2))
    whole = log.files()[0].read_bytes()
    log.files()[0].write_bytes(whole + b'{"line": 3, "prev')
    assert waiting(queue) == names(0, 2) and queue_of(log)._end() == queue.position
    add(log, *names(2, 4))
    assert waiting(queue) == names(2, 4) and log.verify().lines == 5


def test_a_changed_line_stops_nothing(log):
    queue = queue_of(log)
    add(log, *names(0, 4))
    lines = log.files()[0].read_bytes().splitlines(True)
    log.files()[0].write_bytes(
        b"".join([lines[0], b"nonsense\n", b'["a"]\n', b'{"line": "x", "previous": 1}\n', lines[3]])
    )
    assert waiting(queue) == ["000.png", "003.png"]


def test_a_changed_position_is_named(log):
    queue_of(log).file.write_text("{}")
    with pytest.raises(LogError, match=r"test\.json was changed: delete it"):
        queue_of(log)


def test_one_of_several_processes_delivers_and_another_one_continues(log, receiver):
    first, second = (Outputs.of(log, webhook=receiver.url) for _ in range(2))
    with first:
        add(log, "000.png", outputs=first)
        wait_for(lambda: receiver.messages)
        second.deliveries[0].start()
        for name in names(1, 20):
            add(log, name, outputs=first)
            second.wake()
        wait_for(lambda: len(receiver.messages) == 20)
    add(log, *names(20, 22))
    wait_for(lambda: len(receiver.messages) == 22)
    second.deliveries[0].close()
    assert receiver.pictures == names(0, 22)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ({"webhook": "ftp://host/a"}, "write http://HOST/... or https://HOST/..."),
        ({"webhook": "https:///a"}, "write http://HOST"),
        ({"webhook": "http://host:99999/"}, "Port out of range"),
        ({"webhook": "http://user:word@host/a"}, "HUBMODELS_WEBHOOK_SECRET"),
        ({"mqtt": "http://host/a"}, "write mqtt://HOST/... or mqtts://HOST/..."),
        ({"mqtt": "mqtt://user:word@host/a"}, "set HUBMODELS_MQTT_USER and HUBMODELS_MQTT_PASSWORD"),
        ({"mqtt": "mqtt://host"}, "write mqtt://HOST/TOPIC"),
        ({"mqtt": "mqtt://host/line/+"}, "write mqtt://HOST/TOPIC"),
        ({"mqtt": "mqtt://host/line#1"}, "write mqtt://HOST/TOPIC"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(log, addresses, message):
    with pytest.raises(ValueError, match=message) as raised:
        Outputs.of(log, **addresses)
    assert "word" not in str(raised.value).replace("password", "").replace("PASSWORD", "")
    with pytest.raises(ValueError, match="needs a log"):
        Outputs.of(None, **addresses)


def test_without_the_package_the_message_says_how_to_install_it(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(ValueError, match=r"pip install .*\[mqtt\]"):
        Outputs.of(log, mqtt="mqtt://host/line")


def test_the_short_form_has_no_more_than_a_controller_needs():
    result = RESULT | {"line": 3, "width": 1, "models": {"GLASS": {}}, "methods": {"GLASS": NUMBERS}}
    assert short_form(result) == RESULT | {"line": 3, "methods": {"GLASS": {"is_anomalous": True, "image_score": 2.5}}}
    assert "methods" not in short_form({"line": 3, "error": {"kind": "corrupt"}})
    assert [verdict_of({"verdicts": n, "defective_verdicts": d}) for n, d in ((2, 0), (2, 1), (0, 0))] == [
        *("good", "defective", "not judged"),
    ]


def watched(folder, log, *options):
    command = [sys.executable, "-m", "hubmodels", "watch", folder, "--model", "parts / washer", "--method", "hybrid"]
    command += ["--log", log.folder, "--interval", "0.1", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def test_a_killed_watch_delivers_every_result(log, receiver, tmp_path):
    """The real command, killed while the receiver confirms nothing any more."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names(0, 12):
        (folder / name).write_bytes(GOOD.read_bytes() + name.encode())
    receiver.statuses = [200] * 3 + [500] * 1000
    process = watched(folder, log, "--webhook", receiver.url)
    wait_for(lambda: len(list(log.lines())) >= 6 and len(receiver.messages) == 3, 120)
    process.kill()
    process.communicate()
    receiver.statuses = []
    process = watched(folder, log, "--webhook", receiver.url)
    wait_for(lambda: len(set(receiver.pictures)) == 12, 120)
    process.send_signal(signal.SIGINT)
    assert "ended" in process.communicate(timeout=60)[1].decode() and process.returncode == 0
    lines = [message["line"] for message in receiver.messages]
    assert lines == sorted(lines) and all(log.verify(m["hash"]) for m in receiver.messages)
    assert sorted(set(receiver.pictures)) == names(0, 12) and len(receiver.messages) <= 12 + 2


class Broker:
    """A real mosquitto on a free port, which keeps sessions on disk.

    Args:
        settings: more lines of its configuration.
    """

    def __init__(self, folder, *settings):
        self.port, self.file = free_port(), folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/"]
        lines += ["autosave_on_changes true", "autosave_interval 1", "user root", *settings]
        if not any(line.startswith("password_file") for line in settings):
            lines.append("allow_anonymous true")
        self.file.write_text("\n".join(lines) + "\n")
        self.start()

    def start(self):
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(self._accepts)

    def _accepts(self):
        assert self.process.poll() is None, self.process.stdout.read()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def url(self, scheme="mqtt"):
        return f"{scheme}://localhost:{self.port}/plant/line%201"


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@contextmanager
def subscribed(broker, user=None):
    """What arrives on the topic of a line, and on its status, for a receiver that the broker remembers."""
    found = SimpleNamespace(messages=[], states=[])
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "receiver", clean_session=False)
    client.reconnect_delay_set(1, 1)

    def arrived(client, userdata, message):
        text = message.payload.decode()
        if message.topic == "plant/line 1":
            found.messages.append(json.loads(text))
        else:
            found.states.append(text)

    client.on_connect = lambda client, *_: client.subscribe("plant/#", qos=1)
    ready = threading.Event()
    client.on_message, client.on_subscribe = arrived, lambda *_: ready.set()
    if user:
        client.username_pw_set(*user)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert ready.wait(10)
    yield found
    client.disconnect()
    client.loop_stop()


def arrived(found):
    return [message["picture"] for message in found.messages]


@needs_broker
def test_a_broker_gets_each_result_and_whether_the_line_is_online(log, broker):
    with subscribed(broker) as found:
        with Outputs.of(log, mqtt=broker.url()) as outputs:
            wait_for(lambda: found.states == ["online"])
            add(log, *names(0, 5), outputs=outputs)
            wait_for(lambda: len(found.messages) == 5)
        wait_for(lambda: found.states == ["online", "offline"])
    assert arrived(found) == names(0, 5)
    message = found.messages[0]
    assert (message["line"], message["result"], message["methods"]["GLASS"]["image_score"]) == (1, "defective", 2.5)
    assert log.verify(message["hash"]) and len(json.dumps(message)) < 1000
    with subscribed(broker) as later:
        wait_for(lambda: later.states == ["offline"])  # it is retained


@needs_broker
def test_nothing_is_lost_when_the_broker_is_killed(log, broker, caplog):
    with subscribed(broker) as found, Outputs.of(log, mqtt=broker.url()) as outputs:
        add(log, *names(0, 5), outputs=outputs)
        wait_for(lambda: len(found.messages) == 5)
        time.sleep(1.5)  # it has saved the session of the receiver
        broker.kill()
        begun = time.monotonic()
        add(log, *names(5, 30), outputs=outputs)
        assert time.monotonic() - begun < 3
        wait_for(lambda: "trying again" in caplog.text)
        broker.start()
        wait_for(lambda: len(set(arrived(found))) == 30)
        wait_for(lambda: found.states[-1] == "online" and len(found.states) > 1)
    pictures = list(dict.fromkeys(arrived(found)))
    assert pictures == names(0, 30) and "works again" in caplog.text


@needs_broker
def test_a_connection_is_opened_again_before_there_is_a_result(log, broker):
    with Outputs.of(log, mqtt=broker.url()):
        with subscribed(broker) as found:
            wait_for(lambda: found.states == ["online"])
        broker.kill()
        broker.start()
        with subscribed(broker) as found:
            wait_for(lambda: "online" in found.states)


@needs_broker
def test_a_killed_program_leaves_the_last_will_and_loses_nothing(log, broker):
    script = "import sys, time; from pathlib import Path; from hubmodels.line.log import InspectionLog; "
    script += (
        "from hubmodels.line.outputs import Outputs; Outputs.of(InspectionLog(Path(sys.argv[1])), mqtt=sys.argv[2])"
    )
    command = [sys.executable, "-c", f"{script}.__enter__(); time.sleep(600)", log.folder, broker.url()]
    with subscribed(broker) as found:
        process = subprocess.Popen(command, cwd=ROOT)
        wait_for(lambda: found.states == ["online"], 60)
        add(log, *names(0, 3))
        wait_for(lambda: len(found.messages) == 3)
        process.kill()
        process.wait()
        wait_for(lambda: found.states == ["online", "offline"])
        add(log, *names(3, 6))
        process = subprocess.Popen(command, cwd=ROOT)
        wait_for(lambda: len(set(arrived(found))) == 6, 60)
        wait_for(lambda: found.states[-1] == "online")
        process.kill()
        process.wait()
    assert list(dict.fromkeys(arrived(found))) == names(0, 6)


@needs_broker
def test_only_the_newest_results_wait_for_a_broker(log, broker):
    delivery = Delivery(LogQueue(log, "test", most_lines=4), Mqtt(broker.url()))
    with subscribed(broker) as found:
        time.sleep(1.5)  # it has saved the session of the receiver
        broker.kill()
        with Outputs((delivery,)) as outputs:
            add(log, *names(0, 10), outputs=outputs)
            broker.start()
            wait_for(lambda: len(found.messages) == 4)
    assert arrived(found) == names(6, 10) and delivery.waiting.position.skipped == 6


@needs_broker
def test_user_and_password_come_from_the_environment(log, tmp_path, monkeypatch, caplog):
    file = tmp_path / "passwords"
    file.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", file, "line", "secret"], check=True)
    broker = Broker(tmp_path, f"password_file {file}")
    try:
        monkeypatch.setenv(module.USER, "line")
        monkeypatch.setenv(module.PASSWORD, "wrong")
        with Outputs.of(log, mqtt=broker.url()):
            wait_for(lambda: "the broker refuses the connection: Not authorized" in caplog.text)
        monkeypatch.setenv(module.PASSWORD, "secret")
        with subscribed(broker, ("line", "secret")) as found, Outputs.of(log, mqtt=broker.url()) as outputs:
            add(log, "a.png", outputs=outputs)
            wait_for(lambda: arrived(found) == ["a.png"])
    finally:
        broker.kill()
    assert "secret" not in caplog.text + repr(Mqtt(broker.url(), "line", "secret"))


@needs_broker
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_mqtts_is_encrypted_and_needs_a_certificate_that_is_trusted(log, tmp_path, monkeypatch, caplog):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    plain = free_port()
    settings = [f"certfile {certificate}", f"keyfile {key}", f"listener {plain} 127.0.0.1"]
    broker = Broker(tmp_path, *settings)
    try:
        with Outputs.of(log, mqtt=broker.url("mqtts")):
            wait_for(lambda: "certificate verify failed" in caplog.text)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        listener = SimpleNamespace(port=plain)
        with subscribed(listener) as found, Outputs.of(log, mqtt=broker.url("mqtts")) as outputs:
            add(log, "a.png", outputs=outputs)
            wait_for(lambda: arrived(found) == ["a.png"])
    finally:
        broker.kill()
