"""What MLflow asks of an S3 store, and what the store must refuse: run inside the stack's network, where boto3 is.

Prints one JSON object: name of a check → "ok", or what happened instead. The root account makes a second bucket first, so
that there is something which the limited account must not see.
"""

import base64
import hashlib
import json
import os
import pathlib
import urllib.error
import urllib.request
import uuid
import zlib

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

ENDPOINT, BUCKET, REGION = os.environ["S3_ENDPOINT_URL"], os.environ["S3_BUCKET"], os.environ["S3_REGION"]
PREFIX = f"conformance-{uuid.uuid4().hex}"
FOREIGN = f"foreign-{uuid.uuid4().hex[:12]}"
results: dict[str, str] = {}


def secret(name: str) -> str:
    return pathlib.Path("/run/secrets", name).read_text()


def client(user: str, password: str):
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        aws_access_key_id=user,
        aws_secret_access_key=password,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


root = client(secret("s3_root_user"), secret("s3_root_password"))
limited = client(secret("s3_access_key"), secret("s3_secret_key"))


def check(function):
    """Run it now and note its outcome under its name."""
    try:
        function()
        results[function.__name__] = "ok"
    except Exception as error:  # noqa: BLE001 - every failure is a result
        results[function.__name__] = f"{type(error).__name__}: {error}"
    return function


def denied(call) -> None:
    try:
        found = call()
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert status == 403, f"status {status}"
    else:
        raise AssertionError(f"expected a refusal, found {str(found)[:200]}")


