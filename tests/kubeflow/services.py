"""What Kubeflow's driver and launcher talk to, on loopback and as small as they allow.

The metadata store is `ml_metadata`'s own, the object store is moto's. The cache (two calls of the
API server's) and the Kubernetes API (config map, secret, pod) are answers from memory.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2, message_factory
from ml_metadata.metadata_store.pywrap.metadata_store_extension import (
    metadata_store as ml_metadata_store,
)
from ml_metadata.proto import metadata_store_pb2
from pyarrow import fs

from tests.kubeflow.sandbox import PROJECT

MOTO = PROJECT / ".tools" / "moto" / "bin" / "moto_server"  # `make test-kubeflow` installs it
NAMESPACE = "kubeflow"
KEYS = {"accesskey": "minio", "secretkey": "minio123"}  # as a default installation has them
SECRET = "mlpipeline-minio-artifact"
MOST_BYTES = 100 * 1024 * 1024  # of a message, as the driver and the launcher allow

Document = dict[str, Any]
_DONE = grpc.StatusCode.OK.value[0]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class MetadataStore(grpc.GenericRpcHandler):
    """`ml_metadata`'s store, in memory, behind its own protocol: messages pass as they are."""

    _SERVICE = "/ml_metadata.MetadataStoreService/"

    def __init__(self) -> None:
        config = metadata_store_pb2.ConnectionConfig()
        config.fake_database.SetInParent()
        self._store = ml_metadata_store.CreateMetadataStore(config.SerializeToString(), b"")

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """See the base class."""
        call = getattr(ml_metadata_store, details.method.removeprefix(self._SERVICE), None)
        if call is None or not details.method.startswith(self._SERVICE):
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            response, problem, code = call(self._store, request)
            if code != _DONE:
                context.abort(_CODES[code], problem.decode())
            return bytes(response)

        return grpc.unary_unary_rpc_method_handler(answer)


class TaskService(grpc.GenericRpcHandler):
    """The cache: the API server keeps which execution had which fingerprint."""

    def __init__(self) -> None:
        self._messages = _task_messages()
        self._tasks: list[Any] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """See the base class."""
        calls: dict[str, tuple[Callable[..., Any], str]] = {
            "/api.TaskService/CreateTaskV1": (self._create, "CreateTaskRequest"),
            "/api.TaskService/ListTasksV1": (self._list, "ListTasksRequest"),
        }
        if details.method not in calls:
            return None
        answer, request = calls[details.method]
        return grpc.unary_unary_rpc_method_handler(
            lambda message, context: answer(message),
            request_deserializer=self._messages[f"api.{request}"].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _create(self, request: Any) -> Any:
        self._tasks.append(request.task)
        return request.task

    def _list(self, request: Any) -> Any:
        wanted = {each["key"]: each["stringValue"] for each in _predicates(request.filter)}
        found = [
            task
            for task in reversed(self._tasks)
            if all(getattr(task, key) == value for key, value in wanted.items())
        ]
        return self._messages["api.ListTasksResponse"](tasks=found[:1])


def _predicates(text: str) -> list[Document]:
    predicates: list[Document] = json.loads(text)["predicates"]
    assert all(each["op"] == "EQUALS" for each in predicates), text
    return predicates


def _task_messages() -> Mapping[str, Any]:
    """The messages of the task service, as far as they are used here."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="task.proto", package="api", syntax="proto3")
    messages: dict[str, dict[str, tuple[int, str | None]]] = {
        "Task": {
            "namespace": (2, None),
            "pipelineName": (3, None),
            "runId": (4, None),
            "mlmdExecutionID": (5, None),
            "fingerprint": (8, None),
        },
        "CreateTaskRequest": {"task": (1, "Task")},
        "ListTasksRequest": {"filter": (5, None)},
        "ListTasksResponse": {"tasks": (1, "Task")},
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for key, (number, of) in fields.items():
            added = message.field.add(name=key, number=number, json_name=key)
            added.label = field.LABEL_REPEATED if key == "tasks" else field.LABEL_OPTIONAL
            added.type = field.TYPE_MESSAGE if of else field.TYPE_STRING
            if of:
                added.type_name = f".api.{of}"
    classes: Mapping[str, Any] = message_factory.GetMessages([file])
    return classes


@contextmanager
def grpc_server() -> Iterator[int]:
    """Serves metadata store and cache; gives the port."""
    # The metadata store is one connection, which takes one caller at a time.
    server = grpc.server(
        ThreadPoolExecutor(max_workers=1),
        (MetadataStore(), TaskService()),
        options=[("grpc.max_receive_message_length", MOST_BYTES)],
    )
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


class ObjectStore:
    """Moto's S3 server, where the buckets are that a test names.

    Args:
        port: that it listens on.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._files = fs.S3FileSystem(
            access_key=KEYS["accesskey"],
            secret_key=KEYS["secretkey"],
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def make_bucket(self, name: str) -> None:
        """Makes a bucket; one that is there stays as it is."""
        self._files.create_dir(name)

    def keys(self, uri: str) -> list[str]:
        """The names of all objects at or below a URI, relative to it."""
        return sorted(path for path, _ in self._at(uri))

    def download(self, uri: str, target: Path) -> None:
        """Copies the object of that name, or every object below it."""
        for path, key in self._at(uri):
            file = target / path if path else target
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._files.open_input_stream(key) as stream:
                file.write_bytes(stream.read())

    def _at(self, uri: str) -> Iterator[tuple[str, str]]:
        key = uri.partition("://")[2]
        (found,) = self._files.get_file_info([key])
        if found.type == fs.FileType.File:
            yield "", key
        elif found.type == fs.FileType.Directory:
            for each in self._files.get_file_info(fs.FileSelector(key, recursive=True)):
                if each.type == fs.FileType.File:
                    yield each.path.removeprefix(f"{key}/"), each.path


@contextmanager
def object_store(log: Path) -> Iterator[ObjectStore]:
    """Starts moto's server in a process of its own, which writes to a log."""
    with http_server([str(MOTO)], "/moto-api/", log) as port:
        yield ObjectStore(port)


@contextmanager
def http_server(command: Sequence[str], ready: str, log: Path) -> Iterator[int]:
    """Starts a server in a process of its own, which writes to a log; gives its port.

    Args:
        command: of the server, which takes `--host` and `--port`.
        ready: a path that it answers when it has started.
        log: a file.
    """
    port = _free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # with the workers that it starts
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}{ready}", process, log)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{process.args!r} ended: {log.read_text()}")


