"""Round trips through a served model: `python -m benchmarks.serving IMAGES`.

Exports a model, loads it as a server does, answers gRPC Predict calls on 127.0.0.1, and
times clients that compress and decompress images, one and eight at a time, compared
with the codec in this process.  The server is not TensorFlow Serving, which is no
Python package, but has the same graph, messages and network connection.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import tempfile
import threading
import time

import numpy as np

from tfcodec import codec, images, inputs, predict, registry


@contextlib.contextmanager
def loopback(signatures, name: str, threads: int = 8):
    """Serves the signatures of a loaded SavedModel; gives HOST:PORT/NAME."""
    import grpc
    import tensorflow as tf

    messages = predict.messages()

    def handle(request, context):
        spec = request.model_spec
        if spec.name != name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {spec.name}")
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        response = messages["PredictResponse"]()
        for key, value in signatures[spec.signature_name](**inputs).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response

    _, service, method = predict.METHOD.split("/")
    most = [("grpc.max_receive_message_length", predict.LARGEST_MESSAGE)]
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    server = grpc.server(pool, options=most)
    handler = grpc.unary_unary_rpc_method_handler(
        handle,
        messages["PredictRequest"].FromString,
        lambda message: message.SerializeToString(),
    )
    handlers = grpc.method_handlers_generic_handler(service, {method: handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}/{name}"
    finally:
        server.stop(None)


def timed(codecs, pictures, clients: int) -> tuple[float, np.ndarray]:
    """Compresses and decompresses pictures: (seconds in all, those of each round trip).

    Args:
        codecs: function that makes (compress, decompress), called once in each thread.
        pictures: uint8 [h, w, c].
        clients: number of threads.
    """
    seconds, lock = [], threading.Lock()
    local = threading.local()

    def one(picture):
        if not hasattr(local, "codec"):
            local.codec = codecs()
        begin = time.perf_counter()
        compress, decompress = local.codec
        decompress(compress(picture))
        with lock:
            seconds.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, pictures))
    return time.perf_counter() - begin, np.array(seconds)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__.splitlines()[0]
    )
    parser.add_argument("images", nargs="+", help="files, folders and globs")
    parser.add_argument("--model", default=registry.DEFAULT)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8])
    given = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from tfcodec import serving

    paths = inputs.find_images(given.images)
    pictures = [images.read(path).pixels for path in paths]
    megapixels = sum(p.shape[0] * p.shape[1] for p in pictures) / 1e6
    own = codec.load(given.model, "tensorflow")

    def in_process():
        def back(data):
            return codec.decompress(data, given.model, engine="tensorflow")

        return own.compress, back

    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "model"
        version = serving.export(registry.resolve(given.model), directory)
        loaded = tf.saved_model.load(str(version))
        with loopback(loaded.signatures, "model", max(given.clients)) as address:

            def by_server():
                server = predict.Server(address)
                return server.compress, server.decompress

            same = sum(by_server()[0](p) == own.compress(p) for p in pictures)
            print(
                f"{same} of {len(pictures)} files are those of the codec, to the byte"
            )
            print("| | clients | round trips/s | MP/s | p50 | p99 |")
            print("|---|---|---|---|---|---|")
            for name, codecs in (("in process", in_process), ("served", by_server)):
                for clients in given.clients:
                    timed(codecs, pictures[:2], clients)
                    total, each = timed(codecs, pictures * 2, clients)
                    p50, p99 = np.percentile(each, [50, 99])
                    print(
                        f"| {name} | {clients} | {len(each) / total:.2f} "
                        f"| {2 * megapixels / total:.2f} | {p50:.3f} s | {p99:.3f} s |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
