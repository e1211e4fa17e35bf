"""Prepare an S3 store: the bucket, and on our own MinIO an account that can do nothing outside of it.

SeaweedFS, the other store of our own, has that account from its start.
"""

import logging

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from minio.credentials import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin

from paddock_mlflow.errors import SetupError
from paddock_mlflow.settings import Settings

_logger = logging.getLogger(__name__)

POLICY_NAME = "mlflow-artifacts"


def prepare(settings: Settings) -> None:
    """Make the bucket; on our own store make sure of the limited account too.

    Raises:
        SetupError: the store refused; the text says what and with which account.
    """
    own = bool(settings.optional_secret("s3_root_user"))
    user = settings.secret("s3_root_user" if own else "s3_access_key")
    password = settings.secret("s3_root_password" if own else "s3_secret_key")
    try:
        _make_bucket(settings, user, password)
        if own and settings.s3_store == "minio":
            _make_limited_account(settings, user, password)
        if own:
            _make_sure_it_works(settings)
    except (ClientError, BotoCoreError, MinioAdminException) as error:
        raise SetupError(
            f"expected the object store at {settings.s3_endpoint_url} to give us bucket {settings.s3_bucket!r},"
            f" found: {error}; check S3_ENDPOINT_URL, S3_ACCESS_KEY, S3_SECRET_KEY and S3_BUCKET"
        ) from error


def _client(settings: Settings, user: str, password: str):
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url or None,
        aws_access_key_id=user,
        aws_secret_access_key=password,
        region_name=settings.s3_region,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5, "mode": "standard"}),
    )


def _make_bucket(settings: Settings, user: str, password: str) -> None:
    client = _client(settings, user, password)
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        client.create_bucket(Bucket=settings.s3_bucket)
        _logger.info("made bucket %s", settings.s3_bucket)


def _make_limited_account(settings: Settings, user: str, password: str) -> None:
    endpoint = settings.s3_endpoint_url.removeprefix("http://").removeprefix("https://")
    admin = MinioAdmin(
        endpoint=endpoint,
        credentials=StaticProvider(user, password),
        secure=settings.s3_endpoint_url.startswith("https://"),
    )
    bucket = f"arn:aws:s3:::{settings.s3_bucket}"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                "Resource": [bucket],
            },
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": [f"{bucket}/*"],
            },
        ],
    }
    account = settings.secret("s3_access_key")
    admin.policy_add(POLICY_NAME, policy=policy)
    admin.user_add(account, settings.secret("s3_secret_key"))
    try:
        admin.attach_policy([POLICY_NAME], user=account)
    except MinioAdminException as error:
        # "The specified policy change is already in effect" is what a second run wants.
        if "already in effect" not in str(error):
            raise


def _make_sure_it_works(settings: Settings) -> None:
    client = _client(settings, settings.secret("s3_access_key"), settings.secret("s3_secret_key"))
    client.list_objects_v2(Bucket=settings.s3_bucket, MaxKeys=1)
    _logger.info("bucket %s is ready, with an account of its own", settings.s3_bucket)
