"""Sends the results in a log to other programs: to a webhook, and by MQTT to a broker.

Each result is sent in order, and again until the receiver confirms it. So none is lost, and after an interruption one
can come twice. Each message has `line`, its number in the log, and `hash`, the hash of this line: a receiver leaves
out what it already has. A thread sends, so that a receiver that is slow or gone never delays the judging.

outputs = Outputs.of(log, webhook="https://plant.example/results", mqtt="mqtts://broker.example/line1/washer")
with outputs:
    ...  # `outputs.wake()` after each line of the log
"""

import hashlib
import hmac
import json
import logging
import os
import platform
import queue
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self
from urllib.parse import SplitResult, unquote, urlsplit

from filelock import FileLock, Timeout
from huggingface_hub.utils import httpx

from hubmodels import LIBRARY, __version__, install_command
from hubmodels.line.log import InspectionLog
from hubmodels.line.log_queue import LogQueue

logger = logging.getLogger(__name__)

SECRET, USER, PASSWORD = "HUBMODELS_WEBHOOK_SECRET", "HUBMODELS_MQTT_USER", "HUBMODELS_MQTT_PASSWORD"  # environment
SIGNATURE = "X-Hubmodels-Signature"  # header: sha256=HMAC of the body, in hexadecimal digits
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a failed message is sent again
LOOK = 1.0  # seconds between two looks at the log, to which other processes may write, too
ANSWER_IN = 10.0  # seconds in which a receiver has to confirm
END_IN = 5.0  # seconds for what still waits when the program ends
KEEPALIVE = 30  # seconds; after 1.5 times as long without a sign of life a broker sends the last will
PORTS = {"mqtt": 1883, "mqtts": 8883}
ONLINE, OFFLINE = "online", "offline"  # on TOPIC/status
SHORT = (
    *("line", "hash", "time", "result", "picture", "sha256", "category", "verdicts", "defective_verdicts"),
    *("agree", "look_again", "appearance_matches", "warnings", "error", "drift"),
)
SHORT_OF_METHOD = ("is_anomalous", "is_unsure", "p_value", "image_score", "threshold", "defects")


class OutputError(OSError):
    """A receiver did not confirm a message; the message says why."""


class Output(Protocol):
    """Where results go.

    Attributes:
        name: for people and for the file of the queue; without secrets.
    """

    name: str

    def open(self) -> None:
        """Connects, if it is not connected. Raises OSError."""

    def send(self, result: dict) -> None:
        """Returns when the receiver has confirmed the result. Raises OSError."""

    def close(self) -> None:
        """Says that no more results come."""


@dataclass
class Webhook:
    """Gets each result as JSON by POST; any status from 200 to 299 confirms it.

    Args:
        secret: signs each body, so that the receiver knows the sender.

    Raises:
        ValueError: the address cannot be used.
    """

    url: str
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = _parts(self.url, ("http", "https"), "HUBMODELS_WEBHOOK_SECRET signs the messages instead")
        self.name = _name("webhook", parts, self.url)
        self._address = _httpx_address(self.url)
        headers = {"content-type": "application/json", "user-agent": f"{LIBRARY}/{__version__}"}
        self._client = httpx.Client(timeout=ANSWER_IN, headers=headers)

    def open(self) -> None:
        """Nothing: each message opens its own connection, if the last one is closed."""

    def send(self, result: dict) -> None:
        """Raises OutputError."""
        body = json.dumps(result, ensure_ascii=False).encode()
        try:
            response = self._client.post(self._address, content=body, headers=self._signed(body))
        except httpx.HTTPError as error:
            raise OutputError(str(error) or type(error).__name__) from error
        if not response.is_success:
            raise OutputError(f"the answer has the status {response.status_code}")

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _signed(self, body: bytes) -> dict[str, str]:
        if not self.secret:
            return {}
        return {SIGNATURE: f"sha256={hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()}"}


