"""Records of the demo endpoints, encoded by the official client's own Avro code."""

import json
from dataclasses import dataclass, field

import snappy
from gpudb.protocol import Schema

PAYLOAD_ENCODINGS = ("binary", "snappy", "json")

STRING_MAP = ("map", [("string")])
REQUESTS = {
    "/demo/echo": Schema("record", [("message", "string"), ("options", *STRING_MAP)]),
    "/demo/sleep": Schema("record", [("millis", "long"), ("options", *STRING_MAP)]),
    "/demo/primes": Schema("record", [("limit", "long"), ("options", *STRING_MAP)]),
    "/demo/fail": Schema("record", [("message", "string"), ("options", *STRING_MAP)]),
}
RESPONSES = {
    "/demo/echo": Schema("record", [("message", "string"), ("info", *STRING_MAP)]),
    "/demo/sleep": Schema("record", [("slept_millis", "long"), ("info", *STRING_MAP)]),
    "/demo/primes": Schema("record", [("count", "long"), ("largest", "long"), ("info", *STRING_MAP)]),
}


@dataclass(frozen=True)
class Job:
    """What a caller hands to `create_job`, as its keyword arguments."""

    endpoint: str
    request_encoding: str
    data: bytes = b""
    data_str: str = ""
    options: dict = field(default_factory=dict)

    def arguments(self):
        # The client rewrites the options it is given in place, so it gets a copy.
        return {**self.__dict__, "options": dict(self.options)}


def job(endpoint, request, encoding="binary", **options):
    """A job of a demo endpoint; `request` needs no `options` member."""
    record = {"options": {}, **request}
    if encoding == "json":
        return Job(endpoint, encoding, data_str=json.dumps(record), options=options)
    avro = REQUESTS[endpoint].encode(record)
    data = snappy.compress(avro) if encoding == "snappy" else avro
    return Job(endpoint, encoding, data=data, options=options)


def echo(message="hello", encoding="binary", **options):
    return job("/demo/echo", {"message": message}, encoding, **options)


def sleep(millis, encoding="binary", **options):
    return job("/demo/sleep", {"millis": millis}, encoding, **options)


def primes(limit, encoding="binary", **options):
    return job("/demo/primes", {"limit": limit}, encoding, **options)


def fail(message, encoding="binary", **options):
    return job("/demo/fail", {"message": message}, encoding, **options)


def result(reply):
    """The result in a `/get/job` reply: the endpoint's bare response record, without its `info`.

    A binary result must be exactly the record: this is checked by encoding it again, because the
    client's decoder ignores what follows a record.
    """
    if reply.response_encoding == "json":
        assert as_bytes(reply.job_response) == b""
        record = json.loads(reply.job_response_str)
    else:
        assert reply.response_encoding == "binary"
        assert reply.job_response_str == ""
        schema = RESPONSES[reply.endpoint]
        data = as_bytes(reply.job_response)
        record = schema.decode(data)
        assert schema.encode(record) == data
    assert isinstance(record.pop("info"), dict)
    return record


def as_bytes(value):
    """A bytes field of a reply: over JSON the client leaves it as a string of code points 0 to 255."""
    return value.encode("latin-1") if isinstance(value, str) else value
