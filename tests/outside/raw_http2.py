"""A gRPC client made by hand on HTTP/2, for headers and frames that grpcio would not send."""

import base64
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType

import grpc
import h2.connection
import h2.events
from google.rpc import error_details_pb2, status_pb2

SERVICE = "/profilestore.v1.ProfileService"
SECONDS = 30.0
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class Answer:
    """What came back: the message's bytes if there are any, and the last headers or trailers."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status."""
        return CODES[int(self.headers["grpc-status"])]

    @property
    def message(self) -> bytes:
        """The one message, without its five bytes of frame."""
        flag, length = struct.unpack(">BI", self.body[:5])
        assert flag == 0 and len(self.body) == 5 + length, "one uncompressed message is expected"
        return self.body[5:]

    @property
    def reason(self) -> tuple[str, str]:
        """The domain and the reason of the error's ErrorInfo."""
        info = error_details_pb2.ErrorInfo()
        self._unpack(info)
        return info.domain, info.reason

    @property
    def fields(self) -> list[str]:
        """The fields that the error's BadRequest names."""
        request = error_details_pb2.BadRequest()
        self._unpack(request)
        return [violation.field for violation in request.field_violations]

    def _unpack(self, detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> None:
        encoded = self.headers.get("grpc-status-details-bin", "")
        status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
        for packed in status.details:
            if packed.Unpack(detail):
                return


class RawConnection:
    """One connection that makes one call after the other."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = h2.connection.H2Connection()

    def __enter__(self) -> "RawConnection":
        host, port = self._address.split(":")
        self._socket = socket.create_connection((host, int(port)), SECONDS)
        self._connection.initiate_connection()
        self._flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(
        self, method: str, message: bytes, timeout: str | None = None, encoding: str | None = None
    ) -> Answer:
        """Makes a unary call. With an encoding, the message is marked as compressed by it."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"{SERVICE}/{method}"),
            (":authority", self._address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        headers += [("grpc-timeout", timeout)] if timeout is not None else []
        headers += [("grpc-encoding", encoding)] if encoding is not None else []
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, headers)
        self._connection.send_data(
            stream, struct.pack(">BI", encoding is not None, len(message)) + message, end_stream=True
        )
        self._flush()
        return self._answer_of(stream)

    def _answer_of(self, stream: int) -> Answer:
        answer = Answer()
        while True:
            data = self._socket.recv(65_536)
            assert data, "the server closed the connection"
            for event in self._connection.receive_data(data):
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    answer.headers |= {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    answer.body += event.data
                    self._connection.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    self._flush()
                    return answer
                elif isinstance(event, h2.events.StreamReset):
                    # A server may refuse before it has read all; with headers that is an answer.
                    assert "grpc-status" in answer.headers, "the server reset the call"
                    return answer
            self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())