@dataclass
class Mqtt:
    """Gets a short form of each result on a topic, with QoS 1; TOPIC/status says whether results can come.

    Args:
        url: mqtt://HOST:PORT/TOPIC, or mqtts: with TLS.
        sender: its name for the broker, which ends the connection of an earlier sender of the same name.

    Raises:
        ValueError: the address cannot be used, or the package is missing.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sender: str = LIBRARY

    def __post_init__(self) -> None:
        self._mqtt, self._client = _import_mqtt(), None
        self._parts = _parts(self.url, PORTS, f"set {USER} and {PASSWORD} instead")
        self.topic = unquote(self._parts.path.strip("/"))
        if not self.topic or set("+#") & set(self.topic) or self._parts.query or self._parts.fragment:
            raise ValueError(f"{self.url}: write mqtt://HOST/TOPIC; a topic has none of the characters + # ?")
        self.name = _name("mqtt", self._parts, self.url)

    def open(self) -> None:
        """Connects, and says that it is online. Raises OSError."""
        if self._client and self._client.is_connected():
            return
        self._forget()
        self._client, answers = self._new_client()
        self._client.connect(self._parts.hostname, self._parts.port or PORTS[self._parts.scheme], KEEPALIVE)
        self._client.loop_start()
        try:
            code = answers.get(timeout=ANSWER_IN)
        except queue.Empty:
            raise OutputError(f"no answer in {ANSWER_IN:.0f} s") from None
        if code.is_failure:
            raise OutputError(f"the broker refuses the connection: {code}")
        self._publish(f"{self.topic}/status", ONLINE, retain=True)

    def send(self, result: dict) -> None:
        """Raises OutputError."""
        self._publish(self.topic, json.dumps(short_form(result), ensure_ascii=False))

    def close(self) -> None:
        """Says that it is offline, and ends the connection."""
        try:
            if self._client and self._client.is_connected():
                self._publish(f"{self.topic}/status", OFFLINE, retain=True)
                self._client.disconnect()
        finally:
            self._forget()

    def _publish(self, topic: str, text: str, retain: bool = False) -> None:
        sent = self._client.publish(topic, text, qos=1, retain=retain)
        try:
            sent.wait_for_publish(ANSWER_IN)
        except RuntimeError as error:
            raise OutputError(str(error)) from error
        if not sent.is_published():
            self._forget()
            raise OutputError(f"the broker did not confirm in {ANSWER_IN:.0f} s")

    def _new_client(self) -> tuple[object, queue.Queue]:
        """A client, and where it puts the broker's answer."""
        answers, version = queue.Queue(), self._mqtt.CallbackAPIVersion.VERSION2
        client = self._mqtt.Client(version, self.sender, reconnect_on_failure=False)
        client.on_connect = lambda client, userdata, flags, code, properties: answers.put(code)
        client.will_set(f"{self.topic}/status", OFFLINE, qos=1, retain=True)
        if self.user:
            client.username_pw_set(self.user, self.password)
        if self._parts.scheme == "mqtts":
            client.tls_set_context(ssl.create_default_context())
        return client, answers

    def _forget(self) -> None:
        if self._client:
            self._client.loop_stop()
            self._client = None


