"""A client of TensorFlow Serving's Predict call, without `tensorflow-serving-api`.

Each version of that package needs one version of TensorFlow.  All that is used of it is
five messages of a few fields; those below are the same on the wire, as they have the
field numbers of
https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from tfcodec import bitstream, planes, quality
from tfcodec.console import Failure

METHOD = "/tensorflow.serving.PredictionService/Predict"
# Message -> fields (name, number, type). The type "map" is a map of names to tensors.
MESSAGES = {
    "ModelSpec": (("name", 1, "string"), ("signature_name", 3, "string")),
    "PredictRequest": (("model_spec", 1, "ModelSpec"), ("inputs", 2, "map")),
    "PredictResponse": (("outputs", 1, "map"),),
    "PredictLog": (("request", 1, "PredictRequest"),),
    "PredictionLog": (("predict_log", 6, "PredictLog"),),
}
PACKAGE = "tfcodec.predict"
# Bytes. gRPC's default is 4 MiB, less than a photograph's pixels.
LARGEST_MESSAGE = 2**30
SECONDS = 60.0  # until a call is given up


@functools.lru_cache
def messages() -> dict:
    """Returns the classes of `MESSAGES` by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tfcodec/predict.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=[tensor_pb2.DESCRIPTOR.name],
    )

    def add(message, name, number, type_, label=kind.LABEL_OPTIONAL):
        field = message.field.add(name=name, number=number, label=label)
        if type_ == "string":
            field.type = kind.TYPE_STRING
        else:
            field.type, field.type_name = kind.TYPE_MESSAGE, type_

    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, type_ in fields:
            if type_ != "map":
                own = type_ if type_ == "string" else f".{PACKAGE}.{type_}"
                add(message, field, number, own)
                continue
            # A map is a list of pairs, named as protoc names them.
            entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
            entry.options.map_entry = True
            add(entry, "key", 1, "string")
            add(entry, "value", 2, ".tensorflow.TensorProto")
            nested = f".{PACKAGE}.{name}.{entry.name}"
            add(message, field, number, nested, kind.LABEL_REPEATED)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
        )
        for name in MESSAGES
    }


def request(model: str, signature: str, **inputs):
    """Returns a PredictRequest with arrays or scalars as inputs."""
    import tensorflow as tf

    made = messages()["PredictRequest"]()
    made.model_spec.name, made.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return made


class Server:
    """A model in TensorFlow Serving, with `compress` and `decompress` as a codec has.

    Args:
        address: HOST:PORT of its gRPC service; HOST:PORT/NAME for a model that is not
            served under the name tfcodec.
        seconds: until a call is given up.

    Raises:
        ValueError: the address is neither.
    """

    def __init__(self, address: str, seconds: float = SECONDS):
        place, _, name = address.partition("/")
        host, colon, port = place.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise ValueError(f"a server is HOST:PORT or HOST:PORT/MODEL, not {address}")
        self.place, self.name, self.seconds = place, name or "tfcodec", seconds

    @functools.cached_property
    def predict(self):
        """The function that sends a PredictRequest. Imports TensorFlow's messages."""
        import grpc

        most = [
            ("grpc.max_send_message_length", LARGEST_MESSAGE),
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        ]
        return grpc.insecure_channel(self.place, most).unary_unary(
            METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages()["PredictResponse"].FromString,
        )

    def call(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """Calls a signature with inputs by name; returns its outputs by name.

        Raises:
            OSError: the server does not answer, not in time, or is no TensorFlow
                Serving.
            ValueError: it does not have the model.
            RuntimeError: it answers with another error.
        """
        import grpc
        import tensorflow as tf

        try:
            response = self.predict(
                request(self.name, signature, **inputs), timeout=self.seconds
            )
        except grpc.RpcError as error:
            raise self._failure(error.code(), error.details() or "") from None
        return {k: tf.make_ndarray(v) for k, v in response.outputs.items()}

    def _failure(self, code, details) -> Exception:
        """Returns the exception for a failed call's gRPC status and details."""
        import grpc

        status = grpc.StatusCode
        if code == status.UNAVAILABLE:
            if any(word in details.lower() for word in ("http", "settings frame")):
                return ConnectionError(
                    f"{self.place} answers, but not by gRPC; if it is TensorFlow "
                    "Serving, that is its REST port (by default 8501), and its gRPC "
                    "port (by default 8500) is the one to give"
                )
            return ConnectionError(f"no server at {self.place}")
        if code == status.DEADLINE_EXCEEDED:
            return TimeoutError(
                f"the server at {self.place} took over {self.seconds:g} s"
            )
        if code == status.NOT_FOUND:
            return ValueError(
                f"the server at {self.place} has no model {self.name!r}; "
                f"HOST:PORT/MODEL names another: {code.name.lower()}: {details}"
            )
        if code == status.UNIMPLEMENTED:
            return ConnectionError(
                f"{self.place} answers by gRPC, but is no TensorFlow Serving"
            )
        return Failure(f"the server at {self.place}: {code.name.lower()}: {details}")

    def compress(
        self,
        image: np.ndarray,
        level: float | None = None,
        metadata: dict[str, bytes | None] | None = None,
    ) -> bytes:
        """As `tfcodec.compress`. Alpha and metadata are added by the client.

        Raises:
            TypeError, ValueError: the image or quality is invalid, or the image is over
                the server's limits.
            OSError, RuntimeError, ValueError: as `call`.
        """
        image = planes.checked_image(image)
        colours, alpha = planes.separated(image)
        if colours.ndim == 2:
            colours = colours[..., None]
        level = np.float32(quality.chosen(level))
        result = self.call("compress_pixels", image=colours, quality=level)
        error = result["error"].item().decode()
        if error:
            raise ValueError(f"the server: {_with_advice(error)}")
        chunks = bitstream.metadata_chunks(metadata or {})
        layout = planes.layout_of(image)
        if alpha is not None:
            chunks.append(bitstream.Chunk(bitstream.ALPHA, planes.png(alpha)))
        # The image was not too large for its caller, nor for the server.
        limits = bitstream.Limits().for_pixels(0)
        file = result["compressed_bytes"].item()
        header, coded = bitstream.unpack(file, limits)
        header = dataclasses.replace(header, layout=layout)
        return bitstream.pack(header, [*chunks, *coded])

    def decompress(
        self,
        data: bytes,
        max_pixels: int | None = None,
        realism: float | None = None,
    ) -> np.ndarray:
        """As `tfcodec.decompress`; `max_pixels` is a limit of the client alone.

        Raises:
            StreamError: the client or the server refuses the file.
            ValueError: the realism is not from 0 to 1; or as `call`.
            OSError, RuntimeError: as `call`; RuntimeError also if `realism` is given
                and the model has no second synthesis.
        """
        limits = bitstream.Limits().for_pixels(max_pixels)
        header = bitstream.read_header(data, limits)
        if realism is None:
            result = self.call("decompress_pixels", compressed_bytes=data)
        else:
            result = self.call(
                "decompress_pixels_realism",
                compressed_bytes=data,
                realism=np.float32(quality.check_realism(realism)),
            )
        error = result["error"].item().decode()
        if error:
            raise bitstream.StreamError(f"the server: {_with_advice(error)}")
        image = result["image"]
        return image[..., 0] if header.mode == "L" else image


def _with_advice(error):
    """Adds to a server's error about a limit where that limit is set."""
    limited = error.startswith("over the limit")
    return f"{error}, set by export --limits" if limited else error
