"""Reads the google.rpc details of a gRPC error."""

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

KNOWN = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)


def details_of(error: grpc.RpcError) -> dict[type, Any]:
    """The error's details by their message class; empty when it has none."""
    status = rpc_status.from_call(error)
    found: dict[type, Any] = {}
    for packed in status.details if status else []:
        for kind in KNOWN:
            message = kind()
            if packed.Unpack(message):
                assert kind not in found, f"two {kind.__name__} in one error"
                found[kind] = message
    return found


def reason_of(error: grpc.RpcError) -> tuple[str, str]:
    """The domain and the reason of the error's ErrorInfo."""
    info = details_of(error).get(error_details_pb2.ErrorInfo)
    return (info.domain, info.reason) if info else ("", "")


def fields_of(error: grpc.RpcError) -> list[str]:
    """The fields that the error's BadRequest names, sorted."""
    request = details_of(error).get(error_details_pb2.BadRequest)
    return sorted(violation.field for violation in request.field_violations) if request else []