class KubernetesApi:
    """The three objects that driver and launcher ask the Kubernetes API for.

    Args:
        folder: for the certificate.
        object_store: its port on loopback; the config map names it to the launcher.
    """

    def __init__(self, folder: Path, object_store: int) -> None:
        provider = {
            "default": {
                "endpoint": f"127.0.0.1:{object_store}",
                "region": "us-east-1",
                "disableSSL": True,
                "credentials": {
                    "fromEnv": False,
                    "secretRef": {
                        "secretName": SECRET,
                        "accessKeyKey": "accesskey",
                        "secretKeyKey": "secretkey",
                    },
                },
            }
        }
        providers = json.dumps({"minio": provider, "s3": provider})
        self._objects: dict[str, Document] = {
            "configmaps/kfp-launcher": {"kind": "ConfigMap", "data": {"providers": providers}},
            f"secrets/{SECRET}": {
                "kind": "Secret",
                "data": {k: base64.b64encode(v.encode()).decode() for k, v in KEYS.items()},
            },
        }
        self._folder = folder

    def add_pod(self, name: str) -> None:
        """Makes a pod known; that of a step without retries says nothing of a number of tries."""
        self._objects[f"pods/{name}"] = {"kind": "Pod", "metadata": {"name": name}}

    @contextmanager
    def serve(self) -> Iterator[Mapping[str, str]]:
        """Serves the API over TLS; gives the variables that tell a pod where it is.

        What a pod has mounted of its service account is in `folder`/serviceaccount.
        """
        account = self._folder / "serviceaccount"
        account.mkdir()
        key = self._folder / "key.pem"
        _make_certificate(account / "ca.crt", key)
        (account / "namespace").write_text(NAMESPACE)
        (account / "token").write_text("token")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(account / "ca.crt", key)
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        host, port = "127.0.0.1", str(server.server_address[1])
        try:
            yield {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        finally:
            server.shutdown()
            server.server_close()

    @property
    def account(self) -> Path:
        """The folder of the pods' service account."""
        return self._folder / "serviceaccount"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        objects, prefix = self._objects, f"/api/v1/namespaces/{NAMESPACE}/"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = objects.get(self.path.removeprefix(prefix))
                document = {"apiVersion": "v1", **(found or {"kind": "Status", "code": 404})}
                body = json.dumps(document).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                print(f"kubernetes: {format % arguments}", file=sys.stderr)

        return Handler


def _make_certificate(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