class Delivery:
    """Sends what is in a queue to an output, in a thread, until `close`.

    If several processes write to one log, the first one delivers for all. If it ends, another one continues.
    """

    def __init__(self, waiting: LogQueue, output: Output) -> None:
        self.waiting, self.output = waiting, output
        self._lock = FileLock(waiting.file.with_suffix(".lock"))
        self._wake, self._ending, self._deadline = threading.Event(), threading.Event(), float("inf")
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=output.name)

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """There may be a new line in the log."""
        self._wake.set()

    def close(self) -> None:
        """Delivers what waits if that is possible in a few seconds; otherwise the next start does."""
        self._deadline = time.monotonic() + END_IN
        self._ending.set()
        self._wake.set()
        self._thread.join(END_IN + 1)
        if self._thread.is_alive() or self._failure:
            logger.warning("%s: the results that were not delivered are sent after the next start", self.output.name)

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._is_over():
            is_last = self._ending.is_set()
            self._failure = self._attempt(wait)
            if is_last:
                break
            (self._ending if self._failure else self._wake).wait(wait if self._failure else LOOK)
            self._wake.clear()
            wait = min(LONGEST_WAIT, 2 * wait) if self._failure else FIRST_WAIT
        try:
            self.output.close()
        except OSError as error:
            logger.warning("%s: %s", self.output.name, error)
        self._lock.release()

    def _attempt(self, wait: float) -> str | None:
        """Delivers everything; or returns why it failed."""
        try:
            if self._is_alone():
                self._deliver()
        except (OSError, ValueError) as error:  # of the log, too
            logger.warning("%s: %s; trying again in %.0f s", self.output.name, error, wait)
            return str(error)
        if self._failure:
            logger.warning("%s: works again", self.output.name)
        return None

    def _is_alone(self) -> bool:
        """Whether no other process delivers."""
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                return False
            self.waiting.load()
        return True

    def _deliver(self) -> None:
        self.output.open()
        while results := self.waiting.next():
            for result, position in results:
                if self._is_over():
                    return
                self.output.send(result | {"result": verdict_of(result)})
                self.waiting.done(position)

    def _is_over(self) -> bool:
        return time.monotonic() > self._deadline


@dataclass(frozen=True)
class Outputs:
    """All outputs of a log; as a context it delivers."""

    deliveries: tuple[Delivery, ...] = ()

    @classmethod
    def of(cls, log: InspectionLog | None, webhook: str | None = None, mqtt: str | None = None) -> Self:
        """Secrets come from the environment.

        Raises:
            ValueError: an address cannot be used, a package or the log is missing.
            OSError: the folder of the log cannot be written.
        """
        if log is None and (webhook or mqtt):
            raise ValueError("sending results needs a log, which keeps them until they are delivered")
        get, outputs = os.environ.get, []
        if webhook:
            outputs.append(Webhook(webhook, get(SECRET)))
        if mqtt:
            sender = f"{LIBRARY}-{_digest(platform.node(), str(log.folder.resolve()), mqtt)}"
            outputs.append(Mqtt(mqtt, get(USER), get(PASSWORD), sender))
        return cls(tuple(Delivery(LogQueue(log, output.name), output) for output in outputs))

    def __enter__(self) -> Self:
        for delivery in self.deliveries:
            delivery.start()
        return self

    def __exit__(self, *_: object) -> None:
        for delivery in self.deliveries:
            delivery.close()

    def wake(self) -> None:
        """There may be a new line in the log."""
        for delivery in self.deliveries:
            delivery.wake()


def verdict_of(record: Mapping) -> str:
    """One word for programs that need no more: good, defective, or not judged."""
    if "error" in record or not record.get("verdicts"):
        return "not judged"
    return "defective" if record["defective_verdicts"] else "good"


def short_form(result: Mapping) -> dict:
    """What a controller needs of a result, about 1 kB."""
    methods = result.get("methods", {}).items()
    numbers = {title: {key: values[key] for key in SHORT_OF_METHOD if key in values} for title, values in methods}
    return {key: result[key] for key in SHORT if key in result} | ({"methods": numbers} if numbers else {})


def _parts(url: str, schemes: Mapping[str, int] | tuple[str, ...], instead: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname or parts.port == 0:  # `port` raises ValueError, too
        raise ValueError(f"{url}: write {' or '.join(f'{scheme}://HOST/...' for scheme in schemes)}")
    if parts.username or parts.password:
        raise ValueError(f"an address with a password can be read by others on the computer: {instead}")
    return parts


def _httpx_address(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url}: {error}") from error


def _name(kind: str, parts: SplitResult, url: str) -> str:
    return re.sub(r"[^\w.-]", "_", f"{kind}-{parts.hostname}-{_digest(url)}")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _import_mqtt():
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise ValueError(f"MQTT needs a package: {install_command('mqtt')}") from error
    return client