def raw(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    """The status of a request that no client library signs."""
    request = urllib.request.Request(f"{ENDPOINT}/{path}", method=method, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@check
def put_get_head_delete():
    key = f"{PREFIX}/small.txt"
    limited.put_object(Bucket=BUCKET, Key=key, Body=b"three", ContentType="text/plain")
    got = limited.get_object(Bucket=BUCKET, Key=key)
    assert (got["Body"].read(), got["ContentType"], got["ContentLength"]) == (b"three", "text/plain", 5)
    assert limited.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 5
    limited.delete_object(Bucket=BUCKET, Key=key)
    try:
        limited.get_object(Bucket=BUCKET, Key=key)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchKey"
    else:
        raise AssertionError("it is still there")


@check
def an_object_is_replaced_whole():
    key = f"{PREFIX}/replaced"
    for body in (b"a much longer body", b"short", b""):
        limited.put_object(Bucket=BUCKET, Key=key, Body=body)
        assert limited.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body


@check
def names_with_blanks_and_other_letters():
    for name in ("a b/c+d.txt", "Zürich/✓.json", "%41/=&?#"):
        limited.put_object(Bucket=BUCKET, Key=f"{PREFIX}/names/{name}", Body=name.encode())
    listed = limited.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/names/")
    names = {entry["Key"] for entry in listed["Contents"]}
    assert names == {f"{PREFIX}/names/{name}" for name in ("a b/c+d.txt", "Zürich/✓.json", "%41/=&?#")}, names


@check
def lists_come_in_pages_and_by_folder():
    for number in range(7):
        limited.put_object(Bucket=BUCKET, Key=f"{PREFIX}/list/{number % 2}/{number}", Body=b"")
    pages = limited.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix=f"{PREFIX}/list/", PaginationConfig={"PageSize": 3}
    )
    assert [entry["Key"][-1] for page in pages for entry in page["Contents"]] == list("0246135")
    folders = limited.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/list/", Delimiter="/")
    assert [entry["Prefix"][-2] for entry in folders["CommonPrefixes"]] == ["0", "1"]


@check
def a_large_object_goes_in_parts():
    key, part = f"{PREFIX}/large", os.urandom(5 * 1024**2)
    upload = limited.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts = []
    for number, body in enumerate((part, part[::-1], b"the end"), start=1):
        answer = limited.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    limited.complete_multipart_upload(
        Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    body = limited.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert hashlib.sha256(body).digest() == hashlib.sha256(part + part[::-1] + b"the end").digest()
    tail = limited.get_object(Bucket=BUCKET, Key=key, Range="bytes=-7")
    assert (tail["Body"].read(), tail["ResponseMetadata"]["HTTPStatusCode"]) == (b"the end", 206)


@check
def parts_that_are_given_up_leave_nothing():
    key = f"{PREFIX}/given-up"
    upload = limited.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    limited.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    limited.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
    assert "Contents" not in limited.list_objects_v2(Bucket=BUCKET, Prefix=key)


@check
def a_signed_address_gives_one_object_for_a_while():
    key = f"{PREFIX}/signed"
    limited.put_object(Bucket=BUCKET, Key=key, Body=b"signed")
    url = limited.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=60)
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.read() == b"signed"
    assert raw("GET", url.removeprefix(f"{ENDPOINT}/").replace("/signed?", "/large?")) == 403


@check
def a_body_that_changed_on_its_way_is_refused():
    try:
        limited.put_object(
            Bucket=BUCKET, Key=f"{PREFIX}/changed", Body=b"x", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA=="
        )
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    else:
        raise AssertionError("stored")


@check
def the_limited_account_sees_its_bucket_alone():
    root.create_bucket(Bucket=FOREIGN)
    root.put_object(Bucket=FOREIGN, Key="k", Body=b"not yours")
    try:
        denied(lambda: limited.get_object(Bucket=FOREIGN, Key="k"))
        denied(lambda: limited.put_object(Bucket=FOREIGN, Key="mine", Body=b""))
        denied(lambda: limited.delete_object(Bucket=FOREIGN, Key="k"))
        denied(lambda: limited.list_objects_v2(Bucket=FOREIGN))
        denied(lambda: limited.copy_object(Bucket=BUCKET, Key=f"{PREFIX}/copy", CopySource=f"{FOREIGN}/k"))
    finally:
        root.delete_object(Bucket=FOREIGN, Key="k")
        root.delete_bucket(Bucket=FOREIGN)


@check
def the_limited_account_makes_and_removes_no_bucket():
    denied(lambda: limited.create_bucket(Bucket=f"{FOREIGN}-2"))
    denied(lambda: limited.delete_bucket(Bucket=BUCKET))


@check
def nobody_gets_in_without_a_signature():
    assert raw("GET", BUCKET) == 403
    assert raw("GET", f"{BUCKET}/{PREFIX}/large") == 403
    assert raw("PUT", f"{BUCKET}/{PREFIX}/anonymous", b"x") == 403
    denied(lambda: client(secret("s3_access_key"), "wrong").list_objects_v2(Bucket=BUCKET))
    denied(lambda: client("unknown", "wrong").list_objects_v2(Bucket=BUCKET))


@check
def an_access_key_alone_writes_nothing():
    """CVE-2026-41145: a body in unsigned chunks whose headers carry a made-up signature."""
    key = f"{PREFIX}/unsigned"
    # A good checksum: what is refused must be refused for its signature.
    checksum = base64.b64encode(zlib.crc32(b"evil").to_bytes(4, "big"))
    body = b"4\r\nevil\r\n0\r\nx-amz-checksum-crc32:" + checksum + b"\r\n\r\n"
    request = AWSRequest("PUT", f"{ENDPOINT}/{BUCKET}/{key}", data=body)
    request.headers["X-Amz-Content-Sha256"] = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    request.headers["X-Amz-Decoded-Content-Length"] = "4"
    request.headers["X-Amz-Trailer"] = "x-amz-checksum-crc32"
    SigV4Auth(Credentials(secret("s3_access_key"), "not the secret"), "s3", REGION).add_auth(request)
    statuses = {raw("PUT", f"{BUCKET}/{key}", body, dict(request.headers.items()))}
    # The same account, named in the address: where the signature of headers would be asked for, there is none.
    query = "&".join(
        [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            f"X-Amz-Credential={secret('s3_access_key')}%2F20260101%2F{REGION}%2Fs3%2Faws4_request",
            "X-Amz-Date=20260101T000000Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature="
            + "0" * 64,
        ]
    )
    headers = {
        "X-Amz-Content-Sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "X-Amz-Decoded-Content-Length": "4",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
    }
    statuses.add(raw("PUT", f"{BUCKET}/{key}?{query}", body, headers))
    found = limited.list_objects_v2(Bucket=BUCKET, Prefix=key).get("KeyCount")
    assert found == 0, f"written: statuses {sorted(statuses)}"
    assert all(status in (400, 403) for status in statuses), statuses


for page in limited.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
    for entry in page.get("Contents", []):
        limited.delete_object(Bucket=BUCKET, Key=entry["Key"])
print(json.dumps(results))
